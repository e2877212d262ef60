//! Node selectors, node affinity and tolerations: whether one Pod's words fit one node's.
//!
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/> and
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>.

use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::snapshot::{NodeView, PodView};

/// Whether the node has what `nodeSelector` and the required node affinity ask for.
#[must_use]
pub fn wants(pod: &PodView, node: &NodeView) -> bool {
    let Some(spec) = pod.object.spec.as_ref() else { return true };
    let selected =
        spec.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
    let required =
        node_affinity(spec).and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    // Terms are alternatives; a list without terms fits nothing.
    selected
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| fits(term, node)))
}

/// The sum of the weights of the preferred terms that the node fits.
#[must_use]
pub fn preference(pod: &PodView, node: &NodeView) -> i64 {
    let affinity = pod.object.spec.as_ref().and_then(node_affinity);
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    preferred
        .into_iter()
        .flatten()
        // Unlike a required one, a preferred term without requirements fits every node.
        .filter(|term| is_empty(&term.preference) || fits(&term.preference, node))
        .map(|term| i64::from(term.weight))
        .sum()
}

fn node_affinity(spec: &PodSpec) -> Option<&NodeAffinity> {
    spec.affinity.as_ref()?.node_affinity.as_ref()
}

fn is_empty(term: &NodeSelectorTerm) -> bool {
    term.match_expressions.as_ref().is_none_or(Vec::is_empty)
        && term.match_fields.as_ref().is_none_or(Vec::is_empty)
}

fn fits(term: &NodeSelectorTerm, node: &NodeView) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    !is_empty(term)
        && expressions.into_iter().all(|r| holds(r, node.labels.get(&r.key).map(String::as_str)))
        // The one field that Kubernetes knows here.
        && fields.into_iter().all(|r| r.key == "metadata.name" && holds(r, Some(&node.name)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|one| one == value);
    let compared = || -> Option<std::cmp::Ordering> {
        let bound: i64 = values.first()?.parse().ok()?;
        Some(value?.parse::<i64>().ok()?.cmp(&bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared() == Some(std::cmp::Ordering::Greater),
        "Lt" => compared() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

/// Whether one of the tolerations bears the taint.
#[must_use]
pub fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    tolerations.iter().any(|toleration| {
        let effect = empty(&toleration.effect) || toleration.effect.as_ref() == Some(&taint.effect);
        let key = empty(&toleration.key) || toleration.key.as_ref() == Some(&taint.key);
        let value = match toleration.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => {
                toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
            _ => false,
        };
        effect && key && value
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
        NodeSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(values.iter().map(|&v| v.into()).collect()),
        }
    }

    #[test]
    fn operators_as_kubernetes_defines_them() {
        let check = |operator, values: &[&str], value| holds(&requirement("k", operator, values), value);
        assert!(
            check("In", &["a", "b"], Some("b"))
                && !check("In", &["a"], Some("b"))
                && !check("In", &["a"], None)
        );
        assert!(
            check("NotIn", &["a"], Some("b"))
                && check("NotIn", &["a"], None)
                && !check("NotIn", &["a"], Some("a"))
        );
        assert!(check("Exists", &[], Some("")) && !check("Exists", &[], None));
        assert!(check("DoesNotExist", &[], None) && !check("DoesNotExist", &[], Some("")));
        assert!(
            check("Gt", &["5"], Some("6"))
                && !check("Gt", &["5"], Some("5"))
                && !check("Gt", &["5"], Some("x"))
        );
        assert!(
            check("Lt", &["5"], Some("4")) && !check("Lt", &["5"], None) && !check("Near", &["5"], Some("5"))
        );
    }

    #[test]
    fn a_required_term_without_requirements_fits_nothing() {
        let node = NodeView {
            name: "n".into(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            taints: vec![],
            unschedulable: false,
            allocatable: hitless_types::resources::Resources::default(),
        };
        let term =
            |expressions, fields| NodeSelectorTerm { match_expressions: expressions, match_fields: fields };
        assert!(!fits(&term(None, None), &node));
        assert!(fits(&term(Some(vec![requirement("zone", "In", &["a"])]), None), &node));
        assert!(fits(&term(None, Some(vec![requirement("metadata.name", "In", &["n"])])), &node));
        assert!(!fits(&term(None, Some(vec![requirement("metadata.uid", "In", &["n"])])), &node));
        let both = term(
            Some(vec![requirement("zone", "In", &["a"])]),
            Some(vec![requirement("metadata.name", "In", &["other"])]),
        );
        assert!(!fits(&both, &node), "both must hold");
    }

    #[test]
    fn tolerations_as_kubernetes_matches_them() {
        let taint = Taint {
            key: "k".into(),
            value: Some("v".into()),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        let bears = |key: Option<&str>, operator: Option<&str>, value: Option<&str>, effect: Option<&str>| {
            let text = |t: Option<&str>| t.map(str::to_owned);
            let toleration = Toleration {
                key: text(key),
                operator: text(operator),
                value: text(value),
                effect: text(effect),
                ..Toleration::default()
            };
            tolerated(&taint, &[toleration])
        };
        assert!(bears(Some("k"), Some("Equal"), Some("v"), Some("NoSchedule")));
        assert!(bears(Some("k"), None, Some("v"), None));
        assert!(bears(Some("k"), Some("Exists"), None, None));
        assert!(bears(None, Some("Exists"), None, None), "bears everything");
        assert!(!bears(Some("k"), None, Some("other"), None));
        assert!(!bears(Some("k"), Some("Exists"), None, Some("NoExecute")));
        assert!(!bears(Some("other"), Some("Exists"), None, None));
        assert!(!tolerated(&taint, &[]));
    }
}
