//! Delete: at once, gracefully, or when the last finalizer has gone.

use hitless_base::Timestamp;
use hitless_types::{
    kinds::{self, Kind},
    well_known,
};
use serde_json::{Value, json};

use crate::{
    admission,
    auth::{self, Identity},
    codec::{metadata_child_mut, metadata_mut, text},
    core::{Core, micros_text, seconds_text},
    fault::Fault,
    query::Query,
    route::Place,
    strategy,
    write::{Replaced, Seen, replace},
};

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// How to delete: `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DeleteOptions {
    grace_s: Option<i64>,
    propagation: Option<Propagation>,
    uid: Option<String>,
    resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Reads the body (null where there is none), or the query where the body says nothing.
    ///
    /// # Errors
    /// 400 or 422 for values that are none.
    pub(crate) fn read(body: &Value, query: &Query) -> Result<Self, Fault> {
        let invalid = |field: &str, words: String| {
            Fault::invalid_options("DeleteOptions", &format!("{field}: {words}"))
        };
        if !matches!(body, Value::Null | Value::Object(_)) {
            return Err(Fault::bad_request("the body of a delete must be a DeleteOptions object"));
        }
        let field = |name: &str| body.get(name).filter(|v| !v.is_null());
        let grace_s = match field("gracePeriodSeconds") {
            Some(value) => Some(value.as_i64().ok_or_else(|| {
                Fault::bad_request("json: cannot unmarshal DeleteOptions.gracePeriodSeconds of type int64")
            })?),
            None => query.number("gracePeriodSeconds")?,
        };
        let word =
            field("propagationPolicy").and_then(Value::as_str).or_else(|| query.get("propagationPolicy"));
        let orphan = field("orphanDependents").and_then(Value::as_bool);
        let orphan = orphan.or_else(|| query.get("orphanDependents").map(|_| query.flag("orphanDependents")));
        let propagation = match (word, orphan) {
            (Some(_), Some(_)) => {
                let words = "Invalid value: orphanDependents and deletionPropagation cannot be both set";
                return Err(invalid("propagationPolicy", words.to_owned()));
            }
            (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), None) => Some(Propagation::Foreground),
            (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
            (None, None) => None,
            (Some(other), None) => {
                let words = format!(
                    "Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\", \"nil\""
                );
                return Err(invalid("propagationPolicy", words));
            }
        };
        let precondition = |name: &str| {
            let value = field("preconditions").and_then(|p| p.get(name)).and_then(Value::as_str);
            value.filter(|v| !v.is_empty()).map(str::to_owned)
        };
        let dry = field("dryRun").and_then(Value::as_array).is_some_and(|d| d.iter().any(|v| v == "All"));
        Ok(Self {
            grace_s,
            propagation,
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            dry_run: dry || query.dry_run()?,
        })
    }

    /// Deletes only the object with this uid.
    pub(crate) fn only_uid(mut self, uid: &str) -> Self {
        self.uid = Some(uid.to_owned());
        self
    }
}

/// What a delete gave.
#[derive(Debug)]
pub(crate) struct Deleted {
    /// The object, as last seen.
    pub(crate) object: Value,
    /// Whether it is gone; otherwise its deletion has begun.
    pub(crate) gone: bool,
}

impl Deleted {
    /// The answer, as Kubernetes gives it: the object while it is going (and always for kinds that end gracefully), a
    /// `Status` when it has gone.
    pub(crate) fn answer(self, kind: &Kind) -> Value {
        if kind.graceful || !self.gone {
            return self.object;
        }
        let mut details = json!({"name": text(&self.object, "/metadata/name"), "kind": kind.plural});
        if let Value::Object(details) = &mut details {
            if !kind.group.is_empty() {
                details.insert("group".into(), kind.group.into());
            }
            details.insert("uid".into(), text(&self.object, "/metadata/uid").into());
        }
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
    }
}

const TRIES_MAX: usize = 32;

/// Deletes an object.
pub(crate) async fn delete(
    core: &Core,
    place: &Place,
    identity: &Identity,
    options: &DeleteOptions,
) -> Result<Deleted, Fault> {
    let kind = place.kind;
    admission::check_delete(kind, &place.name)?;
    for _ in 0..TRIES_MAX {
        let Some((entry, old)) = core.load(kind, &place.namespace, &place.name).await? else {
            return Err(Fault::not_found(kind, &place.name));
        };
        auth::restrict(identity, kind, &old)?;
        check_preconditions(place, &old, options)?;
        let mut new = old.clone();
        begin(kind, &mut new, options, core.now());
        let seen = Seen { entry: &entry, object: &old };
        match replace(core, kind, seen, new, options.dry_run).await? {
            Replaced::Kept(object) => return Ok(Deleted { object, gone: false }),
            Replaced::Deleted(object) => return Ok(Deleted { object, gone: true }),
            Replaced::Lost => {}
        }
    }
    Err(Fault::modified(kind, &place.name))
}

fn check_preconditions(place: &Place, object: &Value, options: &DeleteOptions) -> Result<(), Fault> {
    let checks = [
        ("UID", options.uid.as_deref(), text(object, "/metadata/uid")),
        ("ResourceVersion", options.resource_version.as_deref(), text(object, "/metadata/resourceVersion")),
    ];
    for (what, wanted, held) in checks {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != held) {
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {held}"
            );
            return Err(Fault::conflict(place.kind, &place.name, &why));
        }
    }
    Ok(())
}

/// Marks the object as going, with the time that it has. Pure.
///
/// A second delete may only shorten that time.
fn begin(kind: &Kind, object: &mut Value, options: &DeleteOptions, now: Timestamp) {
    set_propagation(object, options.propagation);
    let wanted = if kind.graceful { grace_s(object, options.grace_s) } else { 0 };
    let meta = metadata_mut(object);
    let begun =
        meta.get("deletionTimestamp").and_then(Value::as_str).and_then(|t| t.parse::<Timestamp>().ok());
    let held = meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default();
    let end = match begun {
        // Only who asks for a time shortens; a plain second delete changes nothing.
        Some(_) if (options.grace_s.is_none() && wanted != 0) || wanted >= held => return,
        Some(end) => end - seconds(held) + seconds(wanted),
        None => now + seconds(wanted),
    };
    meta.insert("deletionTimestamp".into(), seconds_text(end).into());
    meta.insert("deletionGracePeriodSeconds".into(), wanted.into());
    let counts = meta.get("generation").and_then(Value::as_i64).is_some_and(|g| g > 0);
    if begun.is_none() {
        if counts {
            strategy::next_generation(object);
        }
        if kind.graceful {
            let annotations = metadata_child_mut(object, "annotations");
            annotations.insert(well_known::ANNOTATION_DELETED_AT.into(), micros_text(now).into());
        }
        admission::on_terminating(kind, object);
    }
}

fn seconds(count: i64) -> jiff::SignedDuration {
    jiff::SignedDuration::from_secs(count)
}

/// Longest grace that is taken, in seconds (a year), so that its end is a date.
const GRACE_S_MAX: i64 = 365 * 24 * 3600;

/// The time that a graceful kind's object has: none without a node or when it has run to its end.
fn grace_s(object: &Value, asked: Option<i64>) -> i64 {
    let finished = matches!(text(object, "/status/phase"), "Succeeded" | "Failed");
    if text(object, "/spec/nodeName").is_empty() || finished {
        return 0;
    }
    let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    match asked.or(own).unwrap_or(30) {
        negative if negative < 0 => 1,
        seconds => seconds.min(GRACE_S_MAX),
    }
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Notes as finalizers what the garbage collector is to do.
fn set_propagation(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let meta = metadata_mut(object);
    let mut finalizers = match meta.shift_remove("finalizers") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
    }
    if !finalizers.is_empty() {
        meta.insert("finalizers".into(), finalizers.into());
    }
}

/// The Pods' kind.
pub(crate) fn pods() -> Result<&'static Kind, Fault> {
    kinds::by_path("", "v1", "pods").ok_or_else(Fault::no_resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(body: Value) -> DeleteOptions {
        DeleteOptions::read(&body, &Query::default()).unwrap()
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}})
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000_000 + second).unwrap()
    }

    fn grace(pod: &Value) -> Option<i64> {
        pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64)
    }

    #[test]
    fn a_second_delete_only_shortens() {
        let kind = pods().unwrap();
        let mut pod = pod();
        begin(kind, &mut pod, &options(Value::Null), at(0));
        assert_eq!(text(&pod, "/metadata/deletionTimestamp"), "2001-09-09T01:47:10Z");
        assert_eq!(grace(&pod), Some(30));
        let before = pod.clone();
        begin(kind, &mut pod, &options(Value::Null), at(5));
        begin(kind, &mut pod, &options(json!({"gracePeriodSeconds": 60})), at(5));
        assert_eq!(pod, before);
        begin(kind, &mut pod, &options(json!({"gracePeriodSeconds": 10})), at(5));
        assert_eq!(text(&pod, "/metadata/deletionTimestamp"), "2001-09-09T01:46:50Z");
        begin(kind, &mut pod, &options(json!({"gracePeriodSeconds": 0})), at(6));
        assert_eq!(grace(&pod), Some(0));
        assert!(strategy::is_free_to_go(&pod));
    }

    #[test]
    fn what_never_ran_or_has_ended_goes_at_once() {
        let kind = pods().unwrap();
        let mut unbound = json!({"metadata": {"name": "p"}, "spec": {}});
        begin(kind, &mut unbound, &options(Value::Null), at(0));
        assert_eq!(grace(&unbound), Some(0));
        let mut ended = pod();
        ended["status"] = json!({"phase": "Failed"});
        begin(kind, &mut ended, &options(Value::Null), at(0));
        assert_eq!(grace(&ended), Some(0));
    }

    #[test]
    fn propagation_is_noted_as_a_finalizer() {
        let kind = kinds::by_path("apps", "v1", "deployments").unwrap();
        let mut object = json!({"metadata": {"name": "d", "finalizers": ["a/b"]}});
        begin(kind, &mut object, &options(json!({"propagationPolicy": "Orphan"})), at(0));
        assert_eq!(object.pointer("/metadata/finalizers"), Some(&json!(["a/b", "orphan"])));
        begin(kind, &mut object, &options(json!({"propagationPolicy": "Foreground"})), at(0));
        assert_eq!(object.pointer("/metadata/finalizers"), Some(&json!(["a/b", "foregroundDeletion"])));
        begin(kind, &mut object, &options(json!({"propagationPolicy": "Background"})), at(0));
        assert_eq!(object.pointer("/metadata/finalizers"), Some(&json!(["a/b"])));
        assert!(DeleteOptions::read(&json!({"propagationPolicy": "x"}), &Query::default()).is_err());
    }
}
