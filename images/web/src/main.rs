//! `/web`: the one program inside the image `hitless.dev/web`.
//!
//! It is a small HTTP and WebSocket server whose way of ending is chosen by argument, load generators for both that count what they
//! lose, a task queue and its worker, and a few helpers for exec probes and hooks (the image has no shell). It uses the standard library alone, because
//! `crates/images/build.rs` hands this file straight to rustc and links the result statically; for the same reason it
//! looks names up by itself (`names`).
//!
//! What must hold: it is small and frugal (it runs beside the cluster that it measures), and it never hides a loss.

mod args;
mod clock;
mod digest;
mod hist;
mod http;
mod load;
mod load_conn;
mod load_report;
mod names;
mod queue;
mod serve;
mod serve_conn;
mod serve_ws;
mod sys;
mod work;
mod ws;
mod ws_conn;
mod ws_load;

use std::process::ExitCode;

const USAGE: &str = "usage:
  web serve [--port 8080] [--on-term exit|finish|ignore|slow=SECONDS] [--ready-after SECONDS]
            [--delay-ms N] [--finish-within SECONDS]
  web load --target IP:PORT|NAME:PORT --mode new|keep-alive --rate N --duration SECONDS
           [--timeout-ms 2000] [--workers 8] [--path /] [--host NAME]
           [--linger-ms 1500]
  web ws --target IP:PORT|NAME:PORT --connections N --duration SECONDS --every-ms N
         [--timeout-ms 2000] [--path /] [--host NAME] [--linger-ms 1500]
  web queue [--port 8080] [--lease SECONDS]
  web work --queue IP:PORT|NAME:PORT [--task-ms N] [--at-once N]
  web resolve NAME
  web sleep SECONDS
  web true
  web false
  web exit CODE";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("web: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(words: &[String]) -> Result<ExitCode, String> {
    let Some((command, rest)) = words.split_first() else {
        return Err(format!("no command\n{USAGE}"));
    };
    match (command.as_str(), rest) {
        ("serve", _) => serve::run(serve::Options::parse(rest)?),
        ("load", _) => load::run(&load::Options::parse(rest)?),
        ("ws", _) => ws_load::run(&ws_load::Options::parse(rest)?),
        ("queue", _) => serve::run(serve::Options::parse_queue(rest)?),
        ("work", _) => work::run(&work::Options::parse(rest)?),
        ("resolve", [name]) => {
            let found = names::Resolver::of_system()?.look_up(name)?;
            for address in &found.addresses {
                println!("{} {} {address}", found.name, found.ttl.as_secs());
            }
            Ok(ExitCode::SUCCESS)
        }
        ("sleep", [seconds]) => {
            std::thread::sleep(args::seconds("SECONDS", seconds)?);
            Ok(ExitCode::SUCCESS)
        }
        ("true", []) => Ok(ExitCode::SUCCESS),
        ("false", []) => Ok(ExitCode::FAILURE),
        ("exit", [code]) => Ok(ExitCode::from(args::number::<u8>("CODE", code)?)),
        ("help" | "--help" | "-h", _) => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(format!("cannot make sense of {words:?}\n{USAGE}")),
    }
}
