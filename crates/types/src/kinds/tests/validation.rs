//! What users run into when they write manifests, word by word.

use super::*;

/// What is wrong with a Pod whose field at `pointer` is `value`.
fn pod(pointer: &str, value: Value) -> String {
    faults(&taken(with(my_pod(), pointer, value)), None)
}

fn container(field: &str, value: Value) -> String {
    pod(&format!("/spec/containers/0/{field}"), value)
}

#[test]
fn the_manifests_of_the_scenarios_are_valid() {
    for object in [my_pod(), my_service(), app(), nginx_pdb(), consumer()] {
        let object = taken(object);
        assert_eq!(faults(&object, None), "");
        assert_eq!(faults(&object, Some(&object)), "");
    }
}

#[test]
fn metadata() {
    let all = [
        pod("/metadata/name", json!("My_Pod")),
        pod("/metadata/name", json!("")),
        pod("/metadata/namespace", json!("a.b")),
        pod("/metadata/labels", json!({"a b": "c", "k": "v!"})),
        pod("/metadata/annotations", json!({"Some.Prefix/ok": "x", "bad key": "y"})),
        pod("/metadata/annotations", json!({"a": "x".repeat(256 * 1024)})),
        pod("/metadata/finalizers", json!(["plain", "ok.example/x", "foregroundDeletion"])),
        pod(
            "/metadata/ownerReferences",
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": ""}]),
        ),
        pod(
            "/metadata/ownerReferences",
            json!([
                {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1", "controller": true},
                {"apiVersion": "v1", "kind": "Pod", "name": "b", "uid": "2", "controller": true},
            ]),
        ),
        faults(&taken(with(consumer(), "/metadata/namespace", json!("x"))), None),
        faults(&taken(with(my_service(), "/metadata/name", json!("1st"))), None),
    ];
    insta::assert_snapshot!(all.join("\n"), @r##"
    metadata.name: Invalid value: "My_Pod": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
    metadata.name: Required value: name or generateName is required
    metadata.namespace: Invalid value: "a.b": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
    metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
    metadata.labels: Invalid value: "v!": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
    metadata.annotations: Invalid value: "bad key": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
    metadata.annotations: Too long: may not be more than 262144 bytes
    metadata.finalizers: Invalid value: "plain": name is neither a standard finalizer name nor is it fully qualified
    metadata.ownerReferences.uid: Invalid value: "": uid must not be empty
    metadata.ownerReferences: Invalid value: [{"apiVersion":"v1","controller":true,"kind":"Pod","name":"a","uid":"1"},{"apiVersion":"v1","controller":true,"kind":"Pod","name":"b","uid":"2"}]: Only one reference can have Controller set to true. Found "true" in references for Pod/a and Pod/b
    metadata.namespace: Forbidden: not allowed on this type
    metadata.name: Invalid value: "1st": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
    "##);
    let generated = json!({"generateName": "web-", "namespace": "default"});
    assert_eq!(pod("/metadata", generated), "");
}

#[test]
fn containers() {
    let probe = |probe: Value| json!({"readinessProbe": probe.clone(), "livenessProbe": probe});
    let with_probe = |p: Value| {
        let mut object = my_pod();
        crate::patch::merge_patch(&mut object["spec"]["containers"][0], &probe(p));
        faults(&taken(object), None)
    };
    let all = [
        pod("/spec/containers", json!([])),
        pod("/spec/containers", json!([{"name": "a", "image": "x"}, {"name": "a", "image": "y"}])),
        container("name", json!("Web")),
        container("name", json!("")),
        container("image", json!("")),
        container("image", json!(" nginx")),
        container("imagePullPolicy", json!("Sometimes")),
        container(
            "ports",
            json!([{"containerPort": 70_000}, {"name": "a", "containerPort": 1}, {"name": "a", "containerPort": 2, "protocol": "ICMP"}, {}]),
        ),
        container(
            "env",
            json!([{"name": "a=b"}, {"name": ""}, {"name": "X", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "a"}}}, {"name": "Y", "valueFrom": {}}]),
        ),
        container(
            "volumeMounts",
            json!([{"name": "nope", "mountPath": "/a"}, {"name": "nope", "mountPath": "/a", "subPath": "../b"}]),
        ),
        container("lifecycle", json!({"preStop": {}})),
        container("lifecycle", json!({"preStop": {"sleep": {"seconds": 31}}})),
        container("lifecycle", json!({"preStop": {"exec": {"command": ["x"]}, "httpGet": {"port": 1}}})),
        with_probe(json!({"httpGet": {"port": 0}, "timeoutSeconds": -1, "successThreshold": 2})),
        with_probe(json!({"periodSeconds": 1})),
    ];
    insta::assert_snapshot!(all.join("\n"), @r##"
    spec.containers: Required value
    spec.containers[1].name: Duplicate value: "a"
    spec.containers[0].name: Invalid value: "Web": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
    spec.containers[0].name: Required value
    spec.containers[0].image: Required value
    spec.containers[0].image: Invalid value: " nginx": must not have leading or trailing whitespace
    spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"
    spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive
    spec.containers[0].ports[2].name: Duplicate value: "a"
    spec.containers[0].ports[2].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
    spec.containers[0].ports[3].containerPort: Required value
    spec.containers[0].env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='
    spec.containers[0].env[1].name: Required value
    spec.containers[0].env[2].valueFrom: Invalid value: "": may not be specified when `value` is not empty
    spec.containers[0].env[3].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`
    spec.containers[0].volumeMounts[0].name: Not found: "nope"
    spec.containers[0].volumeMounts[1].name: Not found: "nope"
    spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique
    spec.containers[0].volumeMounts[1].subPath: Invalid value: "../b": must not contain '..'
    spec.containers[0].lifecycle.preStop: Required value: must specify a handler type
    spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)
    spec.containers[0].lifecycle.preStop.httpGet: Forbidden: may not specify more than 1 handler type
    spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive
    spec.containers[0].livenessProbe.timeoutSeconds: Invalid value: -1: must be greater than or equal to 0
    spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1
    spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive
    spec.containers[0].readinessProbe.timeoutSeconds: Invalid value: -1: must be greater than or equal to 0
    spec.containers[0].livenessProbe: Required value: must specify a handler type
    spec.containers[0].readinessProbe: Required value: must specify a handler type
    "##);
}

#[test]
fn resources() {
    let all = [
        container("resources", json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
        container("resources", json!({"requests": {"memory": "-1Mi"}})),
        container("resources", json!({"limits": {"cores": "1"}})),
        container("resources", json!({"limits": {"example.com/gpu": "1500m"}})),
        container(
            "resources",
            json!({"limits": {"example.com/gpu": "2"}, "requests": {"example.com/gpu": "1"}}),
        ),
    ];
    insta::assert_snapshot!(all.join("\n"), @r##"
    spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1
    spec.containers[0].resources.requests[memory]: Invalid value: "-1Mi": must be greater than or equal to 0
    spec.containers[0].resources.limits[cores]: Invalid value: "cores": must be a standard resource type or fully qualified
    spec.containers[0].resources.limits[cores]: Invalid value: "cores": must be a standard resource for containers
    spec.containers[0].resources.requests[cores]: Invalid value: "cores": must be a standard resource type or fully qualified
    spec.containers[0].resources.requests[cores]: Invalid value: "cores": must be a standard resource for containers
    spec.containers[0].resources.limits[example.com/gpu]: Invalid value: "1500m": must be an integer
    spec.containers[0].resources.requests[example.com/gpu]: Invalid value: "1500m": must be an integer
    spec.containers[0].resources.requests: Invalid value: "1": must be equal to example.com/gpu limit of 2
    "##);
    assert_eq!(container("resources", json!({"requests": {"cpu": "1000m"}, "limits": {"cpu": "1"}})), "");
}

#[test]
fn resolvers_of_pods() {
    let with = |policy: &str, config: Value| {
        let mut pod = my_pod();
        pod["spec"]["dnsPolicy"] = json!(policy);
        pod["spec"]["dnsConfig"] = config;
        faults(&taken(pod), None)
    };
    let many = json!({"nameservers": ["1.1.1.1", "::1", "1.1.1", "4.4.4.4"], "searches": ["ok.example.", "Bad_One"],
        "options": [{"value": "1"}, {"name": "ndots", "value": "2"}]});
    let long = json!({"nameservers": ["1.1.1.1"], "searches": vec!["a".repeat(62); 33]});
    let all = [with("None", Value::Null), with("None", json!({})), with("ClusterFirst", many)];
    insta::assert_snapshot!(all.join("\n"), @r##"
    spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None
    spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None
    spec.dnsConfig.nameservers: Invalid value: ["1.1.1.1","::1","1.1.1","4.4.4.4"]: must not have more than 3 nameservers
    spec.dnsConfig.nameservers[2]: Invalid value: "1.1.1": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
    spec.dnsConfig.searches[1]: Invalid value: "Bad_One": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
    spec.dnsConfig.options[0]: Required value: must not be empty
    "##);
    let long = with("Default", long);
    assert!(long.contains("must not have more than 32 search paths"), "{long}");
    assert!(
        long.contains("must not have more than 2048 characters (including spaces) in the search list"),
        "{long}"
    );
    assert_eq!(with("None", json!({"nameservers": ["10.0.0.10"]})), "");
}

#[test]
fn specs() {
    let mut volumes = my_pod();
    volumes["spec"]["volumes"] = json!([
        {"name": "a", "emptyDir": {}}, {"name": "a", "secret": {}}, {"name": "B", "emptyDir": {}, "hostPath": {"path": "/a/../b"}}, {"name": "c", "configMap": {"name": "", "defaultMode": 1000}},
    ]);
    let all = [
        pod("/spec/restartPolicy", json!("Sometimes")),
        pod("/spec/dnsPolicy", json!("Mine")),
        pod("/spec/activeDeadlineSeconds", json!(0)),
        pod("/spec/nodeSelector", json!({"a": "b c"})),
        pod(
            "/spec/tolerations",
            json!([{"operator": "Equal"}, {"key": "a", "operator": "Exists", "value": "x"}, {"key": "a", "effect": "Never"}, {"key": "a", "tolerationSeconds": 1}]),
        ),
        pod(
            "/spec/initContainers",
            json!([{"name": "i", "image": "x", "readinessProbe": {"exec": {"command": ["a"]}}}]),
        ),
        pod("/spec/ephemeralContainers", json!([{"name": "e", "image": "x"}])),
        faults(&taken(volumes), None),
    ];
    insta::assert_snapshot!(all.join("\n"), @r##"
    spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"
    spec.dnsPolicy: Unsupported value: "Mine": supported values: "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"
    spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive
    spec.nodeSelector: Invalid value: "b c": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
    spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means "match all values and all keys"
    spec.tolerations[1].operator: Invalid value: "x": value must be empty when `operator` is 'Exists'
    spec.tolerations[2].effect: Unsupported value: "Never": supported values: "NoExecute", "NoSchedule", "PreferNoSchedule"
    spec.tolerations[3].effect: Invalid value: "": effect must be 'NoExecute' when `tolerationSeconds` is set
    spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always
    spec.ephemeralContainers: Forbidden: cannot be set on create
    spec.volumes[1].name: Duplicate value: "a"
    spec.volumes[1].secret.secretName: Required value
    spec.volumes[2].name: Invalid value: "B": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
    spec.volumes[2].hostPath: Forbidden: may not specify more than 1 volume type
    spec.volumes[2].hostPath: Invalid value: "/a/../b": must not contain '..'
    spec.volumes[3].configMap.name: Required value
    spec.volumes[3].configMap.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive
    "##);
    let sidecar = json!([{"name": "i", "image": "x", "restartPolicy": "Always", "readinessProbe": {"exec": {"command": ["a"]}}}]);
    assert_eq!(pod("/spec/initContainers", sidecar), "");
}

#[test]
fn services() {
    let service = |field: &str, value: Value| {
        faults(&taken(with(my_service(), &format!("/spec/{field}"), value)), None)
    };
    let all = [
        service("type", json!("Magic")),
        service("ports", json!([])),
        service(
            "ports",
            json!([{"port": 0}, {"port": 80, "name": "A"}, {"port": 80, "name": "b", "targetPort": "much-too-long-a-name"}]),
        ),
        service("ports", json!([{"port": 80, "nodePort": 30_000}])),
        service("clusterIP", json!("10.0.0")),
        service("selector", json!({"a": "b c"})),
        service("sessionAffinity", json!("Strong")),
        service("type", json!("ExternalName")),
    ];
    insta::assert_snapshot!(all.join("\n"), @r##"
    spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"
    spec.ports: Required value
    spec.ports[0].name: Required value
    spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
    spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive
    spec.ports[1].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
    spec.ports[2].targetPort: Invalid value: "much-too-long-a-name": must be no more than 15 bytes
    spec.ports[2]: Duplicate value: {"protocol":"TCP","port":80}
    spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
    spec.clusterIPs[0]: Invalid value: "10.0.0": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
    spec.selector: Invalid value: "b c": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
    spec.sessionAffinity: Unsupported value: "Strong": supported values: "ClientIP", "None"
    spec.externalName: Required value
    "##);
}

#[test]
fn workloads() {
    let deployment = |pointer: &str, value: Value| faults(&taken(with(app(), pointer, value)), None);
    let rolling = |surge: Value, unavailable: Value| {
        deployment(
            "/spec/strategy",
            json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}),
        )
    };
    let mut no_selector = app();
    no_selector["spec"].as_object_mut().unwrap().shift_remove("selector");
    let all = [
        faults(&taken(no_selector), None),
        deployment("/spec/selector", json!({})),
        deployment("/spec/selector", json!({"matchLabels": {"name": "other"}})),
        deployment("/spec/selector", json!({"matchExpressions": [{"key": "name", "operator": "Near"}]})),
        deployment("/spec/replicas", json!(-1)),
        deployment("/spec/template/spec/restartPolicy", json!("Never")),
        deployment("/spec/template/spec/containers/0/image", json!("")),
        deployment("/spec/template/metadata/labels", json!({"name": "app", "x": "a b"})),
        deployment("/spec/minReadySeconds", json!(600)),
        deployment("/spec/strategy", json!({"type": "Recreate", "rollingUpdate": {}})),
        deployment("/spec/strategy", json!({"type": "Slow"})),
        rolling(json!(0), json!(0)),
        rolling(json!("0%"), json!("0%")),
        rolling(json!("half"), json!("101%")),
        rolling(json!(-1), json!(1)),
    ];
    insta::assert_snapshot!(all.join("\n"), @r##"
    spec.selector: Required value
    spec.template.metadata.labels: Invalid value: {"name":"app"}: `selector` does not match template `labels`
    spec.selector: Invalid value: {}: empty selector is invalid for deployment
    spec.template.metadata.labels: Invalid value: {"name":"app"}: `selector` does not match template `labels`
    spec.selector: Invalid value: {"matchExpressions":[{"key":"name","operator":"Near"}]}: "Near" is not a valid label selector operator
    spec.replicas: Invalid value: -1: must be greater than or equal to 0
    spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
    spec.template.spec.containers[0].image: Required value
    spec.template.labels: Invalid value: "a b": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
    spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds
    spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'
    spec.strategy.type: Unsupported value: "Slow": supported values: "Recreate", "RollingUpdate"
    spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0
    spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0
    spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%
    spec.strategy.rollingUpdate.maxSurge: Invalid value: "half": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')
    spec.strategy.rollingUpdate.maxSurge: Invalid value: -1: must be greater than or equal to 0
    "##);
    assert_eq!(rolling(json!("150%"), json!(0)), "");
}

#[test]
fn budgets_endpoints_and_configuration() {
    let budget = |spec: Value| faults(&taken(with(nginx_pdb(), "/spec", spec)), None);
    let map = |data: Value| {
        faults(
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "x"}, "data": data}),
            None,
        )
    };
    let secret = |type_: &str| {
        faults(
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "m", "namespace": "x"}, "type": type_}),
            None,
        )
    };
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s", "namespace": "x"}, "addressType": "IPv4",
        "ports": [{"port": 0}, {"port": 1}], "endpoints": [{"addresses": ["::1"]}, {"addresses": []}],
    });
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s", "namespace": "x"}, "subsets": [{"addresses": [{"ip": "x"}]}, {}]});
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "x"}, "involvedObject": {"namespace": "y"}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "effect": ""}, {"key": "b", "effect": "Maybe"}]}});
    let all = [
        budget(json!({"minAvailable": 1, "maxUnavailable": 1})),
        budget(json!({"minAvailable": "a lot"})),
        map(json!({"a b": "1", "..": "2"})),
        secret("kubernetes.io/tls"),
        faults(&taken(slice), None),
        faults(&taken(endpoints), None),
        faults(&event, None),
        faults(&node, None),
    ];
    insta::assert_snapshot!(all.join("\n"), @r##"
    spec: Invalid value: {"maxUnavailable":1,"minAvailable":1}: minAvailable and maxUnavailable cannot be both set
    spec.minAvailable: Invalid value: "a lot": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')
    data[..]: Invalid value: "..": must not be '..'
    data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
    data[tls.crt]: Required value
    data[tls.key]: Required value
    endpoints[0].addresses[0]: Invalid value: "::1": must be a valid IPv4 address
    endpoints[1].addresses: Required value: must contain at least 1 address
    ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
    ports[1].name: Duplicate value: ""
    subsets[0].addresses[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
    subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`
    involvedObject.namespace: Invalid value: "y": does not match event.namespace
    spec.taints[0].effect: Required value
    spec.taints[1].effect: Unsupported value: "Maybe": supported values: "NoExecute", "NoSchedule", "PreferNoSchedule"
    "##);
}

#[test]
fn consumers() {
    let spec = json!({"ackClass": "Sworn", "settleMilliseconds": 600_001, "settleScope": "Some", "leaseDurationSeconds": 0});
    insta::assert_snapshot!(faults(&taken(with(consumer(), "/spec", spec)), None), @r##"
    spec.type: Required value
    spec.incarnation: Required value
    spec.ackClass: Unsupported value: "Sworn": supported values: "Asserted", "Proven", "TimeBounded"
    spec.settleMilliseconds: Invalid value: 600001: must be between 0 and 600000, inclusive
    spec.settleScope: Unsupported value: "Some": supported values: "All", "Headless"
    spec.leaseDurationSeconds: Invalid value: 0: must be between 1 and 3600, inclusive
    "##);
}
