//! What this machine lets a node do, found out by asking or by trying.

use std::{fs, io, path::Path};

use rustix::mount::{MountFlags, mount};

use super::{
    config::{Machine, Snapshotter},
    mounts,
};

const CAP_SYS_RESOURCE: u32 = 24;
/// What a network device has if nobody says otherwise.
const MTU: u32 = 1500;

/// Finds out. `data` is the directory where containers' file systems will be; it must exist.
pub(super) fn detect(data: &Path) -> io::Result<Machine> {
    Ok(Machine {
        sys_resource: has_capability(CAP_SYS_RESOURCE)?,
        snapshotter: snapshotter(data),
        mtu: mtu(),
    })
}

fn has_capability(number: u32) -> io::Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    Ok(u64::from_str_radix(set.trim(), 16).is_ok_and(|set| set >> number & 1 == 1))
}

/// An overlay on an overlay does not work (a data directory within a container, say), so it is tried.
fn snapshotter(data: &Path) -> Snapshotter {
    let place = data.join(".overlay-trial");
    let tried = try_overlay(&place);
    let _unmounted = mounts::detach(&place.join("merged"));
    let _removed = fs::remove_dir_all(&place);
    match tried {
        Ok(()) => Snapshotter::Overlayfs,
        Err(error) => {
            tracing::warn!(%error, data = %data.display(), "overlayfs does not work here: containers get copies");
            Snapshotter::Native
        }
    }
}

fn try_overlay(place: &Path) -> io::Result<()> {
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(place.join(name))?;
    }
    let part = |name: &str| place.join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", part("lower"), part("upper"), part("work"));
    let try_with = |options: String| {
        let options = std::ffi::CString::new(options)?;
        mount("overlay", place.join("merged"), "overlay", MountFlags::empty(), Some(options.as_c_str()))?;
        Ok(())
    };
    // Volatile first: without it, unmounting waits until all that anybody wrote to this disk is on it. Old kernels do not know it.
    try_with(format!("{options},volatile")).or_else(|_: io::Error| try_with(options))
}

/// The device of the default route bounds what gets out; between nodes any size does.
fn mtu() -> u32 {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let device = routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split('\t');
        let device = fields.next()?;
        (fields.next()? == "00000000").then_some(device)
    });
    let read =
        |device: &str| fs::read_to_string(format!("/sys/class/net/{device}/mtu")).ok()?.trim().parse().ok();
    device.and_then(read).filter(|mtu| (576..MTU).contains(mtu)).unwrap_or(MTU)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_asked_and_nothing_is_left_of_the_trial() {
        let data = tempfile::tempdir().unwrap();
        let found = detect(data.path()).unwrap();
        assert!((576..=MTU).contains(&found.mtu), "{found:?}");
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
        assert_eq!(mounts::inside(&[data.path().to_owned()]).unwrap(), Vec::<std::path::PathBuf>::new());
    }

    #[test]
    fn without_overlayfs_containers_get_copies() {
        // proc(5) takes no directories, so no overlay can be there either.
        assert_eq!(snapshotter(Path::new("/proc")), Snapshotter::Native);
    }
}
