//! The rules of the end of life, over chosen and over random sequences of observations.

use proptest::prelude::*;

use super::*;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
}

fn web(running: bool, has_pre_stop: bool, pre_stop_ended: bool) -> SeenContainer<'static> {
    SeenContainer { name: "web", running, has_pre_stop, pre_stop_ended }
}

const ON: Policy = Policy { loop_on: true, budget_s: 30 };

fn seen<'a>(ms: i64, grace_s: i64, withdrawn: bool, containers: &'a [SeenContainer<'a>]) -> Seen<'a> {
    Seen {
        now: at(ms),
        deletion: Deletion::Asked { grace_s, at: at(0) },
        withdrawn,
        waiting: 0,
        routable: true,
        containers,
        sandbox_present: true,
    }
}

fn signal(kill_ms: i64) -> Vec<Action> {
    vec![Action::SendSignal { container: "web".into(), kill_at: at(kill_ms) }]
}

#[test]
fn a_withdrawn_pod_answers_what_came_in_before_for_a_bounded_time() {
    let running = [web(true, false, false)];
    let waiting = |ms, waiting| Seen { waiting, ..seen(ms, 10, true, &running) };
    let mut end = EndOfLife::new(ON);
    assert!(!end.wants_answers(seen(0, 10, false, &running).deletion, false));
    assert!(end.wants_answers(seen(0, 10, true, &running).deletion, true));
    let next = end.step(&waiting(100, 2));
    assert_eq!((next.actions, next.look_at), (vec![], Some(at(102))));
    assert_eq!(
        end.step(&waiting(104, 0)).actions,
        signal(10_104),
        "the grace clock starts after the answers"
    );
    assert_eq!(end.unanswered(), 0);
    assert!(!end.wants_answers(seen(0, 10, true, &running).deletion, true));

    let mut end = EndOfLife::new(ON);
    assert_eq!(end.step(&waiting(100, 1)).actions, []);
    assert_eq!(end.step(&waiting(500, 1)).look_at, Some(at(550)), "ever less often, and often enough");
    assert_eq!(end.step(&waiting(3_099, 1)).actions, []);
    assert_eq!(end.step(&waiting(3_100, 3)).actions, signal(13_100));
    assert_eq!(end.unanswered(), 3);

    let mut end = EndOfLife::new(ON);
    assert_eq!(end.step(&waiting(0, 1)).actions, []);
    let forced = Seen { deletion: Deletion::Forced, ..waiting(1, 1) };
    assert_eq!(
        end.step(&forced).actions,
        [Action::Kill { container: "web".into() }],
        "force waits for nothing"
    );
}

#[test]
fn grace_starts_when_the_gate_opens() {
    let mut end = EndOfLife::new(ON);
    let running = [web(true, false, false)];
    let next = end.step(&seen(0, 10, false, &running));
    assert_eq!((next.actions, next.look_at), (vec![], Some(at(35_000))));
    assert_eq!(end.step(&seen(20_000, 10, true, &running)).actions, signal(30_000));
    let next = end.step(&seen(29_999, 10, true, &running));
    assert_eq!((next.actions, next.look_at), (vec![], Some(at(30_000))));
    assert_eq!(
        end.step(&seen(30_000, 10, true, &running)).actions,
        [Action::Kill { container: "web".into() }]
    );
}

#[test]
fn the_hook_counts_towards_grace_and_leaves_two_seconds() {
    let mut end = EndOfLife::new(ON);
    let next = end.step(&seen(0, 10, true, &[web(true, true, false)]));
    assert_eq!(next.actions, [Action::RunPreStop { container: "web".into(), until: at(10_000) }]);
    assert!(end.step(&seen(5_000, 10, true, &[web(true, true, false)])).actions.is_empty());
    // The hook is still running at the end of the grace period.
    assert_eq!(end.step(&seen(10_000, 10, true, &[web(true, true, false)])).actions, signal(12_000));
    assert!(end.step(&seen(11_999, 10, true, &[web(true, true, false)])).actions.is_empty());
    assert_eq!(end.step(&seen(12_000, 10, true, &[web(true, true, false)])).actions.len(), 1);
}

#[test]
fn a_second_delete_shortens_and_never_lengthens() {
    let mut end = EndOfLife::new(ON);
    let running = [web(true, false, false)];
    end.step(&seen(0, 60, true, &running));
    assert_eq!(end.step(&seen(1_000, 5, true, &running)).look_at, Some(at(5_000)));
    assert_eq!(end.step(&seen(2_000, 60, true, &running)).look_at, Some(at(5_000)));
}

#[test]
fn force_waits_for_nothing() {
    for deletion in [Deletion::Forced, Deletion::Gone] {
        let mut end = EndOfLife::new(ON);
        let running = [web(true, true, false)];
        let now = Seen { deletion, ..seen(0, 30, false, &running) };
        assert_eq!(end.step(&now).actions, [Action::Kill { container: "web".into() }]);
    }
}

#[test]
fn a_silent_controller_is_waited_for_within_the_bound() {
    let mut end = EndOfLife::new(ON);
    let running = [web(true, false, false)];
    assert!(end.step(&seen(34_999, 30, false, &running)).actions.is_empty());
    assert_eq!(end.step(&seen(35_000, 30, false, &running)).actions.len(), 1);
    assert_eq!(end.opened().map(|o| o.1), Some(Opening::BoundSpent));
}

#[test]
fn a_pod_without_an_address_and_without_the_loop_ends_at_once() {
    let idle = [web(false, false, false)];
    let never = Seen { routable: false, ..seen(0, 30, false, &idle) };
    assert_eq!(EndOfLife::new(ON).step(&never).actions, [Action::ReleaseSandbox]);
    let mut off = EndOfLife::new(Policy { loop_on: false, ..ON });
    assert_eq!(off.step(&seen(0, 30, false, &[web(true, false, false)])).actions, signal(30_000));
}

#[test]
fn the_address_is_kept_until_nobody_routes_to_it() {
    let exited = [web(false, false, false)];
    let mut end = EndOfLife::new(ON);
    assert!(end.step(&seen(0, 30, false, &exited)).actions.is_empty());
    assert_eq!(end.step(&seen(1, 30, true, &exited)).actions, [Action::ReleaseSandbox]);
    let gone = Seen { sandbox_present: false, ..seen(2, 30, true, &exited) };
    assert_eq!(end.step(&gone).actions, [Action::DeleteObject]);
    let after = Seen { deletion: Deletion::Gone, ..gone };
    assert!(end.step(&after).done);
}

/// One container of the simulated Pod: how long its hook and its process take, if they end at all.
#[derive(Clone, Debug)]
struct Body {
    hook_ms: Option<Option<i64>>,
    exit_after_signal_ms: Option<i64>,
    dies_at_ms: Option<i64>,
    kills_needed: u8,
}

/// What the world does to the Pod, at times since deletion was asked for; `answered_ms` counts from the withdrawal.
#[derive(Clone, Debug)]
struct World {
    policy: Policy,
    grace_s: i64,
    withdrawn_at_ms: Option<i64>,
    answered_ms: i64,
    shorter: Option<(i64, i64)>,
    forced_at_ms: Option<(i64, bool)>,
    routable: bool,
    bodies: Vec<Body>,
    looks_ms: Vec<i64>,
}

fn body() -> impl Strategy<Value = Body> {
    (
        prop::option::of(prop::option::of(0_i64..90_000)),
        prop::option::of(0_i64..90_000),
        prop::option::weighted(0.2, 0_i64..90_000),
        1_u8..4,
    )
        .prop_map(|(hook_ms, exit_after_signal_ms, dies_at_ms, kills_needed)| Body {
            hook_ms,
            exit_after_signal_ms,
            dies_at_ms,
            kills_needed,
        })
}

fn world() -> impl Strategy<Value = World> {
    (
        (any::<bool>(), 0_u64..60, 0_i64..60, any::<bool>()),
        (prop::option::of(0_i64..90_000), prop_oneof![Just(0), 0_i64..2_000]),
        prop::option::of((0_i64..90_000, 0_i64..90)),
        prop::option::weighted(0.3, (0_i64..90_000, any::<bool>())),
        prop::collection::vec(body(), 0..4),
        prop::collection::vec(0_i64..200_000, 0..40),
    )
        .prop_map(
            |(
                (loop_on, budget_s, grace_s, routable),
                (withdrawn_at_ms, answered_ms),
                shorter,
                forced_at_ms,
                bodies,
                looks_ms,
            )| {
                World {
                    policy: Policy { loop_on, budget_s },
                    grace_s,
                    withdrawn_at_ms,
                    answered_ms,
                    shorter,
                    forced_at_ms,
                    routable,
                    bodies,
                    looks_ms,
                }
            },
        )
}

#[derive(Clone, Default)]
struct Fate {
    hook_at: Option<i64>,
    signal_at: Option<i64>,
    kills: u8,
}

/// Runs the machine against the world until it is done, checking each rule as it goes. Gives the number of steps.
/// `tell` is what the machine is told of what is seen; anything but the truth makes it a wrong machine.
fn run(world: &World, tell: fn(Seen<'_>) -> Seen<'_>) -> Result<usize, TestCaseError> {
    let names: Vec<String> = (0..world.bodies.len()).map(|i| format!("c{i}")).collect();
    let mut fates = vec![Fate::default(); world.bodies.len()];
    let mut looks: std::collections::BTreeSet<i64> = world.looks_ms.iter().copied().collect();
    looks.extend(world.withdrawn_at_ms);
    looks.extend(world.shorter.map(|s| s.0));
    looks.extend(world.forced_at_ms.map(|f| f.0));
    let (mut end, mut ms, mut sandbox, mut object) = (EndOfLife::new(world.policy), 0_i64, true, true);
    let mut opened_ms: Option<i64> = None;
    for steps in 1..2_000 {
        let forced = world.forced_at_ms.is_some_and(|(t, _)| ms >= t);
        let gone = !object || world.forced_at_ms.is_some_and(|(t, gone)| gone && ms >= t);
        let shorter = world.shorter.filter(|(t, _)| ms >= *t).map_or(i64::MAX, |(_, g)| g);
        let grace_s = world.grace_s.min(shorter);
        let withdrawn = world.withdrawn_at_ms.is_some_and(|t| ms >= t);
        let since_ms = world.withdrawn_at_ms.map_or(0, |t| ms - t);
        let waiting = usize::from(withdrawn && since_ms < world.answered_ms);
        let answers = waiting == 0 || since_ms >= i64::from(ANSWERS_MS_MAX);
        let alive = |body: &Body, fate: &Fate| {
            fate.kills < body.kills_needed
                && body.dies_at_ms.is_none_or(|t| ms < t)
                && !matches!((fate.signal_at, body.exit_after_signal_ms), (Some(s), Some(d)) if ms >= s + d)
        };
        let running: Vec<bool> = world.bodies.iter().zip(&fates).map(|(b, f)| alive(b, f)).collect();
        let containers: Vec<SeenContainer<'_>> = world
            .bodies
            .iter()
            .enumerate()
            .map(|(i, body)| SeenContainer {
                name: &names[i],
                running: running[i],
                has_pre_stop: body.hook_ms.is_some(),
                pre_stop_ended: matches!((fates[i].hook_at, body.hook_ms), (Some(h), Some(Some(d))) if ms >= h + d),
            })
            .collect();
        let deletion = match (gone, forced) {
            (true, _) => Deletion::Gone,
            (false, true) => Deletion::Forced,
            (false, false) => Deletion::Asked { grace_s, at: at(0) },
        };
        let may_open = forced
            || gone
            || (withdrawn && answers)
            || !world.policy.loop_on
            || !world.routable
            || ms >= i64::try_from(world.policy.budget_s + GATE_MARGIN_S).unwrap() * 1000;
        if may_open && opened_ms.is_none() {
            opened_ms = Some(ms);
        }
        let next = end.step(&tell(Seen {
            now: at(ms),
            deletion,
            withdrawn,
            waiting,
            routable: world.routable,
            containers: &containers,
            sandbox_present: sandbox,
        }));
        prop_assert!(
            next.actions.is_empty() || may_open || opened_ms.is_some(),
            "acted behind a closed gate at {ms}"
        );
        for action in &next.actions {
            let index = |name: &str| names.iter().position(|n| n == name).unwrap();
            match action {
                Action::RunPreStop { container, .. } => {
                    let fate = &mut fates[index(container)];
                    prop_assert!(
                        fate.hook_at.is_none() && fate.signal_at.is_none(),
                        "hook twice or after the signal"
                    );
                    fate.hook_at = Some(ms);
                }
                Action::SendSignal { container, .. } => {
                    let i = index(container);
                    prop_assert!(fates[i].signal_at.is_none(), "signal twice");
                    let deadline = opened_ms.unwrap() + grace_s * 1000;
                    let hook_done = !containers[i].has_pre_stop || containers[i].pre_stop_ended;
                    prop_assert!(hook_done || ms >= deadline, "signal before the hook's end");
                    fates[i].signal_at = Some(ms);
                }
                Action::Kill { container } => {
                    let fate = &mut fates[index(container)];
                    let deadline = opened_ms.unwrap() + grace_s * 1000;
                    let not_early = fate.signal_at.is_some_and(|s| ms >= deadline && ms >= s + 2000);
                    prop_assert!(forced || gone || not_early, "SIGKILL early at {ms}");
                    fate.kills += 1;
                }
                Action::ReleaseSandbox => {
                    prop_assert!(!running.contains(&true), "released under a running container");
                    sandbox = false;
                }
                Action::DeleteObject => {
                    prop_assert!(!sandbox, "object deleted before the release");
                    object = false;
                }
            }
        }
        if next.done {
            prop_assert!(!running.contains(&true) && !sandbox);
            return Ok(steps);
        }
        // On to whatever comes first: the machine's own time, an outside event, an end of hook or process.
        let mut at_ms: Vec<i64> = looks.range(ms + 1..).take(1).copied().collect();
        at_ms.extend(next.look_at.map(|t| t.as_millisecond() - 1_800_000_000_000).filter(|t| *t > ms));
        for (body, fate) in world.bodies.iter().zip(&fates) {
            let hook = fate.hook_at.zip(body.hook_ms.flatten()).map(|(h, d)| h + d);
            let exit = fate.signal_at.zip(body.exit_after_signal_ms).map(|(s, d)| s + d);
            at_ms.extend([hook, exit, body.dies_at_ms].into_iter().flatten().filter(|t| *t > ms));
        }
        if next.actions.is_empty()
            || next.actions.iter().all(|a| !matches!(a, Action::ReleaseSandbox | Action::DeleteObject))
        {
            let Some(soonest) = at_ms.into_iter().min() else {
                return Err(TestCaseError::fail(format!("nothing will ever happen again at {ms}")));
            };
            ms = soonest;
        }
    }
    Err(TestCaseError::fail("does not end"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn rules_hold_in_every_world(world in world()) {
        run(&world, |seen| seen)?;
    }
}

/// A world in which the gate is closed for ten seconds and the process ignores its signal.
fn stubborn() -> World {
    World {
        policy: ON,
        grace_s: 10,
        withdrawn_at_ms: Some(10_000),
        answered_ms: 500,
        shorter: None,
        forced_at_ms: None,
        routable: true,
        bodies: vec![Body { hook_ms: None, exit_after_signal_ms: None, dies_at_ms: None, kills_needed: 1 }],
        looks_ms: vec![17_000],
    }
}

#[test]
fn the_rules_catch_machines_that_break_them() {
    assert!(run(&stubborn(), |seen| seen).is_ok());
    let words =
        |tell: fn(Seen<'_>) -> Seen<'_>| run(&stubborn(), tell).map_err(|e| e.to_string()).unwrap_err();
    assert!(words(|seen| Seen { withdrawn: true, ..seen }).contains("closed gate"));
    assert!(words(|seen| Seen { waiting: 0, ..seen }).contains("closed gate"));
    // A clock that runs ahead after the gate has opened kills too early.
    assert!(
        words(|seen| Seen { now: after_s(seen.now, if seen.now > at(10_600) { 5 } else { 0 }), ..seen })
            .contains("SIGKILL early")
    );
    assert!(
        words(|seen| Seen { sandbox_present: false, ..seen }).contains("object deleted before the release")
    );
}
