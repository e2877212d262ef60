//! Create and update: the way of every object into the store.
//!
//! An update is a function from the stored object to the wanted one. It is run against what is there and committed on
//! the condition that this is still there; whoever named no revision is run again on what has come instead.

use hitless_base::Revision;
use hitless_store::{CommitError, Entry, Op};
use hitless_types::{field::FieldError, kinds::Kind};
use serde_json::Value;

use crate::{
    admission, apply,
    auth::{self, Identity},
    codec::{self, text},
    core::{Core, micros_text},
    fault::Fault,
    route::{self, Place},
    strategy::{self, FieldValidation, Part},
};

/// How a write is to be done.
pub(crate) struct How<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    /// Who is noted as the author; empty: nobody.
    pub(crate) manager: String,
}

impl<'a> How<'a> {
    /// The server's own writes: nobody is noted as their author.
    pub(crate) fn server(identity: &'a Identity) -> Self {
        Self { identity, dry_run: false, validation: FieldValidation::Ignore, manager: String::new() }
    }
}

/// What a write gave.
#[derive(Debug)]
pub(crate) struct Written {
    /// The object as clients see it.
    pub(crate) object: Value,
    /// What its author should be told.
    pub(crate) warnings: Vec<String>,
}

/// A generated name that is taken is replaced by another so many times.
const NAMES_TRIED_MAX: usize = 8;

/// How often an update without a condition is run again.
const UPDATES_TRIED_MAX: usize = 32;

/// Creates an object.
pub(crate) async fn create(core: &Core, place: &Place, raw: Value, how: &How<'_>) -> Result<Written, Fault> {
    let kind = place.kind;
    let checked = strategy::typecheck(kind, raw, how.validation)?;
    let given = text(&checked.object, "/metadata/name").to_owned();
    admission::check_namespace(core, kind, &place.namespace, &given).await?;
    let mut tries = 0;
    loop {
        tries += 1;
        match create_once(core, place, checked.object.clone(), how, true).await {
            Err(fault) if fault.code() == 409 && given.is_empty() && tries < NAMES_TRIED_MAX => {}
            Err(fault) => return Err(fault),
            Ok(object) => return Ok(Written { object, warnings: checked.warnings }),
        }
    }
}

/// Creates the object that an applied configuration makes where there is none.
pub(crate) async fn create_applied(
    core: &Core,
    place: &Place,
    applied: Value,
    how: &How<'_>,
) -> Result<Written, Fault> {
    let checked = strategy::typecheck(place.kind, applied, FieldValidation::Ignore)?;
    let object = create_once(core, place, checked.object, how, false).await?;
    Ok(Written { object, warnings: checked.warnings })
}

async fn create_once(
    core: &Core,
    place: &Place,
    mut object: Value,
    how: &How<'_>,
    noted: bool,
) -> Result<Value, Fault> {
    let kind = place.kind;
    strategy::prepare_create(kind, &place.namespace, &mut object, core.now())?;
    (kind.default)(&mut object);
    if noted {
        apply::note(core, place, Part::Main, None, &mut object, how);
    }
    admission::on_create(core, kind, &mut object).await?;
    auth::restrict(how.identity, kind, &object)?;
    strategy::validate(kind, &object, None)?;
    let reserved = admission::reserve(core, kind, None, &mut object)?;
    let name = text(&object, "/metadata/name").to_owned();
    let key = route::key(kind, &place.namespace, &name);
    if how.dry_run {
        if core.store.get(&key).await?.is_some() {
            return Err(Fault::already_exists(kind, &name));
        }
        return Ok(object);
    }
    let op = Op::create(key, codec::encode(kind, &object)?);
    let committed = core.store.commit(vec![op]).await.map_err(|error| match error {
        CommitError::Conflict { .. } => Fault::already_exists(kind, &name),
        other => other.into(),
    })?;
    if let Some(reserved) = reserved {
        reserved.keep();
    }
    codec::set_revision(&mut object, committed.revision);
    Ok(object)
}

/// Updates an object by `change`, which is given the stored object and gives the wanted one.
///
/// Whoever names a revision in the wanted object gets a conflict when another one is stored; the others are run again.
pub(crate) async fn update(
    core: &Core,
    place: &Place,
    part: Part,
    how: &How<'_>,
    mut change: impl FnMut(&Value) -> Result<Value, Fault> + Send,
) -> Result<Written, Fault> {
    let kind = place.kind;
    for _ in 0..UPDATES_TRIED_MAX {
        let Some((entry, old)) = core.load(kind, &place.namespace, &place.name).await? else {
            return Err(Fault::not_found(kind, &place.name));
        };
        let checked = strategy::typecheck(kind, change(&old)?, how.validation)?;
        check_same(place, &old, &checked.object)?;
        let wanted = Wanted { checked, noted: true };
        if let Outcome::Done(written) = update_to(core, place, part, how, (&entry, old), wanted).await? {
            return Ok(written);
        }
    }
    Err(Fault::modified(kind, &place.name))
}

/// What became of one attempt at an update.
pub(crate) enum Outcome {
    /// It is done.
    Done(Written),
    /// Something else is stored by now.
    Lost,
}

/// An update to what an applied configuration makes of what was seen.
pub(crate) async fn update_once(
    core: &Core,
    place: &Place,
    part: Part,
    how: &How<'_>,
    seen: (&Entry, Value),
    applied: Value,
) -> Result<Outcome, Fault> {
    let checked = strategy::typecheck(place.kind, applied, FieldValidation::Ignore)?;
    update_to(core, place, part, how, seen, Wanted { checked, noted: false }).await
}

/// What is wanted, and whether its author is still to be noted.
struct Wanted {
    checked: strategy::Checked,
    noted: bool,
}

async fn update_to(
    core: &Core,
    place: &Place,
    part: Part,
    how: &How<'_>,
    (entry, old): (&Entry, Value),
    wanted: Wanted,
) -> Result<Outcome, Fault> {
    let kind = place.kind;
    let (mut new, warnings) = (wanted.checked.object, wanted.checked.warnings);
    auth::restrict(how.identity, kind, &old)?;
    if part == Part::Status && kind.volatile_status {
        let object = volatile_status(core, place, entry, old, &new, how.dry_run)?;
        return Ok(Outcome::Done(Written { object, warnings }));
    }
    let applied = (!wanted.noted).then(|| new.pointer("/metadata/managedFields").cloned());
    strategy::prepare_update(kind, part, &old, &mut new);
    admission::keep_allocated(kind, &old, &mut new);
    (kind.default)(&mut new);
    match applied {
        // An applied status brings its entries with it, though the rest of the metadata stays.
        Some(fields) => strategy::put_field(codec::metadata_mut(&mut new), "managedFields", fields),
        None => apply::note(core, place, part, Some(&old), &mut new, how),
    }
    strategy::count_generation(kind, &old, &mut new);
    auth::restrict(how.identity, kind, &new)?;
    // What the server itself changes (a Pod's node) may be what a client may not.
    if part != Part::Whole {
        strategy::validate(kind, &new, Some(&old))?;
    }
    Ok(match replace(core, kind, Seen { entry, object: &old }, new, how.dry_run).await? {
        Replaced::Kept(object) | Replaced::Deleted(object) => Outcome::Done(Written { object, warnings }),
        Replaced::Lost => Outcome::Lost,
    })
}

/// Whether the wanted object is the one at `place`, as far as it says so.
pub(crate) fn check_same(place: &Place, old: &Value, new: &Value) -> Result<(), Fault> {
    let kind = place.kind;
    let said = |field: &str| Some(text(new, field)).filter(|t| !t.is_empty());
    if let Some(name) = said("/metadata/name").filter(|name| *name != place.name) {
        let url = &place.name;
        let message = format!("the name of the object ({name}) does not match the name on the URL ({url})");
        return Err(Fault::bad_request(message));
    }
    if said("/metadata/namespace").is_some_and(|namespace| namespace != place.namespace) {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Fault::bad_request(message));
    }
    let held = text(old, "/metadata/uid");
    if let Some(uid) = said("/metadata/uid").filter(|uid| *uid != held) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {held}");
        return Err(Fault::conflict(kind, &place.name, &why));
    }
    let held = text(old, "/metadata/resourceVersion");
    match said("/metadata/resourceVersion") {
        None | Some("0") => Ok(()),
        Some(version) if version == held => Ok(()),
        Some(version) if version.parse::<Revision>().is_err() => Err(Fault::bad_request(format!(
            "resourceVersion: Invalid value: {version:?}: must be a decimal number"
        ))),
        Some(_) => Err(Fault::modified(kind, &place.name)),
    }
}

/// The stored object as an update found it.
pub(crate) struct Seen<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) object: &'a Value,
}

/// What became of an attempt to replace an object.
pub(crate) enum Replaced {
    /// It is stored (or was so already).
    Kept(Value),
    /// Nothing holds it any more: it is gone.
    Deleted(Value),
    /// Something else is stored by now.
    Lost,
}

/// Stores `new` in place of what was seen. Nothing happens when that is the same; when its deletion has begun and
/// nothing holds it any more, it goes.
pub(crate) async fn replace(
    core: &Core,
    kind: &'static Kind,
    seen: Seen<'_>,
    mut new: Value,
    dry_run: bool,
) -> Result<Replaced, Fault> {
    let Seen { entry, object: old } = seen;
    codec::set_revision(&mut new, entry.modified);
    let goes = strategy::is_free_to_go(&new);
    if new == *old && !goes {
        return Ok(Replaced::Kept(shown(core, kind, entry, new)));
    }
    let reserved = admission::reserve(core, kind, Some(old), &mut new)?;
    if dry_run {
        return Ok(if goes { Replaced::Deleted(new) } else { Replaced::Kept(new) });
    }
    let op = if goes {
        Op::delete(entry.key.clone(), entry.modified)
    } else {
        Op::update(entry.key.clone(), codec::encode(kind, &new)?, entry.modified)
    };
    let committed = match core.store.commit(vec![op]).await {
        Ok(committed) => committed,
        Err(CommitError::Conflict { .. }) => return Ok(Replaced::Lost),
        Err(other) => return Err(other.into()),
    };
    if let Some(reserved) = reserved {
        reserved.keep();
    }
    codec::set_revision(&mut new, committed.revision);
    admission::release(core, kind, old, Some(&new).filter(|_| !goes));
    if goes {
        core.volatile.forget(&entry.key);
        return Ok(Replaced::Deleted(new));
    }
    Ok(Replaced::Kept(shown(core, kind, entry, new)))
}

fn shown(core: &Core, kind: &Kind, entry: &Entry, mut object: Value) -> Value {
    if kind.volatile_status {
        core.volatile.show(&entry.key, &mut object);
    }
    object
}

/// Takes a consumer's word. It changes neither the object's resourceVersion nor the store's revision.
///
/// Invariant: a watermark is refused that falls, that lies beyond the store's revision (nothing has been taken that
/// has not been written), or that belongs to another incarnation than the registered one.
fn volatile_status(
    core: &Core,
    place: &Place,
    entry: &Entry,
    mut old: Value,
    new: &Value,
    dry_run: bool,
) -> Result<Value, Fault> {
    let kind = place.kind;
    let mut status = new.get("status").cloned().unwrap_or(Value::Null);
    let (said, registered) = (text(&status, "/incarnation"), text(&old, "/spec/incarnation"));
    if said != registered {
        let why = format!("status.incarnation is {said:?}, but {registered:?} is registered");
        return Err(Fault::conflict(kind, &place.name, &why));
    }
    let observed = status.get("observedRevision").cloned().unwrap_or(0.into());
    let reached = core.revision();
    if observed.as_u64().is_none_or(|observed| observed > reached.0) {
        let words = format!("must not lie beyond the store's revision {reached}");
        let fault = FieldError::invalid("status.observedRevision", observed, &words);
        return Err(Fault::invalid(kind, &place.name, vec![fault]));
    }
    let map = codec::as_map(&mut status);
    map.insert("observedRevision".into(), observed);
    map.insert("renewTime".into(), micros_text(core.now()).into());
    if !dry_run {
        let taken = core.volatile.put(&entry.key, &old, status.clone());
        taken.map_err(|error| Fault::conflict(kind, &place.name, &error.to_string()))?;
    }
    codec::as_map(&mut old).insert("status".into(), status);
    Ok(old)
}
