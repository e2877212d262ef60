//! What is mounted, as `/proc/self/mountinfo` tells it, and taking it away again.

use std::{
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::mount::{UnmountFlags, unmount};

pub(super) const MOUNTINFO: &str = "/proc/self/mountinfo";
/// Rounds of unmounting: mounts may lie one over another at the same place.
const ROUNDS_MAX: usize = 16;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountInfo {
    pub device: String,
    /// The part of the file system that is mounted.
    pub root: String,
    pub path: PathBuf,
    pub file_system: String,
    pub super_options: String,
}

pub(super) fn read() -> io::Result<Vec<MountInfo>> {
    fs::read_to_string(MOUNTINFO).map(|text| parse(&text))
}

/// See proc(5). A line that does not read so is left out.
pub(super) fn parse(text: &str) -> Vec<MountInfo> {
    let line = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(2);
        let (device, root, path) = (mount.next()?, mount.next()?, mount.next()?);
        let mut words = file_system.split(' ');
        Some(MountInfo {
            device: device.to_owned(),
            root: root.to_owned(),
            path: unescape(path),
            file_system: words.next()?.to_owned(),
            super_options: words.nth(1).unwrap_or_default().to_owned(),
        })
    };
    text.lines().filter_map(line).collect()
}

/// Whether an earlier line shows the same part of the same file system.
pub(super) fn seen_before(mounts: &[MountInfo], mount: &MountInfo) -> bool {
    mounts
        .iter()
        .take_while(|other| !std::ptr::eq(*other, mount))
        .any(|other| other.device == mount.device && other.root == mount.root)
}

/// The paths of all mounts in or at one of `directories`, the latest first.
pub(super) fn inside(directories: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = read()?
        .into_iter()
        .map(|mount| mount.path)
        .filter(|path| directories.iter().any(|directory| path.starts_with(directory)))
        .collect();
    found.reverse();
    Ok(found)
}

/// Unmounts everything in or at `directories`. Gives how many mounts there were; fails if some stay.
pub(super) fn unmount_all(directories: &[PathBuf]) -> io::Result<usize> {
    let count = inside(directories)?.len();
    let mut last: io::Result<()> = Ok(());
    for _ in 0..ROUNDS_MAX {
        let left = inside(directories)?;
        if left.is_empty() {
            return Ok(count);
        }
        for path in left {
            last = detach(&path);
        }
    }
    last?;
    Err(io::Error::other(format!("mounts in {directories:?} come again")))
}

/// Takes a mount away at once; the kernel frees it when its last user is gone. A path that is no mount (any more) is no error.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The kernel writes blanks and backslashes of a path as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match (first, octal(after)) {
            (b'\\', Some((byte, after))) => {
                path.push(byte);
                rest = after;
            }
            _ => {
                path.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

fn octal(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = text.split_at_checked(3)?;
    let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?;
    Some((byte, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_mounted_where() {
        let text = "36 35 98:0 /mnt1 /mnt2/a\\040b\\134c rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\nnot a line\n";
        assert_eq!(
            parse(text),
            [MountInfo {
                device: "98:0".into(),
                root: "/mnt1".into(),
                path: "/mnt2/a b\\c".into(),
                file_system: "ext3".into(),
                super_options: "rw,errors=continue".into(),
            }]
        );
    }

    #[test]
    fn mounts_on_mounts_all_go() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("a b");
        fs::create_dir(&place).unwrap();
        for _ in 0..3 {
            rustix::mount::mount("none", &place, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        }
        let directories = [directory.path().to_owned()];
        assert_eq!(unmount_all(&directories).unwrap(), 3);
        assert_eq!(inside(&directories).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(unmount_all(&directories).unwrap(), 0);
    }
}
