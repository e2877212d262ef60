//! Puts image archives into a node's containerd, as CRI sees them.
//!
//! By containerd's own client: the transfer of layers is containerd's affair, and its protocol changes between versions where the client
//! does not. An image that is there with the same id is left as it is.

use std::{
    io::{self, Read},
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use hitless_base::Backoff;
use hitless_kubelet::ports::{Runtime, RuntimeError};
use tokio::{
    io::AsyncWriteExt,
    process::{ChildStdin, Command},
    sync::mpsc,
    time::Instant,
};

use super::{config::snapshotter_of, plan::NodePlan, programs::Programs};
use crate::cri::{self, Containerd};

/// Bound of one import; of a file, more by its length.
const IMPORT_BOUND: Duration = Duration::from_secs(120);
/// No disk is slower.
const SLOWEST_BYTES_PER_S: u64 = 5 << 20;
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks that wait for containerd.
const CHUNKS_AHEAD: usize = 2;
/// How long CRI may lag behind containerd in seeing a new image.
const SEEN_BOUND: Duration = Duration::from_secs(10);

/// An image archive in memory, with one image.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a> {
    /// Name and tag by which Pods name it.
    pub reference: &'a str,
    /// Its id, the digest of its configuration: `sha256:...`.
    pub id: &'a str,
    /// The tar file.
    pub tar: &'a [u8],
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

/// Imports the archives one after another. Gives how many were not there before.
pub async fn import(
    node: &NodePlan,
    programs: &Programs,
    runtime: &Containerd,
    archives: &[Archive<'_>],
) -> Result<usize, ImportError> {
    let mut imported = 0;
    for archive in archives {
        let Archive { reference, id, tar } = archive;
        if has(runtime, reference, id).await? {
            continue;
        }
        one(node, programs, reference, tar).await?;
        seen(node, runtime, reference, Some(id)).await?;
        imported += 1;
    }
    Ok(imported)
}

async fn has(runtime: &Containerd, reference: &str, id: &str) -> Result<bool, RuntimeError> {
    Ok(runtime.image_status(reference).await?.is_some_and(|image| image.id == id))
}

/// Imports an archive of `length` bytes or about as many, whose images are known by these references. `name` is what errors call it.
/// Gives the images' ids, in the order of the references.
pub async fn import_stream(
    node: &NodePlan,
    programs: &Programs,
    runtime: &Containerd,
    (name, length): (&str, u64),
    mut archive: impl Read + Send + 'static,
    references: &[String],
) -> Result<Vec<String>, ImportError> {
    let unreadable = |source| ImportError::File { path: name.into(), source };
    let (send, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
    let reader = tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let read = match archive.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    chunk.truncate(count);
                    Ok(chunk)
                }
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if send.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    let feed = async |mut input: ChildStdin| {
        while let Some(chunk) = chunks.recv().await {
            // If `ctr` refuses, it closes its end; what it says matters then, not the broken pipe.
            if input.write_all(&chunk.map_err(unreadable)?).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let bound = IMPORT_BOUND + Duration::from_secs(length / SLOWEST_BYTES_PER_S);
    let done = run(node, programs, name, bound, feed).await;
    drop(chunks);
    let _ends_with_its_channel = reader.await;
    done?;
    let mut ids = Vec::new();
    for reference in references {
        ids.push(seen(node, runtime, reference, None).await?);
        mark(node, programs, reference).await?;
    }
    Ok(ids)
}

async fn one(node: &NodePlan, programs: &Programs, reference: &str, tar: &[u8]) -> Result<(), ImportError> {
    let feed = async |mut input: ChildStdin| {
        let _refused = input.write_all(tar).await;
        Ok(())
    };
    run(node, programs, reference, IMPORT_BOUND, feed).await
}

/// Runs `ctr` on what `feed` writes into it.
async fn run(
    node: &NodePlan,
    programs: &Programs,
    name: &str,
    bound: Duration,
    feed: impl AsyncFnOnce(ChildStdin) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let mut command = ctr(node, programs);
    command.args(["images", "import", "--snapshotter"]).arg(snapshotter_of(node).name()).arg("-");
    command.stdin(Stdio::piped());
    let mut child = command.spawn().map_err(ImportError::Run)?;
    let input = child.stdin.take();
    let work = async {
        let fed = async {
            match input {
                Some(input) => feed(input).await,
                None => Ok(()),
            }
        };
        // What it says is read meanwhile: a pipe that is full would stop it.
        let (fed, output) = tokio::join!(fed, child.wait_with_output());
        fed.and(output.map_err(ImportError::Run))
    };
    ended(node, name, bound, work).await
}

/// Waits for `ctr`, and says what it said.
async fn ended(
    node: &NodePlan,
    name: &str,
    bound: Duration,
    work: impl Future<Output = Result<Output, ImportError>>,
) -> Result<(), ImportError> {
    let (node, name) = (node.name.clone(), name.to_owned());
    match tokio::time::timeout(bound, work).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(ImportError::Refused { node, name, words })
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ImportError::Timeout { node, name, bound_s: bound.as_secs() }),
    }
}

/// Notes that no registry has given the image.
async fn mark(node: &NodePlan, programs: &Programs, reference: &str) -> Result<(), ImportError> {
    let mut command = ctr(node, programs);
    command.args(["images", "label", reference]).arg(format!("{}=true", cri::IMPORTED));
    let work = async { command.stdin(Stdio::null()).output().await.map_err(ImportError::Run) };
    ended(node, reference, IMPORT_BOUND, work).await
}

/// containerd's client, for this node.
fn ctr(node: &NodePlan, programs: &Programs) -> Command {
    let mut command = Command::new(&programs.ctr);
    command.arg("--address").arg(&node.socket).args(["--namespace", cri::NAMESPACE]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// CRI learns of a new image through an event, a moment later. Gives its id, which is to be `id`, if one is given.
async fn seen(
    node: &NodePlan,
    runtime: &Containerd,
    reference: &str,
    id: Option<&str>,
) -> Result<String, ImportError> {
    let end = Instant::now() + SEEN_BOUND;
    let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(20));
    loop {
        if let Some(image) = runtime.image_status(reference).await?
            && id.is_none_or(|id| image.id == id)
        {
            return Ok(image.id);
        }
        if Instant::now() >= end {
            let what = id.map(|id| format!(" as {id}")).unwrap_or_default();
            let words = format!("it is imported, but the runtime does not show {reference}{what}");
            return Err(ImportError::Refused { node: node.name.clone(), name: reference.to_owned(), words });
        }
        tokio::time::sleep(backoff.step()).await;
    }
}
