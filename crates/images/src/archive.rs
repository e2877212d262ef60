//! An OCI image with one layer, as a tar file that holds an OCI image layout.
//!
//! Written after the OCI image specification 1.0. Deterministic: no clock, no owner but root, entries in the order given.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image that `ctr images import` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageArchive {
    /// Name and tag, as a Pod names it.
    pub reference: &'static str,
    /// The image's id: the digest of its configuration (`sha256:...`), as CRI reports it.
    pub id: String,
    /// The archive.
    pub tar: Vec<u8>,
}

/// An archive could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// An entry does not fit the tar format (a path too long, say).
    #[error("image archive entry {path:?}")]
    Entry {
        /// Path in the archive or in the layer.
        path: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The image is for an architecture whose OCI name is not known here.
    #[error("no OCI name is known for the architecture {0:?}")]
    Architecture(&'static str),
}

/// What lies in the layer.
pub(crate) enum Entry<'a> {
    /// A directory; the path ends with `/`.
    Directory { path: &'a str },
    /// A symbolic link.
    Link { path: &'a str, target: &'a str },
    /// A file that can be executed.
    Program { path: &'a str, bytes: &'a [u8] },
}

/// What the image says of how it is run.
pub(crate) struct ImageConfig<'a> {
    pub entrypoint: &'a [&'a str],
    pub path: &'a str,
}

pub(crate) fn build(
    reference: &'static str,
    entries: &[Entry<'_>],
    config: &ImageConfig<'_>,
) -> Result<ImageArchive, ImageError> {
    let architecture = architecture()?;
    let layer = layer(entries)?;
    let config = json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Env": [format!("PATH={}", config.path)],
            "Entrypoint": config.entrypoint,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "hitless"}],
    });
    let config = bytes(&config);
    let id = digest(&config);
    let manifest = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": [descriptor(LAYER, &layer)],
    }));
    let mut named = descriptor(MANIFEST, &manifest);
    named["platform"] = json!({"architecture": architecture, "os": "linux"});
    named["annotations"] = json!({
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rsplit_once(':').map_or("latest", |(_, tag)| tag),
    });
    let index = bytes(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]}));
    let tar = layout(&index, &[&manifest, &config, &layer])?;
    Ok(ImageArchive { reference, id, tar })
}

fn layout(index: &[u8], blobs: &[&[u8]]) -> Result<Vec<u8>, ImageError> {
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, "oci-layout", EntryType::Regular, 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add(&mut tar, "index.json", EntryType::Regular, 0o644, index)?;
    for blob in blobs {
        let path = format!("blobs/{}", digest(blob).replace(':', "/"));
        add(&mut tar, &path, EntryType::Regular, 0o644, blob)?;
    }
    finish(tar)
}

fn layer(entries: &[Entry<'_>]) -> Result<Vec<u8>, ImageError> {
    let mut tar = Builder::new(Vec::new());
    for entry in entries {
        match entry {
            Entry::Directory { path } => add(&mut tar, path, EntryType::Directory, 0o755, &[])?,
            Entry::Program { path, bytes } => add(&mut tar, path, EntryType::Regular, 0o755, bytes)?,
            Entry::Link { path, target } => {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                tar.append_link(&mut header, path, target).map_err(|source| failed(path, source))?;
            }
        }
    }
    finish(tar)
}

fn add(
    tar: &mut Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    content: &[u8],
) -> Result<(), ImageError> {
    let mut header = header(kind, mode, content.len() as u64);
    tar.append_data(&mut header, path, content).map_err(|source| failed(path, source))
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn finish(tar: Builder<Vec<u8>>) -> Result<Vec<u8>, ImageError> {
    tar.into_inner().map_err(|source| failed("(end)", source))
}

fn failed(path: &str, source: std::io::Error) -> ImageError {
    ImageError::Entry { path: path.to_owned(), source }
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(content))
}

fn architecture() -> Result<&'static str, ImageError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => Err(ImageError::Architecture(other)),
    }
}
