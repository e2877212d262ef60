//! What must hold of every row.

use std::collections::BTreeSet;

use super::*;

#[test]
fn paths_and_kinds_are_unique_and_found() {
    let mut seen = BTreeSet::new();
    for kind in all() {
        assert!(seen.insert((kind.group, kind.plural)), "{} twice", kind.qualified_plural());
        assert!(std::ptr::eq(by_path(kind.group, kind.version, kind.plural).unwrap(), kind));
        assert!(std::ptr::eq(by_gvk(&kind.api_version(), kind.kind).unwrap(), kind));
        assert!(!kind.singular.is_empty() && kind.kind.to_lowercase() == kind.singular);
        if let Some(stored) = kind.stored_as {
            let target = by_gvk(stored.api_version, stored.kind).unwrap();
            assert!(target.stored_as.is_none() && target.plural == kind.plural);
        }
    }
    assert_eq!(all().len(), 18);
    assert!(by_path("apps", "v1", "daemonsets").is_none());
    assert!(all().iter().filter(|k| !k.is_native()).map(|k| k.kind).eq(["EndpointConsumer"]));
}

#[test]
fn an_empty_object_has_a_cell_for_each_column_and_never_panics() {
    for kind in all() {
        let bare = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "x"}});
        let object = taken(bare.clone());
        for object in [&bare, &object, &Value::Null, &json!([])] {
            let cells = (kind.cells)(object, Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), kind.columns.len(), "{}", kind.kind);
            let _ = (kind.validate)(object, None);
            let _ = (kind.validate)(object, Some(object));
            let _ = (kind.initial_status)(object);
            let _ = validate_meta(kind, object, Some(object));
            (kind.default)(&mut (*object).clone());
        }
        assert_eq!(kind.columns.iter().filter(|c| c.format == "name").count(), 1, "{}", kind.kind);
    }
}

#[test]
fn defaults_are_settled_and_survive_the_type() {
    for kind in all() {
        let once =
            taken(json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "x"}}));
        let mut twice = once.clone();
        (kind.default)(&mut twice);
        assert_eq!(once, twice, "{}", kind.kind);
        let typed = (kind.typecheck)(&once).unwrap();
        assert_eq!(typed, Typed { object: once, unknown: Vec::new() }, "{}", kind.kind);
    }
}
