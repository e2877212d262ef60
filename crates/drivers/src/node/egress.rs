//! Lets Pods and nodes reach the world outside: their addresses mean nothing there, so the machine lends its own.
//!
//! One small nftables table for each cluster in the machine's own network namespace; nothing between nodes and Pods is touched.

use std::{
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

use super::plan::{ClusterPlan, egress_table};

/// nftables did not take the table.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// `nft` could not be run.
    #[error("cannot run nft")]
    Run(#[source] io::Error),
    /// `nft` refused.
    #[error("nft does not take the table {table}: {words}")]
    Refused {
        /// The table.
        table: String,
        /// What it said.
        words: String,
    },
}

/// Makes the table, in place of an earlier one. Blocks for a few milliseconds.
pub fn up(nft: &Path, plan: &ClusterPlan) -> Result<(), EgressError> {
    let table = egress_table(&plan.name);
    let ClusterPlan { link_net, pod_net, service_net, .. } = plan;
    run(
        nft,
        &table,
        &format!(
            "add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n  chain out {{\n    \
             type nat hook postrouting priority srcnat; policy accept;\n    \
             ip saddr {{ {link_net}, {pod_net} }} ip daddr != {{ {link_net}, {pod_net}, {service_net}, 127.0.0.0/8, \
             224.0.0.0/4 }} masquerade\n  }}\n}}\n"
        ),
    )
}

/// Removes the table. Again is no error.
pub fn down(nft: &Path, cluster: &str) -> Result<(), EgressError> {
    let table = egress_table(cluster);
    run(nft, &table, &format!("add table ip {table}\ndelete table ip {table}\n"))
}

/// Whether the table is there.
pub fn exists(nft: &Path, cluster: &str) -> Result<bool, EgressError> {
    let output = Command::new(nft).args(["list", "table", "ip", &egress_table(cluster)]).output();
    output.map(|output| output.status.success()).map_err(EgressError::Run)
}

fn run(nft: &Path, table: &str, script: &str) -> Result<(), EgressError> {
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(EgressError::Run)?;
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(script.as_bytes()));
    let output = child.wait_with_output().map_err(EgressError::Run)?;
    if output.status.success() {
        return written.map_err(EgressError::Run);
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(EgressError::Refused { table: table.to_owned(), words })
}
