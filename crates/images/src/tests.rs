//! The archives as containerd reads them, and the sandbox's program as the kernel runs it.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;

fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (path, content)
        })
        .collect()
}

fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().unwrap();
    let content = &files[&format!("blobs/{}", digest.replace(':', "/"))];
    assert_eq!(digest, format!("sha256:{:x}", Sha256::digest(content)));
    assert_eq!(descriptor["size"], content.len());
    content
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn the_same_build_gives_the_same_bytes() {
    assert_eq!(archives().unwrap(), archives().unwrap());
    let references: Vec<_> = archives().unwrap().iter().map(|a| a.reference).collect();
    assert_eq!(references, [PAUSE, WEB]);
}

#[test]
fn every_descriptor_leads_to_its_content() {
    for archive in archives().unwrap() {
        let files = files(&archive.tar);
        assert_eq!(json(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");
        let index = json(&files["index.json"]);
        let named = &index["manifests"][0];
        assert_eq!(named["annotations"]["io.containerd.image.name"], archive.reference);
        let manifest = json(blob(&files, named));
        assert_eq!(manifest["config"]["digest"], archive.id);
        let config = json(blob(&files, &manifest["config"]));
        let layer = &manifest["layers"][0];
        blob(&files, layer);
        assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"], "the layer is not compressed");
        assert_eq!(files.len(), 5, "nothing else lies in the archive");
    }
}

#[test]
fn an_image_holds_its_program_and_no_shell() {
    for (archive, expected) in [
        (pause().unwrap(), vec![("pause", 0o755)]),
        (web().unwrap(), vec![("bin/", 0o755), ("bin/web", 0o777), ("web", 0o755)]),
    ] {
        let files = files(&archive.tar);
        let manifest = json(blob(&files, &json(&files["index.json"])["manifests"][0]));
        let config = json(blob(&files, &manifest["config"]));
        let entry_point = config["config"]["Entrypoint"][0].as_str().unwrap();
        assert_eq!(entry_point, format!("/{}", expected.last().unwrap().0));
        let mut layer = tar::Archive::new(blob(&files, &manifest["layers"][0]));
        let found: Vec<_> = layer
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert_eq!(entry.header().mtime().unwrap(), 0);
                assert_eq!(entry.header().uid().unwrap(), 0);
                (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap())
            })
            .collect();
        assert_eq!(found, expected.into_iter().map(|(p, m)| (p.to_owned(), m)).collect::<Vec<_>>());
    }
}

#[test]
fn the_programs_need_no_loader() {
    for program in [PAUSE_PROGRAM, WEB_PROGRAM] {
        assert_eq!(program[..4], *b"\x7fELF");
        let at = |from: usize| u64::from_le_bytes(program[from..from + 8].try_into().unwrap()) as usize;
        let (table, size) = (at(32), u16::from_le_bytes([program[54], program[55]]) as usize);
        let count = u16::from_le_bytes([program[56], program[57]]) as usize;
        let kinds: Vec<_> = (0..count)
            .map(|i| u32::from_le_bytes(program[table + i * size..][..4].try_into().unwrap()))
            .collect();
        assert!(!kinds.contains(&3), "a segment names an interpreter (PT_INTERP): the program is not static");
    }
}

/// A running pause program; killed when the test ends.
struct Running(Child);

impl Running {
    fn start(directory: &Path) -> Self {
        let path = directory.join("pause");
        fs::write(&path, PAUSE_PROGRAM).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // Another thread's fork may hold the file open for writing for a moment: "text file busy".
        let child = until("start", || Command::new(&path).spawn().ok());
        let running = Self(child);
        // It ignores SIGCHLD last, when it has blocked the others.
        until("set its signals up", || running.ignores(17).then_some(()));
        running
    }

    fn ignores(&self, signal: u32) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "the pause program did not {what} in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn pause_waits_and_leaves_with_zero_when_told_to() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = tempfile::tempdir().unwrap();
        let mut pause = Running::start(directory.path());
        pause.signal(Signal::CHILD);
        assert_eq!(pause.0.try_wait().unwrap(), None, "it left without being told to");
        pause.signal(signal);
        let status = until("exit", || pause.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{status}");
    }
}
