//! Images from a real registry (Debian's docker-registry), with and without credentials, as stock kubectl asks for them.
//!
//! Each registry listens on the loopback of a node, which containerd asks over plain HTTP without being told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use common::{Cluster, Home, Space, run, until};
use serde_json::{Value, json};

const NODE: &str = "node-1";
const IMAGE: &str = "hitless.dev/web:1";
/// Open to everybody.
const OPEN: &str = "127.0.0.1:5000";
/// Wants a name and a password.
const LOCKED: &str = "127.0.0.1:5001";
/// Comes up late.
const LATE: &str = "127.0.0.1:5002";
const USER: &str = "ali";
const PASSWORD: &str = "open-sesame";
/// The password as the registry's file of users has it: bcrypt, of little cost.
const USERS: &str = "ali:$2b$04$NoGRVSGAXlAdTXnDItiy7.L1JzsTV3DyH93uChDR9f5lfWPYqtrb2\n";

#[test]
fn images_come_from_a_registry() {
    let cluster = Cluster::up("registry");
    let _open = Registry::start(&cluster.home, OPEN, None);
    let _locked = Registry::start(&cluster.home, LOCKED, Some(USERS));
    push(&cluster.home, OPEN, None);
    push(&cluster.home, LOCKED, Some((USER, PASSWORD)));
    cluster.steps(
        3,
        &[
            ("a_pull_is_told_step_by_step", a_pull_is_told_step_by_step),
            ("credentials_open_a_locked_registry", credentials_open_a_locked_registry),
            ("a_registry_that_comes_late_is_asked_again", a_registry_that_comes_late_is_asked_again),
            ("what_is_not_there_is_said_to_be", what_is_not_there_is_said_to_be),
        ],
    );
}

/// A registry in the node's network, until it is dropped.
struct Registry(Child);

impl Registry {
    fn start(home: &Home, address: &str, users: Option<&str>) -> Self {
        let directory = home.path().join(address);
        std::fs::create_dir_all(&directory).unwrap();
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": directory.join("blobs")}},
            "http": {"addr": address},
        });
        if let Some(users) = users {
            let file = directory.join("users");
            std::fs::write(&file, users).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "tests", "path": file}});
        }
        // JSON is YAML too.
        let file = directory.join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut serve = in_node(home, "docker-registry");
        serve.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let registry =
            Self(serve.spawn().expect("docker-registry is missing: run tools/deps.sh --for-tests"));
        until(&format!("the registry {address} listens"), || {
            common::traffic::status(&home.name, NODE, address)
                .map_or_else(|error| error.starts_with("HTTP/1.1").then_some(()), |_| Some(()))
        });
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A program in the node's network.
fn in_node(home: &Home, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &format!("hitless.{}.{NODE}", home.name), program]);
    command
}

/// Puts the server's image there, and forgets that the node ever knew it by that name.
fn push(home: &Home, address: &str, credentials: Option<(&str, &str)>) {
    let name = format!("{address}/web:1");
    let ctr = |args: &[&str]| {
        let socket = Path::new("/run/hitless").join(&home.name).join(NODE).join("containerd.sock");
        let mut ctr = in_node(home, "ctr");
        ctr.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images"]).args(args);
        run(&mut ctr).succeeded();
    };
    ctr(&["tag", IMAGE, &name]);
    let user = credentials.map(|(user, password)| format!("{user}:{password}"));
    let mut args = vec!["push", "--plain-http"];
    args.extend(user.iter().flat_map(|user| ["--user", user.as_str()]));
    ctr(&[&args[..], &[&name]].concat());
    ctr(&["rm", &name]);
}

/// A Pod on the registry's node.
fn pod(space: &Space, name: &str, image: &str, policy: &str, spec: Value) {
    let mut over =
        json!({"nodeSelector": {"kubernetes.io/hostname": NODE}, "terminationGracePeriodSeconds": 1});
    common::merge(&mut over, spec);
    space.pod(name, &["serve"], json!({"image": image, "imagePullPolicy": policy}), over);
}

/// Reason and message of what the Pod's container waits for.
fn waiting(space: &Space, pod: &str) -> Option<(String, String)> {
    let pod = space.kubectl.json(&["get", "pod", pod]);
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let text = |field: &str| waiting[field].as_str().map(str::to_owned);
    Some((text("reason")?, text("message").unwrap_or_default()))
}

/// Waits until the pull has failed, in these words, and then until it is held back.
fn pull_fails(space: &Space, pod: &str, words: &str) {
    let found = until(&format!("the pull for {pod} fails"), || {
        waiting(space, pod).filter(|(reason, _)| reason == "ErrImagePull")
    });
    assert!(found.1.contains(words), "{pod}: {found:?}");
    assert!(!found.1.contains(PASSWORD), "{found:?}");
    until(&format!("{pod} waits before the next try"), || {
        waiting(space, pod).filter(|(reason, message)| {
            reason == "ImagePullBackOff" && message.contains("Back-off pulling image")
        })
    });
}

fn reasons(space: &Space, pod: &str) -> Vec<String> {
    space.events(pod).into_iter().map(|(_, reason)| reason).collect()
}

fn a_pull_is_told_step_by_step(space: &Space) {
    let image = format!("{OPEN}/web:1");
    pod(space, "first", &image, "IfNotPresent", Value::Null);
    space.ready("first");
    let told = reasons(space, "first");
    let order = ["Scheduled", "Pulling", "Pulled", "Created", "Started"];
    let seen: Vec<&str> = told.iter().map(String::as_str).filter(|reason| order.contains(reason)).collect();
    assert_eq!(seen, order, "{told:?}");
    let shown = space.kubectl.json(&["get", "pod", "first"]);
    let status = &shown["status"]["containerStatuses"][0];
    assert_eq!(status["image"], json!(image));
    assert!(status["imageID"].as_str().unwrap().contains("sha256:"), "{status}");

    // It is there now: nobody is asked, unless the Pod wants so.
    pod(space, "second", &image, "IfNotPresent", Value::Null);
    pod(space, "third", &image, "Always", Value::Null);
    space.ready("second");
    space.ready("third");
    assert!(!reasons(space, "second").contains(&"Pulling".to_owned()));
    assert!(reasons(space, "third").contains(&"Pulling".to_owned()));
}

fn credentials_open_a_locked_registry(space: &Space) {
    let image = format!("{LOCKED}/web:1");
    let secret = |name: &str, password: &str| {
        let password = format!("--docker-password={password}");
        let (server, user) = (format!("--docker-server={LOCKED}"), format!("--docker-username={USER}"));
        space.kubectl.ok(&["create", "secret", "docker-registry", name, &server, &user, &password]);
    };
    secret("right", PASSWORD);
    secret("wrong", "open-barley");
    let with = |secret: &str| json!({"imagePullSecrets": [{"name": secret}]});
    pod(space, "none", &image, "Always", Value::Null);
    pod(space, "wrong", &image, "Always", with("wrong"));
    pull_fails(space, "none", "401 Unauthorized");
    pull_fails(space, "wrong", "401 Unauthorized");
    // Which of several fits is found by trying; one that does not exist is passed over.
    pod(
        space,
        "right",
        &image,
        "Always",
        json!({"imagePullSecrets": [{"name": "missing"}, {"name": "right"}]}),
    );
    space.ready("right");

    // The node has the image now; who may not have it from the registry does not get it under `Always`.
    pod(space, "again", &image, "Always", Value::Null);
    pull_fails(space, "again", "401 Unauthorized");

    let patch = json!({"imagePullSecrets": [{"name": "right"}]}).to_string();
    space.kubectl.ok(&["patch", "serviceaccount", "default", "-p", &patch]);
    pod(space, "by-account", &image, "Always", Value::Null);
    space.ready("by-account");
    space.kubectl.ok(&["delete", "pod", "none", "wrong", "again", "--timeout=30s"]);
}

fn a_registry_that_comes_late_is_asked_again(space: &Space) {
    pod(space, "early", &format!("{LATE}/web:1"), "Always", Value::Null);
    pull_fails(space, "early", "connection refused");
    let _late = Registry::start(space.home, LATE, None);
    push(space.home, LATE, None);
    space.ready("early");
    space.kubectl.ok(&["delete", "pod", "early", "--timeout=30s"]);
}

fn what_is_not_there_is_said_to_be(space: &Space) {
    pod(space, "no-tag", &format!("{OPEN}/web:none"), "Always", Value::Null);
    pod(space, "no-name", &format!("{OPEN}/nothing:1"), "IfNotPresent", Value::Null);
    pull_fails(space, "no-tag", "not found");
    pull_fails(space, "no-name", "not found");
    assert!(reasons(space, "no-tag").contains(&"Failed".to_owned()));
    space.kubectl.ok(&["delete", "pod", "no-tag", "no-name", "--timeout=30s"]);
}
