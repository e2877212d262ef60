//! A Deployment against ReplicaSets that obey at once or late: what must hold at every step.

use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn deployment(replicas: i32, surge: &str, unavailable: &str, image: &str) -> Deployment {
    let bound = |text: &str| text.parse::<i32>().map_or_else(|_| json!(text), |n| json!(n));
    serde_json::from_value(json!({
        "metadata": {"name": "app", "namespace": "ns", "uid": "d", "generation": 1, "annotations": {"note": "x"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"name": "app"}},
                 "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": bound(surge), "maxUnavailable": bound(unavailable)}},
                 "template": {"metadata": {"labels": {"name": "app"}}, "spec": {"containers": [{"name": "app", "image": image}]}}}
    }))
    .unwrap()
}

/// The API and the ReplicaSet controller, in memory.
struct World {
    deployment: Deployment,
    replicasets: Vec<ReplicaSet>,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, replicasets: Vec::new() }
    }

    fn plan(&self) -> Plan {
        let shared: Vec<_> = self.replicasets.iter().cloned().map(Arc::new).collect();
        let mut seen = Seen {
            deployment: &self.deployment,
            replicasets: shared,
            orphans: Vec::new(),
            old_pods_left: false,
        };
        seen.old_pods_left =
            seen.old_replicasets().iter().any(|rs| rs.status.as_ref().is_some_and(|s| s.replicas > 0));
        decide(&seen, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    /// Carries out one plan; gives whether anything was to be done.
    fn step(&mut self) -> bool {
        let plan = self.plan();
        let busy = plan.create.is_some()
            || !plan.scale.is_empty()
            || !plan.annotate.is_empty()
            || !plan.delete.is_empty();
        if let Some(mut rs) = plan.create {
            rs.metadata.uid = rs.metadata.name.clone();
            self.replicasets.push(rs);
        }
        for (name, replicas) in plan.scale {
            let rs = self.find(&name);
            rs.spec.as_mut().unwrap().replicas = Some(replicas);
            rs.metadata.annotations.get_or_insert_default().extend(plan.size.clone());
        }
        for (name, annotations) in plan.annotate {
            self.find(&name).metadata.annotations.get_or_insert_default().extend(annotations);
        }
        self.replicasets.retain(|rs| !plan.delete.contains(rs.metadata.name.as_ref().unwrap()));
        self.deployment.status = Some(plan.status);
        busy
    }

    fn find(&mut self, name: &str) -> &mut ReplicaSet {
        self.replicasets.iter_mut().find(|rs| rs.metadata.name.as_deref() == Some(name)).unwrap()
    }

    /// Pods follow what is asked for; of those that are missing or new, `become_available` get available.
    fn pods_follow(&mut self, become_available: i32) {
        let mut left = become_available;
        for rs in &mut self.replicasets {
            let wanted = wants(rs);
            let had = available(rs).min(wanted);
            let more = (wanted - had).min(left);
            left -= more;
            rs.status = Some(ReplicaSetStatus {
                replicas: wanted,
                ready_replicas: Some(had + more),
                available_replicas: Some(had + more),
                observed_generation: rs.metadata.generation,
                ..ReplicaSetStatus::default()
            });
        }
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let busy = self.step();
            self.pods_follow(i32::MAX);
            if !busy && !self.step() {
                return;
            }
        }
        panic!("the Deployment never settles: {:?}", self.sizes());
    }

    fn sizes(&self) -> Vec<(i32, i32)> {
        self.replicasets.iter().map(|rs| (wants(rs), available(rs))).collect()
    }

    fn set_image(&mut self, image: &str) {
        self.deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image =
            Some(image.to_owned());
    }
}

#[test]
fn makes_a_replicaset_named_by_the_templates_hash_and_shows_its_revision() {
    let mut world = World::new(deployment(3, "25%", "25%", "a:1"));
    let plan = world.plan();
    let rs = plan.create.clone().unwrap();
    let hash = rs.metadata.labels.as_ref().unwrap()[well_known::LABEL_POD_TEMPLATE_HASH].clone();
    assert_eq!(rs.metadata.name.as_deref(), Some(format!("app-{hash}").as_str()));
    assert_eq!(rs.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()["pod-template-hash"], hash);
    assert_eq!((wants(&rs), plan.revision.as_deref()), (3, Some("1")));
    assert_eq!(rs.metadata.annotations.as_ref().unwrap()["note"], "x");
    world.settle();
    assert_eq!(world.sizes(), [(3, 3)]);
    let status = world.deployment.status.unwrap();
    let reasons: Vec<_> = status.conditions.unwrap().into_iter().filter_map(|c| c.reason).collect();
    assert_eq!(reasons, ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]);
}

#[test]
fn going_back_takes_the_old_replicaset_with_a_new_revision() {
    let mut world = World::new(deployment(2, "1", "0", "a:1"));
    world.settle();
    world.set_image("a:2");
    world.settle();
    assert_eq!(world.sizes(), [(0, 0), (2, 2)]);
    world.set_image("a:1");
    world.settle();
    assert_eq!(world.sizes(), [(2, 2), (0, 0)]);
    assert_eq!(revision_of(&world.replicasets[0].metadata), 3);
}

#[test]
fn keeps_as_much_history_as_asked_for() {
    let mut world = World::new(deployment(1, "1", "0", "a:1"));
    world.deployment.spec.as_mut().unwrap().revision_history_limit = Some(2);
    for n in 2..8 {
        world.settle();
        world.set_image(&format!("a:{n}"));
    }
    world.settle();
    let mut revisions: Vec<_> = world.replicasets.iter().map(|rs| revision_of(&rs.metadata)).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [5, 6, 7]);
}

#[test]
fn recreate_has_no_new_pod_beside_an_old_one() {
    let mut world = World::new(deployment(3, "25%", "25%", "a:1"));
    world.deployment.spec.as_mut().unwrap().strategy =
        serde_json::from_value(json!({"type": "Recreate"})).unwrap();
    world.settle();
    world.set_image("a:2");
    for _ in 0..20 {
        world.step();
        let live: Vec<_> = world.replicasets.iter().filter(|rs| wants(rs) > 0 || available(rs) > 0).collect();
        assert!(live.len() <= 1, "{:?}", world.sizes());
        world.pods_follow(i32::MAX);
    }
    assert_eq!(world.sizes(), [(0, 0), (3, 3)]);
}

#[test]
fn a_new_size_and_a_new_template_at_once_stay_within_the_surge() {
    let mut world = World::new(deployment(3, "1", "0", "app:1"));
    world.settle();
    world.deployment.spec.as_mut().unwrap().replicas = Some(4);
    world.set_image("app:2");
    for _ in 0..20 {
        world.step();
        let asked: i32 = world.sizes().iter().map(|(wanted, _)| wanted).sum();
        assert!(asked <= 5, "{:?}", world.sizes());
        world.pods_follow(1);
    }
    world.settle();
    assert_eq!(world.replicasets.len(), 2, "the new template has its ReplicaSet");
    assert_eq!(world.replicasets.iter().map(wants).sum::<i32>(), 4);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(deployment(2, "1", "0", "a:1"));
    world.settle();
    let spec = world.deployment.spec.as_mut().unwrap();
    (spec.paused, spec.replicas) = (Some(true), Some(5));
    world.set_image("a:2");
    world.settle();
    assert_eq!(world.sizes(), [(5, 5)]);
}

#[test]
fn progress_that_stops_is_called_out_at_the_deadline() {
    let mut world = World::new(deployment(1, "1", "0", "a:1"));
    world.deployment.spec.as_mut().unwrap().progress_deadline_seconds = Some(60);
    world.step();
    world.pods_follow(0);
    world.step();
    let shared: Vec<_> = world.replicasets.iter().cloned().map(Arc::new).collect();
    let seen = Seen {
        deployment: &world.deployment,
        replicasets: shared,
        orphans: Vec::new(),
        old_pods_left: false,
    };
    let later = decide(&seen, "2026-01-01T00:01:01Z".parse().unwrap());
    let progressing =
        later.status.conditions.unwrap().into_iter().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(
        (progressing.status.as_str(), progressing.reason.as_deref()),
        ("False", Some("ProgressDeadlineExceeded"))
    );
}

#[test]
fn a_replicaset_without_an_owner_is_taken_over_before_anything_else_is_done() {
    let deployment = deployment(2, "1", "0", "a:1");
    let replicaset = |name: &str, label: &str, owner: serde_json::Value| -> Arc<ReplicaSet> {
        let metadata = json!({"name": name, "namespace": "ns", "uid": name, "labels": {"name": label}, "ownerReferences": owner});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": {"selector": {}}})).unwrap())
    };
    let owned =
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "b", "uid": "b", "controller": true}]);
    let there = [
        replicaset("left", "app", json!([])),
        replicaset("stranger", "other", json!([])),
        replicaset("taken", "app", owned),
    ];
    let seen = Seen {
        deployment: &deployment,
        replicasets: Vec::new(),
        orphans: orphans(&deployment, &there),
        old_pods_left: false,
    };
    let plan = decide(&seen, "2026-01-01T00:00:00Z".parse().unwrap());
    assert_eq!((plan.adopt, plan.create, plan.scale), (vec!["left".to_owned()], None, Vec::new()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// At no step more Pods than replicas + maxSurge, nor fewer available ones than replicas - maxUnavailable, however slowly
    /// Pods come up; and the rollout ends.
    #[test]
    fn a_rollout_keeps_its_bounds_and_ends(
        replicas in 1_i32..30, surge in 0_i32..5, unavailable in 0_i32..5, pace in proptest::collection::vec(0_i32..4, 1..400)
    ) {
        prop_assume!(surge + unavailable > 0);
        let mut world = World::new(deployment(replicas, &surge.to_string(), &unavailable.to_string(), "a:1"));
        world.settle();
        world.set_image("a:2");
        let pace = pace.into_iter().chain(std::iter::repeat(2)).take(1000);
        for become_available in pace {
            world.step();
            let asked: i32 = world.replicasets.iter().map(wants).sum();
            prop_assert!(asked <= replicas + surge, "asked {} of {:?}", asked, world.sizes());
            world.pods_follow(become_available);
            let ready: i32 = world.replicasets.iter().map(available).sum();
            if world.sizes() == [(0, 0), (replicas, replicas)] {
                break;
            }
            prop_assert!(ready >= replicas - unavailable.min(replicas), "ready {} of {:?}", ready, world.sizes());
        }
        prop_assert_eq!(world.sizes(), vec![(0, 0), (replicas, replicas)]);
    }

    /// Scaling in the middle of a rollout lands on the new size.
    #[test]
    fn scaling_within_a_rollout_ends_at_the_new_size(from in 1_i32..20, to in 0_i32..20, steps in 0_usize..6) {
        let mut world = World::new(deployment(from, "25%", "25%", "a:1"));
        world.settle();
        world.set_image("a:2");
        for _ in 0..steps {
            world.step();
            world.pods_follow(1);
        }
        world.deployment.spec.as_mut().unwrap().replicas = Some(to);
        world.settle();
        let total: i32 = world.replicasets.iter().map(wants).sum();
        prop_assert_eq!(total, to);
        prop_assert_eq!(wants(&world.replicasets[0]), 0);
    }
}
