//! `cargo xtask fuzz TARGET [SECONDS]`: libFuzzer on one target of `fuzz/`, with the stable compiler.
//!
//! What libFuzzer wants of the compiler are counters at each edge of the code, which LLVM's own pass puts there. What is built lies in
//! `target/fuzz`, beside what was found: `target/fuzz/corpus/TARGET` grows from run to run, a failure is written to
//! `target/fuzz/failures/TARGET`.

use std::{ffi::OsString, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

/// One run, where nothing is said.
const SECONDS: u64 = 60;
/// The longest input tried, and the memory above which a run counts as failed.
const INPUT_BYTES_MAX: u32 = 65_536;
const MEMORY_MIB_MAX: u32 = 1024;
/// One input may take so long.
const INPUT_S_MAX: u32 = 5;

/// What puts the counters in.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Runs one target.
pub fn run(mut words: impl Iterator<Item = String>) -> Result<()> {
    let known = fs::read_dir("fuzz/seeds")
        .context("fuzz/seeds cannot be read: run this in the project's directory")?;
    let mut known: Vec<_> = known.filter_map(|seeds| seeds.ok()?.file_name().into_string().ok()).collect();
    known.sort();
    let target = words.next().unwrap_or_default();
    ensure!(known.contains(&target), "usage: cargo xtask fuzz {} [SECONDS]", known.join("|"));
    let seconds = words.next().map_or(Ok(SECONDS), |text| {
        text.parse().with_context(|| format!("{text:?} is no number of seconds"))
    })?;

    let directory = Path::new("target/fuzz");
    let (corpus, failures) =
        (directory.join("corpus").join(&target), directory.join("failures").join(&target));
    for made in [&corpus, &failures] {
        fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    let triple = host()?;
    // With a target named, build scripts and macros are built without counters.
    let built = Command::new("cargo")
        .args([
            "build",
            "--release",
            "--package",
            "hitless-fuzz",
            "--features",
            "libfuzzer",
            "--target",
            &triple,
        ])
        .args(["--bin", &format!("fuzz-{target}")])
        .arg("--target-dir")
        .arg(directory)
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"))
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        .status()
        .context("cannot run cargo")?;
    ensure!(built.success(), "the target does not build");

    let mut artifacts = OsString::from("-artifact_prefix=");
    artifacts.push(&failures);
    artifacts.push("/");
    let run = Command::new(directory.join(&triple).join("release").join(format!("fuzz-{target}")))
        .arg(&corpus)
        .arg(Path::new("fuzz/seeds").join(&target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-timeout={INPUT_S_MAX}"))
        .args(["-print_final_stats=1", "-verbosity=1"])
        .arg(artifacts)
        .status()
        .context("cannot run the target")?;
    ensure!(run.success(), "{target} failed: the input lies in {}", failures.display());
    Ok(())
}

/// The compiler's own target.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("rustc does not say what it builds for")?.to_owned())
}
