//! What the ledger costs: 5,000 consumers, each with one report in flight at a time, and 100 Pod changes a second.
//!
//! `cargo run --release -p hitless-termination --example ledger_bench [consumers] [changes_per_s] [reports_per_s]`
//!
//! Half of the changes are additions and half removals. Prints seconds of CPU for each second of simulated time.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    time::Instant,
};

use hitless_base::{Revision, Timestamp};
use hitless_termination::ledger::{Ledger, Registration, Verdict, Word};
use hitless_types::{AckClass, SettleScope};

const SIMULATED_MS: i64 = 10_000;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<i64>().unwrap_or(0).max(1));
    let consumers = arguments.next().unwrap_or(5_000);
    let changes_per_s = arguments.next().unwrap_or(100);
    let reports_per_s = arguments.next().unwrap_or(10);
    let start = Timestamp::UNIX_EPOCH.as_millisecond() + 1_700_000_000_000;
    let at = |ms: i64| Timestamp::from_millisecond(start + ms).unwrap_or(Timestamp::MAX);
    let mut ledger = Ledger::new(at(0));
    let names: Vec<String> = (0..consumers).map(|i| format!("service-proxy-node-{i}")).collect();
    for name in &names {
        let registration = Registration {
            name: name.clone(),
            incarnation: "i".into(),
            class: AckClass::Proven,
            settle_ms: 0,
            settle_scope: SettleScope::All,
            lease_s: 40,
            joined: None,
        };
        ledger.register(&registration, at(0));
    }
    let (mut revision, mut changes, mut reports, mut answered) = (0_u64, 0_i64, 0_u64, 0_u64);
    let mut waited_ms: BTreeMap<i64, u64> = BTreeMap::new();
    let mut since: BTreeMap<String, i64> = BTreeMap::new();
    let (wall, cpu) = (Instant::now(), cpu_s()?);
    for ms in 0..SIMULATED_MS {
        while changes * 1000 < ms * changes_per_s {
            changes += 1;
            revision += 1;
            let pod = format!("pod-{changes}");
            if changes % 2 == 0 {
                ledger.added(&pod, Revision(revision), false, at(ms));
            } else {
                ledger.withdraw(&pod, at(ms + 30_000));
                ledger.removed(&pod, Revision(revision), false, at(ms));
            }
            since.insert(pod, ms);
        }
        // Each consumer reports in its own millisecond of the period, with the latest revision.
        let period = (1000 / reports_per_s).max(1);
        for name in names
            .iter()
            .skip(usize::try_from(ms % period).unwrap_or(0))
            .step_by(usize::try_from(period).unwrap_or(1))
        {
            ledger.hear(name, &Word { incarnation: "i".into(), revision: Revision(revision) }, at(ms));
            reports += 1;
        }
        ledger.in_touch(at(ms));
        for pod in ledger.due(at(ms)).into_iter().chain(ledger.due_additions(at(ms))) {
            let verdict = ledger.verdict(&pod, at(ms)).or_else(|| ledger.programmed(&pod, at(ms)));
            if let Some(Verdict::Acknowledged { acks, .. }) = verdict {
                answered += u64::try_from(acks.len()).unwrap_or(0);
            }
            ledger.forget(&pod);
            *waited_ms.entry(ms - since.remove(&*pod).unwrap_or(ms)).or_default() += 1;
        }
    }
    let simulated_s = SIMULATED_MS as f64 / 1000.0;
    let cpu = (cpu_s()? - cpu) / simulated_s;
    writeln!(
        io::stdout(),
        "{consumers} consumers, {changes} Pod changes, {reports} reports, {answered} acks in {simulated_s} s of simulated time\n\
         CPU per second of simulated time: {:.1} ms ({:.1} % of a core); wall {:.1} ms; longest wait {} ms",
        cpu * 1000.0,
        cpu * 100.0,
        wall.elapsed().as_secs_f64() * 1000.0 / simulated_s,
        waited_ms.last_key_value().map_or(0, |(ms, _)| *ms),
    )
}

/// CPU time of this process so far, in seconds, from `/proc/self/stat` (hundredths).
fn cpu_s() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}
