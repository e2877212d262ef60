//! `hitless`: a Kubernetes cluster in one binary. This file only hands over.

mod cli;
mod cluster;
mod command;
mod fault;
mod steps;
mod trace;

use std::process::ExitCode;

use clap::Parser;

/// Objects are many small pieces: with the C library's allocator a fifth of the engine's time went into them. Without huge pages (feature
/// `no_thp`): with them an idle cluster held 108 MiB instead of 63.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    command::run(cli::Cli::parse())
}
