//! Prints what the embedded store does on this machine: `cargo run --release -p hitless-store --example store_bench`.
//!
//! Values are 1 KiB. The data directory is made below the first argument (default: the directory for temporary files)
//! and removed at the end; it must be on a real disk for the figures to mean anything. With a second argument
//! `realtime` the writing thread is scheduled with `SCHED_FIFO`, which tells on a busy machine.

use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, Instant},
};

use hitless_store::{Embedded, Op, Options, Precondition, Store};
use tokio::task::JoinSet;

const RUN: Duration = Duration::from_secs(3);

/// Gives the calling thread real-time priority, by the usual command.
fn realtime() {
    let thread =
        std::fs::read_link("/proc/thread-self").ok().and_then(|path| path.file_name().map(ToOwned::to_owned));
    let set = thread.map(|id| std::process::Command::new("chrt").args(["-f", "-p", "1"]).arg(id).status());
    if !matches!(set, Some(Ok(status)) if status.success()) {
        eprintln!("the writing thread stays at normal priority: chrt failed");
    }
}

fn put(key: String) -> Vec<Op> {
    vec![Op::Put { key: key.into(), value: vec![b'x'; 1024].into(), expect: Precondition::None }]
}

fn report(what: &str, mut times: Vec<Duration>, elapsed: Duration) {
    times.sort_unstable();
    let at = |part: f64| {
        times
            .get((times.len() as f64 * part) as usize)
            .or(times.last())
            .copied()
            .unwrap_or_default()
            .as_secs_f64()
            * 1e6
    };
    let rate = times.len() as f64 / elapsed.as_secs_f64();
    println!("{what:<34} {rate:>9.0}/s   p50 {:>6.0} us   p99 {:>6.0} us", at(0.5), at(0.99));
}

async fn writers(store: &Embedded, count: usize) -> Result<(), Box<dyn Error>> {
    let before = store.stats();
    let start = Instant::now();
    let mut running = JoinSet::new();
    for writer in 0..count {
        let store = store.clone();
        running.spawn(async move {
            let mut times = Vec::new();
            while start.elapsed() < RUN {
                let begun = Instant::now();
                store.commit(put(format!("/registry/configmaps/w{writer}/{}", times.len() % 1000))).await?;
                times.push(begun.elapsed());
            }
            Ok::<_, hitless_store::CommitError>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = running.join_next().await {
        times.extend(done??);
    }
    let elapsed = start.elapsed();
    report(&format!("{count} writer(s)"), times, elapsed);
    let after = store.stats();
    println!(
        "{:<34} {:>9.2} flushes for a commit",
        "",
        (after.syncs - before.syncs) as f64 / (after.commits - before.commits) as f64
    );
    Ok(())
}

async fn filled(directory: PathBuf, options: Options, entries: usize) -> Result<(), Box<dyn Error>> {
    let store = Embedded::open(&directory, options)?;
    let mut running = JoinSet::new();
    for part in 0..100 {
        let store = store.clone();
        running.spawn(async move {
            for number in 0..entries / 100 {
                store.commit(put(format!("/registry/configmaps/default/{part}-{number}"))).await?;
            }
            Ok::<_, hitless_store::CommitError>(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    for _ in 0..50 {
        let begun = Instant::now();
        let listing = store.list("/registry/configmaps/", None, None).await?;
        times.push(begun.elapsed());
        assert_eq!(listing.entries.len(), entries / 100 * 100);
    }
    report(&format!("list of {entries}"), times, start.elapsed());
    store.close().await;
    drop(store);
    let size = std::fs::metadata(directory.join("store.redb"))?.len();
    let begun = Instant::now();
    let store = Embedded::open(&directory, options)?;
    println!("{:<34} {:>9.1} ms ({} MiB on disk)", "reopen", begun.elapsed().as_secs_f64() * 1e3, size >> 20);
    // As a crash leaves it.
    let copy = directory.join("copy");
    std::fs::create_dir(&copy)?;
    store.commit(put("/last".to_owned())).await?;
    std::fs::copy(directory.join("store.redb"), copy.join("store.redb"))?;
    let begun = Instant::now();
    Embedded::open(&copy, options)?;
    println!("{:<34} {:>9.1} ms", "reopen after a crash", begun.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let below = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::Builder::new().prefix("store-bench-").tempdir_in(below)?;
    let on_writer_start =
        std::env::args().nth(2).filter(|word| word == "realtime").map(|_| realtime as fn());
    let options = Options { on_writer_start, ..Options::default() };
    let begun = Instant::now();
    let store = Embedded::open(directory.path().join("writers"), options)?;
    println!("{:<34} {:>9.1} ms", "make and open an empty store", begun.elapsed().as_secs_f64() * 1e3);
    for count in [1, 4, 64] {
        writers(&store, count).await?;
    }
    store.close().await;
    filled(directory.path().join("small"), options, 10_000).await?;
    filled(directory.path().join("large"), options, 100_000).await
}
