//! Server-side apply, and noting who wrote what (`metadata.managedFields`). The rules are `hitless_types::managed`; here is
//! what ties them to requests.
//!
//! Events are not tracked: many come and go, each from one author, and nobody applies them. What the server itself
//! changes (a cluster IP, a Pod's node) is nobody's.

use hitless_types::{
    kinds::Kind,
    managed::{self, ApplyError, Writer},
    status::Cause,
};
use serde_json::Value;

use crate::{
    admission,
    codec::text,
    core::{Core, seconds_text},
    fault::Fault,
    query::Query,
    route::Place,
    strategy::Part,
    write::{self, How, Outcome, Written},
};

/// Longest name of a manager, in bytes.
const MANAGER_LEN_MAX: usize = 128;
/// How often an apply is tried when others are quicker.
const TRIES_MAX: usize = 32;

/// Reads `fieldManager`; what is absent is the client's name: what its user agent says before the first slash, or who it is.
///
/// # Errors
/// 422 for a name that is too long or cannot be printed.
pub(crate) fn manager(query: &Query, user_agent: &str, identity: &str) -> Result<String, Fault> {
    let printable = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    if let Some(said) = query.get("fieldManager") {
        let refuse = |words: &str| {
            let words = format!("fieldManager: Invalid value: {said:?}: {words}");
            Err(Fault::invalid_options("PatchOptions", &words))
        };
        if said.len() > MANAGER_LEN_MAX {
            return refuse("may not be more than 128 bytes");
        }
        if printable(said) != said {
            return refuse("should only contain printable characters");
        }
        return Ok(said.to_owned());
    }
    let name = user_agent.split('/').next().unwrap_or_default();
    let mut name = printable(if name.is_empty() { identity } else { name });
    while name.len() > MANAGER_LEN_MAX {
        name.pop();
    }
    Ok(name)
}

fn is_tracked(kind: &Kind) -> bool {
    kind.kind != "Event"
}

fn subresource(place: &Place, part: Part) -> &str {
    if part == Part::Status { "status" } else { &place.sub }
}

/// Notes in `new` who changed what of `old`.
pub(crate) fn note(
    core: &Core,
    place: &Place,
    part: Part,
    old: Option<&Value>,
    new: &mut Value,
    how: &How<'_>,
) {
    if how.manager.is_empty() || part == Part::Whole || !is_tracked(place.kind) {
        return;
    }
    let now = seconds_text(core.now());
    let writer = Writer { manager: &how.manager, subresource: subresource(place, part), now: &now };
    managed::note_update(place.kind, old, new, writer);
}

/// Applies a configuration: what its author wants of the object, all of it and nothing else.
///
/// # Errors
/// 409 when others own what it changes, and it does not `force`; 400 for what is no configuration.
pub(crate) async fn apply(
    core: &Core,
    place: &Place,
    part: Part,
    raw: Value,
    how: &How<'_>,
    force: bool,
) -> Result<(Written, bool), Fault> {
    let config = configuration(place, raw)?;
    let now = seconds_text(core.now());
    let writer = Writer { manager: &how.manager, subresource: subresource(place, part), now: &now };
    let applied = |live: Option<&Value>| {
        managed::apply(place.kind, live, &config, writer, force).map_err(|error| refused(place, error))
    };
    for _ in 0..TRIES_MAX {
        match core.load(place.kind, &place.namespace, &place.name).await? {
            None if part != Part::Main => return Err(Fault::not_found(place.kind, &place.name)),
            None => {
                admission::check_namespace(core, place.kind, &place.namespace, &place.name).await?;
                match write::create_applied(core, place, applied(None)?, how).await {
                    Err(fault) if fault.code() == 409 => {}
                    Err(fault) => return Err(fault),
                    Ok(written) => return Ok((written, true)),
                }
            }
            Some((entry, old)) => {
                write::check_same(place, &old, &config)?;
                let outcome =
                    write::update_once(core, place, part, how, (&entry, old.clone()), applied(Some(&old))?);
                if let Outcome::Done(written) = outcome.await? {
                    return Ok((written, false));
                }
            }
        }
    }
    Err(Fault::modified(place.kind, &place.name))
}

/// The configuration through its type. It states only what it knows, so an unknown field is a fault whatever the client
/// wants done about such.
fn configuration(place: &Place, raw: Value) -> Result<Value, Fault> {
    let kind = place.kind;
    for (field, wanted) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        let said = text(&raw, &format!("/{field}"));
        if said.is_empty() {
            return Err(Fault::bad_request(format!(
                "error decoding YAML: Object '{}' is missing in an applied configuration",
                if field == "kind" { "Kind" } else { field }
            )));
        }
        if said != wanted {
            return Err(Fault::bad_request(format!(
                "the {field} in the data ({said}) does not match the expected one ({wanted})"
            )));
        }
    }
    if raw.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Fault::bad_request("metadata.managedFields must be nil"));
    }
    let said = text(&raw, "/metadata/name");
    if !said.is_empty() && said != place.name {
        return Err(Fault::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({})",
            place.name
        )));
    }
    let typed = (kind.typecheck)(&raw).map_err(|error| Fault::bad_request(error.message))?;
    if let Some(unknown) = typed.unknown.first() {
        return Err(untyped(place, &format!(".{unknown}: field not declared in schema")));
    }
    let mut config = typed.object;
    let metadata = crate::codec::metadata_mut(&mut config);
    metadata.insert("name".into(), place.name.as_str().into());
    if !place.namespace.is_empty() {
        let said = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
        if !said.is_empty() && said != place.namespace {
            return Err(Fault::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        metadata.insert("namespace".into(), place.namespace.as_str().into());
    }
    Ok(config)
}

fn untyped(place: &Place, why: &str) -> Fault {
    let kind = place.kind;
    let version = if kind.group.is_empty() { format!("/{}", kind.version) } else { kind.api_version() };
    Fault::other(
        500,
        "",
        format!(
            "failed to create typed patch object ({}/{}; {version}, Kind={}): {why}",
            place.namespace, place.name, kind.kind
        ),
    )
}

fn refused(place: &Place, error: ApplyError) -> Fault {
    let message = error.to_string();
    match error {
        ApplyError::Typed(_) => untyped(place, &message),
        ApplyError::Conflicts(conflicts) => {
            let causes = conflicts.into_iter().map(|conflict| Cause {
                reason: "FieldManagerConflict".to_owned(),
                message: format!("conflict with {}", conflict.manager),
                field: conflict.field,
            });
            causes.fold(Fault::other(409, "Conflict", message), |fault, cause| fault.cause_at(&cause))
        }
    }
}

/// Reads `force`, and checks what an apply must say.
///
/// # Errors
/// 422 when it does not name its manager, or forces what is no apply.
pub(crate) fn force(query: &Query, is_apply: bool) -> Result<bool, Fault> {
    let forced = query.get("force").is_some();
    if is_apply && query.get("fieldManager").is_none() {
        let words = "fieldManager: Required value: is required for apply patch";
        return Err(Fault::invalid_options("PatchOptions", words));
    }
    if !is_apply && forced {
        let words = "force: Forbidden: may not be specified for non-apply patch";
        return Err(Fault::invalid_options("PatchOptions", words));
    }
    Ok(query.flag("force"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_who_says_so_or_who_asks() {
        let named = |query: &str, agent: &str| manager(&Query::parse(Some(query)), agent, "me");
        assert_eq!(named("fieldManager=kubectl-edit", "x/1"), Ok("kubectl-edit".to_owned()));
        assert_eq!(named("", "kubectl/v1.32 (linux)"), Ok("kubectl".to_owned()));
        assert_eq!(named("", ""), Ok("me".to_owned()));
        assert_eq!(named("", &"a".repeat(200)).map(|name| name.len()), Ok(128));
        for bad in ["fieldManager=a%0Ab".to_owned(), format!("fieldManager={}", "a".repeat(129))] {
            assert_eq!(named(&bad, "").map_err(|f| f.code()), Err(422));
        }
    }

    #[test]
    fn an_apply_names_its_manager() {
        let read = |query: &str, is_apply| force(&Query::parse(Some(query)), is_apply).map_err(|f| f.code());
        assert_eq!(read("fieldManager=a&force=true", true), Ok(true));
        assert_eq!(read("fieldManager=a", true), Ok(false));
        assert_eq!(read("force=true", true), Err(422));
        assert_eq!(read("force=true", false), Err(422));
        assert_eq!(read("", false), Ok(false));
    }
}
