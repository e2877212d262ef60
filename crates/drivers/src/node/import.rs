//! Puts image archives into a node's containerd, as CRI sees them.
//!
//! By containerd's own client: the transfer of layers is containerd's affair, and its protocol changes between versions where the client
//! does not. An image that is there with the same id is left as it is.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use hitless_base::Backoff;
use hitless_kubelet::ports::{Runtime, RuntimeError};
use tokio::{io::AsyncWriteExt, process::Command, time::Instant};

use super::{config::snapshotter_of, plan::NodePlan, programs::Programs};
use crate::cri::Containerd;

/// Bound of one import.
const IMPORT_BOUND: Duration = Duration::from_secs(120);
/// How long CRI may lag behind containerd in seeing a new image.
const SEEN_BOUND: Duration = Duration::from_secs(10);

/// An image archive: an OCI layout or a `docker save` in a tar file.
#[derive(Clone, Copy, Debug)]
pub enum Archive<'a> {
    /// In memory, with the one image that it holds: the reference by which Pods name it, and its id (`sha256:...`).
    Memory {
        /// Name and tag.
        reference: &'a str,
        /// Digest of the image's configuration.
        id: &'a str,
        /// The tar file.
        tar: &'a [u8],
    },
    /// A file, whose images are named in it.
    File(&'a Path),
}

/// An archive could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot read the image archive {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// `ctr` could not be run.
    #[error("cannot run ctr to import an image")]
    Run(#[source] io::Error),
    /// containerd does not take it.
    #[error("containerd of {node} does not take the image archive {name}: {words}")]
    Refused {
        /// The node.
        node: String,
        /// The reference or the path.
        name: String,
        /// What was said.
        words: String,
    },
    /// It did not end in its time.
    #[error("the import of {name} on {node} did not end within {bound_s} s")]
    Timeout {
        /// The node.
        node: String,
        /// The reference or the path.
        name: String,
        /// The bound in seconds.
        bound_s: u64,
    },
    /// The runtime cannot be asked about images.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Imports the archives one after another. Gives how many were not there before (each file counts).
pub async fn import(
    node: &NodePlan,
    programs: &Programs,
    runtime: &Containerd,
    archives: &[Archive<'_>],
) -> Result<usize, ImportError> {
    let mut imported = 0;
    for archive in archives {
        if let Archive::Memory { reference, id, .. } = archive
            && has(runtime, reference, id).await?
        {
            continue;
        }
        one(node, programs, archive).await?;
        if let Archive::Memory { reference, id, .. } = archive {
            seen(node, runtime, reference, id).await?;
        }
        imported += 1;
    }
    Ok(imported)
}

async fn has(runtime: &Containerd, reference: &str, id: &str) -> Result<bool, RuntimeError> {
    Ok(runtime.image_status(reference).await?.is_some_and(|image| image.id == id))
}

async fn one(node: &NodePlan, programs: &Programs, archive: &Archive<'_>) -> Result<(), ImportError> {
    let name = match archive {
        Archive::Memory { reference, .. } => (*reference).to_owned(),
        Archive::File(path) => path.display().to_string(),
    };
    let mut command = Command::new(&programs.ctr);
    command.arg("--address").arg(&node.socket).args(["--namespace", "k8s.io", "images", "import"]);
    command.arg("--snapshotter").arg(snapshotter_of(node).name()).arg("-");
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let bytes = match archive {
        Archive::Memory { tar, .. } => {
            command.stdin(Stdio::piped());
            Some(*tar)
        }
        Archive::File(path) => {
            let opened = File::open(path);
            command.stdin(opened.map_err(|source| ImportError::File { path: path.to_path_buf(), source })?);
            None
        }
    };
    let mut child = command.spawn().map_err(ImportError::Run)?;
    let input = child.stdin.take();
    let work = async {
        if let (Some(mut input), Some(bytes)) = (input, bytes) {
            // If `ctr` refuses, it closes its end; what it says matters then, not the broken pipe.
            let _refused = input.write_all(bytes).await;
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(IMPORT_BOUND, work).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(ImportError::Refused { node: node.name.clone(), name, words })
        }
        Ok(Err(error)) => Err(ImportError::Run(error)),
        Err(_) => {
            Err(ImportError::Timeout { node: node.name.clone(), name, bound_s: IMPORT_BOUND.as_secs() })
        }
    }
}

/// CRI learns of a new image through an event, a moment later.
async fn seen(node: &NodePlan, runtime: &Containerd, reference: &str, id: &str) -> Result<(), ImportError> {
    let end = Instant::now() + SEEN_BOUND;
    let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(20));
    while !has(runtime, reference, id).await? {
        if Instant::now() >= end {
            let words = format!("it is imported, but the runtime does not show it as {id}");
            return Err(ImportError::Refused { node: node.name.clone(), name: reference.to_owned(), words });
        }
        tokio::time::sleep(backoff.step()).await;
    }
    Ok(())
}
