//! Who may start, change or take away the cluster of a name: one process at a time, for as long as it holds the claim.
//!
//! The claim is a lock of the kernel on a file in the run directory, so it ends with its process, however that ends. The file is not
//! in the cluster's own directory, which is taken away under the claim.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use hitless_drivers::node::plan::Paths;
use tokio::time::Instant;

use crate::fault::Fault;

/// How often a file that was taken away meanwhile is made anew.
const TRIES: usize = 16;
/// Between two looks at a claim that somebody else holds.
const LOOK: Duration = Duration::from_millis(50);

/// The right to a cluster. Dropping it gives it back.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    // Dropped after `drop` has taken the file away: nobody can lock a file that is about to go unseen.
    _locked: File,
}

impl Claim {
    /// Takes it, or says who has it.
    pub fn take(name: &str, paths: &Paths) -> Result<Self, Fault> {
        match Self::attempt(name, paths) {
            Ok(Ok(claim)) => Ok(claim),
            Ok(Err(holder)) => Err(Fault::refused(
                format!("the cluster {name:?} is being started, used or taken away by {holder}"),
                "wait until that has ended, or stop it",
            )),
            Err(error) => Err(Fault::refused(
                format!("cannot claim the cluster {name:?} in {}: {error}", paths.run.display()),
                "the directory must be writable",
            )),
        }
    }

    /// Takes it as soon as whoever has it gives it back, or says after `bound` who has it still.
    pub async fn wait(name: &str, paths: &Paths, bound: Duration) -> Result<Self, Fault> {
        let end = Instant::now() + bound;
        loop {
            match Self::take(name, paths) {
                Err(_) if Instant::now() < end => tokio::time::sleep(LOOK).await,
                result => return result,
            }
        }
    }

    fn attempt(name: &str, paths: &Paths) -> io::Result<Result<Self, String>> {
        fs::create_dir_all(&paths.run)?;
        // No cluster's name begins with a dot.
        let path = paths.run.join(format!(".{name}.claim"));
        for _ in 0..TRIES {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Err(holder(&mut file))),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if is_at(&file, &path)? {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(std::process::id().to_string().as_bytes())?;
                return Ok(Ok(Self { path, _locked: file }));
            }
        }
        Err(io::Error::other("the claim's file is taken away again and again"))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is locked: whoever opened it before sees that it is no longer the one of that name.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a claim's file stays behind");
        }
    }
}

fn holder(file: &mut File) -> String {
    let mut pid = String::new();
    match file.read_to_string(&mut pid) {
        Ok(_) if !pid.is_empty() => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}

/// Whether the open file still is the one of this name.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holds_it_at_a_time_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths { run: directory.path().join("run"), data: directory.path().join("data") };
        let first = Claim::take("a", &paths).unwrap();
        let refused = Claim::take("a", &paths).unwrap_err();
        assert_eq!(refused.code, 2);
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
        let other = Claim::take("b", &paths).unwrap();
        let waiting = Claim::wait("a", &paths, Duration::from_secs(10));
        let (second, ()) = tokio::join!(waiting, async { drop(first) });
        assert!(Claim::wait("a", &paths, Duration::ZERO).await.is_err(), "the second has it");
        drop((second.unwrap(), other));
        assert_eq!(fs::read_dir(&paths.run).unwrap().count(), 0);
    }
}
