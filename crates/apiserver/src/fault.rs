//! Why a request is refused: an [`ApiFault`] on its way out, with whatever a single refusal adds to it.
//!
//! A fault is the whole answer: `into_response` turns it into a `Status` object and its headers.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use hitless_store::{CommitError, StoreError};
use hitless_types::{
    field::FieldError,
    kinds::Kind,
    patch::PatchError,
    status::{ApiFault, Cause, MODIFIED, Subject},
};
use serde_json::{Value, json};

/// A refusal, as Kubernetes words it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    inner: Box<Inner>,
}

#[derive(Clone, Debug, PartialEq)]
struct Inner {
    words: Words,
    causes: Vec<Value>,
    retry_after_s: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
enum Words {
    Api(ApiFault),
    /// What is about a path or a method rather than an object.
    Other {
        code: u16,
        reason: &'static str,
        message: String,
    },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Fault {}

impl From<ApiFault> for Fault {
    fn from(fault: ApiFault) -> Self {
        let retry_after_s = fault.retry_after_s();
        Self { inner: Box::new(Inner { words: Words::Api(fault), causes: Vec::new(), retry_after_s }) }
    }
}

impl From<PatchError> for Fault {
    fn from(error: PatchError) -> Self {
        ApiFault::from(error).into()
    }
}

impl Fault {
    /// A refusal that is about no object.
    pub(crate) fn other(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let words = Words::Other { code, reason, message: message.into() };
        Self { inner: Box::new(Inner { words, causes: Vec::new(), retry_after_s: None }) }
    }

    /// Asks the client to come back after so many seconds.
    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.inner.retry_after_s = Some(seconds);
        self
    }

    /// Adds a cause to the details.
    pub(crate) fn cause(mut self, reason: &str, message: &str) -> Self {
        self.inner.causes.push(json!({"reason": reason, "message": message}));
        self
    }

    /// Adds a cause that is about a field.
    pub(crate) fn cause_at(mut self, cause: &Cause) -> Self {
        let Cause { reason, message, field } = cause;
        self.inner.causes.push(json!({"reason": reason, "message": message, "field": field}));
        self
    }

    /// The HTTP code.
    #[must_use]
    pub fn code(&self) -> u16 {
        match &self.inner.words {
            Words::Api(fault) => fault.code(),
            Words::Other { code, .. } => *code,
        }
    }

    /// The words.
    #[must_use]
    pub fn message(&self) -> String {
        match &self.inner.words {
            Words::Api(fault) => fault.message(),
            Words::Other { message, .. } => message.clone(),
        }
    }

    /// 404 for an object.
    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        ApiFault::NotFound(Subject::new(kind, name)).into()
    }

    /// 404 for a path that leads nowhere.
    pub(crate) fn no_resource() -> Self {
        ApiFault::NoSuchPath.into()
    }

    /// 405 for a path that is there, but not for this method.
    pub(crate) fn method_not_allowed() -> Self {
        Self::other(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 409 for a name that is taken.
    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        ApiFault::AlreadyExists(Subject::new(kind, name)).into()
    }

    /// 409 for an update that does not fit what is there.
    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        ApiFault::Conflict(Subject::new(kind, name), why.to_owned()).into()
    }

    /// 409 for an update of an object that has been modified.
    pub(crate) fn modified(kind: &Kind, name: &str) -> Self {
        ApiFault::modified(Subject::new(kind, name)).into()
    }

    /// 403 for what this object may not become.
    pub(crate) fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        ApiFault::Forbidden(Subject::new(kind, name), why.to_owned()).into()
    }

    /// 422 with the fields that are wrong.
    pub(crate) fn invalid(kind: &Kind, name: &str, errors: Vec<FieldError>) -> Self {
        ApiFault::Invalid(Subject::new(kind, name), errors).into()
    }

    /// 422 for options that are none.
    pub(crate) fn invalid_options(which: &str, words: &str) -> Self {
        ApiFault::Unprocessable(format!("{which}.meta.k8s.io \"\" is invalid: {words}")).into()
    }

    /// 400.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        ApiFault::BadRequest(message.into()).into()
    }

    /// 410: the wanted point of history is gone.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        ApiFault::Expired(message.into()).into()
    }

    /// 429.
    pub(crate) fn too_many_requests(message: impl Into<String>, retry_after_s: u32) -> Self {
        ApiFault::TooManyRequests { message: message.into(), retry_after_s, causes: Vec::new() }.into()
    }

    /// 500.
    pub(crate) fn internal(why: impl std::fmt::Display) -> Self {
        ApiFault::InternalError(why.to_string()).into()
    }

    /// 503.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::from(ApiFault::ServiceUnavailable(message.into())).retry_after(1)
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut status = match &self.inner.words {
            Words::Api(fault) => fault.to_status(),
            Words::Other { code, reason, message } => json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": message, "reason": reason, "details": {}, "code": code,
            }),
        };
        let details = crate::codec::child_mut(&mut status, "details");
        if !self.inner.causes.is_empty() {
            match details.get_mut("causes") {
                Some(Value::Array(causes)) => causes.extend(self.inner.causes.iter().cloned()),
                _ => drop(details.insert("causes".into(), self.inner.causes.clone().into())),
            }
        }
        if let Some(seconds) = self.inner.retry_after_s {
            details.insert("retryAfterSeconds".into(), seconds.into());
        }
        status
    }

    /// The whole answer.
    pub(crate) fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.status()).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(self.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.inner.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code() == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => Self::unavailable("the API server is ending"),
            StoreError::Io(_) => Self::internal(hitless_base::chain(&error)),
        }
    }
}

/// For commits whose preconditions were already dealt with.
impl From<CommitError> for Fault {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict { .. } => Self::other(409, "Conflict", MODIFIED),
            CommitError::TooLarge { .. } => ApiFault::TooLarge(error.to_string()).into(),
            CommitError::Closed => Self::unavailable("the API server is ending"),
            CommitError::DuplicateKey { .. } | CommitError::Io(_) => {
                Self::internal(hitless_base::chain(&error))
            }
        }
    }
}
