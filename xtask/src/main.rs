//! The project's own chores: `cargo xtask tidy` holds the floors, `cargo xtask edges` shows them, `cargo xtask fuzz` looks for inputs that
//! break a promise.
//!
//! Rules that a compiler does not know stand here, so that breaking one fails a test and not a review.

mod edges;
mod files;
mod fuzz;

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy(),
        Some("edges") => edges::print(),
        Some("fuzz") => fuzz::run(std::env::args().skip(2)),
        _ => {
            eprintln!("usage: cargo xtask tidy | edges | fuzz TARGET [SECONDS]");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tidy() -> anyhow::Result<()> {
    let mut faults = edges::faults()?;
    faults.extend(files::faults()?);
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    anyhow::ensure!(faults.is_empty(), "{} to mend (see above)", faults.len());
    println!("tidy: floors and files are as they should be");
    Ok(())
}
