//! Where a cluster's own files are.

use std::path::{Path, PathBuf};

use anyhow::Result;
use hitless_drivers::node::{
    plan::{ClusterPlan, NodePlan},
    process::Identity,
};

/// Directory of what does not outlive a cluster.
pub const RUN_DIR: &str = "/run/hitless";

/// The file that says which process is the engine.
pub fn identity(run_dir: &Path) -> PathBuf {
    run_dir.join("engine.json")
}

/// The slot that the cluster with this data directory had when it ran last, if it still has objects.
pub fn last_slot(data_dir: &Path) -> Option<u8> {
    std::fs::read_to_string(data_dir.join("slot"))
        .ok()?
        .trim()
        .parse()
        .ok()
        .filter(|_| data_dir.join(STORE).exists())
}

/// Removes the objects of the cluster with this data directory; images and keys stay.
pub fn forget_objects(data_dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(data_dir.join(STORE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

const STORE: &str = "store";

/// The files of one cluster.
#[derive(Clone, Debug)]
pub struct Files {
    run_dir: PathBuf,
    data_dir: PathBuf,
}

impl Files {
    /// The files of this cluster.
    pub fn of(plan: &ClusterPlan) -> Self {
        Self { run_dir: plan.run_dir.clone(), data_dir: plan.data_dir.clone() }
    }

    /// The files of the cluster with this data directory, when it is not known how it is laid out.
    pub fn kubeconfig_of(data_dir: &Path) -> PathBuf {
        data_dir.join("admin.kubeconfig")
    }

    /// What does not outlive the cluster.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        Self::kubeconfig_of(&self.data_dir)
    }

    /// Keys and certificates.
    pub fn pki(&self) -> PathBuf {
        self.data_dir.join("pki")
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.data_dir.join(STORE)
    }

    /// kubeconfig of a node's agent.
    pub fn node_kubeconfig(&self, node: &NodePlan) -> PathBuf {
        node.run_dir.join("agent.kubeconfig")
    }

    /// Settings of a node's agent.
    pub fn node_config(&self, node: &NodePlan) -> PathBuf {
        node.run_dir.join("agent.json")
    }

    /// Log of a node's agent.
    pub fn node_log(&self, node: &NodePlan) -> PathBuf {
        node.run_dir.join("agent.log")
    }

    /// Notes the slot, for the next start.
    pub fn write_slot(&self, slot: u8) -> Result<()> {
        Ok(std::fs::write(self.data_dir.join("slot"), slot.to_string())?)
    }

    /// Notes that this process is the cluster's engine.
    pub fn write_identity(&self) -> Result<()> {
        let pid = i32::try_from(std::process::id())?;
        if let Some(own) = Identity::of(pid)? {
            own.store(&identity(&self.run_dir))?;
        }
        Ok(())
    }
}
