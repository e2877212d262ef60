//! What is told while a run goes on: a bar on a terminal, plain lines elsewhere. Always on standard error, so that
//! standard output holds the result alone.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{Mode, Scenario, ScenarioReport};

/// Is told of each step. Calls are short and come from several tasks.
pub trait Progress: Send + Sync {
    /// A run of so many scenarios (comparisons counted) begins.
    fn begin(&self, runs: usize);
    /// A scenario begins.
    fn scenario(&self, mode: Mode, scenario: Scenario);
    /// What is being done now.
    fn step(&self, text: &str);
    /// Requests begun and lost so far in this scenario.
    fn traffic(&self, requests: u64, failed: u64);
    /// A scenario has ended.
    fn done(&self, mode: Mode, report: &ScenarioReport);
    /// The run has ended.
    fn end(&self);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: usize) {}
    fn scenario(&self, _: Mode, _: Scenario) {}
    fn step(&self, _: &str) {}
    fn traffic(&self, _: u64, _: u64) {}
    fn done(&self, _: Mode, _: &ScenarioReport) {}
    fn end(&self) {}
}

#[derive(Default)]
struct Now {
    scenario: String,
    step: String,
    requests: u64,
    failed: u64,
}

/// A bar where standard error is a terminal, plain lines where it is not.
pub struct Terminal {
    bar: Option<ProgressBar>,
    now: Mutex<Now>,
}

impl Terminal {
    /// Looks at standard error once.
    #[must_use]
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(8));
            // A template that is not understood leaves indicatif's own.
            if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:20}] {pos}/{len} {wide_msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(125));
            bar
        });
        Self { bar, now: Mutex::default() }
    }

    fn change(&self, change: impl FnOnce(&mut Now)) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut now);
        if let Some(bar) = &self.bar {
            bar.set_message(format!(
                "{}: {} ({} requests, {} lost)",
                now.scenario, now.step, now.requests, now.failed
            ));
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Terminal {
    fn begin(&self, runs: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(runs as u64);
        }
    }

    fn scenario(&self, mode: Mode, scenario: Scenario) {
        self.change(|now| {
            *now = Now { scenario: scenario.to_string(), ..Now::default() };
        });
        self.say(&format!("{scenario}, {mode}: {}", scenario.title()));
    }

    fn step(&self, text: &str) {
        self.change(|now| text.clone_into(&mut now.step));
        if self.bar.is_none() {
            eprintln!("  {text}");
        }
    }

    fn traffic(&self, requests: u64, failed: u64) {
        self.change(|now| (now.requests, now.failed) = (requests, failed));
    }

    fn done(&self, mode: Mode, report: &ScenarioReport) {
        let verdict = match (mode, report.passed) {
            (Mode::Loop, true) => ": passed",
            (Mode::Loop, false) => ": FAILED",
            _ => "",
        };
        self.say(&format!(
            "{}, {mode}: {} of {} requests lost, {:.1} s{verdict}",
            report.scenario, report.failed, report.requests, report.duration_s
        ));
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
