//! What every source file must be: it says what it is, and it is not too long.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// A file longer than this wants splitting.
const LINES_MAX: usize = 1000;

/// What is wrong with the files.
pub fn faults() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for root in ["crates", "images", "xtask"] {
        walk(Path::new(root), &mut faults)?;
    }
    Ok(faults)
}

fn walk(directory: &Path, faults: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, faults)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if !text.starts_with("//!") {
                faults.push(format!("{}: the first line must say what the file is (`//!`)", path.display()));
            }
            let lines = text.lines().count();
            if lines > LINES_MAX {
                faults.push(format!(
                    "{}: {lines} lines; more than {LINES_MAX} wants splitting",
                    path.display()
                ));
            }
            for open in ["todo!(", "unimplemented!(", "#[ignore"] {
                if text.contains(open) && !path.ends_with("xtask/src/files.rs") {
                    faults.push(format!("{}: `{open}` leaves something open", path.display()));
                }
            }
        }
    }
    Ok(())
}
