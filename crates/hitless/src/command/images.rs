//! `hitless images import`: puts the images of an archive into every node of a cluster that runs.

use std::{
    fs::File,
    io::{BufReader, IsTerminal},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use hitless_drivers::{
    cri::Containerd,
    node::{import::import_stream, plan::ClusterPlan, programs::Programs},
};
use hitless_images::{Format, inspect, plain};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::{
    cli::{Images, Which},
    cluster,
    fault::Fault,
    steps::{Lines, Steps, say},
};

const BUFFER_BYTES: usize = 256 << 10;

/// Does what was asked.
pub async fn images(images: &Images) -> Result<ExitCode> {
    match images {
        Images::Import { which, files } => {
            if !rustix::process::geteuid().is_root() {
                return Err(Fault::refused("hitless needs root to import images", "run it with sudo").into());
            }
            let plan = running(which)?;
            let programs = Programs::find().map_err(|missing| Fault::refused(missing.to_string(), ""))?;
            for file in files {
                import(&plan, &programs, file).await?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn running(which: &Which) -> Result<ClusterPlan> {
    cluster::plan_of_running(&which.name, &cluster::paths(&which.data_dir))?.ok_or_else(|| {
        let name = &which.name;
        Fault::refused(
            format!("no cluster {name:?} runs on this machine"),
            "images are kept by its nodes: start it with `hitless up`, or name another with --name",
        )
        .into()
    })
}

async fn import(plan: &ClusterPlan, programs: &Programs, path: &Path) -> Result<()> {
    let refused = |words: String| Fault::refused(format!("{}: {words}", path.display()), "");
    let file = File::open(path).map_err(|error| refused(format!("cannot be opened: {error}")))?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(refused("is no file".to_owned()).into());
    }
    let looked = tokio::task::spawn_blocking(move || inspect(BufReader::new(file))).await?;
    let contents = looked.map_err(|error| refused(error.to_string()))?;
    let kind = match contents.format {
        Format::Oci => "an OCI image layout",
        Format::Docker => "written by docker save",
    };
    say(&format!("{}: {kind}, {}", path.display(), contents.references.join(", ")));
    let length = meta.len();
    let bar = bar(length * plan.nodes.len() as u64);
    let all = plan.nodes.iter().map(|node| {
        let (bar, references) = (&bar, &contents.references);
        async move {
            let began = Instant::now();
            let runtime = Containerd::connect(node.socket.clone());
            let file = bar.wrap_read(File::open(path)?);
            let archive = plain(BufReader::with_capacity(BUFFER_BYTES, file))?;
            let name = (&*path.to_string_lossy(), length);
            let ids = import_stream(node, programs, &runtime, name, archive, references).await?;
            let ids: Vec<&str> = ids.iter().map(|id| id.get(..19).unwrap_or(id)).collect();
            bar.suspend(|| Lines.done(&format!("{}: {}", node.name, ids.join(", ")), began.elapsed()));
            anyhow::Ok(())
        }
    });
    let done = futures::future::try_join_all(all).await;
    bar.finish_and_clear();
    done.map(|_| ())
}

/// A bar of bytes on a terminal, nothing elsewhere.
fn bar(bytes: u64) -> ProgressBar {
    let to = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr_with_hz(8)
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(bytes), to);
    // A template that is not understood leaves indicatif's own.
    if let Ok(style) = ProgressStyle::with_template("  [{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(125));
    bar
}
