//! Create to Ready, and what of it is containerd's: the same sandboxes and containers once more, asked of the same two containerds directly,
//! with no API, scheduler or kubelet above them.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::try_join_all;
use hitless_drivers::node::{
    self, Node, cgroup::Cgroups, floor::BarePod, import, plan::ClusterPlan, programs::Programs,
};

use crate::{
    cluster::archive,
    command::prove::Own,
    steps::{say, shown},
};

/// Pods made at the same time.
const TOGETHER: usize = 20;
/// Rounds of one Pod, and of [`TOGETHER`].
const ROUNDS: [(usize, usize); 2] = [(1, 20), (TOGETHER, 5)];
/// Rests between the rounds, as between those of the cluster.
const PEACE: Duration = Duration::from_millis(300);

/// Measures both, one after the other.
pub async fn pods(own: &mut Own) -> Result<()> {
    let client = own.restart(true).await?.client.clone();
    let mut through = Vec::new();
    for (pods, rounds) in ROUNDS {
        through.push(hitless_prove::bench_pods(client.clone(), pods, rounds).await?);
    }
    let direct = own.bare(async |plan| direct(plan).await).await?;
    for (((pods, rounds), through), direct) in ROUNDS.into_iter().zip(through).zip(direct) {
        let (ours, floor) = (median(&through), median(&direct));
        let what = if pods == 1 { "one Pod".to_owned() } else { format!("{pods} Pods at once") };
        say(&format!(
            "{what}, create to Ready, {rounds} times: median {}, max {}",
            shown(ours),
            shown(through.last().copied().unwrap_or_default())
        ));
        say(&format!(
            "  the same sandboxes and containers of containerd directly: median {}; ratio {:.2}",
            shown(floor),
            ours.as_secs_f64() / floor.as_secs_f64().max(f64::MIN_POSITIVE)
        ));
    }
    Ok(())
}

/// The times of each of [`ROUNDS`], sorted.
async fn direct(plan: &ClusterPlan) -> Result<Vec<Vec<Duration>>> {
    let (programs, cgroups) = (Programs::find()?, Cgroups::detect()?);
    node::prepare(plan, &programs, &cgroups).await?;
    let nodes = try_join_all(plan.nodes.iter().map(|node| node::bring_up(node, &programs, &cgroups))).await?;
    let archives = hitless_images::archives()?;
    let archives: Vec<_> = archives.iter().map(archive).collect();
    for node in &nodes {
        import::import(&node.plan, &programs, &node.runtime, &archives).await?;
    }
    let (mut all, mut made) = (Vec::new(), 0);
    for (pods, rounds) in ROUNDS {
        let mut times = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            times.push(round(&nodes, made, pods).await?);
            made += pods;
            tokio::time::sleep(PEACE).await;
        }
        times.sort_unstable();
        all.push(times);
    }
    Ok(all)
}

/// So many at once, spread over the nodes as the scheduler spreads them, and away again.
async fn round(nodes: &[Node], first: usize, pods: usize) -> Result<Duration> {
    let began = Instant::now();
    let places = (first..first + pods).zip(nodes.iter().cycle());
    let started = places.map(|(index, node)| async move {
        let pod = BarePod::start(node, hitless_images::WEB, index).await?;
        anyhow::Ok((pod, node))
    });
    let started = try_join_all(started).await?;
    let took = began.elapsed();
    try_join_all(started.iter().map(|(pod, node)| pod.remove(node))).await?;
    Ok(took)
}

fn median(sorted: &[Duration]) -> Duration {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
