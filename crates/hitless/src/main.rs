//! `hitless`: a Kubernetes cluster in one binary. This file only hands over.

mod cli;
mod cluster;
mod command;
mod fault;
mod steps;
mod trace;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    command::run(cli::Cli::parse())
}
