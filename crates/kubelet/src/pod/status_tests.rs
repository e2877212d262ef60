//! The status over chosen states, as kubectl would show it.

use serde_json::{Value, json};

use super::*;
use crate::{
    pod::memory::Probed,
    ports::{self, Sandbox},
};

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + s).unwrap()
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn up() -> Memory {
    let sandbox = Sandbox { id: "s".into(), ready: true, ..Sandbox::default() };
    Memory { volumes_ready: true, sandbox: Some(sandbox), ..Memory::default() }
}

fn put(memory: &mut Memory, name: &str, attempt: u32, state: ports::ContainerState, exit_code: i32) {
    let container = ports::Container {
        id: format!("{name}{attempt}"),
        sandbox_id: "s".into(),
        name: name.into(),
        attempt,
        state,
        exit_code,
        finished_at: Some(at(0)),
        ..ports::Container::default()
    };
    memory.put(container, None);
}

fn probed(memory: &mut Memory, name: &str, attempt: u32, ready: bool) {
    let p = Probed { container_id: format!("{name}{attempt}"), started: true, ready };
    memory.probed.insert(name.into(), p);
}

fn say(pod: &Pod, memory: &Memory, terminating: bool, ready_before: bool) -> PodStatus {
    let addresses = Addresses { pod_ips: vec!["10.0.0.1".into()], host_ip: "1.2.3.4".into() };
    let view = View {
        now: at(1),
        addresses: &addresses,
        runtime: "containerd",
        terminating,
        ended: false,
        ready_before,
    };
    build(pod, memory, &view, &mut Since::new())
}

fn condition(status: &PodStatus, type_: &str) -> (String, String, String) {
    let c = status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == type_).unwrap();
    (c.status.clone(), c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default())
}

#[test]
fn a_new_pod_waits_for_its_containers() {
    let status = say(&pod(json!({"containers": [{"name": "web"}]})), &up(), false, false);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let ready = condition(&status, "Ready");
    assert_eq!(
        ready,
        ("False".into(), "ContainersNotReady".into(), "containers with unready status: [web]".into())
    );
    let state = status.container_statuses.unwrap()[0].state.clone().unwrap();
    assert_eq!(state.waiting.unwrap().reason.as_deref(), Some("ContainerCreating"));
}

#[test]
fn ready_follows_probes_and_gates() {
    let mut memory = up();
    put(&mut memory, "web", 0, ports::ContainerState::Running, 0);
    let plain = pod(json!({"containers": [{"name": "web"}]}));
    assert_eq!(condition(&say(&plain, &memory, false, false), "Ready").0, "False");
    probed(&mut memory, "web", 0, true);
    let status = say(&plain, &memory, false, false);
    assert_eq!((condition(&status, "Ready").0, status.phase.as_deref()), ("True".into(), Some("Running")));
    let gated = pod(json!({"containers": [{"name": "web"}], "readinessGates": [{"conditionType": "x/y"}]}));
    let status = say(&gated, &memory, false, false);
    assert_eq!(condition(&status, "ContainersReady").0, "True");
    assert_eq!(condition(&status, "Ready").1, "ReadinessGatesNotReady");
}

#[test]
fn a_terminating_pod_may_fall_but_not_rise() {
    let p = pod(json!({"containers": [{"name": "web"}]}));
    let mut memory = up();
    put(&mut memory, "web", 0, ports::ContainerState::Running, 0);
    probed(&mut memory, "web", 0, true);
    assert_eq!(condition(&say(&p, &memory, true, true), "Ready").0, "True");
    assert_eq!(condition(&say(&p, &memory, true, false), "Ready").0, "False");
}

#[test]
fn a_crash_loop_shows_the_last_end() {
    let p = pod(json!({"containers": [{"name": "web"}]}));
    let mut memory = up();
    put(&mut memory, "web", 0, ports::ContainerState::Exited, 1);
    put(&mut memory, "web", 1, ports::ContainerState::Exited, 2);
    let status = say(&p, &memory, false, false);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let c = &status.container_statuses.unwrap()[0];
    let waiting = c.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(waiting.message.as_deref(), Some("back-off 10s restarting failed container=web pod=p_ns(u)"));
    assert_eq!(c.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 2);
    assert_eq!(c.restart_count, 1);
}

#[test]
fn pods_that_finish() {
    for (code, phase, reason) in [(0, "Succeeded", "PodCompleted"), (3, "Failed", "PodFailed")] {
        let p = pod(json!({"restartPolicy": "Never", "containers": [{"name": "web"}]}));
        let mut memory = up();
        put(&mut memory, "web", 0, ports::ContainerState::Exited, code);
        let status = say(&p, &memory, false, false);
        assert_eq!((status.phase.as_deref(), condition(&status, "Ready").1.as_str()), (Some(phase), reason));
    }
}

#[test]
fn an_image_that_is_not_there() {
    let p = pod(json!({"containers": [{"name": "web", "image": "x"}]}));
    let mut memory = up();
    let words = Waiting {
        reason: "ImagePullBackOff",
        message: "Back-off pulling image \"x\"".into(),
        retry_at: None,
    };
    memory.waiting.insert("web".into(), words);
    let c = say(&p, &memory, false, false).container_statuses.unwrap()[0].clone();
    assert_eq!(c.state.unwrap().waiting.unwrap().reason.as_deref(), Some("ImagePullBackOff"));
}

#[test]
fn init_containers_show_how_far_they_are() {
    let p = pod(json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "web"}]}));
    let mut memory = up();
    put(&mut memory, "i", 0, ports::ContainerState::Exited, 0);
    let status = say(&p, &memory, false, false);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&status, "Initialized").2, "containers with incomplete status: [j]");
    assert!(status.init_container_statuses.unwrap()[0].ready);
    let state = status.container_statuses.unwrap()[0].state.clone().unwrap();
    assert_eq!(state.waiting.unwrap().reason.as_deref(), Some("PodInitializing"));
}
