//! What a machine or a request that is not as it must be gets: one clear sentence with what to do, exit code 2, and nothing half-started.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use common::{HITLESS, Home, Output, leftovers, run};

/// It was refused with 2 in at most a sentence and a hint, names what is wrong and what to do, and nothing was begun.
#[track_caller]
fn refused(home: &Home, output: &Output, words: &[&str]) {
    let said = output.clone().ended_with(2);
    for word in words {
        assert!(said.contains(word), "{word:?} is not said: {said}");
    }
    assert!(said.starts_with("error: "), "{said}");
    assert!(said.trim_end().lines().count() <= 2, "more than a sentence and a hint: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(leftovers::of(&home.name, &home.data_dir()), Vec::<String>::new());
}

#[test]
fn a_port_in_use() {
    let home = Home::new("port");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for more in [&["--port", &port][..], &["--port", &port, "--detach"]] {
        let up = run(&mut home.hitless("up", more));
        refused(&home, &up, &[&format!("port {port} on 127.0.0.1 is in use"), "--port"]);
    }
}

#[test]
fn a_data_directory_in_use_or_unfit() {
    let home = Home::new("data");
    let store = home.cluster_dir().join("store");
    std::fs::create_dir_all(&store).unwrap();
    let other = hitless_store::Embedded::open(&store, hitless_store::Options::default()).unwrap();
    refused(&home, &home.up(), &["another cluster uses this data directory", "--data-dir"]);
    drop(other);

    std::fs::remove_dir_all(home.data_dir()).unwrap();
    std::fs::write(home.data_dir(), "a file").unwrap();
    for more in [&["--port", "0"][..], &["--port", "0", "--detach"]] {
        let up = run(&mut home.hitless("up", more));
        refused(&home, &up, &[&home.data_dir().display().to_string()]);
    }
    std::fs::remove_file(home.data_dir()).unwrap();
}

#[test]
fn a_name_that_is_none_and_a_cluster_that_is_not_there() {
    let mut home = Home::new("name");
    let name = std::mem::replace(&mut home.name, "Not_A_Name".to_owned());
    let (up, down) = (home.up(), home.down());
    home.name = name;
    refused(&home, &up, &["\"Not_A_Name\" cannot name a cluster"]);
    refused(&home, &down, &["\"Not_A_Name\" cannot name a cluster"]);
    let down = home.down().succeeded();
    assert!(down.stdout.contains("there is no cluster"), "{}", down.all());
    let nodes = run(&mut home.hitless("up", &["--nodes", "0"]));
    assert_eq!(nodes.code, Some(2), "{}", nodes.all());
    let trace = run(Command::new(HITLESS).args(["trace", "pod/x", "--kubeconfig", "/none/such"]));
    refused(&home, &trace, &["there is no kubeconfig /none/such", "hitless up"]);
    let trace = run(Command::new(HITLESS).args(["trace", "deployment/x"]));
    refused(&home, &trace, &["\"deployment/x\" cannot be traced", "pod/NAME"]);
}

#[test]
fn without_root() {
    let home = Home::new("user");
    // Where the binary was built, not everybody may look.
    let program = home.path().join("hitless");
    std::fs::copy(HITLESS, &program).unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for (command, more) in [("up", &["--port", "0"][..]), ("up", &["--port", "0", "--detach"]), ("down", &[])]
    {
        let mut hitless = Command::new(&program);
        hitless.args([command, "--name", &home.name, "--data-dir"]).arg(home.data_dir()).args(more);
        let output = run(hitless.uid(65534).gid(65534));
        refused(&home, &output, &["hitless needs root", "run it with sudo"]);
    }
}

#[test]
fn a_package_that_is_missing() {
    let home = Home::new("package");
    let cni = ["/usr/lib/cni", "/opt/cni/bin"]
        .into_iter()
        .find(|d| std::path::Path::new(d).join("bridge").is_file());
    let plugin = format!(
        "{}/bridge",
        cni.expect("no CNI plugins on this machine: install containernetworking-plugins")
    );
    for (program, package) in [
        ("/usr/bin/containerd", "containerd"),
        ("/usr/sbin/runc", "runc"),
        ("/usr/sbin/nft", "nftables"),
        (plugin.as_str(), "containernetworking-plugins"),
    ] {
        assert!(std::path::Path::new(program).is_file(), "{program} is not on this machine");
        // In a mount namespace of its own, a device lies where the program was.
        let script = format!("mount --bind /dev/null {program} && exec \"$@\"");
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh", HITLESS]);
        unshare.args(["up", "--name", &home.name, "--port", "0", "--data-dir"]).arg(home.data_dir());
        let output = run(&mut unshare);
        refused(&home, &output, &["apt-get install", package]);
    }
}
