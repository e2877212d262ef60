//! Decisions over chosen states: nothing is started twice, and nothing that is due is left out.

use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::{
    pod::memory::Waiting,
    ports::{self, ContainerState, Image, Sandbox},
};

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + s).unwrap()
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn up() -> Memory {
    let sandbox = Sandbox { id: "s0".into(), ready: true, ..Sandbox::default() };
    Memory {
        volumes_ready: true,
        sandbox: Some(sandbox),
        sandbox_seen: Some(Instant::now()),
        ..Memory::default()
    }
}

fn put(memory: &mut Memory, name: &str, attempt: u32, state: ContainerState, exit_code: i32, finished: i64) {
    memory.put(
        ports::Container {
            id: format!("{name}{attempt}"),
            sandbox_id: "s0".into(),
            name: name.into(),
            attempt,
            state,
            exit_code,
            finished_at: Some(at(finished)),
            ..ports::Container::default()
        },
        None,
    );
}

fn present(memory: &mut Memory, name: &str) {
    memory.images.insert(name.into(), ImageState::Present(Image::default()));
}

fn start(name: &str, attempt: u32) -> Step {
    Step::Start { container: name.into(), attempt }
}

#[test]
fn from_nothing_to_running() {
    let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    let mut memory = Memory::default();
    assert_eq!(decide(&pod, &memory, at(0)).steps, [Step::SetUp]);
    memory.volumes_ready = true;
    assert_eq!(decide(&pod, &memory, at(0)).steps, [Step::RunSandbox { attempt: 0 }]);
    let mut memory = up();
    present(&mut memory, "a");
    memory.images.insert("b".into(), ImageState::Pulling);
    assert_eq!(decide(&pod, &memory, at(0)).steps, [start("a", 0)]);
    put(&mut memory, "a", 0, ContainerState::Running, 0, 0);
    put(&mut memory, "b", 0, ContainerState::Created, 0, 0);
    assert_eq!(decide(&pod, &memory, at(0)).steps, [Step::StartCreated { id: "b0".into() }]);
    put(&mut memory, "b", 0, ContainerState::Running, 0, 0);
    assert_eq!(decide(&pod, &memory, at(0)), Plan::default());
}

#[test]
fn what_comes_after_a_post_start_hook_waits_for_it() {
    let hook = json!({"postStart": {"exec": {"command": ["true"]}}});
    let pod = pod(json!({"containers": [{"name": "a", "lifecycle": hook}, {"name": "b"}]}));
    let mut memory = up();
    assert_eq!(decide(&pod, &memory, at(0)).steps, [Step::CheckImage { container: "a".into() }]);
    present(&mut memory, "a");
    present(&mut memory, "b");
    assert_eq!(decide(&pod, &memory, at(0)).steps, [start("a", 0)]);
    put(&mut memory, "a", 0, ContainerState::Running, 0, 0);
    memory.post_starting.insert("a0".into());
    assert_eq!(decide(&pod, &memory, at(0)), Plan::default());
    memory.post_starting.clear();
    assert_eq!(decide(&pod, &memory, at(0)).steps, [start("b", 0)]);
    // An image that cannot be had holds back its own container only.
    let mut held = up();
    let waiting = Waiting { reason: "ErrImagePull", message: String::new(), retry_at: Some(at(9)) };
    held.waiting.insert("a".into(), waiting);
    assert_eq!(decide(&pod, &held, at(0)).steps, [Step::CheckImage { container: "b".into() }]);
    put(&mut memory, "a", 0, ContainerState::Exited, 1, 5);
    assert!(!memory.is_post_starting("a"), "a hook ends with its container");
}

#[test]
fn a_crash_is_restarted_at_once_and_then_held_back() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let mut memory = up();
    put(&mut memory, "a", 0, ContainerState::Running, 0, 0);
    put(&mut memory, "a", 0, ContainerState::Exited, 1, 5);
    assert_eq!(decide(&pod, &memory, at(5)).steps, [Step::CheckImage { container: "a".into() }]);
    present(&mut memory, "a");
    assert_eq!(decide(&pod, &memory, at(5)).steps, [start("a", 1)]);
    put(&mut memory, "a", 1, ContainerState::Exited, 1, 7);
    assert_eq!(decide(&pod, &memory, at(7)), Plan { steps: vec![], look_at: Some(at(17)) });
    present(&mut memory, "a");
    assert_eq!(decide(&pod, &memory, at(17)).steps, [start("a", 2)]);
}

#[test]
fn restart_policies() {
    for (policy, code, over) in
        [("Never", 1, true), ("OnFailure", 0, true), ("OnFailure", 1, false), ("Always", 0, false)]
    {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        let mut memory = up();
        put(&mut memory, "a", 0, ContainerState::Exited, code, 0);
        assert_eq!(is_over(pod.spec.as_ref().unwrap(), &memory), over, "{policy} {code}");
        let steps = decide(&pod, &memory, at(0)).steps;
        assert_eq!(steps == [Step::StopSandbox], over, "{policy} {code}");
        memory.sandbox_lost();
        assert_eq!(decide(&pod, &memory, at(0)).steps.is_empty(), over, "{policy} {code}");
    }
}

#[test]
fn init_containers_run_one_after_another() {
    let pod = pod(json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]}));
    let mut memory = up();
    for name in ["i", "j", "a"] {
        present(&mut memory, name);
    }
    assert_eq!(decide(&pod, &memory, at(0)).steps, [start("i", 0)]);
    put(&mut memory, "i", 0, ContainerState::Running, 0, 0);
    assert!(decide(&pod, &memory, at(0)).steps.is_empty());
    put(&mut memory, "i", 0, ContainerState::Exited, 0, 0);
    assert_eq!(decide(&pod, &memory, at(0)).steps, [start("j", 0)]);
    put(&mut memory, "j", 0, ContainerState::Exited, 0, 0);
    assert_eq!(decide(&pod, &memory, at(0)).steps, [start("a", 0)]);
    put(&mut memory, "a", 0, ContainerState::Running, 0, 0);
    assert!(decide(&pod, &memory, at(0)).steps.is_empty());
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let spec =
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let mut memory = up();
    put(&mut memory, "i", 0, ContainerState::Exited, 3, 0);
    assert_eq!(decide(&pod(spec), &memory, at(0)).steps, [Step::StopSandbox]);
}

#[test]
fn sidecars_start_before_and_go_on() {
    let spec =
        json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
    let pod = pod(spec);
    let mut memory = up();
    present(&mut memory, "s");
    present(&mut memory, "a");
    assert_eq!(decide(&pod, &memory, at(0)).steps, [start("s", 0)]);
    put(&mut memory, "s", 0, ContainerState::Running, 0, 0);
    assert_eq!(decide(&pod, &memory, at(0)).steps, [start("a", 0)]);
    put(&mut memory, "a", 0, ContainerState::Running, 0, 0);
    put(&mut memory, "s", 0, ContainerState::Exited, 0, 0);
    present(&mut memory, "s");
    assert_eq!(decide(&pod, &memory, at(0)).steps, [start("s", 1)]);
}

#[test]
fn a_new_sandbox_runs_everything_again() {
    let pod = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    let mut memory = up();
    put(&mut memory, "i", 0, ContainerState::Exited, 0, 0);
    put(&mut memory, "a", 0, ContainerState::Exited, 137, 9);
    memory.sandbox_lost();
    assert_eq!(decide(&pod, &memory, at(10)).steps, [Step::RunSandbox { attempt: 1 }]);
    memory.sandbox = Some(Sandbox { id: "s1".into(), ready: true, ..Sandbox::default() });
    present(&mut memory, "i");
    assert_eq!(decide(&pod, &memory, at(10)).steps, [start("i", 1)]);
}

#[test]
fn what_waits_is_looked_at_again_in_time() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let mut memory = up();
    let waiting = super::super::memory::Waiting {
        reason: "ErrImagePull",
        message: String::new(),
        retry_at: Some(at(10)),
    };
    memory.waiting.insert("a".into(), waiting);
    memory.images.insert("a".into(), ImageState::Held);
    assert_eq!(decide(&pod, &memory, at(0)).look_at, Some(at(10)));
    assert_eq!(decide(&pod, &memory, at(10)).steps, [Step::CheckImage { container: "a".into() }]);
}
