//! `hitless bench`: the figures of BENCHMARKS.md that want a cluster of its own.

mod pods;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use hitless_drivers::node::cgroup::{CgroupPath, Cgroups};

use super::{OWN_CLUSTER, prove::Own};
use crate::{
    cli::{Bench, Figure},
    cluster::Cluster,
    steps::{say, shown},
};

/// Starts that are timed.
const STARTS: usize = 10;
/// Deletions that are timed.
const DELETIONS: usize = 200;
/// For how long an idle cluster settles, and is then watched.
const SETTLES: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(30);

/// Measures one figure.
pub async fn bench(asked: &Bench) -> Result<ExitCode> {
    let mut own = Own::new(OWN_CLUSTER, &asked.data_dir);
    let result = match asked.what {
        Figure::Withdrawal => withdrawal(&mut own).await,
        Figure::Pods => pods::pods(&mut own).await,
        Figure::Up => up(&mut own).await,
        Figure::Idle => idle(&mut own).await,
    };
    own.stop().await?;
    result.map(|()| ExitCode::SUCCESS)
}

async fn withdrawal(own: &mut Own) -> Result<()> {
    let client = own.restart(true).await?.client.clone();
    let told = |n: usize| {
        if n.is_multiple_of(50) && n > 0 {
            eprintln!("{n} of {DELETIONS} deletions");
        }
    };
    let before = Ticks::read();
    let result = hitless_prove::bench_withdrawal(client, DELETIONS, told).await?;
    let stolen = Ticks::read().stolen_since(&before) * 100.0;
    say(&result.to_string());
    say(&format!("  (meanwhile the machine's host gave {stolen:.1} % of the processors' time to others)"));
    Ok(())
}

async fn up(own: &mut Own) -> Result<()> {
    // The first start imports the images and is not counted.
    own.restart(true).await?;
    let mut times = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        times.push(own.restart(true).await?.took);
    }
    times.sort_unstable();
    let at = |n: usize| shown(times.get(n).copied().unwrap_or_default());
    say(&format!(
        "up to both nodes Ready, images present, {STARTS} starts: min {}, median {}, max {}",
        at(0),
        at(STARTS / 2),
        at(STARTS - 1)
    ));
    Ok(())
}

/// Memory and CPU of this process (the control plane) and the two agents, while nobody asks for anything.
async fn idle(own: &mut Own) -> Result<()> {
    let cluster = own.restart(true).await?;
    tokio::time::sleep(SETTLES).await;
    let pids = pids(cluster)?;
    let before: u64 = pids.iter().map(|pid| cpu_ticks(*pid)).sum();
    tokio::time::sleep(WATCHED).await;
    let after: u64 = pids.iter().map(|pid| cpu_ticks(*pid)).sum();
    let cpu_s = (after - before) as f64 / rustix::param::clock_ticks_per_second() as f64;
    let (mut resident, mut share) = (0, 0);
    for pid in &pids {
        let (rss, pss) = (memory_kib(*pid, "Rss:"), memory_kib(*pid, "Pss:"));
        say(&format!("  process {pid}: {} MiB resident, {} MiB its share", mib(rss), mib(pss)));
        resident += rss;
        share += pss;
    }
    say(&format!(
        "idle, two nodes, without containerd: {} MiB, {:.2} % of a core over {} s",
        mib(share),
        cpu_s / WATCHED.as_secs_f64() * 100.0,
        WATCHED.as_secs()
    ));
    say(&format!(
        "  (pages that the processes share counted once; counted in each of them: {} MiB)",
        mib(resident)
    ));
    Ok(())
}

fn pids(cluster: &Cluster) -> Result<Vec<i32>> {
    let cgroups = Cgroups::detect()?;
    let mut pids = vec![i32::try_from(std::process::id())?];
    for node in &cluster.plan.nodes {
        let agent: &CgroupPath = &node.agent_cgroup;
        pids.extend(cgroups.pids(agent)?);
    }
    Ok(pids)
}

/// What all processors did since the start, in clock ticks: how far a figure is the machine's own tells how much of it was taken.
#[derive(Default)]
struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    fn read() -> Self {
        Self::of(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// From the first line: `cpu  USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ STEAL GUEST GUEST_NICE`, guests being part of users.
    fn of(text: &str) -> Self {
        let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let ticks: Vec<u64> = fields.take(8).filter_map(|field| field.parse().ok()).collect();
        Self { all: ticks.iter().sum(), stolen: ticks.get(7).copied().unwrap_or_default() }
    }

    /// The part of the time since then that the host took.
    fn stolen_since(&self, before: &Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

/// User and system time of a process, in clock ticks.
fn cpu_ticks(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    field(11) + field(12)
}

/// A process's memory in KiB: `Rss:` all that is resident, `Pss:` with what it shares divided among the sharers.
fn memory_kib(pid: i32, what: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_part_of_all() {
        let before = Ticks::of("cpu  100 0 50 800 10 0 5 35 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
        let after = Ticks::of("cpu  150 0 60 820 10 0 5 55 7 0\n");
        assert!((after.stolen_since(&before) - 0.2).abs() < 1e-9);
        assert_eq!(Ticks::of("").stolen_since(&Ticks::default()), 0.0);
    }
}
