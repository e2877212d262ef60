//! Archives as tools write them, and archives as nobody should.

#![allow(clippy::unwrap_used, reason = "this is a test: a panic is how it fails")]

use std::io::{Cursor, Write};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use tar::{Builder, Header};

use super::*;

/// A tar file: path, kind, content or where the link leads. Paths are written as they stand, which the tar library would not do.
fn tar(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let bytes = if link { "" } else { content };
        if link {
            header.as_mut_bytes()[157..157 + content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

const FILE: EntryType = EntryType::Regular;
const SAVED: &str =
    r#"[{"Config":"c.json","RepoTags":["nginx:1.18","nginx"],"Layers":["a/layer.tar","b/layer.tar"]}]"#;

/// What `docker save` writes: the second layer is the first once more, by a link.
fn saved() -> Vec<(&'static str, EntryType, &'static str)> {
    vec![
        ("a/", EntryType::Directory, ""),
        ("a/layer.tar", FILE, "layer"),
        ("b/layer.tar", EntryType::Symlink, "../a/layer.tar"),
        ("c.json", FILE, "{}"),
        ("manifest.json", FILE, SAVED),
    ]
}

fn words(bytes: Vec<u8>) -> String {
    inspect(Cursor::new(bytes)).unwrap_err().to_string()
}

#[test]
fn what_docker_saves_and_what_we_build_is_understood_also_compressed() {
    let docker = tar(&saved());
    let want = Contents {
        format: Format::Docker,
        references: vec!["docker.io/library/nginx:1.18".into(), "docker.io/library/nginx:latest".into()],
    };
    assert_eq!(inspect(Cursor::new(&docker)).unwrap(), want);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&docker).unwrap();
    let gzip = gzip.finish().unwrap();
    assert_eq!(inspect(Cursor::new(&gzip)).unwrap(), want);
    for archive in [gzip, docker.clone()] {
        let mut bytes = Vec::new();
        plain(Cursor::new(archive)).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, docker);
    }
    let own = inspect(Cursor::new(crate::web().unwrap().tar)).unwrap();
    assert_eq!(own, Contents { format: Format::Oci, references: vec![crate::WEB.to_owned()] });
}

#[test]
fn what_leads_out_or_is_not_whole_is_refused_with_its_reason() {
    let with = |entry: (&'static str, EntryType, &'static str)| {
        let mut entries = saved();
        entries.insert(0, entry);
        words(tar(&entries))
    };
    assert_eq!(with(("../evil", FILE, "")), "its entry \"../evil\" leads out of the archive");
    assert_eq!(with(("a/../b", FILE, "")), "its entry \"a/../b\" leads out of the archive");
    assert_eq!(with(("/etc/passwd", FILE, "")), "its entry \"/etc/passwd\" leads out of the archive");
    assert_eq!(
        with(("a/x", EntryType::Symlink, "../../etc/passwd")),
        "its link \"a/x\" leads out of the archive, to \"../../etc/passwd\""
    );
    assert!(with(("x", EntryType::Link, "/etc/shadow")).starts_with("its link \"x\" leads out"));
    assert!(with(("x", EntryType::Fifo, "")).contains("neither a file"));

    let without = |path: &str| {
        let entries: Vec<_> = saved().into_iter().filter(|entry| entry.0 != path).collect();
        words(tar(&entries))
    };
    assert_eq!(without("a/layer.tar"), "nginx:1.18 lacks its part \"a/layer.tar\"");
    assert_eq!(without("c.json"), "nginx:1.18 lacks its part \"c.json\"");
    assert!(without("manifest.json").starts_with("it has neither"));

    let ring = r#"[{"Config":"x","RepoTags":["a"],"Layers":[]}]"#;
    let ring = [("x", EntryType::Symlink, "x"), ("manifest.json", FILE, ring)];
    assert_eq!(words(tar(&ring)), "a lacks its part \"x\"");
    let index = r#"{"manifests":[{"digest":"sha256:aa"}]}"#;
    assert_eq!(words(tar(&[("index.json", FILE, index)])), "an image lacks its part \"blobs/sha256/aa\"");
    let nameless = [("index.json", FILE, index), ("blobs/sha256/aa", FILE, "{}")];
    assert_eq!(words(tar(&nameless)), "no image in it has a name");
    assert!(words(tar(&[("index.json", FILE, "{")])).starts_with("its index.json cannot be understood"));
    assert!(words(b"\x28\xb5\x2f\xfd....".to_vec()).contains("zstd -d"));
    assert!(words(b"not a tar file at all".to_vec()).starts_with("it is not a whole tar file"));
    let mut short = tar(&saved());
    short.truncate(1600);
    assert!(words(short).starts_with("it is not a whole tar file"));
}

#[test]
fn what_would_fill_memory_is_refused() {
    // A name that claims to be 64 GiB long.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(64 << 30);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(4096, b'a');
    assert!(words(bytes).contains("is longer than"));
    let many: Vec<_> = (0..=ENTRIES_MAX).map(|_| ("x", FILE, "")).collect();
    assert_eq!(words(tar(&many)), "it has more than 10000 entries");
}

#[test]
fn references_are_completed_as_containerd_does() {
    for (name, want) in [
        ("nginx", Some("docker.io/library/nginx:latest")),
        ("nginx:1.19", Some("docker.io/library/nginx:1.19")),
        ("team/app:2", Some("docker.io/team/app:2")),
        ("hitless.dev/web:1", Some("hitless.dev/web:1")),
        ("localhost/x", Some("localhost/x:latest")),
        ("10.0.0.1:5000/a/b:c", Some("10.0.0.1:5000/a/b:c")),
        ("a@sha256:00", Some("docker.io/library/a@sha256:00")),
        ("", None),
        (":1", None),
        ("a//b", None),
        ("a b", None),
        ("nginx:", None),
    ] {
        assert_eq!(whole_reference(name).as_deref(), want, "{name}");
    }
}

proptest! {
    /// Whatever bytes come, the answer is an answer.
    #[test]
    fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048), gzip in any::<bool>()) {
        let bytes = if gzip { [GZIP.as_slice(), &bytes].concat() } else { bytes };
        let _answer = inspect(Cursor::new(bytes));
    }

    /// A good archive with some bytes changed.
    #[test]
    fn a_damaged_archive_is_no_panic(at in 0_usize..6000, byte in any::<u8>(), cut in 0_usize..8000) {
        let mut bytes = tar(&saved());
        if let Some(spot) = bytes.get_mut(at) {
            *spot = byte;
        }
        bytes.truncate(cut);
        let _answer = inspect(Cursor::new(bytes));
    }
}
