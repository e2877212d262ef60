//! A naive ledger for tests: it keeps every observation and works each answer out from the whole history.
//!
//! It shares no code with the real one: no lines, no sets, no state but the log.

use std::collections::{BTreeMap, BTreeSet};

use hitless_types::{AckClass, SettleScope};

/// An observation.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Register {
        who: u8,
        incarnation: u8,
        class: AckClass,
        settle_ms: i64,
        scope: SettleScope,
        lease_s: i64,
        joined: Option<u64>,
    },
    Deregister {
        who: u8,
    },
    Hear {
        who: u8,
        incarnation: u8,
        revision: u64,
    },
    Touch,
    Withdraw {
        pod: u8,
        budget_ms: i64,
    },
    Removed {
        pod: u8,
        revision: u64,
        headless: bool,
    },
    ListedAgain {
        pod: u8,
    },
    Added {
        pod: u8,
        revision: u64,
        headless: bool,
    },
    Forget {
        pod: u8,
    },
}

/// Milliseconds and what was observed then.
pub(super) type Log = [(i64, Op)];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Waiting {
        laggards: BTreeSet<u8>,
    },
    /// Who answered, with which revision and when.
    Acknowledged {
        acks: BTreeMap<u8, (u64, i64)>,
    },
    BudgetSpent {
        laggards: BTreeSet<u8>,
    },
}

/// One consumer, as the log tells it.
struct Teller {
    class: AckClass,
    settle_ms: i64,
    scope: SettleScope,
    joined: u64,
    alive: bool,
    /// Words of the present incarnation that rose: revision, when heard, when settled.
    words: Vec<(u64, i64, i64)>,
}

/// What the log says of `who` now; `None` if it is not registered.
fn tell(log: &Log, who: u8) -> Option<Teller> {
    let mut teller: Option<Teller> = None;
    let (mut incarnation, mut lease_ms, mut sign, mut touched, mut since) = (0, 0, 0, 0, 0);
    for (now, op) in log {
        match op {
            Op::Touch => {
                if now - touched > 3000 {
                    since = *now;
                }
                touched = *now;
                if let Some(t) = &mut teller
                    && t.class != AckClass::TimeBounded
                    && now - i64::max(sign, since) > lease_ms
                {
                    t.alive = false;
                }
            }
            Op::Register { who: w, incarnation: i, class, settle_ms, scope, lease_s, joined }
                if *w == who =>
            {
                let new = teller.as_ref().is_none_or(|_| incarnation != *i);
                let t = teller.get_or_insert(Teller {
                    class: *class,
                    settle_ms: 0,
                    scope: SettleScope::All,
                    joined: joined.unwrap_or(0),
                    alive: true,
                    words: vec![],
                });
                (t.class, t.settle_ms, t.scope, lease_ms, incarnation) =
                    (*class, *settle_ms, *scope, lease_s * 1000, *i);
                if new {
                    (t.alive, sign) = (true, *now);
                    t.words.clear();
                }
            }
            Op::Deregister { who: w } if *w == who => teller = None,
            Op::Hear { who: w, incarnation: i, revision } if *w == who && *i == incarnation => {
                if let Some(t) = &mut teller {
                    (t.alive, sign) = (true, *now);
                    if t.words.last().map_or(0, |w| w.0) < *revision {
                        let before = t.words.last().map_or(0, |w| w.2);
                        t.words.push((*revision, *now, i64::max(before, now + t.settle_ms)));
                    }
                }
            }
            _ => {}
        }
    }
    teller
}

/// The consumers that `newly` fall silent with the last observation of the log, which is a touch.
pub(super) fn lapsed(log: &Log) -> BTreeSet<u8> {
    let speaks_and_lives =
        |log: &Log, who| tell(log, who).is_some_and(|t| t.alive && t.class != AckClass::TimeBounded);
    let before = &log[..log.len() - 1];
    (0..8).filter(|who| speaks_and_lives(before, *who) && !speaks_and_lives(log, *who)).collect()
}

/// What is wanted for a Pod, when that was first seen, and its deadline.
fn wait(log: &Log, pod: u8, addition: bool) -> Option<(Option<(u64, i64)>, i64)> {
    let mut wait: Option<(Option<(u64, i64)>, i64)> = None;
    for (now, op) in log {
        match (addition, op) {
            (_, Op::Forget { pod: p }) if *p == pod => wait = None,
            (true, Op::Added { pod: p, revision, .. }) if *p == pod && wait.is_none() => {
                wait = Some((Some((*revision, *now)), i64::MAX));
            }
            (false, Op::Withdraw { pod: p, budget_ms }) if *p == pod && wait.is_none() => {
                wait = Some((None, now + budget_ms));
            }
            (false, Op::Removed { pod: p, revision, .. }) if *p == pod => {
                if let Some((wants @ None, _)) = &mut wait {
                    *wants = Some((*revision, *now));
                }
            }
            (false, Op::ListedAgain { pod: p }) if *p == pod => {
                if let Some((wants, _)) = &mut wait {
                    *wants = None;
                }
            }
            _ => {}
        }
    }
    wait
}

/// Whether the Pod, since it waits, was ever said to be one of a headless Service: for an addition with the first word, for a removal with any.
fn is_headless(log: &Log, pod: u8, addition: bool) -> bool {
    let mut is_headless = false;
    let mut waits = false;
    for (_, op) in log {
        match (addition, op) {
            (_, Op::Forget { pod: p }) if *p == pod => (waits, is_headless) = (false, false),
            (true, Op::Added { pod: p, headless, .. }) if *p == pod && !waits => {
                (waits, is_headless) = (true, *headless);
            }
            (false, Op::Withdraw { pod: p, .. }) if *p == pod => waits = true,
            (false, Op::Removed { pod: p, headless, .. }) if *p == pod && waits => is_headless |= headless,
            _ => {}
        }
    }
    is_headless
}

/// The rules, read literally.
pub(super) fn answer(log: &Log, pod: u8, addition: bool, now: i64) -> Option<Answer> {
    let (wants, deadline) = wait(log, pod, addition)?;
    let (mut acks, mut laggards) = (BTreeMap::new(), BTreeSet::new());
    let headless = is_headless(log, pod, addition);
    if let Some((revision, seen)) = wants {
        for who in 0..8 {
            let Some(t) = tell(log, who) else { continue };
            if t.joined > revision {
                continue; // rule 4
            }
            let concerned = headless || t.scope == SettleScope::All;
            if t.class == AckClass::TimeBounded {
                let until = seen + if concerned { t.settle_ms } else { 0 };
                if until <= now {
                    acks.insert(who, (revision, until));
                } else {
                    laggards.insert(who);
                }
                continue;
            }
            if !t.alive {
                continue; // rule 3
            }
            match t.words.iter().find(|w| w.0 >= revision) {
                Some((said, at, settled)) if addition || !concerned || *settled <= now => {
                    acks.insert(who, (*said, *at));
                }
                _ => {
                    laggards.insert(who);
                }
            }
        }
        if laggards.is_empty() {
            return Some(Answer::Acknowledged { acks });
        }
    }
    Some(if deadline <= now { Answer::BudgetSpent { laggards } } else { Answer::Waiting { laggards } })
}
