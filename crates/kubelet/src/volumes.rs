//! Volumes on the node's disk: what is in them (pure), where they are, and how they come and go.
//!
//! A ConfigMap's, Secret's or downward volume is a directory whose visible names are links through `..data` to one
//! timestamped directory. A change writes a new directory and renames the link, so that a reader sees all old or all new.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeMount, VolumeProjection,
};

use crate::{
    env::ConfigError,
    fieldref::{self, Addresses},
    options::Capacity,
    ports::Mount,
    sources::{Data, Reference, Sources},
    tokens::{Tokens, Wanted},
};

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Files by relative path.
pub type Payload = BTreeMap<String, File>;

/// Why a volume cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// What it names is not there.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A key that the volume names is not in the object.
    #[error("references non-existent config key: {0}")]
    Key(String),
    /// A path that leads out of the volume.
    #[error("invalid path {0:?} in volume")]
    Path(String),
    /// hostPath of the wrong kind.
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPath {
        /// The path.
        path: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// The Pod has no token (yet).
    #[error("failed to fetch token: the pod has none")]
    Token,
    /// A kind of volume that this kubelet does not know.
    #[error("no volume plugin matched name: {0}")]
    Unknown(String),
    /// The disk.
    #[error("{path}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.display().to_string();
    move |source| VolumeError::Io { path, source }
}

/// Where a Pod's things are.
#[derive(Clone, Debug)]
pub struct PodDirs {
    /// `ROOT/pods/UID`.
    pub root: PathBuf,
    /// `ROOT/logs/NAMESPACE_NAME_UID`.
    pub logs: PathBuf,
}

impl PodDirs {
    /// Directories of the Pod with this identity.
    #[must_use]
    pub fn new(root_dir: &Path, namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            root: root_dir.join("pods").join(uid),
            logs: root_dir.join("logs").join(format!("{namespace}_{name}_{uid}")),
        }
    }

    /// Directory of a volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.root.join("volumes").join(name)
    }

    /// The managed `/etc/hosts`.
    #[must_use]
    pub fn hosts(&self) -> PathBuf {
        self.root.join("etc-hosts")
    }

    /// File of a container's termination message.
    #[must_use]
    pub fn termination(&self, container: &str, attempt: u32) -> PathBuf {
        self.root.join("containers").join(container).join(format!("{attempt}.termination"))
    }

    /// Log of a container, relative to `logs`.
    #[must_use]
    pub fn log_path(container: &str, attempt: u32) -> String {
        format!("{container}/{attempt}.log")
    }
}

/// What volumes are made from.
pub struct Contents<'a> {
    /// The Pod.
    pub pod: &'a Pod,
    /// Addresses, for downward volumes.
    pub addresses: &'a Addresses,
    /// ConfigMaps and Secrets.
    pub sources: &'a Sources,
    /// Service account tokens.
    pub tokens: &'a Tokens,
    /// What the node has.
    pub capacity: &'a Capacity,
}

/// Whether the volume's content can change while the Pod runs.
#[must_use]
pub fn is_refreshed(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

/// The files of a ConfigMap, Secret, projected or downward volume; `None` for other volumes.
///
/// # Errors
/// What is missing, in Kubernetes' words.
pub fn payload(contents: &Contents<'_>, volume: &Volume) -> Result<Option<Payload>, VolumeError> {
    const DEFAULT: i32 = 0o644;
    let mut files = Payload::new();
    if let Some(c) = &volume.config_map {
        let mode = c.default_mode.unwrap_or(DEFAULT);
        let reference = Reference::ConfigMap(c.name.clone());
        add_keys(contents, &reference, c.items.as_deref(), mode, c.optional, &mut files)?;
    } else if let Some(s) = &volume.secret {
        let mode = s.default_mode.unwrap_or(DEFAULT);
        let reference = Reference::Secret(s.secret_name.clone().unwrap_or_default());
        add_keys(contents, &reference, s.items.as_deref(), mode, s.optional, &mut files)?;
    } else if let Some(d) = &volume.downward_api {
        add_downward(contents, d.items.as_deref(), d.default_mode.unwrap_or(DEFAULT), &mut files)?;
    } else if let Some(p) = &volume.projected {
        let mode = p.default_mode.unwrap_or(DEFAULT);
        for source in p.sources.iter().flatten() {
            add_projection(contents, source, mode, &mut files)?;
        }
    } else {
        return Ok(None);
    }
    Ok(Some(files))
}

fn add_projection(
    contents: &Contents<'_>,
    source: &VolumeProjection,
    mode: i32,
    files: &mut Payload,
) -> Result<(), VolumeError> {
    if let Some(c) = &source.config_map {
        let reference = Reference::ConfigMap(c.name.clone());
        add_keys(contents, &reference, c.items.as_deref(), mode, c.optional, files)
    } else if let Some(s) = &source.secret {
        let reference = Reference::Secret(s.name.clone());
        add_keys(contents, &reference, s.items.as_deref(), mode, s.optional, files)
    } else if let Some(d) = &source.downward_api {
        add_downward(contents, d.items.as_deref(), mode, files)
    } else if let Some(t) = &source.service_account_token {
        let held = contents.tokens.get(&Wanted::of(t)).ok_or(VolumeError::Token)?;
        let data = held.token.clone().into_bytes();
        files.insert(inside(&t.path)?, File { data, mode: permission(mode) });
        Ok(())
    } else {
        Err(VolumeError::Unknown("projected source".to_owned()))
    }
}

fn permission(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

fn add_keys(
    contents: &Contents<'_>,
    reference: &Reference,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
    files: &mut Payload,
) -> Result<(), VolumeError> {
    let optional = optional == Some(true);
    let empty = Data::new();
    let data = match contents.sources.data(reference) {
        Some(data) => data,
        None if optional => &empty,
        None => return Err(ConfigError::NotFound(reference.clone()).into()),
    };
    match items.filter(|i| !i.is_empty()) {
        None => {
            let all = data.iter().map(|(k, v)| (k.clone(), File { data: v.clone(), mode: permission(mode) }));
            files.extend(all);
        }
        Some(items) => {
            for item in items {
                let Some(value) = data.get(&item.key) else {
                    if optional {
                        continue;
                    }
                    return Err(VolumeError::Key(item.key.clone()));
                };
                let mode = permission(item.mode.unwrap_or(mode));
                files.insert(inside(&item.path)?, File { data: value.clone(), mode });
            }
        }
    }
    Ok(())
}

fn add_downward(
    contents: &Contents<'_>,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: i32,
    files: &mut Payload,
) -> Result<(), VolumeError> {
    for item in items.unwrap_or_default() {
        let text = if let Some(r) = &item.field_ref {
            fieldref::field(contents.pod, contents.addresses, &r.field_path)
        } else if let Some(r) = &item.resource_field_ref {
            fieldref::resource(contents.pod, None, r, contents.capacity)
        } else {
            Ok(String::new())
        };
        let data = text.map_err(ConfigError::from)?.into_bytes();
        let mode = permission(item.mode.unwrap_or(mode));
        files.insert(inside(&item.path)?, File { data, mode });
    }
    Ok(())
}

/// The path, if it stays inside.
fn inside(path: &str) -> Result<String, VolumeError> {
    let ok = !path.is_empty() && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if ok && !path.starts_with("..") { Ok(path.to_owned()) } else { Err(VolumeError::Path(path.to_owned())) }
}

/// Makes `dir` hold exactly `files`, in one step for readers. Gives whether anything changed. `stamp` names the new
/// directory and must not repeat.
///
/// # Errors
/// The disk's.
pub fn write_atomically(dir: &Path, files: &Payload, stamp: &str) -> Result<bool, VolumeError> {
    fs::create_dir_all(dir).map_err(io_at(dir))?;
    let link = dir.join("..data");
    let current = fs::read_link(&link).ok().map(|target| dir.join(target));
    if current.as_deref().is_some_and(|current| read_payload(current).as_ref() == Some(files)) {
        return Ok(false);
    }
    let fresh_name = format!("..{stamp}");
    let fresh = dir.join(&fresh_name);
    fs::create_dir_all(&fresh).map_err(io_at(&fresh))?;
    for (path, file) in files {
        let full = fresh.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent).map_err(io_at(parent))?;
        }
        fs::write(&full, &file.data).map_err(io_at(&full))?;
        fs::set_permissions(&full, fs::Permissions::from_mode(file.mode)).map_err(io_at(&full))?;
    }
    let next = dir.join("..data_tmp");
    remove_if_there(&next)?;
    symlink(&fresh_name, &next).map_err(io_at(&next))?;
    fs::rename(&next, &link).map_err(io_at(&link))?;
    expose(dir, files)?;
    if let Some(old) = current.filter(|old| *old != fresh) {
        fs::remove_dir_all(&old).map_err(io_at(&old))?;
    }
    Ok(true)
}

/// Links for the first part of each path; those of paths that are gone are taken away.
fn expose(dir: &Path, files: &Payload) -> Result<(), VolumeError> {
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: std::collections::BTreeSet<String> = files.keys().map(first).collect();
    for name in &wanted {
        let (visible, target) = (dir.join(name), Path::new("..data").join(name));
        if fs::read_link(&visible).ok().as_ref() != Some(&target) {
            remove_if_there(&visible)?;
            symlink(&target, &visible).map_err(io_at(&visible))?;
        }
    }
    for entry in fs::read_dir(dir).map_err(io_at(dir))? {
        let entry = entry.map_err(io_at(dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

fn read_payload(dir: &Path) -> Option<Payload> {
    let mut files = Payload::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).ok()? {
            let path = entry.ok()?.path();
            let meta = fs::metadata(&path).ok()?;
            if meta.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(dir).ok()?.to_string_lossy().into_owned();
                let mode = meta.permissions().mode() & 0o777;
                files.insert(name, File { data: fs::read(&path).ok()?, mode });
            }
        }
    }
    Some(files)
}

/// Makes one volume ready and gives its path on the host.
///
/// # Errors
/// What is missing or wrong, in Kubernetes' words.
pub fn prepare(
    contents: &Contents<'_>,
    dirs: &PodDirs,
    volume: &Volume,
    stamp: &str,
) -> Result<PathBuf, VolumeError> {
    if let Some(h) = &volume.host_path {
        return host_path(&h.path, h.type_.as_deref().unwrap_or_default());
    }
    let dir = dirs.volume(&volume.name);
    if let Some(files) = payload(contents, volume)? {
        write_atomically(&dir, &files, stamp)?;
    } else if volume.empty_dir.is_some() {
        fs::create_dir_all(&dir).map_err(io_at(&dir))?;
        // Any user of any of the Pod's containers may write there, as in Kubernetes.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).map_err(io_at(&dir))?;
    } else {
        return Err(VolumeError::Unknown(volume.name.clone()));
    }
    Ok(dir)
}

fn host_path(path: &str, type_: &str) -> Result<PathBuf, VolumeError> {
    use std::os::unix::fs::FileTypeExt;
    let path = PathBuf::from(path);
    let meta = fs::metadata(&path).ok();
    let wrong = |wanted| VolumeError::HostPath { path: path.display().to_string(), wanted };
    match (type_, meta) {
        ("DirectoryOrCreate", None) => fs::create_dir_all(&path).map_err(io_at(&path))?,
        ("FileOrCreate", None) => {
            fs::OpenOptions::new().create(true).append(true).open(&path).map_err(io_at(&path))?;
        }
        ("Directory" | "DirectoryOrCreate", m) if !m.as_ref().is_some_and(fs::Metadata::is_dir) => {
            return Err(wrong("directory"));
        }
        ("File" | "FileOrCreate", m) if !m.as_ref().is_some_and(fs::Metadata::is_file) => {
            return Err(wrong("file"));
        }
        ("Socket", m) if !m.as_ref().is_some_and(|m| m.file_type().is_socket()) => {
            return Err(wrong("socket"));
        }
        ("CharDevice", m) if !m.as_ref().is_some_and(|m| m.file_type().is_char_device()) => {
            return Err(wrong("character device"));
        }
        ("BlockDevice", m) if !m.as_ref().is_some_and(|m| m.file_type().is_block_device()) => {
            return Err(wrong("block device"));
        }
        // Where no kind is asked for, the runtime would refuse a path that is not there: as Docker did, it is made.
        ("", None) => fs::create_dir_all(&path).map_err(io_at(&path))?,
        _ => {}
    }
    Ok(path)
}

/// Mounts of `container`, in the Pod's order; `subPath`s are made where they are not there.
///
/// # Errors
/// A volume that is not there, or a `subPath` that leads out of it.
pub fn mounts(
    container: &Container,
    ready: &BTreeMap<String, PathBuf>,
    expand: impl Fn(&str) -> String,
) -> Result<Vec<Mount>, ConfigError> {
    container.volume_mounts.iter().flatten().map(|m| mount(m, ready, &expand)).collect()
}

fn mount(
    m: &VolumeMount,
    ready: &BTreeMap<String, PathBuf>,
    expand: &impl Fn(&str) -> String,
) -> Result<Mount, ConfigError> {
    let root =
        ready.get(&m.name).ok_or_else(|| ConfigError::Mount(format!("no volume {:?} in the pod", m.name)))?;
    let sub = match (&m.sub_path, &m.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(expression)) => expand(expression),
        _ => String::new(),
    };
    let host = if sub.is_empty() {
        root.clone()
    } else {
        let failed = || ConfigError::Mount(format!("failed to prepare subPath for volumeMount {:?}", m.name));
        if !Path::new(&sub).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(failed());
        }
        let path = root.join(&sub);
        if fs::metadata(&path).is_err() {
            fs::create_dir_all(&path).map_err(|_| failed())?;
        }
        // A link that a container made must not lead out of its volume.
        let (real_root, real) = (fs::canonicalize(root), fs::canonicalize(&path));
        match (real_root, real) {
            (Ok(real_root), Ok(real)) if real.starts_with(&real_root) => real,
            _ => return Err(failed()),
        }
    };
    Ok(Mount {
        host_path: host.display().to_string(),
        container_path: m.mount_path.clone(),
        readonly: m.read_only == Some(true),
    })
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
