//! What is checked before anything is begun: each fault is one sentence with what to do.

use std::{io, path::Path, time::Duration};

use hitless_drivers::node::plan::{self, Paths};
use tokio::{net::TcpListener, time::Instant};

use crate::fault::Fault;

/// Namespaces, mounts and cgroups are root's.
pub fn root() -> Result<(), Fault> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Fault::refused(
        "hitless needs root: it makes network namespaces, mounts and cgroups",
        "run it with sudo",
    ))
}

/// The name becomes part of paths, so it is looked at before anything else is done with it.
pub fn name(name: &str) -> Result<(), Fault> {
    plan::check_name(name)
        .map_err(|error| Fault::refused(error.to_string(), "choose another one with --name"))
}

/// The cluster's own directory of images, objects, keys and logs.
pub fn data_dir(path: &Path) -> Result<(), Fault> {
    std::fs::create_dir_all(path).map_err(|error| {
        Fault::refused(
            format!("cannot make the directory {}: {error}", path.display()),
            "choose another one with --data-dir",
        )
    })
}

/// How long an engine that was just killed may take to be gone, with all that it held.
pub const DYING: Duration = Duration::from_millis(500);

/// Two engines for one cluster would fight.
pub async fn not_running(name: &str, paths: &Paths) -> Result<(), Fault> {
    let end = Instant::now() + DYING;
    while let Some(engine) = super::engine_of(name, paths) {
        if Instant::now() >= end {
            return Err(Fault::refused(
                format!("the cluster {name:?} is up already (process {})", engine.pid),
                format!("`hitless down --name {name}` stops it; `--name OTHER` starts one beside it"),
            ));
        }
        tokio::time::sleep(DYING / 50).await;
    }
    Ok(())
}

/// The API server's port.
pub async fn port(port: u16) -> Result<TcpListener, Fault> {
    match TcpListener::bind(("127.0.0.1", port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Fault::refused(
            format!("port {port} on 127.0.0.1 is in use"),
            "choose another one with --port, or 0 for a free one",
        )),
        Err(error) => Err(Fault::refused(
            format!("cannot listen on 127.0.0.1:{port}: {error}"),
            "choose another port with --port",
        )),
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn a_port_in_use_is_refused_with_what_to_do() {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fault = super::port(taken.local_addr().unwrap().port()).await.unwrap_err();
        assert_eq!(fault.code, 2);
        assert!(fault.to_string().contains("is in use") && fault.to_string().contains("--port"), "{fault}");
    }
}
