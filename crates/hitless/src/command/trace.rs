//! `hitless trace`.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Result;

use crate::{
    cli::{Output, Trace},
    fault::Fault,
    steps::say,
    trace,
};

/// Shows a Pod's life.
pub async fn trace(asked: &Trace) -> Result<ExitCode> {
    let name = asked.what.strip_prefix("pod/").or_else(|| asked.what.strip_prefix("pods/"));
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Err(Fault::refused(
            format!("{:?} cannot be traced", asked.what),
            "name a Pod: hitless trace pod/NAME",
        )
        .into());
    };
    let client = super::client(&asked.reach).await?;
    let life = trace::of_pod(&client, &asked.namespace, name).await?;
    match asked.output {
        Output::Text => say(trace::text(&life, std::io::stdout().is_terminal()).trim_end()),
        Output::Json => say(&serde_json::to_string_pretty(&life)?),
    }
    Ok(ExitCode::SUCCESS)
}
