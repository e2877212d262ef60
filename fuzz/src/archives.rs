//! Image archives: bytes as they come, and archives in which only the words are at fault.

use std::io::Cursor;

use hitless_images::inspect;
use sha2::{Digest, Sha256};

/// The bytes as an archive; and an archive whose files hold them: `index.json`, a manifest and a configuration, parted by zero bytes, all
/// under their right digests, so that what reads the JSON is reached.
pub fn archives(data: &[u8]) {
    if let Ok(contents) = inspect(Cursor::new(data)) {
        assert!(!contents.references.is_empty(), "an archive whose images have no names cannot be imported");
    }
    if let Some(archive) = composed(data) {
        let _either = inspect(Cursor::new(archive));
    }
}

/// `MANIFEST` and `CONFIG` in the words stand for the digests of the blobs.
fn composed(data: &[u8]) -> Option<Vec<u8>> {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut next = || parts.next().and_then(|part| std::str::from_utf8(part).ok());
    let (index, manifest, config) = (next()?, next()?, next()?);
    let config_digest = digest(config.as_bytes());
    let manifest = manifest.replace("CONFIG", &config_digest);
    let manifest_digest = digest(manifest.as_bytes());
    let index = index.replace("MANIFEST", &manifest_digest).replace("CONFIG", &config_digest);
    let mut archive = tar::Builder::new(Vec::new());
    let blob = |digest: &str| format!("blobs/sha256/{digest}");
    for (path, content) in [
        ("oci-layout".to_owned(), r#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json".to_owned(), &index),
        ("manifest.json".to_owned(), &index),
        (blob(&manifest_digest), &manifest),
        (blob(&config_digest), config),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, content.as_bytes()).ok()?;
    }
    archive.into_inner().ok()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
