//! Get and list.
//!
//! A page says the revision of the walk's *first* page: a watch from there replays what came between the pages, so
//! nothing is missed although later pages are younger.

use axum::{http::StatusCode, response::Response};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hitless_base::Revision;
use hitless_store::{Entry, WatchError};
use hitless_types::{
    kinds::Kind,
    selector::{self, FieldSelector, Requirements},
    status::ApiFault,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    codec,
    core::Core,
    fault::Fault,
    negotiate::{Format, Shape},
    query::Query,
    reply::{self, Reply},
    route::{self, Place},
    table,
};

/// What of a collection is wanted.
pub(crate) struct Selection {
    pub(crate) labels: Requirements,
    pub(crate) fields: FieldSelector,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 for what is no selector, or names a field that the kind does not know.
    pub(crate) fn read(kind: &Kind, query: &Query) -> Result<Self, Fault> {
        let labels = selector::parse_labels(query.get("labelSelector").unwrap_or_default())
            .map_err(|e| Fault::bad_request(format!("unable to parse requirement: {}", e.message)))?;
        let fields = selector::parse_fields(query.get("fieldSelector").unwrap_or_default())
            .map_err(|e| Fault::bad_request(e.message))?;
        fields.check(kind).map_err(|e| Fault::bad_request(e.message))?;
        Ok(Self { labels, fields })
    }

    /// Whether everything is wanted.
    pub(crate) fn is_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels.matches_object(object) && self.fields.matches(object)
    }

    /// What the keys of all that is wanted begin with: a selector by name narrows it.
    pub(crate) fn prefix(&self, place: &Place) -> String {
        let mut prefix = route::prefix(place.kind, &place.namespace);
        let one_place =
            place.kind.scope == hitless_types::kinds::Scope::Cluster || !place.namespace.is_empty();
        if let Some(name) = self.fields.required("metadata.name").filter(|_| one_place) {
            prefix.push_str(name);
        }
        prefix
    }
}

/// One object.
pub(crate) async fn get(core: &Core, place: &Place, format: Format) -> Result<Response, Fault> {
    let Some(entry) = core.store.get(&place.key()).await? else {
        return Err(Fault::not_found(place.kind, &place.name));
    };
    if format.is_plain() {
        let mut out = Vec::with_capacity(entry.value.len() + 64);
        core.write_shown(&mut out, place.kind, &entry, true, format.lean)?;
        return Ok(reply::bytes(StatusCode::OK, out));
    }
    let object = core.shown(place.kind, &entry)?;
    Ok(Reply::new(StatusCode::OK, object).shaped(core, place.kind, format).into_response(format))
}

/// Where a walk goes on.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: u64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Token {
    fn read(text: &str) -> Result<Self, Fault> {
        let bad = || Fault::bad_request("continue key is not valid: it was not given by this server");
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| bad())?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        if token.v == TOKEN_VERSION { Ok(token) } else { Err(bad()) }
    }

    fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

/// A page of a collection.
pub(crate) struct Page {
    entries: Vec<Entry>,
    /// Decoded, where that was needed to choose: as many as there are entries, or none.
    objects: Vec<Value>,
    pub(crate) revision: Revision,
    next: Option<String>,
    remaining: Option<usize>,
}

/// Entries read at once while looking for those that a selector wants.
const SCAN_ENTRIES: usize = 500;

/// Reads a page as `limit`, `continue`, `resourceVersion` and the selectors ask for it.
pub(crate) async fn page(
    core: &Core,
    place: &Place,
    selection: &Selection,
    query: &Query,
) -> Result<Page, Fault> {
    let limit = query.number("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let token = query.get("continue").map(Token::read).transpose()?;
    check_revision(core, place, token.as_ref(), query).await?;
    let prefix = selection.prefix(place);
    let base = route::prefix(place.kind, "");
    let mut after = token.as_ref().map(|t| format!("{base}{}", t.start));
    let mut page = Page {
        entries: Vec::new(),
        objects: Vec::new(),
        revision: Revision::ZERO,
        next: None,
        remaining: None,
    };
    let mut revision = token.map(|t| Revision(t.rv));
    loop {
        let room = limit.map(|limit| limit.saturating_sub(page.entries.len()));
        let ask = if selection.is_all() { room } else { room.map(|_| SCAN_ENTRIES) };
        let listing = core.store.list(&prefix, ask, after.as_deref()).await?;
        let revision = *revision.get_or_insert(listing.revision);
        page.revision = revision;
        let mut left = listing.entries.len();
        let mut last = None;
        for entry in listing.entries {
            left -= 1;
            last = Some(entry.key.clone());
            if selection.is_all() {
                page.entries.push(entry);
            } else {
                let object = core.shown(place.kind, &entry)?;
                if selection.matches(&object) {
                    page.entries.push(entry);
                    page.objects.push(object);
                }
            }
            if limit.is_some_and(|limit| page.entries.len() >= limit) {
                break;
            }
        }
        let more = left > 0 || listing.more;
        let full = limit.is_some_and(|limit| page.entries.len() >= limit);
        if more && full {
            let start = last.as_deref().and_then(|key| key.strip_prefix(base.as_str())).unwrap_or_default();
            page.next =
                Some(Token { v: TOKEN_VERSION.to_owned(), rv: revision.0, start: start.to_owned() }.write());
            page.remaining = selection.is_all().then_some(listing.remaining);
        }
        if !more || full {
            return Ok(page);
        }
        after = last.map(|key| key.as_str().to_owned());
    }
}

/// Whether the wanted point in time can be served.
async fn check_revision(
    core: &Core,
    place: &Place,
    token: Option<&Token>,
    query: &Query,
) -> Result<(), Fault> {
    if let Some(token) = token {
        if query.get("resourceVersion").is_some_and(|version| version != "0") {
            return Err(Fault::bad_request("specifying resource version is not allowed when using continue"));
        }
        // A later watch will start at the walk's first revision; if that has been forgotten, so has the walk.
        let prefix = route::prefix(place.kind, &place.namespace);
        return match core.store.watch(&prefix, Revision(token.rv)).await {
            Err(WatchError::Compacted { .. } | WatchError::Future { .. }) => Err(Fault::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter.",
            )),
            _ => Ok(()),
        };
    }
    let matching = query.get("resourceVersionMatch");
    let Some(wanted) = query.get("resourceVersion") else {
        return if matching.is_some() && !query.flag("watch") {
            let message = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
            Err(Fault::invalid_options("ListOptions", message))
        } else {
            Ok(())
        };
    };
    let wanted: Revision = wanted
        .parse()
        .map_err(|_| Fault::bad_request(format!("Invalid value: {wanted:?}: invalid resource version")))?;
    let current = core.revision();
    if wanted > current {
        return Err(too_large(wanted, current));
    }
    if matching == Some("Exact") && wanted != current {
        return Err(Fault::expired("The resourceVersion for the provided list is too old."));
    }
    Ok(())
}

/// The wanted revision has not been reached.
pub(crate) fn too_large(wanted: Revision, current: Revision) -> Fault {
    let message = format!("Too large resource version: {wanted}, current: {current}");
    Fault::from(ApiFault::Timeout(message))
        .cause("ResourceVersionTooLarge", "Too large resource version")
        .retry_after(1)
}

/// A collection.
pub(crate) async fn list(
    core: &Core,
    place: &Place,
    query: &Query,
    format: Format,
) -> Result<Response, Fault> {
    let selection = Selection::read(place.kind, query)?;
    let page = page(core, place, &selection, query).await?;
    show(core, place.kind, page, format)
}

fn list_metadata(page: &Page) -> Value {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let (Some(next), Value::Object(map)) = (&page.next, &mut metadata) {
        map.insert("continue".into(), next.as_str().into());
        if let Some(remaining) = page.remaining {
            map.insert("remainingItemCount".into(), remaining.into());
        }
    }
    metadata
}

fn show(core: &Core, kind: &'static Kind, page: Page, format: Format) -> Result<Response, Fault> {
    let metadata = list_metadata(&page);
    if format.is_plain() {
        let size: usize = page.entries.iter().map(|e| e.value.len() + 64).sum();
        let mut out = Vec::with_capacity(size + 256);
        let head =
            format!(r#"{{"kind":"{}List","apiVersion":"{}","metadata":"#, kind.kind, kind.api_version());
        out.extend_from_slice(head.as_bytes());
        serde_json::to_writer(&mut out, &metadata).map_err(Fault::internal)?;
        out.extend_from_slice(br#","items":["#);
        for (i, entry) in page.entries.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            core.write_shown(&mut out, kind, entry, false, format.lean)?;
        }
        out.extend_from_slice(b"]}");
        return Ok(reply::bytes(StatusCode::OK, out));
    }
    let objects = page.into_objects(core, kind)?;
    let shown = match format.shape {
        Shape::Table => table::table(kind, &objects, metadata, format.include, true, core.now()),
        Shape::Partial => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "items": objects.iter().map(table::partial).collect::<Vec<_>>(),
        }),
        Shape::Object => json!({
            "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata,
            "items": objects,
        }),
    };
    Ok(Reply::new(StatusCode::OK, shown).into_response(format))
}

impl Page {
    /// The page's objects as clients see them.
    pub(crate) fn into_objects(self, core: &Core, kind: &'static Kind) -> Result<Vec<Value>, Fault> {
        if self.objects.len() == self.entries.len() {
            return Ok(self.objects);
        }
        self.entries.iter().map(|entry| core.shown(kind, entry)).collect()
    }

    /// The page's entries.
    pub(crate) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }
}

/// The objects of a collection that are wanted, for the server's own use.
pub(crate) async fn all(core: &Core, kind: &'static Kind, namespace: &str) -> Result<Vec<Value>, Fault> {
    let listing = core.store.list(&route::prefix(kind, namespace), None, None).await?;
    listing.entries.iter().map(|entry| codec::decode(kind, entry)).collect()
}
