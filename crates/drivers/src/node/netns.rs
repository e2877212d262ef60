//! Named network namespaces, as `ip netns` keeps them: a bind mount in `/run/netns` holds one open without a process.
//!
//! A namespace is entered by a thread and stays with it, so every piece of work inside one gets a thread of its own that ends with
//! it; threads of the pool are never moved.

#![allow(unsafe_code, reason = "`unshare`, see `create`")]

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::mounts;

/// Where named network namespaces are.
pub const DIRECTORY: &str = "/run/netns";

/// A network namespace could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the network namespace {name:?}")]
pub struct NetnsError {
    /// What was tried.
    pub verb: &'static str,
    /// Its name.
    pub name: String,
    /// Cause.
    #[source]
    pub source: io::Error,
}

/// The file of a named network namespace.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Makes a network namespace, with nothing in it but a loopback device that is down. Gives `false` if there was one with this name.
pub fn create(name: &str) -> Result<bool, NetnsError> {
    let failed = |source| NetnsError { verb: "make", name: name.to_owned(), source };
    if exists(name) {
        return Ok(false);
    }
    fs::create_dir_all(DIRECTORY).map_err(failed)?;
    let file = path(name);
    // What a crash between making the file and mounting on it leaves is used again.
    File::create(&file).map_err(failed)?;
    let mounted = on_own_thread(|| {
        // SAFETY: only unsharing the table of file descriptors could be unsafe; this unshares the network namespace, of a
        // thread that was made for it and ends right after.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        rustix::mount::mount_bind("/proc/thread-self/ns/net", &file)
    });
    match mounted {
        Ok(Ok(())) => Ok(true),
        Ok(Err(error)) => Err(failed(error.into())),
        Err(error) => Err(failed(error)),
    }
}

/// Whether the name leads to a live namespace, and not to what a crash has left of one.
#[must_use]
pub fn exists(name: &str) -> bool {
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    rustix::fs::statfs(path(name))
        .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == NSFS_MAGIC))
}

/// Opens a named network namespace.
pub fn open(name: &str) -> Result<File, NetnsError> {
    let failed = |source| NetnsError { verb: "open", name: name.to_owned(), source };
    if !exists(name) {
        return Err(failed(io::Error::from(io::ErrorKind::NotFound)));
    }
    File::open(path(name)).map_err(failed)
}

/// Takes the name away; the namespace ends with its last process. Again is no error.
pub fn delete(name: &str) -> Result<(), NetnsError> {
    let failed = |source| NetnsError { verb: "remove", name: name.to_owned(), source };
    let file = path(name);
    mounts::detach(&file).map_err(failed)?;
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Names of those that begin with `prefix`, live or not.
pub fn list(prefix: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    found.sort();
    Ok(found)
}

/// Runs `work` inside the namespace, on a thread of its own, and waits for it. Sockets and listeners that it opens belong to the
/// namespace wherever they are used later. Blocks the caller.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let failed = |source| NetnsError { verb: "enter", name: name.to_owned(), source };
    let namespace = open(name)?;
    let done = on_own_thread(|| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok::<T, rustix::io::Errno>(work())
    });
    done.map_err(failed)?.map_err(|error| failed(error.into()))
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the thread in the namespace panicked"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone(&'static str);

    impl Drop for Gone {
        fn drop(&mut self) {
            let _gone = delete(self.0);
        }
    }

    fn identity(path: impl AsRef<Path>) -> u64 {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn a_namespace_is_made_entered_and_removed() {
        let name = "hitless.test-netns.node-1";
        let _gone = Gone(name);
        let own = identity("/proc/thread-self/ns/net");
        assert!(create(name).unwrap());
        assert!(!create(name).unwrap(), "there is one already");
        let (within, devices) = inside(name, || {
            (identity("/proc/thread-self/ns/net"), fs::read_to_string("/proc/thread-self/net/dev").unwrap())
        })
        .unwrap();
        assert_eq!(within, identity(path(name)));
        assert_ne!(within, own);
        assert_eq!(identity("/proc/thread-self/ns/net"), own, "the caller stays where it is");
        let devices: Vec<_> =
            devices.lines().skip(2).filter_map(|line| line.trim().split(':').next()).collect();
        assert!(devices.contains(&"lo") && !devices.contains(&"eth0"), "{devices:?}");
        assert_eq!(list("hitless.test-netns.").unwrap(), [name]);
        delete(name).unwrap();
        delete(name).unwrap();
        assert!(!path(name).exists());
        assert!(inside(name, || ()).is_err());
    }

    #[test]
    fn what_a_crash_left_of_one_is_used_again() {
        let name = "hitless.test-netns-left.node-1";
        let _gone = Gone(name);
        fs::create_dir_all(DIRECTORY).unwrap();
        File::create(path(name)).unwrap();
        assert!(!exists(name));
        assert!(create(name).unwrap());
        assert!(exists(name));
    }
}
