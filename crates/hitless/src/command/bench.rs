//! `hitless bench`: the figures of BENCHMARKS.md that want a cluster of its own.

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
    let result = hitless_prove::bench_withdrawal(client, DELETIONS, told).await?;
    say(&result.to_string());
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
