//! What an image archive from elsewhere holds, seen before a container runtime gets it.
//!
//! Two kinds are known: a tar file with an OCI image layout (image specification 1.0) and one of `docker save`; either may be
//! compressed with gzip. What must hold: nothing is ever written here, memory does not grow with the archive, every entry stays within the
//! archive's own directory, and every image that it names has all its parts. What lies inside of layers is the runtime's affair.

use std::{
    collections::HashMap,
    io::{BufRead, Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use tar::{Archive, EntryType};

/// More entries than this are in no image: a layer is one entry.
const ENTRIES_MAX: usize = 10_000;
/// The longest index, manifest or long name that is read.
const TEXT_BYTES_MAX: u64 = 4 << 20;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An OCI image layout.
    Oci,
    /// `docker save`.
    Docker,
}

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// What it is.
    pub format: Format,
    /// The references under which its images will be known, whole: `docker.io/library/nginx:1.19`. In their order, each once.
    pub references: Vec<String>,
}

/// The archive is not one, or not one that may be imported.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It ends early, or is no tar file.
    #[error("it is not a whole tar file: {0}")]
    Tar(#[source] std::io::Error),
    /// Compressed in another way.
    #[error("it is compressed with zstd; decompress it first (`zstd -d FILE`)")]
    Zstd,
    /// A path that leads out of the archive.
    #[error("its entry {0:?} leads out of the archive")]
    Outside(String),
    /// A link that leads out of the archive.
    #[error("its link {path:?} leads out of the archive, to {target:?}")]
    LinkOutside {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A device, a pipe.
    #[error("its entry {0:?} is neither a file nor a directory nor a link")]
    Kind(String),
    /// Too many entries.
    #[error("it has more than {ENTRIES_MAX} entries")]
    TooMany,
    /// An index, a manifest or a name beyond all reason.
    #[error("{0:?} in it is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong(String),
    /// Neither of the two kinds.
    #[error("it has neither an index.json (OCI) nor a manifest.json (docker save)")]
    Unknown,
    /// JSON that is none, or says something else.
    #[error("its {file} cannot be understood: {source}")]
    Json {
        /// Which file.
        file: &'static str,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// A part that is named and not there.
    #[error("{image} lacks its part {part:?}")]
    Lacks {
        /// Which image.
        image: String,
        /// What is missing.
        part: String,
    },
    /// Nothing to call it by.
    #[error("no image in it has a name")]
    Nameless,
    /// A name that is none.
    #[error("{0:?} is no image reference")]
    Reference(String),
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Vec<String>,
}

/// Looks through the archive from its beginning. The reader is left anywhere.
///
/// # Errors
/// What is wrong with it.
pub fn inspect(mut from: impl Read + Seek) -> Result<Contents, InspectError> {
    let mut start = [0; 4];
    let mut length = 0;
    while let Some(rest) = start.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match from.read(rest).map_err(InspectError::Tar)? {
            0 => break,
            count => length += count,
        }
    }
    let mut again = || from.seek(SeekFrom::Start(0)).map_err(InspectError::Tar);
    again()?;
    if start == ZSTD {
        return Err(InspectError::Zstd);
    }
    if start.starts_with(&GZIP) {
        bounded(&mut Archive::new(MultiGzDecoder::new(&mut from)))?;
        from.seek(SeekFrom::Start(0)).map_err(InspectError::Tar)?;
        return look(&mut Archive::new(MultiGzDecoder::new(&mut from)));
    }
    bounded(&mut Archive::new(&mut from))?;
    from.seek(SeekFrom::Start(0)).map_err(InspectError::Tar)?;
    look(&mut Archive::new(&mut from))
}

/// The archive's tar file, whether it is compressed or not.
///
/// # Errors
/// Its beginning cannot be read.
pub fn plain(mut from: impl BufRead + Send + 'static) -> std::io::Result<Box<dyn Read + Send>> {
    let compressed = from.fill_buf()?.starts_with(&GZIP);
    Ok(if compressed { Box::new(MultiGzDecoder::new(from)) } else { Box::new(from) })
}

/// Long names and other extensions are read into memory whole, so they are measured before.
fn bounded(archive: &mut Archive<impl Read>) -> Result<(), InspectError> {
    for (count, entry) in archive.entries().map_err(InspectError::Tar)?.raw(true).enumerate() {
        let entry = entry.map_err(InspectError::Tar)?;
        if count >= ENTRIES_MAX {
            return Err(InspectError::TooMany);
        }
        let kind = entry.header().entry_type();
        let extension = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if extension && entry.size() > TEXT_BYTES_MAX {
            return Err(InspectError::TooLong(shown(&entry.path_bytes())));
        }
    }
    Ok(())
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where a path leads, from the archive's own directory; `None`: out of it.
fn within(path: &Path) -> Option<PathBuf> {
    let mut inside = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => inside.push(name),
            Component::CurDir => {}
            Component::ParentDir if inside.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(inside)
}

/// What was found in an archive.
#[derive(Default)]
struct Found {
    /// Files, and links with where they lead.
    files: HashMap<PathBuf, Option<PathBuf>>,
    index: Option<Vec<u8>>,
    manifest: Option<Vec<u8>>,
}

fn look(archive: &mut Archive<impl Read>) -> Result<Contents, InspectError> {
    let mut found = Found::default();
    for entry in archive.entries().map_err(InspectError::Tar)? {
        let mut entry = entry.map_err(InspectError::Tar)?;
        let name = shown(&entry.path_bytes());
        // An entry that says `..` has no good reason to, wherever it leads.
        let plain = !Path::new(&name).components().any(|part| part == Component::ParentDir);
        let path = within(Path::new(&name)).filter(|_| plain);
        let path = path.ok_or_else(|| InspectError::Outside(name.clone()))?;
        match entry.header().entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            kind if kind.is_file() => {
                found.files.insert(path.clone(), None);
            }
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let target = shown(&entry.link_name_bytes().unwrap_or_default());
                let directory = if kind == EntryType::Symlink { path.parent() } else { None };
                let inside = within(&directory.unwrap_or(Path::new("")).join(&target));
                let inside = inside.ok_or(InspectError::LinkOutside { path: name, target })?;
                found.files.insert(path, Some(inside));
                continue;
            }
            _ => return Err(InspectError::Kind(name)),
        }
        let text = match path.to_str() {
            Some("index.json") => &mut found.index,
            Some("manifest.json") => &mut found.manifest,
            _ => continue,
        };
        let mut bytes = Vec::new();
        let read =
            (&mut entry).take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(InspectError::Tar)?;
        if read as u64 > TEXT_BYTES_MAX {
            return Err(InspectError::TooLong(name));
        }
        *text = Some(bytes);
    }
    found.contents()
}

impl Found {
    fn has(&self, path: &str) -> bool {
        let mut at = PathBuf::from(path);
        // A link leads to a file, or to one more link; a ring of them to nothing.
        for _ in 0..8 {
            match self.files.get(&at) {
                Some(Some(next)) => at.clone_from(next),
                other => return other.is_some(),
            }
        }
        false
    }

    fn contents(self) -> Result<Contents, InspectError> {
        let (format, named) = match (&self.index, &self.manifest) {
            // What `docker save` writes today is both: containerd goes by the index.
            (Some(index), _) => (Format::Oci, self.oci(index)?),
            (None, Some(manifest)) => (Format::Docker, self.docker(manifest)?),
            (None, None) => return Err(InspectError::Unknown),
        };
        let mut references: Vec<String> = Vec::new();
        for name in named {
            let whole = whole_reference(&name).ok_or(InspectError::Reference(name))?;
            if !references.contains(&whole) {
                references.push(whole);
            }
        }
        if references.is_empty() {
            return Err(InspectError::Nameless);
        }
        Ok(Contents { format, references })
    }

    fn oci(&self, index: &[u8]) -> Result<Vec<String>, InspectError> {
        let file = "index.json";
        let index: Index =
            serde_json::from_slice(index).map_err(|source| InspectError::Json { file, source })?;
        let mut names = Vec::new();
        for manifest in index.manifests {
            let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
                .iter()
                .find_map(|key| manifest.annotations.get(*key));
            let part = format!("blobs/{}", manifest.digest.replacen(':', "/", 1));
            if !self.has(&part) {
                let image = name.cloned().unwrap_or_else(|| "an image".to_owned());
                return Err(InspectError::Lacks { image, part });
            }
            names.extend(name.cloned());
        }
        Ok(names)
    }

    fn docker(&self, manifest: &[u8]) -> Result<Vec<String>, InspectError> {
        let file = "manifest.json";
        let saved: Vec<Saved> =
            serde_json::from_slice(manifest).map_err(|source| InspectError::Json { file, source })?;
        let mut names = Vec::new();
        for image in saved {
            let tags = image.tags.unwrap_or_default();
            if let Some(part) = std::iter::once(&image.config).chain(&image.layers).find(|p| !self.has(p)) {
                let image = tags.first().cloned().unwrap_or_else(|| "an image".to_owned());
                return Err(InspectError::Lacks { image, part: part.clone() });
            }
            names.extend(tags);
        }
        Ok(names)
    }
}

/// A reference with its registry, its repository and its tag, as containerd completes it; `None`: it is none.
fn whole_reference(name: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if name.is_empty() || name.len() > 512 || !name.chars().all(fits) {
        return None;
    }
    let (repository, rest) = match name.split_once('@') {
        Some((repository, digest)) => (repository, format!("@{digest}")),
        None => match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((repository, tag)) => (repository, format!(":{tag}")),
            None => (name, ":latest".to_owned()),
        },
    };
    if repository.is_empty() || rest.len() < 2 || repository.split('/').any(str::is_empty) {
        return None;
    }
    let registry = |host: &str| host.contains(['.', ':']) || host == "localhost";
    Some(match repository.split_once('/') {
        Some((host, _)) if registry(host) => format!("{repository}{rest}"),
        Some(_) => format!("docker.io/{repository}{rest}"),
        None => format!("docker.io/library/{repository}{rest}"),
    })
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
