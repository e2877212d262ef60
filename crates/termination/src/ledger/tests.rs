//! Each rule by an example, and all of them together against a naive model of the log.

use std::collections::{BTreeMap, BTreeSet};

use hitless_types::SettleScope;
use proptest::prelude::*;

use super::{
    model::{Answer, Op},
    *,
};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
}

fn speaks(name: &str) -> Registration {
    Registration {
        name: name.into(),
        incarnation: "i0".into(),
        class: AckClass::Proven,
        settle_ms: 0,
        settle_scope: SettleScope::All,
        lease_s: 40,
        joined: None,
    }
}

fn word(revision: u64) -> Word {
    Word { incarnation: "i0".into(), revision: Revision(revision) }
}

/// A ledger with these consumers, each at revision 1, and Pod `p` removed at revision 10 at time 0 with 30 s of budget.
fn waiting(consumers: &[Registration]) -> Ledger {
    let mut ledger = Ledger::new(at(0));
    for consumer in consumers {
        ledger.register(consumer, at(0));
        ledger.hear(&consumer.name, &word(1), at(0));
    }
    ledger.withdraw("p", at(30_000));
    ledger.removed("p", Revision(10), true, at(0));
    ledger
}

fn names(laggards: &[Laggard]) -> Vec<&str> {
    laggards.iter().map(|l| &*l.consumer).collect()
}

#[track_caller]
fn awaits(ledger: &mut Ledger, ms: i64, who: &[&str]) {
    match ledger.verdict("p", at(ms)).unwrap() {
        Verdict::Waiting { laggards, .. } => assert_eq!(names(&laggards), who),
        other => panic!("{other:?}"),
    }
    assert!(ledger.due(at(ms)).is_empty());
}

#[track_caller]
fn acknowledged(ledger: &mut Ledger, ms: i64) -> Vec<Ack> {
    assert!(ledger.due(at(ms)).contains("p"));
    match ledger.verdict("p", at(ms)).unwrap() {
        Verdict::Acknowledged { revision, acks } => {
            assert_eq!(revision, Revision(10));
            acks
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn rule_1_every_live_consumer_must_have_come_as_far() {
    let mut ledger = waiting(&[speaks("a"), speaks("b")]);
    awaits(&mut ledger, 1, &["a", "b"]);
    ledger.hear("a", &word(12), at(2));
    ledger.hear("b", &word(9), at(3));
    awaits(&mut ledger, 3, &["b"]);
    ledger.hear("b", &word(10), at(4));
    let acks = acknowledged(&mut ledger, 5);
    let told: Vec<_> = acks.iter().map(|a| (&*a.consumer, a.revision.0, a.at)).collect();
    assert_eq!(told, [("a", 12, at(2)), ("b", 10, at(4))]);
}

#[test]
fn the_first_word_that_counted_is_on_record_however_long_others_take() {
    let mut ledger = waiting(&[speaks("fast"), speaks("slow")]);
    for n in 0..2_000_u64 {
        ledger.hear("fast", &word(10 + n), at(i64::try_from(n).unwrap()));
    }
    ledger.hear("slow", &word(10), at(2_500));
    let acks = acknowledged(&mut ledger, 2_500);
    assert_eq!((acks[0].revision, acks[0].at), (Revision(10), at(0)));
}

#[test]
fn rule_2_a_watermark_does_not_fall_within_an_incarnation() {
    let mut ledger = waiting(&[speaks("a")]);
    assert_eq!(ledger.hear("a", &word(10), at(1)), Heard::Rose);
    assert_eq!(ledger.hear("a", &word(4), at(2)), Heard::Fell);
    assert_eq!(ledger.falls(), 1);
    acknowledged(&mut ledger, 3);
}

#[test]
fn rule_3_silence_is_no_ack_but_a_lease_that_ran_out_is_a_way_out() {
    let mut ledger = waiting(&[speaks("a"), speaks("dead")]);
    ledger.withdraw("p", at(30_000));
    for ms in (0..=40_000).step_by(1000) {
        ledger.hear("a", &word(10), at(ms));
        assert_eq!(ledger.in_touch(at(ms)), [], "at {ms}");
    }
    let lapsed = ledger.in_touch(at(40_001));
    assert_eq!(lapsed.len(), 1);
    assert!(&*lapsed[0].consumer == "dead" && lapsed[0].newly && !lapsed[0].forgettable);
    assert_eq!(ledger.in_touch(at(41_000)), [], "told once");
    let acks = acknowledged(&mut ledger, 41_000);
    assert_eq!(acks.len(), 1);
    // It speaks again, so it is in scope again: it may still route to the Pod.
    ledger.hear("dead", &word(3), at(41_500));
    assert!(
        matches!(ledger.verdict("p", at(41_500)), Some(Verdict::BudgetSpent { laggards, .. }) if names(&laggards) == ["dead"])
    );
}

#[test]
fn rule_3_deregistering_is_the_other_way_out() {
    let mut ledger = waiting(&[speaks("a"), speaks("b")]);
    ledger.hear("a", &word(10), at(1));
    ledger.deregister("b");
    assert_eq!(acknowledged(&mut ledger, 1).len(), 1);
}

#[test]
fn silence_counts_only_while_the_api_answers() {
    let mut ledger = waiting(&[speaks("a")]);
    ledger.in_touch(at(1_000));
    // The API was away for a minute: nobody could have spoken.
    assert_eq!(ledger.in_touch(at(61_000)), []);
    for ms in (61_000..=101_000).step_by(1000) {
        assert_eq!(ledger.in_touch(at(ms)), [], "at {ms}");
    }
    assert_eq!(ledger.in_touch(at(101_001)).len(), 1);
}

#[test]
fn a_registration_may_go_after_ten_leases_and_is_named_each_minute() {
    let mut ledger = waiting(&[speaks("dead")]);
    let mut forgettable = 0;
    for s in 0..=520 {
        let lapsed = ledger.in_touch(at(s * 1000));
        forgettable += lapsed.iter().filter(|l| l.forgettable).count();
        assert!(s > 400 || forgettable == 0, "after {s} s");
    }
    assert_eq!(forgettable, 2);
}

#[test]
fn rule_4_who_registered_after_the_removal_is_not_awaited() {
    let mut ledger = waiting(&[speaks("a")]);
    ledger.register(&Registration { joined: Some(Revision(11)), ..speaks("late") }, at(1));
    ledger.register(&Registration { joined: Some(Revision(9)), ..speaks("unseen") }, at(1));
    ledger.register(&Registration { joined: None, ..speaks("unproven") }, at(1));
    ledger.hear("a", &word(10), at(2));
    awaits(&mut ledger, 3, &["unproven", "unseen"]);
    ledger.hear("unseen", &word(10), at(4));
    ledger.hear("unproven", &word(10), at(4));
    assert_eq!(acknowledged(&mut ledger, 4).len(), 3);
}

#[test]
fn rule_4_a_new_incarnation_under_an_old_name_must_say_for_itself() {
    let mut ledger = waiting(&[speaks("proxy")]);
    ledger.register(
        &Registration { incarnation: "i1".into(), joined: Some(Revision(99)), ..speaks("proxy") },
        at(1),
    );
    assert_eq!(ledger.hear("proxy", &word(50), at(2)), Heard::OtherIncarnation);
    awaits(&mut ledger, 3, &["proxy"]);
    ledger.hear("proxy", &Word { incarnation: "i1".into(), revision: Revision(10) }, at(4));
    acknowledged(&mut ledger, 4);
}

#[test]
fn rule_4_the_first_removal_revision_stays() {
    let mut ledger = waiting(&[speaks("a")]);
    ledger.removed("p", Revision(50), true, at(1));
    ledger.hear("a", &word(10), at(2));
    acknowledged(&mut ledger, 2);
}

#[test]
fn an_endpoint_that_is_listed_again_is_removed_anew() {
    let mut ledger = waiting(&[speaks("a")]);
    ledger.listed_again("p");
    ledger.hear("a", &word(20), at(1));
    awaits(&mut ledger, 2, &[]);
    ledger.removed("p", Revision(30), true, at(3));
    awaits(&mut ledger, 4, &["a"]);
}

#[test]
fn rule_5_the_deadline_ends_it_and_names_the_silent() {
    let mut ledger = waiting(&[speaks("a"), speaks("b")]);
    ledger.hear("a", &word(10), at(1_000));
    awaits(&mut ledger, 29_999, &["b"]);
    assert_eq!(ledger.look_again_at(), Some(at(30_000)));
    assert!(ledger.due(at(30_000)).contains("p"));
    let Some(Verdict::BudgetSpent { revision, laggards, acks }) = ledger.verdict("p", at(30_000)) else {
        panic!()
    };
    assert_eq!((revision, acks.len()), (Some(Revision(10)), 1));
    assert_eq!(
        (names(&laggards), laggards[0].holds, laggards[0].silent_for_ms),
        (vec!["b"], Revision(1), 30_000)
    );
}

#[test]
fn rule_5_holds_for_an_endpoint_that_is_never_removed() {
    let mut ledger = Ledger::new(at(0));
    ledger.withdraw("p", at(30_000));
    assert!(ledger.due(at(29_999)).is_empty());
    assert!(ledger.due(at(30_000)).contains("p"));
    assert!(matches!(ledger.verdict("p", at(30_000)), Some(Verdict::BudgetSpent { revision: None, .. })));
}

#[test]
fn rule_6_after_a_restart_leases_count_from_there() {
    let mut ledger = Ledger::new(at(3_600_000));
    ledger.register(&speaks("a"), at(3_600_000));
    ledger.withdraw("p", at(3_700_000));
    ledger.removed("p", Revision(10), true, at(3_600_000));
    ledger.in_touch(at(3_600_001));
    awaits(&mut ledger, 3_600_001, &["a"]);
}

#[test]
fn settle_time_is_waited_after_the_word() {
    let mut ledger = waiting(&[Registration { settle_ms: 5_000, ..speaks("dns") }]);
    ledger.hear("dns", &word(10), at(1_000));
    ledger.hear("dns", &word(30), at(5_000));
    awaits(&mut ledger, 5_999, &["dns"]);
    assert_eq!(ledger.look_again_at(), Some(at(6_000)));
    assert_eq!(acknowledged(&mut ledger, 6_000)[0].at, at(1_000));
}

#[test]
fn a_settle_time_of_headless_services_is_waited_for_their_pods_alone() {
    let dns = Registration { settle_ms: 5_000, settle_scope: SettleScope::Headless, ..speaks("dns") };
    let mut ledger = waiting(std::slice::from_ref(&dns));
    ledger.withdraw("q", at(30_000));
    ledger.removed("q", Revision(10), false, at(0));
    assert!(ledger.due(at(1)).is_empty(), "its word is awaited for every Pod");
    ledger.hear("dns", &word(10), at(2));
    assert_eq!(ledger.due(at(2)), BTreeSet::from(["q".into()]));
    assert!(matches!(ledger.verdict("q", at(2)), Some(Verdict::Acknowledged { .. })));
    assert!(matches!(ledger.verdict("p", at(5_001)), Some(Verdict::Waiting { .. })));
    // Seen to be one of a headless Service after all: it waits on.
    ledger.removed("q", Revision(12), true, at(3));
    assert!(ledger.due(at(5_001)).is_empty());
    assert_eq!(ledger.due(at(5_002)).len(), 2);
    assert_eq!(acknowledged(&mut ledger, 5_002).len(), 1);

    let bounded = Registration { class: AckClass::TimeBounded, ..dns };
    let mut ledger = waiting(&[bounded]);
    ledger.withdraw("q", at(30_000));
    ledger.removed("q", Revision(10), false, at(0));
    assert_eq!(ledger.due(at(0)), BTreeSet::from(["q".into()]));
    assert_eq!(ledger.due(at(5_000)).len(), 2);
}

#[test]
fn one_that_cannot_speak_is_given_its_time_after_the_change() {
    let mut ledger =
        waiting(&[Registration { class: AckClass::TimeBounded, settle_ms: 2_000, ..speaks("lb") }]);
    awaits(&mut ledger, 1_999, &["lb"]);
    assert_eq!(ledger.look_again_at(), Some(at(2_000)));
    assert_eq!(acknowledged(&mut ledger, 2_000)[0].at, at(2_000));
}

#[test]
fn nobody_routes_so_nobody_is_awaited() {
    let mut ledger = waiting(&[]);
    assert_eq!(acknowledged(&mut ledger, 0), []);
}

#[test]
fn an_addition_waits_for_words_and_not_for_settle_times() {
    let mut ledger = Ledger::new(at(0));
    ledger.register(&Registration { settle_ms: 9_000, ..speaks("dns") }, at(0));
    ledger.added("p", Revision(10), false, at(0));
    assert!(matches!(ledger.programmed("p", at(1)), Some(Verdict::Waiting { .. })));
    ledger.hear("dns", &word(10), at(2));
    assert_eq!(ledger.due_additions(at(2)), [Arc::from("p")]);
    assert!(matches!(ledger.programmed("p", at(2)), Some(Verdict::Acknowledged { .. })));
}

#[test]
fn nothing_is_left_of_pods_that_are_forgotten() {
    let mut ledger = waiting(&[speaks("a")]);
    ledger.added("q", Revision(3), false, at(0));
    assert_eq!(ledger.waiting(), 2);
    for pod in ["p", "q"] {
        ledger.forget(pod);
    }
    assert_eq!((ledger.waiting(), ledger.look_again_at(), ledger.verdict("p", at(0))), (0, None, None));
    assert!(ledger.due(at(99_999)).is_empty() && ledger.due_additions(at(99_999)).is_empty());
    assert_eq!(ledger.oldest_wanted(), None);
}

// All rules together, against the model.

fn name(who: u8) -> String {
    format!("c{who}")
}

fn pod_name(pod: u8) -> String {
    format!("pod{pod}")
}

fn apply(ledger: &mut Ledger, ms: i64, op: &Op) -> Vec<Lapsed> {
    match op {
        Op::Register { who, incarnation, class, settle_ms, scope, lease_s, joined } => {
            let registration = Registration {
                name: name(*who),
                incarnation: incarnation.to_string(),
                class: *class,
                settle_ms: u64::try_from(*settle_ms).unwrap(),
                settle_scope: *scope,
                lease_s: u64::try_from(*lease_s).unwrap(),
                joined: joined.map(Revision),
            };
            ledger.register(&registration, at(ms));
        }
        Op::Deregister { who } => ledger.deregister(&name(*who)),
        Op::Hear { who, incarnation, revision } => {
            let word = Word { incarnation: incarnation.to_string(), revision: Revision(*revision) };
            ledger.hear(&name(*who), &word, at(ms));
        }
        Op::Touch => return ledger.in_touch(at(ms)),
        Op::Withdraw { pod, budget_ms } => ledger.withdraw(&pod_name(*pod), at(ms + budget_ms)),
        Op::Removed { pod, revision, headless } => {
            ledger.removed(&pod_name(*pod), Revision(*revision), *headless, at(ms));
        }
        Op::ListedAgain { pod } => ledger.listed_again(&pod_name(*pod)),
        Op::Added { pod, revision, headless } => {
            ledger.added(&pod_name(*pod), Revision(*revision), *headless, at(ms));
        }
        Op::Forget { pod } => ledger.forget(&pod_name(*pod)),
    }
    Vec::new()
}

fn who(name: &str) -> u8 {
    name.trim_start_matches('c').parse().unwrap()
}

/// The ledger's verdict in the model's words.
fn plain(verdict: Verdict) -> Answer {
    let names = |laggards: Vec<Laggard>| laggards.iter().map(|l| who(&l.consumer)).collect();
    match verdict {
        Verdict::Waiting { laggards, .. } => Answer::Waiting { laggards: names(laggards) },
        Verdict::BudgetSpent { laggards, .. } => Answer::BudgetSpent { laggards: names(laggards) },
        Verdict::Acknowledged { acks, .. } => Answer::Acknowledged {
            acks: acks
                .iter()
                .map(|a| (who(&a.consumer), (a.revision.0, a.at.as_millisecond() - at(0).as_millisecond())))
                .collect(),
        },
    }
}

/// The same answer. A word that was heard before the Pod waited may be on record as a later one, never as a sooner.
fn same(real: &Answer, model: &Answer) -> bool {
    match (real, model) {
        (Answer::Acknowledged { acks: real }, Answer::Acknowledged { acks: model }) => {
            let told: BTreeMap<_, _> = model.clone();
            real.len() == told.len()
                && real.iter().all(|(who, (r, t))| told.get(who).is_some_and(|(mr, mt)| r >= mr && t >= mt))
        }
        _ => real == model,
    }
}

fn op() -> impl Strategy<Value = Op> {
    let (who, pod, revision, incarnation) = (0..4_u8, 0..3_u8, 1..24_u64, 0..2_u8);
    let class = prop_oneof![4 => Just(AckClass::Proven), 1 => Just(AckClass::TimeBounded)];
    let settle_ms = prop_oneof![Just(0), Just(400), Just(2500)];
    let scope = prop_oneof![Just(SettleScope::All), Just(SettleScope::Headless)];
    let (settle, headless) = ((settle_ms, scope), any::<bool>());
    prop_oneof![
        2 => (who.clone(), incarnation.clone(), class, settle, 1..6_i64, proptest::option::of(revision.clone())).prop_map(
            |(who, incarnation, class, (settle_ms, scope), lease_s, joined)| {
                Op::Register { who, incarnation, class, settle_ms, scope, lease_s, joined }
            }
        ),
        1 => who.clone().prop_map(|who| Op::Deregister { who }),
        8 => (who, incarnation, revision.clone()).prop_map(|(who, incarnation, revision)| Op::Hear { who, incarnation, revision }),
        5 => Just(Op::Touch),
        2 => (pod.clone(), prop_oneof![Just(0), Just(3000), Just(60_000)]).prop_map(|(pod, budget_ms)| Op::Withdraw { pod, budget_ms }),
        3 => (pod.clone(), revision.clone(), headless)
            .prop_map(|(pod, revision, headless)| Op::Removed { pod, revision, headless }),
        1 => pod.clone().prop_map(|pod| Op::ListedAgain { pod }),
        2 => (pod.clone(), revision, headless).prop_map(|(pod, revision, headless)| Op::Added { pod, revision, headless }),
        1 => pod.prop_map(|pod| Op::Forget { pod }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn answers_as_the_rules_read_literally(ops in proptest::collection::vec((prop_oneof![4 => 0..900_i64, 1 => 900..5000_i64], op()), 1..80)) {
        let mut ledger = Ledger::new(at(0));
        let (mut log, mut now) = (Vec::new(), 0);
        for (pause, op) in ops {
            now += pause;
            log.push((now, op.clone()));
            let lapsed: BTreeSet<u8> = apply(&mut ledger, now, &op).iter().filter(|l| l.newly).map(|l| who(&l.consumer)).collect();
            if matches!(op, Op::Touch) {
                prop_assert_eq!(lapsed, model::lapsed(&log));
            }
            let (mut due, mut due_additions) = (BTreeSet::new(), BTreeSet::new());
            for pod in 0..3 {
                for addition in [false, true] {
                    let name = pod_name(pod);
                    let verdict = if addition { ledger.programmed(&name, at(now)) } else { ledger.verdict(&name, at(now)) };
                    let (real, model) = (verdict.map(plain), model::answer(&log, pod, addition, now));
                    match (&real, &model) {
                        (Some(r), Some(m)) => prop_assert!(same(r, m), "pod {} addition {}: {:?} but {:?}", pod, addition, r, m),
                        _ => prop_assert_eq!(&real, &model),
                    }
                    if real.is_some_and(|r| !matches!(r, Answer::Waiting { .. })) {
                        (if addition { &mut due_additions } else { &mut due }).insert(Arc::<str>::from(name));
                    }
                }
            }
            prop_assert_eq!(ledger.due(at(now)), due, "what is cheap must say what is dear");
            prop_assert_eq!(ledger.due_additions(at(now)).into_iter().collect::<BTreeSet<_>>(), due_additions);
        }
    }

    /// Whatever waits and is not due becomes due by the time that `look_again_at` names, or needs a word.
    #[test]
    fn no_answer_changes_with_time_alone_before_it_is_looked_for(ops in proptest::collection::vec((0..900_i64, op()), 1..60)) {
        let mut ledger = Ledger::new(at(0));
        let mut now = 0;
        for (pause, op) in ops {
            now += pause;
            apply(&mut ledger, now, &op);
        }
        let before = (ledger.due(at(now)), ledger.due_additions(at(now)));
        let until = ledger.look_again_at().map_or(i64::MAX, |t| t.as_millisecond() - at(0).as_millisecond());
        let last = (now + 100_000).min(until - 1);
        if last > now {
            prop_assert_eq!((ledger.due(at(last)), ledger.due_additions(at(last))), before);
        }
    }
}
