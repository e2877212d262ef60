//! What a node costs before Kubernetes comes into it: containerd to ready, an import, a sandbox, a signal, the sweep.
//!
//! `cargo run --release -p hitless-drivers --example node_floor`, as root. Everything happens in a network namespace of its own and is
//! taken away afterwards. It prints figures and judges none.

use std::time::{Duration, Instant};

use hitless_drivers::node::{
    self, Node,
    cgroup::Cgroups,
    clean,
    floor::{BarePod, specs},
    import::{self, Archive},
    netns,
    plan::Paths,
    programs::Programs,
    slots,
};
use hitless_kubelet::ports::{Runtime, Signal};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PODS: usize = 20;
const IDLE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Failure> {
    let name = format!("floor{}", std::process::id());
    let machine = format!("bench-machine-{name}");
    let directory = std::env::temp_dir().join(&name);
    let paths = Paths { run: directory.join("run"), data: directory.join("data") };
    netns::create(&machine)?;
    let done = netns::inside(&machine, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let measured = runtime.block_on(measure(&name, &paths));
        let start = Instant::now();
        let report = runtime.block_on(clean::sweep(&name, &paths))?;
        println!("sweep of everything, killed            {:>9}", ms(start.elapsed()));
        println!("  found: {report:?}");
        clean::purge(&name, &paths)?;
        measured
    });
    netns::delete(&machine)?;
    std::fs::remove_dir_all(directory)?;
    done?
}

async fn measure(name: &str, paths: &Paths) -> Result<(), Failure> {
    let (programs, cgroups) = (Programs::find()?, Cgroups::detect()?);
    let start = Instant::now();
    let plan = slots::claim(name, 2, None, paths).await?;
    node::prepare(&plan, &programs, &cgroups).await?;
    println!("claim a slot, bridge, way out          {:>9}", ms(start.elapsed()));
    let start = Instant::now();
    let up = plan.nodes.iter().map(|node| node::bring_up(node, &programs, &cgroups));
    let nodes = futures::future::try_join_all(up).await?;
    println!("two nodes at once to runtime ready     {:>9}", ms(start.elapsed()));
    for node in &nodes {
        println!(
            "  {}: network {}, containerd {}",
            node.plan.name,
            ms(node.took.network),
            ms(node.took.containerd)
        );
    }
    let archives = hitless_images::archives()?;
    let archives: Vec<_> = archives
        .iter()
        .map(|archive| Archive { reference: archive.reference, id: &archive.id, tar: &archive.tar })
        .collect();
    let start = Instant::now();
    let imports = nodes.iter().map(|node| import::import(&node.plan, &programs, &node.runtime, &archives));
    futures::future::try_join_all(imports).await?;
    println!("both images on both nodes at once      {:>9}", ms(start.elapsed()));
    let start = Instant::now();
    if let Some(node) = nodes.first() {
        import::import(&node.plan, &programs, &node.runtime, &archives).await?;
        println!("the same again, there already          {:>9}", ms(start.elapsed()));
        pods(node).await?;
        idle(node).await?;
    }
    Ok(())
}

async fn pods(node: &Node) -> Result<(), Failure> {
    let runtime = &node.runtime;
    let mut took: [Vec<Duration>; 6] = Default::default();
    for index in 0..PODS {
        let [sandbox_took, create_took, start_took, signal_took, exit_took, remove_took] = &mut took;
        let (spec, container) = specs(node, hitless_images::WEB, index);
        let sandbox = timed(sandbox_took, runtime.run_sandbox(&spec)).await?;
        let id = timed(create_took, runtime.create_container(&sandbox, &container, &spec)).await?;
        timed(start_took, runtime.start_container(&id)).await?;
        timed(signal_took, runtime.signal_container(&id, &Signal("SIGKILL".into()))).await?;
        timed(exit_took, runtime.wait_container(&id, Duration::from_secs(30))).await?;
        timed(remove_took, async {
            runtime.remove_container(&id).await?;
            runtime.stop_sandbox(&sandbox).await?;
            runtime.remove_sandbox(&sandbox).await
        })
        .await?;
    }
    let names = ["sandbox", "create", "start", "signal", "signal to end seen", "remove all"];
    for (name, mut took) in names.into_iter().zip(took) {
        took.sort();
        let at = |part: usize| took.get((took.len() - 1) * part / 100).copied().unwrap_or_default();
        println!("{name:<22} p50 {:>9}   max {:>9}   of {PODS}", ms(at(50)), ms(at(100)));
    }
    let start = Instant::now();
    let all = (0..PODS).map(|index| BarePod::start(node, hitless_images::WEB, PODS + index));
    futures::future::try_join_all(all).await?;
    println!("{PODS} Pods at once                         {:>9}", ms(start.elapsed()));
    Ok(())
}

async fn timed<T, E>(took: &mut Vec<Duration>, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let start = Instant::now();
    let done = work.await;
    took.push(start.elapsed());
    done
}

/// Processor time of this process, which follows the events, and of containerd, while nothing happens.
async fn idle(node: &Node) -> Result<(), Failure> {
    let pids = [std::process::id().cast_signed(), node.containerd.identity().pid];
    let before = pids.map(ticks);
    tokio::time::sleep(IDLE).await;
    for ((name, pid), before) in ["this client", "containerd"].into_iter().zip(pids).zip(before) {
        let part = ticks(pid).saturating_sub(before) as f64 / IDLE.as_secs_f64();
        println!("idle with {PODS} Pods, {name}: {part:.1} % of a core, {} MiB resident", resident_mib(pid));
    }
    Ok(())
}

/// User and system time in hundredths of a second.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default().split(' ');
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn resident_mib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1024
}

fn ms(took: Duration) -> String {
    format!("{:.2} ms", took.as_secs_f64() * 1000.0)
}
