//! Runs scenarios one after another: set up, traffic, action, traffic, tear down, verdict.
//!
//! What must hold: a scenario that fails does not end the run, and however one ends (also when the caller cancels), its
//! namespace and its faults are taken away again.

use std::{sync::Arc, time::Duration};

use hitless_base::Timestamp;
use kube::Client;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Clusters, Mode, Options, Progress, ProveError, Report, Scenario, ScenarioReport,
    actions::Stage,
    lines::Tally,
    report::{self, Measured},
    space::{Space, ready_nodes},
    traffic::Traffic,
    undo::Undos,
    withdrawal::Expectation,
};

/// Traffic flows so long before and after the action.
const TRAFFIC_AROUND: Duration = Duration::from_secs(1);
/// The bound of a scenario that is carried out once; each of its waits has one of its own, and this one bounds their sum.
const SCENARIO_WITHIN: Duration = Duration::from_secs(600);
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(90);

/// Runs every scenario of `options`, with the loop on and, for a comparison, without. Ends early with
/// [`ProveError::Cancelled`] once `cancel` is cancelled, after cleaning up.
///
/// # Errors
/// No cluster, or cancelled. A scenario that cannot be carried out is no error: its report says why it did not pass.
pub async fn run<C: Clusters>(
    clusters: &mut C,
    options: &Options,
    progress: Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<Report, ProveError> {
    let result = run_modes(clusters, options, &progress, cancel).await;
    progress.end();
    result
}

async fn run_modes<C: Clusters>(
    clusters: &mut C,
    options: &Options,
    progress: &Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<Report, ProveError> {
    let modes = if options.compare { &[Mode::Loop, Mode::LoopOff, Mode::Sleep][..] } else { &[Mode::Loop] };
    progress.begin(options.scenarios.len() * modes.len());
    let mut report = Report::default();
    for mode in modes.iter().copied() {
        let bring = clusters.client(mode);
        let client = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ProveError::Cancelled),
            client = bring => client.map_err(|source| ProveError::Cluster { mode, source })?,
        };
        let mut results = Vec::new();
        for scenario in options.scenarios.iter().copied() {
            progress.scenario(mode, scenario);
            let result = run_scenario(&client, scenario, mode, options, progress, cancel).await?;
            progress.done(mode, &result);
            results.push(result);
        }
        report.take(mode, results);
    }
    Ok(report)
}

/// One scenario, cleaned up after. Only a cancellation is an error.
async fn run_scenario(
    client: &Client,
    scenario: Scenario,
    mode: Mode,
    options: &Options,
    progress: &Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<ScenarioReport, ProveError> {
    progress.step("setting up");
    let undos = Undos::default();
    let name = format!("prove-{scenario}-{:06x}", Timestamp::now().as_microsecond() & 0xff_ffff);
    let (mut measured, space) = match Space::create(client.clone(), name).await {
        Err(error) => (failed(scenario, &error), None),
        Ok(space) => {
            let within = SCENARIO_WITHIN + options.requests_within();
            let body = timeout(within, carry_out(&space, scenario, mode, options, &undos, progress));
            let measured = tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ProveError::Cancelled),
                done = body => done.unwrap_or_else(|_| Err(too_long(scenario, within))),
            };
            (measured.unwrap_or_else(|error| failed(scenario, &error)), Some(space))
        }
    };
    progress.step("cleaning up");
    let clean_up = async {
        let mut problems = undos.run_all(client).await;
        if let Some(space) = space
            && let Err(error) = space.destroy(mode.loop_on()).await
        {
            problems.push(hitless_base::chain(&error));
        }
        problems
    };
    match timeout(CLEAN_UP_WITHIN, clean_up).await {
        Ok(problems) => measured.problems.extend(problems),
        Err(_) => {
            measured.problems.push(format!("cleaning up took more than {} s", CLEAN_UP_WITHIN.as_secs()))
        }
    }
    if cancel.is_cancelled() {
        return Err(ProveError::Cancelled);
    }
    Ok(report::judge(measured, options))
}

fn too_long(scenario: Scenario, within: Duration) -> ProveError {
    let what = format!("the scenario {scenario}");
    ProveError::TimedOut { what, seconds: within.as_secs(), missing: "its end".to_owned() }
}

/// A scenario that did not get as far as measuring.
fn failed(scenario: Scenario, error: &ProveError) -> Measured {
    Measured {
        scenario,
        tally: Tally::default(),
        stops: Vec::new(),
        expectations: Vec::new(),
        duration_s: 0.0,
        problems: vec![hitless_base::chain(error)],
    }
}

async fn carry_out(
    space: &Space,
    scenario: Scenario,
    mode: Mode,
    options: &Options,
    undos: &Undos,
    progress: &Arc<dyn Progress>,
) -> Result<Measured, ProveError> {
    let nodes = ready_nodes(&space.client).await?;
    if nodes.len() < scenario.nodes_min() {
        return Err(ProveError::TooFewNodes { needed: scenario.nodes_min(), found: nodes.len() });
    }
    let plan = scenario.plan(mode);
    space.set_up(&plan).await?;
    progress.step("starting traffic");
    let traffic = Traffic::start(space, &nodes, options, progress).await?;
    sleep(TRAFFIC_AROUND).await;
    let started = Instant::now();
    let stage = Stage { space, plan: &plan, nodes: &nodes, undos, progress };
    let acted = act(&stage, scenario, &traffic, options.requests_each()).await;
    let duration_s = started.elapsed().as_secs_f64();
    progress.step("last requests");
    sleep(TRAFFIC_AROUND).await;
    let (tally, mut problems) = traffic.stop().await;
    let expectations = acted.unwrap_or_else(|error| {
        problems.push(hitless_base::chain(&error));
        Vec::new()
    });
    let stops = space.stops().await.unwrap_or_else(|error| {
        problems.push(hitless_base::chain(&error));
        Vec::new()
    });
    Ok(Measured { scenario, tally, stops, expectations, duration_s, problems })
}

/// Carries it out, again and again until so many requests have been sent.
async fn act(
    stage: &Stage<'_>,
    scenario: Scenario,
    traffic: &Traffic,
    requests: u64,
) -> Result<Vec<Expectation>, ProveError> {
    let mut expectations = Vec::new();
    loop {
        expectations.extend(stage.act(scenario).await?);
        if traffic.sent() >= requests {
            return Ok(expectations);
        }
    }
}

#[cfg(test)]
mod tests;
