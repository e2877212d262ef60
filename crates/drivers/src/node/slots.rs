//! Which cluster has which slot: one file for each slot, so that two clusters that start at once never take the same.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    links::{self, LinksError},
    plan::{ClusterPlan, Paths, PlanError, SLOTS},
};

/// No slot could be had.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The plan cannot be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The slot asked for is another cluster's.
    #[error(
        "slot {slot} is in use by cluster {holder:?}: choose another, or end that cluster with: hitless down --name {holder}"
    )]
    Held {
        /// The slot.
        slot: u8,
        /// Who has it.
        holder: String,
    },
    /// The machine uses the slot's addresses.
    #[error(transparent)]
    Links(#[from] LinksError),
    /// Every slot is another cluster's, or its addresses are in use.
    #[error("no slot is free for one more cluster: end one of {holders:?} with `hitless down --name NAME`")]
    Full {
        /// Who holds slots.
        holders: Vec<String>,
    },
    /// The claims cannot be read or written.
    #[error("cannot use {path:?}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Lays the cluster out in the slot that it has already, or in `wanted`, or in the first slot that is free and whose addresses are;
/// and claims that slot for it. `clean::sweep` gives it back.
pub async fn claim(
    name: &str,
    nodes: u8,
    wanted: Option<u8>,
    paths: &Paths,
) -> Result<ClusterPlan, SlotError> {
    let plan = |slot| ClusterPlan::new(name, slot, nodes, paths);
    // Refuses a bad name or number of nodes before anything is written.
    plan(wanted.unwrap_or_default())?;
    let own = of_cluster(name, paths)?.filter(|own| wanted.is_none_or(|wanted| wanted == *own));
    if let Some(slot) = own.or(wanted) {
        let plan = plan(slot)?;
        links::check_free(&plan).await?;
        return match take(slot, name, paths)? {
            None => Ok(plan),
            Some(holder) => Err(SlotError::Held { slot, holder }),
        };
    }
    let mut holders = Vec::new();
    for slot in 0..SLOTS {
        let plan = plan(slot)?;
        match links::check_free(&plan).await {
            Ok(()) => {}
            Err(LinksError::Overlap { .. }) => continue,
            Err(error) => return Err(error.into()),
        }
        match take(slot, name, paths)? {
            None => return Ok(plan),
            Some(holder) => holders.push(holder),
        }
    }
    Err(SlotError::Full { holders })
}

/// The slot that the cluster has.
pub fn of_cluster(name: &str, paths: &Paths) -> Result<Option<u8>, SlotError> {
    for slot in 0..SLOTS {
        if holder(&file(slot, paths))?.as_deref() == Some(name) {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

/// Gives the cluster's slot back. Again is no error.
pub(super) fn release(name: &str, paths: &Paths) -> Result<(), SlotError> {
    while let Some(slot) = of_cluster(name, paths)? {
        let path = file(slot, paths);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(SlotError::Io { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// `None`: it is taken for `name` now. Else who has it.
fn take(slot: u8, name: &str, paths: &Paths) -> Result<Option<String>, SlotError> {
    let path = file(slot, paths);
    let failed = |source| SlotError::Io { path: path.clone(), source };
    let directory = path.parent().unwrap_or(&paths.run);
    fs::create_dir_all(directory).map_err(failed)?;
    // Written aside and linked into place: whoever sees the file sees a whole name, and only one can be first.
    let aside = directory.join(format!(".{name}.{}", std::process::id()));
    fs::write(&aside, name).map_err(failed)?;
    let linked = fs::hard_link(&aside, &path);
    fs::remove_file(&aside).map_err(failed)?;
    match linked {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(holder(&path)?.filter(|holder| holder != name))
        }
        Err(error) => Err(failed(error)),
    }
}

fn holder(path: &Path) -> Result<Option<String>, SlotError> {
    match fs::read_to_string(path) {
        Ok(name) => Ok(Some(name.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SlotError::Io { path: path.to_owned(), source }),
    }
}

/// Cluster names hold no dot, so this directory is no cluster's.
fn file(slot: u8, paths: &Paths) -> PathBuf {
    paths.run.join(".slots").join(slot.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> (tempfile::TempDir, Paths) {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths { run: directory.path().join("run"), data: directory.path().join("data") };
        (directory, paths)
    }

    #[test]
    fn a_slot_has_one_holder_until_it_is_given_back() {
        let (_directory, paths) = paths();
        assert_eq!(take(3, "a", &paths).unwrap(), None);
        assert_eq!(take(3, "a", &paths).unwrap(), None, "its own, again");
        assert_eq!(take(3, "b", &paths).unwrap().as_deref(), Some("a"));
        assert_eq!(of_cluster("a", &paths).unwrap(), Some(3));
        release("b", &paths).unwrap();
        assert_eq!(of_cluster("a", &paths).unwrap(), Some(3));
        release("a", &paths).unwrap();
        release("a", &paths).unwrap();
        assert_eq!(take(3, "b", &paths).unwrap(), None);
        let left: Vec<_> =
            fs::read_dir(paths.run.join(".slots")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["3"]);
    }

    #[test]
    fn of_many_that_ask_at_once_one_gets_it() {
        let (_directory, paths) = paths();
        let paths = &paths;
        let winners = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|i| scope.spawn(move || take(0, &format!("c{i}"), paths).unwrap().is_none()))
                .collect();
            all.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(winners, 1);
    }
}
