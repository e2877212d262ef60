//! `hitless-sim run SEED` shows one run; `hitless-sim sweep` makes many and names those that broke a rule.

use std::{
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use hitless_sim::run::{self, Sabotage};

/// A run that takes longer than this hangs. Real time.
const RUN_MAX: Duration = Duration::from_secs(120);

#[derive(Parser)]
#[command(about = "The cluster's own control code on virtual time, with faults and checkers.")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run one seed and show what happened
    Run {
        /// The seed
        seed: u64,
        /// Something wrong on purpose: the checkers must find it
        #[arg(long)]
        sabotage: Option<Sabotage>,
        /// Show the verdict alone
        #[arg(long)]
        quiet: bool,
    },
    /// Run many seeds, each in a process of its own
    Sweep {
        /// How many
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many at once; the machine's processors unless set
        #[arg(long)]
        jobs: Option<usize>,
        /// Something wrong on purpose: the checkers must find it
        #[arg(long)]
        sabotage: Option<Sabotage>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().what {
        What::Run { seed, sabotage, quiet } => one(seed, sabotage, quiet),
        What::Sweep { seeds, from, jobs, sabotage } => {
            let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
            sweep(from..from.saturating_add(seeds), jobs, sabotage)
        }
    }
}

fn one(seed: u64, sabotage: Option<Sabotage>, quiet: bool) -> anyhow::Result<ExitCode> {
    hitless_base::telemetry::init("off");
    let outcome = run::run(seed, sabotage)?;
    if !quiet {
        println!("{:#?}", outcome.plan);
        outcome.record.journal.iter().for_each(|line| println!("{line}"));
    }
    println!("seed {seed}: {outcome}");
    println!("{} ms of processor time", outcome.cpu.as_millis());
    outcome.record.violations.iter().for_each(|violation| println!("  {violation}"));
    Ok(if outcome.record.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn sweep(seeds: std::ops::Range<u64>, jobs: usize, sabotage: Option<Sabotage>) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let (count, mut seeds) = (seeds.end - seeds.start, seeds);
    let (mut failed, mut signals, mut faults, mut cpu_ms) = (Vec::new(), 0, 0, 0);
    let mut running: Vec<(u64, Child, Instant)> = Vec::new();
    loop {
        while running.len() < jobs.max(1)
            && let Some(seed) = seeds.next()
        {
            running.push((seed, command(seed, sabotage)?.spawn()?, Instant::now()));
        }
        if running.is_empty() {
            break;
        }
        let mut still = Vec::new();
        for (seed, mut child, began) in running {
            // What a run says is a few lines, which the pipe holds.
            if child.try_wait()?.is_none() && began.elapsed() < RUN_MAX {
                still.push((seed, child, began));
                continue;
            }
            let (fine, words) = verdict(child)?;
            signals += number_before(&words, " stop signals");
            faults += number_before(&words, " faults");
            cpu_ms += number_before(&words, " ms of processor time");
            if !fine {
                let with = sabotage.map(|s| format!(" --sabotage {}", name(s))).unwrap_or_default();
                println!("{words}  replay: cargo run -q -p hitless-sim -- run {seed}{with}\n");
                failed.push(seed);
            }
        }
        running = still;
        std::thread::sleep(Duration::from_millis(1));
    }
    let took_s = began.elapsed().as_secs_f64();
    let each_ms = cpu_ms.checked_div(count).unwrap_or(0);
    println!(
        "{count} seeds in {took_s:.1} s, {each_ms} ms of processor time each: {signals} stop signals, {faults} faults"
    );
    println!("{} seeds broke a rule {failed:?}", failed.len());
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The number before these words.
fn number_before(text: &str, words: &str) -> u64 {
    let before = text.split(words).next().filter(|before| before.len() < text.len()).unwrap_or_default();
    before.rsplit([' ', '\n']).next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn name(sabotage: Sabotage) -> String {
    use clap::ValueEnum;
    sabotage.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn command(seed: u64, sabotage: Option<Sabotage>) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", &seed.to_string(), "--quiet"]).stdout(Stdio::piped()).stderr(Stdio::inherit());
    // Memory that is given back and asked for again takes a part of a run's time.
    command.env("MALLOC_ARENA_MAX", "1").env("MALLOC_TOP_PAD_", "67108864");
    if let Some(sabotage) = sabotage {
        command.args(["--sabotage", &name(sabotage)]);
    }
    Ok(command)
}

/// Whether a run went well, and what it says. One that has not ended hangs.
fn verdict(mut child: Child) -> anyhow::Result<(bool, String)> {
    if child.try_wait()?.is_none() {
        child.kill()?;
        child.wait()?;
        return Ok((false, format!("no end within {} s\n", RUN_MAX.as_secs())));
    }
    let output = child.wait_with_output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}
