//! Patches: a document, a patch, and the way in which the one changes the other.

use hitless_types::{kinds, patch};
use serde_json::Value;

/// What a patch may make of a document is bounded by these two together; a JSON patch may also copy.
const GROWTH_MAX: usize = 2;

/// The bytes are a document and a patch, parted by a zero byte. Every kind of patch is tried.
pub fn patches(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let mut json = || serde_json::from_slice::<Value>(parts.next()?).ok();
    let (Some(document), Some(change)) = (json(), json()) else { return };
    let length = |value: &Value| value.to_string().len();
    let bound = GROWTH_MAX * (length(&document) + length(&change)) + 64;

    let mut merged = document.clone();
    patch::merge_patch(&mut merged, &change);
    assert!(length(&merged) <= bound, "a merge patch grew beyond what went in");
    let once = merged.clone();
    patch::merge_patch(&mut merged, &change);
    assert_eq!(merged, once, "a merge patch is the same twice");

    let mut patched = document.clone();
    match patch::json_patch(&mut patched, &change) {
        Ok(()) => {
            assert!(length(&patched) <= bound + patch::COPIED_LEN_MAX, "a JSON patch grew beyond its bound")
        }
        Err(_) => assert_eq!(patched, document, "a refused patch changes nothing"),
    }

    for kind in ["Pod", "Service"].iter().filter_map(|kind| kinds::by_gvk("v1", kind)) {
        let mut patched = document.clone();
        match patch::strategic_merge(&mut patched, &change, kind) {
            Ok(()) => assert!(length(&patched) <= bound, "a strategic patch grew beyond what went in"),
            Err(_) => assert_eq!(patched, document, "a refused patch changes nothing"),
        }
    }
}
