//! Prints what the service proxy's kernel side costs: building a large table, and one endpoint's change in it.
//!
//! `cargo run --release --example proxy_bench -p hitless-drivers [SERVICES] [ENDPOINTS]` (default 10000 and 5), as root.
//! It works in a network namespace of its own, which goes with it.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use hitless_dataplane::{Endpoint, Kernel, Protocol, ServicePort, SlotTable};
use hitless_drivers::nft::{Nft, NftOptions};

const CHANGES: u32 = 2000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u32>());
    let services = numbers.next().unwrap_or(Ok(10_000))?;
    let endpoints = numbers.next().unwrap_or(Ok(5))?;
    own_network_namespace()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(services, endpoints))
}

async fn measure(services: u32, endpoints: u32) -> Result<(), Box<dyn std::error::Error>> {
    let service =
        |n: u32| ServicePort { address: Ipv4Addr::from(0x0a60_0000 + n), protocol: Protocol::Tcp, port: 80 };
    let of = |n: u32, left_out: Option<u32>| {
        let numbers = (0..endpoints).filter(|e| Some(*e) != left_out);
        Some(
            numbers
                .map(|e| Endpoint { address: Ipv4Addr::from(0x0a80_0000 + n * endpoints + e), port: 3000 })
                .collect(),
        )
    };
    let nft = Nft::open(NftOptions::default())?;

    let began = Instant::now();
    let mut slots = SlotTable::new();
    slots.change(&(0..services).map(|n| (service(n), of(n, None))).collect());
    let program = slots.program();
    let assigned = began.elapsed();
    let began = Instant::now();
    nft.replace_all(&program).await?;
    let built = began.elapsed();
    let began = Instant::now();
    nft.replace_all(&program).await?;
    let replaced = began.elapsed();
    let began = Instant::now();
    let same = nft.read_back().await? == program;
    let read = began.elapsed();

    println!("services {services}, endpoints of each {endpoints}, slots {}", program.slots.len());
    println!("assign slots      {:>9.3} ms", ms(assigned));
    println!("build the table   {:>9.3} ms", ms(built));
    println!("build it anew     {:>9.3} ms", ms(replaced));
    println!("read it back      {:>9.3} ms (as written: {same})", ms(read));

    let mut whole = Vec::new();
    let mut kernel = Vec::new();
    for n in 0..CHANGES {
        let left_out = (n % 2 == 0).then_some(n % endpoints.max(1));
        let desired = BTreeMap::from([(service(n / 2 * 7 % services), of(n / 2 * 7 % services, left_out))]);
        let began = Instant::now();
        let batch = slots.change(&desired);
        let assigned = Instant::now();
        nft.apply(&batch).await?;
        whole.push(began.elapsed());
        kernel.push(assigned.elapsed());
    }
    print_quantiles("one endpoint less or more, slots and commit", whole);
    print_quantiles("of that the kernel's transaction           ", kernel);
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

#[allow(unsafe_code)]
fn own_network_namespace() -> std::io::Result<()> {
    // SAFETY: called first of all, while there is one thread and no socket; only the network namespace changes.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
