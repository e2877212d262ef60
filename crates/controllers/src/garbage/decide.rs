//! From the metadata of a namespace's objects to what goes: pure.

use std::collections::{HashMap, HashSet};

use hitless_types::kinds::Kind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Finalizer of a deletion in the foreground.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of a deletion that leaves the dependents.
pub(super) const ORPHAN: &str = "orphan";

/// One object of the namespace.
pub(super) struct Item {
    pub(super) kind: &'static Kind,
    pub(super) meta: ObjectMeta,
}

/// What is to be done to the object at this place of the list.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Delete it, if the API confirms that these owners are gone (none of them is in the namespace's list).
    DeleteIfGone { item: usize, owners: Vec<OwnerReference> },
    /// Delete it: its owner waits for that. In the foreground if it has dependents of its own, so that the first owner is the last to go.
    Delete { item: usize, foreground: bool },
    /// Take these owners' references off it.
    Disown { item: usize, uids: Vec<String> },
    /// Take this finalizer off it: what it waited for is done.
    Release { item: usize, finalizer: &'static str },
}

/// The steps for what was seen.
pub(super) fn decide(items: &[Item]) -> Vec<Step> {
    let uids: HashSet<&str> = items.iter().filter_map(|i| i.meta.uid.as_deref()).collect();
    let mut dependents: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, item) in items.iter().enumerate() {
        for owner in item.meta.owner_references.iter().flatten() {
            dependents.entry(owner.uid.as_str()).or_default().push(at);
        }
    }
    let mut steps: Vec<Step> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        steps.extend(by_finalizer(at, item, items, &dependents));
        let owners = item.meta.owner_references.clone().unwrap_or_default();
        let alive = owners.iter().any(|owner| uids.contains(owner.uid.as_str()));
        if !owners.is_empty() && !alive && item.meta.deletion_timestamp.is_none() {
            steps.push(Step::DeleteIfGone { item: at, owners });
        }
    }
    steps
}

fn by_finalizer(at: usize, item: &Item, items: &[Item], dependents: &HashMap<&str, Vec<usize>>) -> Vec<Step> {
    let has = |name: &str| item.meta.finalizers.iter().flatten().any(|f| f == name);
    let uid = item.meta.uid.as_deref().unwrap_or_default();
    let mine = dependents.get(uid).map(Vec::as_slice).unwrap_or_default();
    if item.meta.deletion_timestamp.is_none() {
        return Vec::new();
    }
    if has(ORPHAN) {
        return if mine.is_empty() {
            vec![Step::Release { item: at, finalizer: ORPHAN }]
        } else {
            mine.iter()
                .map(|dependent| Step::Disown { item: *dependent, uids: vec![uid.to_owned()] })
                .collect()
        };
    }
    if has(FOREGROUND) {
        let blocks = |dependent: &&usize| {
            items.get(**dependent).is_some_and(|d| {
                d.meta
                    .owner_references
                    .iter()
                    .flatten()
                    .any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
            })
        };
        let waiting = mine.iter().filter(blocks).count();
        let has_dependents =
            |item: &Item| item.meta.uid.as_deref().is_some_and(|uid| dependents.contains_key(uid));
        let mut steps: Vec<_> = mine
            .iter()
            .filter_map(|at| Some((*at, items.get(*at)?)))
            .filter(|(_, dependent)| dependent.meta.deletion_timestamp.is_none())
            .map(|(at, dependent)| Step::Delete { item: at, foreground: has_dependents(dependent) })
            .collect();
        if waiting == 0 {
            steps.push(Step::Release { item: at, finalizer: FOREGROUND });
        }
        return steps;
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use hitless_types::kinds;
    use serde_json::json;

    use super::*;

    fn item(uid: &str, owner: Option<&str>, more: serde_json::Value) -> Item {
        let mut meta = json!({"name": uid, "namespace": "ns", "uid": uid});
        if let Some(owner) = owner {
            meta["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "blockOwnerDeletion": true}]);
        }
        meta.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Item { kind: kinds::by_gvk("v1", "Pod").unwrap(), meta: serde_json::from_value(meta).unwrap() }
    }

    #[test]
    fn what_has_lost_all_its_owners_goes_once_the_api_confirms_it() {
        let steps = decide(&[
            item("rs", None, json!({})),
            item("kept", Some("rs"), json!({})),
            item("lost", Some("gone"), json!({})),
        ]);
        assert!(
            matches!(steps.as_slice(), [Step::DeleteIfGone { item: 2, owners }] if owners[0].uid == "gone"),
            "{steps:?}"
        );
    }

    #[test]
    fn in_the_foreground_the_owner_waits_for_its_dependents() {
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FOREGROUND]});
        let items = [item("rs", None, going.clone()), item("pod", Some("rs"), json!({}))];
        assert_eq!(decide(&items), [Step::Delete { item: 1, foreground: false }]);
        let chain = [
            item("app", None, going.clone()),
            item("rs", Some("app"), json!({})),
            item("pod", Some("rs"), json!({})),
        ];
        assert_eq!(
            decide(&chain),
            [Step::Delete { item: 1, foreground: true }],
            "what it owns goes before it"
        );
        assert_eq!(decide(&[item("rs", None, going)]), [Step::Release { item: 0, finalizer: FOREGROUND }]);
    }

    #[test]
    fn orphaning_takes_the_references_off_first() {
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [ORPHAN]});
        let items = [item("rs", None, going.clone()), item("pod", Some("rs"), json!({}))];
        assert_eq!(decide(&items), [Step::Disown { item: 1, uids: vec!["rs".into()] }]);
        assert_eq!(decide(&[item("rs", None, going)]), [Step::Release { item: 0, finalizer: ORPHAN }]);
    }
}
