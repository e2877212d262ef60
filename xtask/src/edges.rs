//! The edges between crates, against the committed list: a new edge is a change of its own.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The committed list: one `crate -> crate` a line, and one `floor N: crate ...` for each floor.
const LIST: &str = "xtask/edges.txt";

/// What is wrong with the edges.
pub fn faults() -> Result<Vec<String>> {
    let list = fs::read_to_string(LIST).with_context(|| format!("cannot read {LIST}"))?;
    let allowed: BTreeSet<&str> = list.lines().filter(|line| line.contains(" -> ")).collect();
    let actual = actual()?;
    let mut faults: Vec<String> = actual
        .iter()
        .filter(|edge| !allowed.contains(edge.as_str()))
        .map(|edge| {
            format!("{edge}: this edge is not in {LIST}; a new edge between crates is a change of its own")
        })
        .collect();
    faults.extend(
        allowed
            .iter()
            .filter(|edge| !actual.contains(**edge))
            .map(|edge| format!("{edge}: {LIST} lists an edge that is gone")),
    );
    faults.extend(actual.iter().filter_map(|edge| against_the_floors(&list, edge)));
    Ok(faults)
}

/// Prints the edges as they are.
pub fn print() -> Result<()> {
    for edge in actual()? {
        println!("{edge}");
    }
    Ok(())
}

/// Why an edge breaks the rule that a crate uses only lower floors (on floor 1 and above: no crate of its own floor).
fn against_the_floors(list: &str, edge: &str) -> Option<String> {
    let (from, to) = edge.split_once(" -> ")?;
    let (a, b) = (floor(list, from), floor(list, to));
    match (a, b) {
        (Some(a), Some(b)) if b < a || (a == 0 && b == 0) => None,
        (Some(a), Some(b)) => Some(format!("{edge}: floor {a} may not use floor {b}")),
        _ => Some(format!("{edge}: {LIST} names no floor for one of them")),
    }
}

fn floor(list: &str, name: &str) -> Option<u8> {
    list.lines().find_map(|line| {
        let (floor, crates) = line.strip_prefix("floor ")?.split_once(": ")?;
        crates.split_whitespace().any(|c| c == name).then(|| floor.parse().ok())?
    })
}

/// The normal edges between the workspace's own crates (edges for tests only are free).
fn actual() -> Result<BTreeSet<String>> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata gave no JSON")?;
    let mut edges = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let from = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let own = dependency["path"].is_string();
            let normal = dependency["kind"].as_str() != Some("dev");
            if own && normal {
                edges.insert(format!("{from} -> {}", dependency["name"].as_str().unwrap_or_default()));
            }
        }
    }
    Ok(edges)
}
