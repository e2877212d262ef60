//! The images that the project builds: the sandbox and the small HTTP server, embedded as OCI archives.
//!
//! Images cannot be pulled on every machine, and each sandbox needs one, so the binary carries them. The programs are
//! static (see `build.rs`); an image is such a program and nothing else: no shell, no libraries. An archive is an OCI
//! image layout in a tar file, as `ctr images import` takes it. The same build gives the same bytes and so the same digests.

mod archive;
mod inspect;

pub use archive::{ImageArchive, ImageError};
pub use inspect::{Contents, Format, InspectError, inspect, plain};

use archive::{Entry, ImageConfig};

/// The sandbox image.
pub const PAUSE: &str = "hitless.dev/pause:1";
/// The small HTTP server.
pub const WEB: &str = "hitless.dev/web:1";

static PAUSE_PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
static WEB_PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/web"));

/// Every image of the project, the sandbox's first. A few milliseconds of work and a few megabytes each.
pub fn archives() -> Result<Vec<ImageArchive>, ImageError> {
    Ok(vec![pause()?, web()?])
}

/// The sandbox's image: `/pause`.
pub fn pause() -> Result<ImageArchive, ImageError> {
    let entries = [Entry::Program { path: "pause", bytes: PAUSE_PROGRAM }];
    archive::build(PAUSE, &entries, &ImageConfig { entrypoint: &["/pause"], path: "/" })
}

/// The server's image: `/web`, which `/bin/web` leads to.
pub fn web() -> Result<ImageArchive, ImageError> {
    let entries = [
        Entry::Directory { path: "bin/" },
        Entry::Link { path: "bin/web", target: "/web" },
        Entry::Program { path: "web", bytes: WEB_PROGRAM },
    ];
    archive::build(WEB, &entries, &ImageConfig { entrypoint: &["/web"], path: "/bin" })
}

#[cfg(test)]
mod tests;
