//! Prints what the service proxy costs: building a large table, and one endpoint's change in it, from the watch event as it comes over the
//! wire to the kernel's commit.
//!
//! `cargo run --release --example proxy_bench -p hitless-drivers [SERVICES] [ENDPOINTS]` (default 10000 and 5 of each), as root.
//! It works in a network namespace of its own, which goes with it.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use hitless_base::Revision;
use hitless_dataplane::{
    EndpointTable, Kernel, SlotTable, TableChange,
    table::{ServiceRecord, SliceRecord},
};
use hitless_drivers::nft::{Nft, NftOptions};
use serde::Deserialize;
use serde_json::{Value, json};

const CHANGES: u32 = 2000;
const NODE: &str = "node-1";

/// A line of a watch.
#[derive(Deserialize)]
struct Event<T> {
    object: T,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u32>());
    let services = numbers.next().unwrap_or(Ok(10_000))?;
    let endpoints = numbers.next().unwrap_or(Ok(5))?;
    own_network_namespace()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(services, endpoints))
}

fn service(n: u32) -> Value {
    let ip = Ipv4Addr::from(0x0a60_0000 + n).to_string();
    json!({
        "metadata": {"name": format!("service-{n}"), "namespace": "default"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "protocol": "TCP"}]},
    })
}

/// The Service's one slice, with one endpoint terminating or none.
fn slice(n: u32, endpoints: u32, terminating: Option<u32>, revision: u64) -> Value {
    let endpoint = |e: u32| {
        let goes = terminating == Some(e);
        json!({
            "addresses": [Ipv4Addr::from(0x0a80_0000 + n * endpoints + e).to_string()],
            "conditions": {"ready": !goes, "serving": true, "terminating": goes},
            "nodeName": NODE,
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("pod-{n}-{e}"), "uid": "5e1f7c0a-8f0e-4c1b-9a55-0d6d1c1f2a3b"},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("service-{n}-abcde"), "namespace": "default", "resourceVersion": revision.to_string(),
            "labels": {"kubernetes.io/service-name": format!("service-{n}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 3000, "protocol": "TCP"}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}

async fn measure(services: u32, endpoints: u32) -> Result<(), Box<dyn std::error::Error>> {
    let nft = Nft::open(NftOptions::default())?;
    let mut listed = (Vec::new(), Vec::new());
    for n in 0..services {
        listed.0.push(ServiceRecord::of(&serde_json::from_value(service(n))?));
        listed.1.push(SliceRecord::of(&serde_json::from_value(slice(n, endpoints, None, 1))?, NODE));
    }
    let began = Instant::now();
    let mut table = EndpointTable::new();
    table.take(TableChange::ServicesListed(listed.0));
    table.take(TableChange::SlicesListed(listed.1, Revision(1)));
    let mut slots = SlotTable::new();
    slots.change(&table.take_dirty());
    let program = slots.program();
    let assigned = began.elapsed();
    nft.replace_all(&program).await?;
    let built = began.elapsed();
    let began = Instant::now();
    nft.replace_all(&program).await?;
    let replaced = began.elapsed();
    let began = Instant::now();
    let same = nft.read_back().await? == program;
    let read = began.elapsed();

    println!("services {services}, endpoints of each {endpoints}, slots {}", program.slots.len());
    println!("full build        {:>9.3} ms (of that before the kernel {:.3} ms)", ms(built), ms(assigned));
    println!("build it anew     {:>9.3} ms", ms(replaced));
    println!("read it back      {:>9.3} ms (as written: {same})", ms(read));

    let (mut whole, mut kernel) = (Vec::new(), Vec::new());
    for n in 0..CHANGES {
        let terminating = (n % 2 == 0).then_some(n % endpoints.max(1));
        let object = slice(n / 2 * 7 % services, endpoints, terminating, u64::from(n) + 2);
        let line = serde_json::to_vec(&json!({"type": "MODIFIED", "object": object}))?;
        let began = Instant::now();
        let event: Event<_> = serde_json::from_slice(&line)?;
        table.take(TableChange::SliceApplied(
            SliceRecord::of(&event.object, NODE),
            Revision(u64::from(n) + 2),
        ));
        let batch = slots.change(&table.take_dirty());
        let assigned = Instant::now();
        nft.apply(&batch).await?;
        whole.push(began.elapsed());
        kernel.push(assigned.elapsed());
    }
    print_quantiles("one endpoint less or more, watch event to commit", whole);
    print_quantiles("of that the kernel's transaction                ", kernel);
    Ok(())
}

fn print_quantiles(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |quantile: usize| times.get(times.len() * quantile / 100).copied().map_or(0.0, ms);
    let max = times.last().copied().map_or(0.0, ms);
    println!("{what}: p50 {:.3} ms, p99 {:.3} ms, max {max:.3} ms", at(50), at(99));
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[allow(unsafe_code, reason = "`unshare` is unsafe by its contract")]
fn own_network_namespace() -> std::io::Result<()> {
    // SAFETY: called first of all, while there is one thread and no socket; only the network namespace changes.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
