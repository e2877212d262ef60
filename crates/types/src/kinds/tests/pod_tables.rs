//! The one word under STATUS, and the rest of a Pod's row.

use super::*;

fn pod(name: &str, status: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "creationTimestamp": "2026-11-21T11:30:00Z"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]},
        "status": status,
    })
}

fn running(name: &str, ready: bool) -> Value {
    json!({"name": name, "ready": ready, "restartCount": 0, "state": {"running": {}}})
}

fn waiting(name: &str, reason: &str) -> Value {
    json!({"name": name, "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}})
}

fn ended(name: &str, code: i32, reason: &str) -> Value {
    json!({"name": name, "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code, "reason": reason}}})
}

fn sidecar(ready: bool) -> Value {
    let mut status = running("s", ready);
    status["started"] = true.into();
    status
}

#[test]
fn what_a_pod_is_doing() {
    let inits = || json!([ended("i", 0, "Completed"), sidecar(true)]);
    let main = |containers: Value| json!({"phase": "Running", "initContainerStatuses": inits(), "containerStatuses": containers});
    let going = |mut pod: Value| {
        pod["metadata"]["deletionTimestamp"] = "2026-11-21T11:59:00Z".into();
        pod
    };
    let mut restarted = running("a", true);
    restarted["restartCount"] = 3.into();
    restarted["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-11-21T11:55:00Z"}});
    let gated = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let mut half_done = main(json!([ended("a", 0, "Completed"), running("b", true)]));
    half_done["conditions"] = ready;
    insta::assert_snapshot!(table(&[
        pod("running", main(json!([running("a", true), running("b", true)]))),
        pod("restarted", main(json!([restarted, running("b", false)]))),
        pod("new", json!({"phase": "Pending"})),
        pod("gated", gated),
        pod("creating", json!({"phase": "Pending", "initContainerStatuses": inits(), "containerStatuses": [waiting("a", "ContainerCreating"), waiting("b", "ContainerCreating")]})),
        pod("init", json!({"phase": "Pending", "initContainerStatuses": [running("i", false), waiting("s", "PodInitializing")], "containerStatuses": [waiting("a", "PodInitializing")]})),
        pod("init-error", json!({"phase": "Pending", "initContainerStatuses": [ended("i", 1, "Error")]})),
        pod("init-crash", json!({"phase": "Pending", "initContainerStatuses": [waiting("i", "CrashLoopBackOff")]})),
        pod("init-code", json!({"phase": "Pending", "initContainerStatuses": [ended("i", 3, "")]})),
        pod("pull", main(json!([waiting("a", "ErrImagePull"), running("b", true)]))),
        pod("crash", main(json!([waiting("a", "CrashLoopBackOff"), running("b", true)]))),
        pod("backoff", main(json!([waiting("a", "ImagePullBackOff"), waiting("b", "ImagePullBackOff")]))),
        pod("completed", main(json!([ended("a", 0, "Completed"), ended("b", 0, "Completed")]))),
        pod("half-done", half_done),
        pod("killed", main(json!([ended("a", 137, "OOMKilled"), running("b", true)]))),
        pod("evicted", json!({"phase": "Failed", "reason": "Evicted"})),
        going(pod("going", main(json!([running("a", true), running("b", true)])))),
        going(pod("gone", json!({"phase": "Succeeded", "containerStatuses": [ended("a", 0, "Completed")]}))),
        going(pod("lost", json!({"phase": "Running", "reason": "NodeLost"}))),
    ], false), @r##"
    NAME         READY   STATUS                  RESTARTS     AGE
    running      3/3     Running                 0            30m
    restarted    2/3     Running                 3 (5m ago)   30m
    new          0/3     Pending                 0            30m
    gated        0/3     SchedulingGated         0            30m
    creating     1/3     ContainerCreating       0            30m
    init         0/3     Init:0/2                0            30m
    init-error   0/3     Init:Error              0            30m
    init-crash   0/3     Init:CrashLoopBackOff   0            30m
    init-code    0/3     Init:ExitCode:3         0            30m
    pull         2/3     ErrImagePull            0            30m
    crash        2/3     CrashLoopBackOff        0            30m
    backoff      1/3     ImagePullBackOff        0            30m
    completed    1/3     Completed               0            30m
    half-done    2/3     Running                 0            30m
    killed       2/3     OOMKilled               0            30m
    evicted      0/3     Evicted                 0            30m
    going        3/3     Terminating             0            30m
    gone         0/3     Completed               0            30m
    lost         0/3     Unknown                 0            30m
    "##);
}

#[test]
fn where_a_pod_is() {
    let mut placed = pod(
        "placed",
        json!({
            "phase": "Running", "podIP": "10.1.0.5", "podIPs": [{"ip": "10.1.0.5"}],
            "conditions": [{"type": "hitless.dev/Programmed", "status": "True"}],
        }),
    );
    placed["spec"]["readinessGates"] =
        json!([{"conditionType": "hitless.dev/Programmed"}, {"conditionType": "other"}]);
    let mut open = pod("open", json!({"phase": "Pending"}));
    open["spec"]["nodeName"].take();
    insta::assert_snapshot!(table(&[placed, open], true), @r##"
    NAME     READY   STATUS    RESTARTS   AGE   IP         NODE     NOMINATED NODE   READINESS GATES
    placed   0/3     Running   0          30m   10.1.0.5   node-1   <none>           1/2
    open     0/3     Pending   0          30m   <none>     <none>   <none>           <none>
    "##);
}
