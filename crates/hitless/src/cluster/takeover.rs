//! What an engine that died has left running: its nodes, containers and agents go on, and the next engine takes them over.
//!
//! What must hold: only a cluster that is laid out as it is wanted now is taken over, and only on the boot that it ran on; anything
//! else is taken away before a new start. Nothing is believed but what the kernel still shows: this file only says how the
//! cluster was started.

use std::path::{Path, PathBuf};

use hitless_drivers::node::{plan::Paths, process::Identity};
use serde::{Deserialize, Serialize};

use super::{Files, Wanted, files};

/// How a cluster was started, as far as its nodes depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    nodes: u8,
    loop_on: bool,
    /// Where each node's ingress listens.
    ingress_ports: Option<(u16, u16)>,
    /// Port of the API server, which the agents and everybody's kubeconfig name.
    pub port: u16,
    boot: String,
}

fn file(run_dir: &Path) -> PathBuf {
    run_dir.join("started.json")
}

fn boot() -> Option<String> {
    let own = Identity::of(i32::try_from(std::process::id()).ok()?).ok()??;
    Some(own.boot)
}

/// Notes that the cluster is ready as it was wanted, at this port.
pub fn note(wanted: &Wanted, files: &Files, port: u16) -> anyhow::Result<()> {
    let boot = boot().unwrap_or_default();
    let ingress_ports = wanted.ingress_ports.0;
    let started = Started { nodes: wanted.nodes, loop_on: wanted.loop_on, ingress_ports, port, boot };
    Ok(std::fs::write(file(files.run_dir()), serde_json::to_vec(&started)?)?)
}

/// What can be taken over instead of a start from nothing.
pub fn find(wanted: &Wanted) -> Option<Started> {
    let text = std::fs::read(file(&wanted.paths.run_of(&wanted.name))).ok()?;
    let started: Started = serde_json::from_slice(&text).ok()?;
    let objects = files::last_slot(&wanted.paths.data_of(&wanted.name)).is_some();
    (objects && fits(&started, wanted, &boot()?)).then_some(started)
}

/// How many nodes the cluster of this name was started with, as far as anybody has noted.
pub fn nodes(name: &str, paths: &Paths) -> Option<u8> {
    let text = std::fs::read(file(&paths.run_of(name))).ok()?;
    serde_json::from_slice::<Started>(&text).ok().map(|started| started.nodes)
}

fn fits(started: &Started, wanted: &Wanted, boot: &str) -> bool {
    started.boot == boot
        && (started.nodes, started.loop_on) == (wanted.nodes, wanted.loop_on)
        && started.ingress_ports == wanted.ingress_ports.0
        && (wanted.port == 0 || wanted.port == started.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::IngressPorts;

    #[test]
    fn only_what_is_laid_out_as_it_is_wanted_fits() {
        let started = Started { nodes: 2, loop_on: true, ingress_ports: None, port: 6443, boot: "b".into() };
        let wanted = Wanted {
            name: "x".into(),
            nodes: 2,
            port: 0,
            paths: crate::cluster::paths(Path::new("/nowhere")),
            loop_on: true,
            ingress_ports: IngressPorts(None),
        };
        assert!(fits(&started, &wanted, "b"));
        assert!(fits(&started, &Wanted { port: 6443, ..wanted.clone() }, "b"));
        for other in [
            Wanted { port: 6444, ..wanted.clone() },
            Wanted { nodes: 3, ..wanted.clone() },
            Wanted { loop_on: false, ..wanted.clone() },
        ] {
            assert!(!fits(&started, &other, "b"), "{other:?}");
        }
        assert!(!fits(&started, &wanted, "another boot"));
        assert_eq!(find(&wanted), None);
    }
}
