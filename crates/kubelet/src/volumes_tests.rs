//! Volumes: content, the atomic step, and paths that lead out.

use serde_json::json;

use super::*;
use crate::tokens::Held;

fn contents_of<T>(run: impl FnOnce(&Contents<'_>) -> T) -> T {
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c"}]}}))
        .unwrap();
    let data = Data::from([("k".to_owned(), b"v".to_vec()), ("l".to_owned(), b"w".to_vec())]);
    let sources = Sources([(Reference::ConfigMap("cm".into()), Some(data))].into_iter().collect());
    run(&Contents {
        pod: &pod,
        addresses: &Addresses::default(),
        sources: &sources,
        tokens: &Tokens::from([(Wanted { audience: String::new(), expiration_s: 3607 }, Held::new("t0ken"))]),
        capacity: &Capacity { cpu_milli: 1000, memory_bytes: 1, pods: 1, ephemeral_storage_bytes: 1 },
    })
}

fn volume(value: serde_json::Value) -> Volume {
    serde_json::from_value(value).unwrap()
}

#[test]
fn keys_paths_and_modes() {
    let v = volume(json!({"name": "v", "configMap": {"name": "cm", "defaultMode": 0o400,
        "items": [{"key": "k", "path": "a/b"}, {"key": "l", "path": "c", "mode": 0o600}]}}));
    let files = contents_of(|c| payload(c, &v)).unwrap().unwrap();
    assert_eq!(files["a/b"], File { data: b"v".to_vec(), mode: 0o400 });
    assert_eq!(files["c"].mode, 0o600);
    let missing = volume(json!({"name": "v", "configMap": {"name": "none"}}));
    assert_eq!(
        contents_of(|c| payload(c, &missing)).unwrap_err().to_string(),
        "configmap \"none\" not found"
    );
    let optional = volume(json!({"name": "v", "configMap": {"name": "none", "optional": true}}));
    assert!(contents_of(|c| payload(c, &optional)).unwrap().unwrap().is_empty());
    let out =
        volume(json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "k", "path": "../x"}]}}));
    assert!(matches!(contents_of(|c| payload(c, &out)), Err(VolumeError::Path(_))));
}

#[test]
fn projected_sources_come_together() {
    let v = volume(json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "cm"}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}));
    let files = contents_of(|c| payload(c, &v)).unwrap().unwrap();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["k", "l", "labels"]);
    assert_eq!(files["labels"].data, b"a=\"b\"");
    let token = |seconds: i64| {
        let source = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": seconds}});
        let v = volume(json!({"name": "v", "projected": {"sources": [source]}}));
        contents_of(|c| payload(c, &v)).map(|files| files.unwrap()["token"].clone())
    };
    assert_eq!(token(3607).unwrap(), File { data: b"t0ken".to_vec(), mode: 0o644 });
    assert!(matches!(token(600), Err(VolumeError::Token)));
}

#[test]
fn a_change_is_one_step_and_leaves_nothing_behind() {
    let temp = tempfile::tempdir().unwrap();
    let file = |data: &str| File { data: data.as_bytes().to_vec(), mode: 0o644 };
    let one = Payload::from([("k".to_owned(), file("1")), ("d/x".to_owned(), file("2"))]);
    assert!(write_atomically(temp.path(), &one, "1").unwrap());
    assert_eq!(fs::read_to_string(temp.path().join("d/x")).unwrap(), "2");
    assert!(!write_atomically(temp.path(), &one, "2").unwrap(), "no change, no write");
    let two = Payload::from([("k".to_owned(), file("3"))]);
    assert!(write_atomically(temp.path(), &two, "3").unwrap());
    assert_eq!(fs::read_to_string(temp.path().join("k")).unwrap(), "3");
    let mut names: Vec<_> =
        fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["..3", "..data", "k"]);
}

#[test]
fn a_sub_path_stays_in_its_volume() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("v");
    fs::create_dir(&root).unwrap();
    symlink("/etc", root.join("out")).unwrap();
    let ready = BTreeMap::from([("v".to_owned(), root.clone())]);
    let run = |sub: &str| {
        let c: Container = serde_json::from_value(
            json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/m", "subPath": sub}]}),
        )
        .unwrap();
        mounts(&c, &ready, str::to_owned)
    };
    assert!(run("a/b").is_ok() && root.join("a/b").is_dir());
    assert!(run("out").is_err() && run("../x").is_err());
}

#[test]
fn host_path_kinds() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("new");
    let text = path.display().to_string();
    assert!(matches!(host_path(&text, "Directory"), Err(VolumeError::HostPath { .. })));
    assert_eq!(host_path(&text, "DirectoryOrCreate").unwrap(), path);
    assert!(host_path(&text, "File").is_err());
    assert!(host_path(&text, "Directory").is_ok());
}
