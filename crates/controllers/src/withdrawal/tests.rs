//! The loop's decisions, and the race with an EndpointSlice controller that is behind.

use std::sync::Arc;

use hitless_base::{Revision, Timestamp};
use hitless_types::{
    AckClass, EndpointConsumer, EndpointConsumerSpec, EndpointConsumerStatus, SettleScope,
    well_known::{self, PROGRAMMED, WITHDRAWN},
};
use serde_json::{Value, json};

use super::{
    Action, Core, Listing, Named, PodFacts, Removal, Rotation, ServiceSight, Sight, Told, decide::TELL_AFTER,
};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
}

fn consumer(name: &str, observed: Option<u64>) -> EndpointConsumer {
    let spec = EndpointConsumerSpec {
        incarnation: "i".into(),
        ack_class: AckClass::Proven,
        lease_duration_seconds: 40,
        ..EndpointConsumerSpec::default()
    };
    let mut consumer = EndpointConsumer::new(name, spec);
    consumer.metadata.uid = Some(format!("uid-{name}"));
    consumer.metadata.resource_version = Some("1".into());
    consumer.status = observed.map(|observed_revision| EndpointConsumerStatus {
        observed_revision,
        incarnation: "i".into(),
        renew_time: None,
    });
    consumer
}

/// A Pod that is Ready and told nothing yet.
fn ready() -> PodFacts {
    PodFacts {
        key: "ns/p".into(),
        uid: "u".into(),
        revision: Revision(5),
        ready_since: Some(at(0)),
        deleted_at: None,
        budget_s: 30,
        programmed: Told::Nothing,
        withdrawn: Told::Nothing,
        headless: false,
        removal: Removal::NoEndpoints,
        listing: Listing::NoEndpoints,
    }
}

fn ending(removal: Removal) -> PodFacts {
    PodFacts { deleted_at: Some(at(0)), programmed: Told::Yes(at(0)), removal, ..ready() }
}

/// A loop with these consumers, all heard at time 0.
fn core(consumers: &[(&str, u64)]) -> Core {
    let mut core = Core::new(at(0));
    for (name, observed) in consumers {
        core.consumer(name, Some(&consumer(name, Some(*observed))), None, at(0));
    }
    core
}

fn look(core: &mut Core, pod: &PodFacts, ms: i64) -> Vec<Action> {
    let mut actions = Vec::new();
    core.look(pod, at(ms), &mut actions);
    core.step(at(ms), &mut actions);
    actions
}

fn step(core: &mut Core, ms: i64) -> Vec<Action> {
    let mut actions = Vec::new();
    core.step(at(ms), &mut actions);
    actions
}

#[track_caller]
fn only(actions: Vec<Action>) -> Action {
    assert_eq!(actions.len(), 1, "{actions:?}");
    actions.into_iter().next().unwrap()
}

fn told(action: &Action) -> (&str, bool, &str) {
    (action.type_, action.status, action.reason)
}

#[test]
fn withdrawn_with_the_last_word_and_not_before() {
    let mut core = core(&[("a", 5), ("b", 5)]);
    assert!(look(&mut core, &ending(Removal::At(Revision(9))), 1).is_empty());
    core.consumer("a", Some(&consumer("a", Some(9))), None, at(2));
    assert!(step(&mut core, 2).is_empty());
    core.consumer("b", Some(&consumer("b", Some(12))), None, at(3));
    let action = only(step(&mut core, 3));
    assert_eq!(told(&action), (WITHDRAWN, true, "Acknowledged"));
    assert_eq!(action.message, "all 2 consumers hold revision 9 and have let go of the Pod");
    let note = action.note.unwrap();
    assert_eq!((note.reason, note.at, note.warning), ("Withdrawn", Some(at(3)), false));
    let marks: Value = serde_json::from_str(&note.annotations[well_known::ANNOTATION_WATERMARKS]).unwrap();
    assert_eq!(
        marks,
        json!([
            {"consumer": "a", "revision": 9, "target": 9, "at": "2023-11-14T22:13:20.002000Z", "class": "Proven"},
            {"consumer": "b", "revision": 12, "target": 9, "at": "2023-11-14T22:13:20.003000Z", "class": "Proven"},
        ])
    );
    assert!(step(&mut core, 4).is_empty(), "written once");
}

#[test]
fn a_pod_without_endpoints_waits_for_nobody() {
    let mut core = core(&[("a", 5)]);
    assert_eq!(told(&only(look(&mut core, &ready(), 1))), (PROGRAMMED, true, "NoEndpoints"));
    assert_eq!(
        told(&only(look(&mut core, &ending(Removal::NoEndpoints), 1))),
        (WITHDRAWN, true, "NoEndpoints")
    );
}

#[test]
fn the_budget_names_who_did_not_answer() {
    let mut core = core(&[("a", 9), ("b", 5)]);
    let mut pod = ending(Removal::At(Revision(9)));
    pod.withdrawn = Told::Waiting;
    assert!(look(&mut core, &pod, 1).is_empty());
    assert_eq!(core.look_again_at(), Some(at(30_000)));
    assert!(step(&mut core, 29_999).is_empty());
    let action = only(step(&mut core, 30_000));
    assert_eq!(told(&action), (WITHDRAWN, true, "WithdrawalBudgetSpent"));
    assert_eq!(
        action.message,
        "the withdrawal budget is spent, and these had not answered: b (holds revision 5, wants 9, silent for 30.0 s)"
    );
    let note = action.note.unwrap();
    assert!(note.warning && note.reason == "WithdrawalBudgetSpent" && note.message == action.message);
}

#[test]
fn the_budget_holds_for_an_endpoint_that_is_never_removed_and_counts_from_the_deletion() {
    let mut core = core(&[("a", 9)]);
    let mut pod = ending(Removal::NotYet("ns/web".into()));
    pod.withdrawn = Told::Waiting;
    // As after a restart of the controller, 20 s into the budget.
    assert!(look(&mut core, &pod, 20_000).is_empty());
    let action = only(step(&mut core, 30_000));
    assert_eq!(told(&action), (WITHDRAWN, true, "WithdrawalBudgetSpent"));
    assert!(action.message.contains("EndpointSlices of Service ns/web"), "{}", action.message);
}

#[test]
fn waiting_is_written_once_and_only_when_it_takes_a_while() {
    let mut core = core(&[("a", 5)]);
    let mut pod = ending(Removal::At(Revision(9)));
    assert!(look(&mut core, &pod, 0).is_empty());
    let after = i64::try_from(TELL_AFTER.as_millis()).unwrap();
    assert_eq!(core.look_again_at(), Some(at(after)));
    let action = only(step(&mut core, after));
    assert_eq!(told(&action), (WITHDRAWN, false, "WaitingForConsumers"));
    assert!(action.message.starts_with("waiting for a (holds revision 5, wants 9"), "{}", action.message);
    assert!(action.note.is_none());
    // The answer comes while that is being written: it follows when the write has ended, and does not overtake it.
    core.consumer("a", Some(&consumer("a", Some(9))), None, at(60));
    assert!(step(&mut core, 60).is_empty());
    core.written("u", WITHDRAWN, Some(Revision(7)));
    assert_eq!(told(&only(look(&mut core, &pod, 61))), (WITHDRAWN, true, "Acknowledged"));
    // Written, and not yet seen in the cache: nothing is written again.
    core.written("u", WITHDRAWN, Some(Revision(8)));
    assert!(look(&mut core, &pod, 62).is_empty());
    pod.revision = Revision(8);
    pod.withdrawn = Told::Yes(at(61));
    assert!(look(&mut core, &pod, 63).is_empty());
    assert_eq!(core.tracked(), 0, "nothing is remembered of what is done");
}

#[test]
fn a_write_that_failed_is_decided_anew_and_one_that_was_overwritten_too() {
    let mut core = core(&[("a", 9)]);
    let pod = ending(Removal::At(Revision(9)));
    only(look(&mut core, &pod, 1));
    core.written("u", WITHDRAWN, None);
    only(look(&mut core, &pod, 2));
    core.written("u", WITHDRAWN, Some(Revision(7)));
    // Somebody has written all conditions anew without ours.
    assert_eq!(only(look(&mut core, &PodFacts { revision: Revision(8), ..pod }, 3)).reason, "Acknowledged");
}

#[test]
fn an_endpoint_that_is_listed_again_must_be_removed_again() {
    let mut core = core(&[("a", 5)]);
    assert!(look(&mut core, &ending(Removal::At(Revision(9))), 1).is_empty());
    assert!(look(&mut core, &ending(Removal::NotYet("ns/web".into())), 2).is_empty());
    core.consumer("a", Some(&consumer("a", Some(10))), None, at(3));
    assert!(step(&mut core, 3).is_empty());
    assert!(look(&mut core, &ending(Removal::At(Revision(11))), 4).is_empty());
    core.consumer("a", Some(&consumer("a", Some(11))), None, at(5));
    assert_eq!(step(&mut core, 5).len(), 1);
}

#[test]
fn with_nobody_to_speak_a_list_has_to_show_that_there_is_nobody() {
    let mut core = core(&[]);
    let early = core.list_asked();
    assert!(look(&mut core, &ending(Removal::At(Revision(9))), 1).is_empty());
    // A list from before the removal proves nothing.
    core.consumers_listed(&[], early, |_| None, at(2));
    assert!(step(&mut core, 2).is_empty() && core.wants_list);
    let number = core.list_asked();
    assert!(step(&mut core, 3).is_empty() && !core.wants_list, "one that is under way will do");
    // The watch has not yet shown this one, which may have learnt of the endpoint.
    core.consumers_listed(&[consumer("new", None)], number, |_| None, at(4));
    assert!(step(&mut core, 4).is_empty());
    // It has gone again: neither the next list nor the watch has it.
    let number = core.list_asked();
    core.consumers_listed(&[], number, |_| None, at(5));
    assert_eq!(told(&only(step(&mut core, 5))), (WITHDRAWN, true, "Acknowledged"));
}

#[test]
fn a_list_that_is_behind_the_watch_takes_nothing_back() {
    let mut core = core(&[("a", 5)]);
    look(&mut core, &ending(Removal::At(Revision(9))), 1);
    let mut newer = consumer("a", Some(9));
    newer.metadata.resource_version = Some("20".into());
    newer.spec.incarnation = "i2".into();
    newer.status.as_mut().unwrap().incarnation = "i2".into();
    core.consumer("a", Some(&newer), None, at(2));
    let (number, shown) = (core.list_asked(), Arc::new(newer));
    core.consumers_listed(&[consumer("a", Some(5))], number, |_| Some(shown.clone()), at(3));
    assert_eq!(step(&mut core, 3).len(), 1);
}

#[test]
fn who_registered_after_the_removal_is_not_awaited_if_that_was_seen() {
    let mut core = core(&[("a", 5)]);
    look(&mut core, &ending(Removal::At(Revision(9))), 1);
    let created = ("uid-late".to_owned(), Revision(10));
    core.consumer("late", Some(&consumer("late", None)), Some(&created), at(2));
    core.consumer("a", Some(&consumer("a", Some(9))), None, at(3));
    assert_eq!(step(&mut core, 3).len(), 1);
}

#[test]
fn a_consumer_that_was_made_anew_between_two_looks_starts_anew() {
    let mut core = core(&[("a", 9)]);
    let mut again = consumer("a", None);
    again.metadata.uid = Some("another".into());
    core.consumer("a", Some(&again), None, at(1));
    assert!(look(&mut core, &ending(Removal::At(Revision(9))), 2).is_empty());
}

#[test]
fn programmed_when_listed_and_known_to_all_and_false_when_not_ready() {
    let mut core = core(&[("a", 5)]);
    let mut pod = PodFacts { listing: Listing::NotYet("ns/web".into()), ..ready() };
    assert!(look(&mut core, &pod, 1).is_empty());
    pod.listing = Listing::At(Revision(8));
    assert!(look(&mut core, &pod, 2).is_empty());
    core.consumer("a", Some(&consumer("a", Some(8))), None, at(3));
    let action = only(step(&mut core, 3));
    assert_eq!(told(&action), (PROGRAMMED, true, "Acknowledged"));
    assert_eq!(action.message, "the only consumer holds revision 8 and routes to the Pod");
    core.written("u", PROGRAMMED, Some(Revision(9)));
    // True stays True while it is Ready, also for a Service that begins to select it.
    pod = PodFacts {
        revision: Revision(9),
        programmed: Told::Yes(at(3)),
        listing: Listing::NotYet("ns/new".into()),
        ..pod
    };
    assert!(look(&mut core, &pod, 4).is_empty());
    pod = PodFacts { revision: Revision(10), ready_since: None, ..pod };
    assert_eq!(told(&only(look(&mut core, &pod, 5))), (PROGRAMMED, false, "NotReady"));
    core.written("u", PROGRAMMED, Some(Revision(11)));
    pod = PodFacts { revision: Revision(11), programmed: Told::No, ..pod };
    assert!(look(&mut core, &pod, 6).is_empty());
    assert_eq!(core.tracked(), 0);
}

#[test]
fn ready_again_is_a_new_round_even_if_the_moment_between_went_unseen() {
    let mut core = core(&[("a", 8)]);
    let pod = PodFacts {
        programmed: Told::Yes(at(1_000)),
        ready_since: Some(at(9_000)),
        listing: Listing::At(Revision(8)),
        ..ready()
    };
    // The kubelet's clock is ahead: the answer must not look older than the Ready that it answers to.
    let action = only(look(&mut core, &pod, 5_000));
    assert_eq!((told(&action), action.transition), ((PROGRAMMED, true, "Acknowledged"), at(9_000)));
}

#[test]
fn an_unready_pod_that_never_was_ready_costs_nothing() {
    let mut core = core(&[]);
    assert!(look(&mut core, &PodFacts { ready_since: None, ..ready() }, 1).is_empty());
    assert_eq!((core.tracked(), core.look_again_at()), (0, None));
}

#[test]
fn nothing_is_left_of_a_pod_that_is_gone() {
    let mut core = core(&[("a", 5)]);
    look(&mut core, &ending(Removal::At(Revision(9))), 1);
    core.gone("u");
    core.written("u", WITHDRAWN, Some(Revision(3)));
    assert_eq!((core.tracked(), core.look_again_at()), (0, None));
    assert!(step(&mut core, 99_000).is_empty());
}

#[test]
fn a_silent_consumer_is_told_of_once() {
    let mut core = core(&[("a", 5)]);
    let mut told = 0;
    for s in 0..100 {
        let lapsed = core.in_touch(at(s * 1000));
        told += lapsed.iter().filter(|l| l.newly && &*l.consumer == "a").count();
        // The same status again is no sign of life.
        core.consumer("a", Some(&consumer("a", Some(5))), None, at(s * 1000));
    }
    assert_eq!(told, 1);
}

#[test]
fn the_settle_time_of_dns_is_waited_for_pods_of_headless_services_alone() {
    let mut core = core(&[("proxy", 9)]);
    let mut dns = consumer("dns", Some(9));
    (dns.spec.settle_milliseconds, dns.spec.settle_scope) = (5_000, SettleScope::Headless);
    core.consumer("dns", Some(&dns), None, at(1));
    let plain = ending(Removal::At(Revision(9)));
    let of_headless = PodFacts { uid: "h".into(), key: "ns/h".into(), headless: true, ..plain.clone() };
    let action = only(look(&mut core, &plain, 2));
    assert_eq!((told(&action), &*action.uid), ((WITHDRAWN, true, "Acknowledged"), "u"));
    assert!(look(&mut core, &of_headless, 2).is_empty());
    let waits = only(step(&mut core, 1_000));
    assert_eq!(told(&waits), (WITHDRAWN, false, "WaitingForConsumers"));
    assert!(waits.message.contains("dns (holds revision 9, its settle time is running"), "{}", waits.message);
    core.written("h", WITHDRAWN, Some(Revision(6)));
    assert!(step(&mut core, 5_000).is_empty());
    let action = only(step(&mut core, 5_001));
    let marks: Value =
        serde_json::from_str(&action.note.unwrap().annotations[well_known::ANNOTATION_WATERMARKS]).unwrap();
    let settled: Vec<_> = marks.as_array().unwrap().iter().map(|mark| mark.get("settledAt")).collect();
    assert_eq!(settled, [Some(&json!("2023-11-14T22:13:25.001000Z")), None]);
}

// What the slices say.

fn service(key: &str, lists: bool, revision: u64) -> ServiceSight {
    ServiceSight { key: key.into(), lists, revision: Revision(revision) }
}

fn named(service: &str, rotation: Rotation, since: u64) -> Named {
    Named { service: service.into(), managed: true, headless: false, rotation, since: Revision(since) }
}

#[test]
fn absence_is_no_proof_of_removal_but_a_terminating_endpoint_is() {
    let mut sight = Sight { services: vec![service("ns/web", true, 7)], ..Sight::default() };
    let not_yet = Removal::NotYet("ns/web".into());
    assert_eq!(sight.removal(), not_yet, "the slice controller may be about to publish it");
    for rotation in [Rotation::Ready, Rotation::NotReady] {
        sight.named = vec![named("ns/web", rotation, 7)];
        assert_eq!(sight.removal(), not_yet);
    }
    sight.named = vec![named("ns/web", Rotation::Terminating, 9)];
    sight.services[0].revision = Revision(11);
    assert_eq!(sight.removal(), Removal::At(Revision(11)), "the highest of the Service's slices");
    sight.services.push(service("ns/second", true, 3));
    assert_eq!(sight.removal(), Removal::NotYet("ns/second".into()), "every Service that selects it");
}

#[test]
fn a_pod_without_address_or_service_is_no_endpoint() {
    assert_eq!(Sight::default().removal(), Removal::NoEndpoints);
    let sight = Sight { services: vec![service("ns/web", false, 7)], ..Sight::default() };
    assert_eq!((sight.removal(), sight.listing()), (Removal::NoEndpoints, Listing::NoEndpoints));
}

#[test]
fn a_pod_that_no_service_selects_any_more_is_waited_for_where_it_was() {
    let mut sight = Sight { named: vec![named("ns/old", Rotation::Ready, 7)], ..Sight::default() };
    assert_eq!(sight.removal(), Removal::NotYet("ns/old".into()));
    sight = Sight { left: Some(Revision(9)), ..Sight::default() };
    assert_eq!(sight.removal(), Removal::At(Revision(9)));
    // What a third party lists under a Service that does not select the Pod is not for the loop to wait for.
    sight.named = vec![Named { managed: false, ..named("ns/theirs", Rotation::Ready, 7) }];
    assert_eq!(sight.removal(), Removal::At(Revision(9)));
}

#[test]
fn listed_as_ready_by_every_service_since_the_last_of_them() {
    let mut sight = Sight {
        services: vec![service("ns/a", true, 20), service("ns/b", true, 30), service("ns/six", false, 1)],
        named: vec![named("ns/a", Rotation::Ready, 12)],
        ..Sight::default()
    };
    assert_eq!(sight.listing(), Listing::NotYet("ns/b".into()));
    sight.named.push(named("ns/b", Rotation::Ready, 15));
    assert_eq!(sight.listing(), Listing::At(Revision(15)));
}

mod race;
