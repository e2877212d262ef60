//! Tables as `kubectl get` prints them, but for Pods.

use super::*;

fn born(mut object: Value, age: &str) -> Value {
    object["metadata"]["creationTimestamp"] = age.into();
    object
}

#[test]
fn nodes() {
    let node = |name: &str, ready: &str, closed: bool| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "creationTimestamp": "2026-11-16T09:00:00Z", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "b"}},
            "spec": {"unschedulable": closed},
            "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian 12", "kernelVersion": "6.18", "containerRuntimeVersion": "containerd://1.6.20"},
            },
        })
    };
    let bare = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bare"}});
    insta::assert_snapshot!(table(&[node("a", "True", false), node("b", "False", true), bare], true), @r##"
    NAME   STATUS                        ROLES             AGE         VERSION   INTERNAL-IP   EXTERNAL-IP   OS-IMAGE    KERNEL-VERSION   CONTAINER-RUNTIME
    a      Ready                         b,control-plane   5d3h        v1.36.0   10.0.0.1      <none>        Debian 12   6.18             containerd://1.6.20
    b      NotReady,SchedulingDisabled   b,control-plane   5d3h        v1.36.0   10.0.0.1      <none>        Debian 12   6.18             containerd://1.6.20
    bare   Unknown                       <none>            <unknown>             <none>        <none>        <unknown>   <unknown>        <unknown>
    "##);
}

#[test]
fn deployments_and_replica_sets() {
    let mut deployment = born(taken(app()), "2026-11-21T11:57:47Z");
    deployment["status"] =
        json!({"replicas": 4, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2});
    insta::assert_snapshot!(table(&[deployment.clone()], false), @r##"
    NAME   READY   UP-TO-DATE   AVAILABLE   AGE
    app    2/3     1            2           2m13s
    "##);
    deployment["spec"]["selector"]["matchExpressions"] =
        json!([{"key": "k", "operator": "NotIn", "values": ["y", "x"]}]);
    insta::assert_snapshot!(table(&[deployment.clone()], true), @r##"
    NAME   READY   UP-TO-DATE   AVAILABLE   AGE     CONTAINERS   IMAGES       SELECTOR
    app    2/3     1            2           2m13s   app          nginx:1.19   k notin (x,y),name=app
    "##);
    let mut set = deployment;
    set["kind"] = "ReplicaSet".into();
    set["spec"]["selector"]["matchExpressions"].take();
    insta::assert_snapshot!(table(&[set], true), @r##"
    NAME   DESIRED   CURRENT   READY   AGE     CONTAINERS   IMAGES       SELECTOR
    app    3         4         2       2m13s   app          nginx:1.19   name=app
    "##);
}

#[test]
fn services_and_their_endpoints() {
    let service = |name: &str, spec: Value| {
        let mut service = my_service();
        service["metadata"]["name"] = name.into();
        crate::patch::merge_patch(&mut service["spec"], &spec);
        born(taken(service), "2026-11-21T07:00:00Z")
    };
    insta::assert_snapshot!(table(&[
        service("cluster", json!({"clusterIP": "10.96.0.10"})),
        service("headless", json!({"clusterIP": "None", "ports": null, "selector": null})),
        service("node", json!({"type": "NodePort", "clusterIP": "10.96.0.11", "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]})),
        service("balanced", json!({"type": "LoadBalancer"})),
        service("external", json!({"type": "ExternalName", "externalName": "a.b"})),
    ], true), @r##"
    NAME       TYPE           CLUSTER-IP   EXTERNAL-IP   PORT(S)               AGE   SELECTOR
    cluster    ClusterIP      10.96.0.10   <none>        80/TCP                5h    name=app
    headless   ClusterIP      None         <none>        <none>                5h    <none>
    node       NodePort       10.96.0.11   <none>        80:30080/TCP,53/UDP   5h    name=app
    balanced   LoadBalancer   <none>       <pending>     80/TCP                5h    name=app
    external   ExternalName   <none>       a.b           80/TCP                5h    name=app
    "##);
    let address = |ip: &str| json!({"ip": ip});
    let endpoints = |name: &str, subsets: Value| json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name}, "subsets": subsets});
    let many = json!([{"addresses": [address("10.0.0.1"), address("10.0.0.2")], "notReadyAddresses": [{"ip": "10.0.0.9"}], "ports": [{"port": 80}, {"port": 81}]}]);
    insta::assert_snapshot!(table(&[endpoints("many", many), endpoints("none", json!([]))], false), @r##"
    NAME   ENDPOINTS                                         AGE
    many   10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...   <unknown>
    none   <none>                                            <unknown>
    "##);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"}, "addressType": "IPv4",
        "ports": [{"port": 80}, {"name": "any"}], "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
    });
    insta::assert_snapshot!(table(&[slice], false), @r##"
    NAME   ADDRESSTYPE   PORTS   ENDPOINTS           AGE
    s      IPv4          80,*    10.0.0.1,10.0.0.2   <unknown>
    "##);
}

#[test]
fn budgets_and_leases() {
    let mut budget = born(nginx_pdb(), "2026-11-21T11:59:15Z");
    budget["status"] = json!({"disruptionsAllowed": 1});
    let mut other = nginx_pdb();
    other["spec"] = json!({"maxUnavailable": "25%"});
    insta::assert_snapshot!(table(&[budget, other], false), @r##"
    NAME        MIN AVAILABLE   MAX UNAVAILABLE   ALLOWED DISRUPTIONS   AGE
    nginx-pdb   1               N/A               1                     45s
    nginx-pdb   N/A             25%               0                     <unknown>
    "##);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "node-1"}, "spec": {"holderIdentity": "node-1"}});
    insta::assert_snapshot!(table(&[lease], false), @r##"
    NAME     HOLDER   AGE
    node-1   node-1   <unknown>
    "##);
}

#[test]
fn configuration() {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1"}, "binaryData": {"b": "aGk="}});
    insta::assert_snapshot!(table(&[map], false), @r##"
    NAME   DATA   AGE
    m      2      <unknown>
    "##);
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "aGk="}});
    insta::assert_snapshot!(table(&[taken(secret)], false), @r##"
    NAME   TYPE     DATA   AGE
    s      Opaque   1      <unknown>
    "##);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    insta::assert_snapshot!(table(&[account], false), @r##"
    NAME      SECRETS   AGE
    default   0         <unknown>
    "##);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}, "status": {"phase": "Terminating"}});
    insta::assert_snapshot!(table(&[namespace], false), @r##"
    NAME   STATUS        AGE
    n      Terminating   <unknown>
    "##);
}

#[test]
fn events_in_both_groups() {
    let old = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "p.1", "namespace": "default"}, "type": "Warning", "reason": "BackOff",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default", "fieldPath": "spec.containers{c}"}, "message": " held back \n",
        "count": 7, "firstTimestamp": "2026-11-21T11:00:00Z", "lastTimestamp": "2026-11-21T11:59:30Z", "source": {"component": "kubelet", "host": "n"},
    });
    let new = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "p.2", "namespace": "default"}, "type": "Normal", "reason": "Withdrawn",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "message": "withdrawn", "eventTime": "2026-11-21T11:59:59.250000Z",
        "reportingComponent": "hitless-loop", "reportingInstance": "n1",
    });
    insta::assert_snapshot!(table(&[old.clone(), new.clone()], true), @r##"
    LAST SEEN   TYPE      REASON      OBJECT   SUBOBJECT            SOURCE             MESSAGE     FIRST SEEN   COUNT   NAME
    30s         Warning   BackOff     pod/p    spec.containers{c}   kubelet, n         held back   60m          7       p.1
    0s          Normal    Withdrawn   pod/p                         hitless-loop, n1   withdrawn   0s           1       p.2
    "##);
    let row = by_gvk("events.k8s.io/v1", "Event").unwrap();
    let view = row.stored_as.unwrap();
    for event in [old, new] {
        let shown = (view.from_stored)(&event);
        assert_eq!(shown["regarding"], event["involvedObject"]);
        assert_eq!((view.to_stored)(&shown), event);
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        assert_eq!((row.cells)(&shown, now), (by_gvk("v1", "Event").unwrap().cells)(&event, now));
        assert!((row.typecheck)(&shown).unwrap().unknown.is_empty());
    }
}

#[test]
fn consumers() {
    let mut heard = born(taken(consumer()), "2026-11-21T11:00:00Z");
    heard["status"] =
        json!({"observedRevision": 4711, "incarnation": "7f3a", "renewTime": "2026-11-21T11:59:57.000000Z"});
    let mut silent = taken(consumer());
    silent["metadata"]["name"] = "dns".into();
    silent["spec"].as_object_mut().unwrap().shift_remove("nodeName");
    insta::assert_snapshot!(table(&[heard.clone(), silent], false), @r##"
    NAME                   TYPE           NODE     ACK      REVISION   LAST-HEARD   AGE
    service-proxy-node-1   ServiceProxy   node-1   Proven   4711       3s           60m
    dns                    ServiceProxy   <none>   Proven   0          <unknown>    <unknown>
    "##);
    insta::assert_snapshot!(table(&[heard], true), @r##"
    NAME                   TYPE           NODE     ACK      REVISION   LAST-HEARD   AGE   INCARNATION   SETTLE   LEASE
    service-proxy-node-1   ServiceProxy   node-1   Proven   4711       3s           60m   7f3a          0ms      40s
    "##);
}
