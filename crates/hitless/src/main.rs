//! `hitless`: a Kubernetes cluster in one binary. This file only hands over.

mod allocator;
mod cli;
mod cluster;
mod command;
mod fault;
mod steps;
mod trace;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    allocator::give_back_soon();
    command::run(cli::Cli::parse())
}
