//! Kubernetes' `Status`: how the API says that something failed, with the code, reason and words that clients know.
//!
//! See <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/>.

use serde_json::{Map, Value, json};

use crate::{field::FieldError, kinds::Kind, patch::PatchError};

/// What a fault is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// API group; empty for core.
    pub group: String,
    /// `pods`: the resource, which messages name.
    pub plural: String,
    /// `Pod`: the kind, which the message of [`ApiFault::Invalid`] names.
    pub kind: String,
    /// Name of the object; empty where there is none yet.
    pub name: String,
    /// Uid of the object, where it is known.
    pub uid: String,
}

impl Subject {
    /// The object `name` of `kind`.
    #[must_use]
    pub fn new(kind: &Kind, name: &str) -> Self {
        Self {
            group: kind.group.to_owned(),
            plural: kind.plural.to_owned(),
            kind: kind.kind.to_owned(),
            name: name.to_owned(),
            uid: String::new(),
        }
    }

    /// The same, with the object's uid.
    #[must_use]
    pub fn with_uid(mut self, uid: &str) -> Self {
        uid.clone_into(&mut self.uid);
        self
    }

    /// `pods "x"` or `deployments.apps "x"`.
    fn of_resource(&self) -> String {
        format!("{} {:?}", self.qualified(&self.plural), self.name)
    }

    fn qualified(&self, word: &str) -> String {
        if self.group.is_empty() { word.to_owned() } else { format!("{word}.{}", self.group) }
    }

    /// Details name the resource under `kind`, except for what is invalid.
    fn details(&self, kind: &str) -> Map<String, Value> {
        let mut details = Map::new();
        for (key, text) in
            [("name", self.name.as_str()), ("group", &self.group), ("kind", kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                details.insert(key.to_owned(), text.into());
            }
        }
        details
    }
}

/// One cause among `details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// `DisruptionBudget`, `FieldValueRequired`, ...
    pub reason: String,
    /// For people.
    pub message: String,
    /// The field, where it is about one.
    pub field: String,
}

/// Everything that a request can end with but success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiFault {
    /// 404: no such object.
    NotFound(Subject),
    /// 404: no such path or kind.
    NoSuchPath,
    /// 409: the name is taken.
    AlreadyExists(Subject),
    /// 409: somebody else was quicker, or a precondition does not hold. The words come after `Operation cannot be
    /// fulfilled on ...: `; [`MODIFIED`] are those for a stale resourceVersion.
    Conflict(Subject, String),
    /// 422: fields are wrong.
    Invalid(Subject, Vec<FieldError>),
    /// 422: the request is understood but cannot be done (a JSON patch that does not apply).
    Unprocessable(String),
    /// 400.
    BadRequest(String),
    /// 401.
    Unauthorized,
    /// 403: the words come after `... is forbidden: `.
    Forbidden(Subject, String),
    /// 405: the words name what is not supported (`delete`).
    MethodNotAllowed(Subject, String),
    /// 406: only these media types can be sent.
    NotAcceptable(Vec<String>),
    /// 415: only these media types are understood.
    UnsupportedMediaType(Vec<String>),
    /// 410 `Gone`: this revision is no longer held.
    Gone(String),
    /// 410 `Expired`: the watch or continue token is too old.
    Expired(String),
    /// 429: not now. `retry_after_s` goes into `details.retryAfterSeconds` and the header `Retry-After`.
    TooManyRequests {
        /// For people.
        message: String,
        /// Seconds to wait; 0: not said.
        retry_after_s: u32,
        /// Why, for programs.
        causes: Vec<Cause>,
    },
    /// 413.
    TooLarge(String),
    /// 500.
    InternalError(String),
    /// 503.
    ServiceUnavailable(String),
    /// 504: it took too long.
    Timeout(String),
}

/// Words of a conflict over a stale resourceVersion.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl ApiFault {
    /// The conflict over a stale resourceVersion.
    #[must_use]
    pub fn modified(subject: Subject) -> Self {
        Self::Conflict(subject, MODIFIED.to_owned())
    }

    /// HTTP status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Unauthorized => 401,
            Self::Forbidden(..) => 403,
            Self::NotFound(_) | Self::NoSuchPath => 404,
            Self::MethodNotAllowed(..) => 405,
            Self::NotAcceptable(_) => 406,
            Self::AlreadyExists(_) | Self::Conflict(..) => 409,
            Self::Gone(_) | Self::Expired(_) => 410,
            Self::TooLarge(_) => 413,
            Self::UnsupportedMediaType(_) => 415,
            Self::Invalid(..) | Self::Unprocessable(_) => 422,
            Self::TooManyRequests { .. } => 429,
            Self::InternalError(_) => 500,
            Self::ServiceUnavailable(_) => 503,
            Self::Timeout(_) => 504,
        }
    }

    /// `Status.reason`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) | Self::NoSuchPath => "NotFound",
            Self::AlreadyExists(_) => "AlreadyExists",
            Self::Conflict(..) => "Conflict",
            Self::Invalid(..) | Self::Unprocessable(_) => "Invalid",
            Self::BadRequest(_) => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden(..) => "Forbidden",
            Self::MethodNotAllowed(..) => "MethodNotAllowed",
            Self::NotAcceptable(_) => "NotAcceptable",
            Self::UnsupportedMediaType(_) => "UnsupportedMediaType",
            Self::Gone(_) => "Gone",
            Self::Expired(_) => "Expired",
            Self::TooManyRequests { .. } => "TooManyRequests",
            Self::TooLarge(_) => "RequestEntityTooLarge",
            Self::InternalError(_) => "InternalError",
            Self::ServiceUnavailable(_) => "ServiceUnavailable",
            Self::Timeout(_) => "Timeout",
        }
    }

    /// Seconds for the header `Retry-After`, where there is one.
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::TooManyRequests { retry_after_s, .. } if *retry_after_s > 0 => Some(*retry_after_s),
            _ => None,
        }
    }

    /// `Status.message`.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::NotFound(subject) => format!("{} not found", subject.of_resource()),
            Self::NoSuchPath => "the server could not find the requested resource".to_owned(),
            Self::AlreadyExists(subject) => format!("{} already exists", subject.of_resource()),
            Self::Conflict(subject, words) => {
                format!("Operation cannot be fulfilled on {}: {words}", subject.of_resource())
            }
            Self::Invalid(subject, faults) => {
                format!(
                    "{} {:?} is invalid: {}",
                    subject.qualified(&subject.kind),
                    subject.name,
                    aggregate(faults)
                )
            }
            Self::Unauthorized => "Unauthorized".to_owned(),
            Self::Forbidden(subject, words) if subject.name.is_empty() => {
                format!("{} is forbidden: {words}", subject.qualified(&subject.plural))
            }
            Self::Forbidden(subject, words) => format!("{} is forbidden: {words}", subject.of_resource()),
            Self::MethodNotAllowed(subject, action) => {
                format!(
                    "{action} is not supported on resources of kind {:?}",
                    subject.qualified(&subject.plural)
                )
            }
            Self::NotAcceptable(types) => {
                format!("only the following media types are accepted: {}", types.join(", "))
            }
            Self::UnsupportedMediaType(types) => format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                types.join(", ")
            ),
            Self::InternalError(words) => format!("Internal error occurred: {words}"),
            Self::TooManyRequests { message, .. } => message.clone(),
            Self::Unprocessable(words)
            | Self::BadRequest(words)
            | Self::Gone(words)
            | Self::Expired(words)
            | Self::TooLarge(words)
            | Self::ServiceUnavailable(words)
            | Self::Timeout(words) => words.clone(),
        }
    }

    fn details(&self) -> Map<String, Value> {
        match self {
            Self::NotFound(subject)
            | Self::AlreadyExists(subject)
            | Self::Conflict(subject, _)
            | Self::Forbidden(subject, _)
            | Self::MethodNotAllowed(subject, _) => subject.details(&subject.plural),
            Self::Invalid(subject, faults) => {
                let mut details = subject.details(&subject.kind);
                let causes: Vec<_> =
                    faults.iter().map(|f| cause(f.kind.reason(), &f.message, &f.field)).collect();
                details.insert("causes".to_owned(), causes.into());
                details
            }
            Self::TooManyRequests { retry_after_s, causes, .. } => {
                let mut details = Map::new();
                if !causes.is_empty() {
                    let causes: Vec<_> =
                        causes.iter().map(|c| cause(&c.reason, &c.message, &c.field)).collect();
                    details.insert("causes".to_owned(), causes.into());
                }
                if *retry_after_s > 0 {
                    details.insert("retryAfterSeconds".to_owned(), (*retry_after_s).into());
                }
                details
            }
            Self::InternalError(words) => {
                Map::from_iter([("causes".to_owned(), json!([{"message": words}]))])
            }
            _ => Map::new(),
        }
    }

    /// The whole `Status` object.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let mut status = Map::from_iter([
            ("kind".to_owned(), "Status".into()),
            ("apiVersion".to_owned(), "v1".into()),
            ("metadata".to_owned(), json!({})),
            ("status".to_owned(), "Failure".into()),
            ("message".to_owned(), self.message().into()),
            ("reason".to_owned(), self.reason().into()),
        ]);
        let details = self.details();
        if !details.is_empty() {
            status.insert("details".to_owned(), Value::Object(details));
        } else if matches!(self, Self::NoSuchPath) {
            status.insert("details".to_owned(), json!({}));
        }
        status.insert("code".to_owned(), self.code().into());
        Value::Object(status)
    }
}

impl std::fmt::Display for ApiFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for ApiFault {}

impl From<PatchError> for ApiFault {
    fn from(error: PatchError) -> Self {
        match &error {
            PatchError::Malformed { .. } => Self::BadRequest(error.to_string()),
            PatchError::NotOperations { source } => {
                Self::BadRequest(format!("error decoding patch: {source}"))
            }
            PatchError::TooManyOperations { .. } | PatchError::TooLarge { .. } => {
                Self::TooLarge(error.to_string())
            }
            PatchError::Failed { source } => Self::Unprocessable(format!(
                "the server rejected our request due to an error in our request: {source}"
            )),
            PatchError::NotStrategic => Self::UnsupportedMediaType(
                ["application/json-patch+json", "application/merge-patch+json"].map(str::to_owned).into(),
            ),
        }
    }
}

fn cause(reason: &str, message: &str, field: &str) -> Value {
    let filled = [("reason", reason), ("message", message), ("field", field)]
        .into_iter()
        .filter(|(_, v)| !v.is_empty());
    Value::Object(filled.map(|(key, text)| (key.to_owned(), text.into())).collect())
}

/// One fault as it is, several as `[a, b]`, each once.
fn aggregate(faults: &[FieldError]) -> String {
    let mut all: Vec<String> = Vec::new();
    for fault in faults {
        let text = fault.to_string();
        if !all.contains(&text) {
            all.push(text);
        }
    }
    match all.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// The `Status` of a request that is done and has no object to show, such as a DELETE that took effect at once.
#[must_use]
pub fn success(subject: &Subject) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": subject.details(&subject.plural),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    fn subject(plural: &str) -> Subject {
        Subject::new(kinds::all().iter().find(|k| k.plural == plural).unwrap(), "x")
    }

    #[test]
    fn words_are_kubernetes() {
        let required = FieldError::required("spec.a", "");
        let invalid = FieldError::invalid("spec.b", 3, "must be 1");
        for (fault, code, words) in [
            (ApiFault::NotFound(subject("pods")), 404, r#"pods "x" not found"#),
            (ApiFault::AlreadyExists(subject("deployments")), 409, r#"deployments.apps "x" already exists"#),
            (
                ApiFault::modified(subject("pods")),
                409,
                r#"Operation cannot be fulfilled on pods "x": the object has been modified; please apply your changes to the latest version and try again"#,
            ),
            (
                ApiFault::Invalid(subject("deployments"), vec![required.clone()]),
                422,
                r#"Deployment.apps "x" is invalid: spec.a: Required value"#,
            ),
            (
                ApiFault::Invalid(subject("pods"), vec![required.clone(), invalid, required]),
                422,
                r#"Pod "x" is invalid: [spec.a: Required value, spec.b: Invalid value: 3: must be 1]"#,
            ),
            (ApiFault::Forbidden(subject("pods"), "no".into()), 403, r#"pods "x" is forbidden: no"#),
            (
                ApiFault::MethodNotAllowed(subject("pods"), "deletecollection".into()),
                405,
                r#"deletecollection is not supported on resources of kind "pods""#,
            ),
            (ApiFault::InternalError("disk".into()), 500, "Internal error occurred: disk"),
            (ApiFault::NoSuchPath, 404, "the server could not find the requested resource"),
        ] {
            assert_eq!((fault.code(), fault.message().as_str()), (code, words));
            assert_eq!(fault.to_status()["code"], code);
        }
    }

    #[test]
    fn status_is_an_object_that_clients_read() {
        let fault = ApiFault::Invalid(
            subject("deployments").with_uid("u"),
            vec![FieldError::required("spec.a", "why")],
        );
        insta::assert_json_snapshot!(fault.to_status(), @r#"
        {
          "kind": "Status",
          "apiVersion": "v1",
          "metadata": {},
          "status": "Failure",
          "message": "Deployment.apps \"x\" is invalid: spec.a: Required value: why",
          "reason": "Invalid",
          "details": {
            "name": "x",
            "group": "apps",
            "kind": "Deployment",
            "uid": "u",
            "causes": [
              {
                "reason": "FieldValueRequired",
                "message": "Required value: why",
                "field": "spec.a"
              }
            ]
          },
          "code": 422
        }
        "#);
        let later = ApiFault::TooManyRequests {
            message: "Cannot evict pod as it would violate the pod's disruption budget.".into(),
            retry_after_s: 10,
            causes: vec![Cause {
                reason: "DisruptionBudget".into(),
                message: "needs 1".into(),
                field: String::new(),
            }],
        };
        assert_eq!(later.retry_after_s(), Some(10));
        assert_eq!(
            later.to_status()["details"],
            json!({"causes": [{"reason": "DisruptionBudget", "message": "needs 1"}], "retryAfterSeconds": 10})
        );
        let typed: Result<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status, _> =
            serde_json::from_value(later.to_status());
        assert_eq!(typed.unwrap().code, Some(429));
    }
}
