//! What the manifests of `scenarios.md` become.

use super::*;

#[test]
fn a_pod() {
    insta::assert_json_snapshot!(taken(my_pod()), @r##"
    {
      "apiVersion": "v1",
      "kind": "Pod",
      "metadata": {
        "name": "my-pod",
        "namespace": "default"
      },
      "spec": {
        "containers": [
          {
            "name": "web",
            "image": "nginx",
            "ports": [
              {
                "name": "web",
                "containerPort": 80,
                "protocol": "TCP"
              }
            ],
            "lifecycle": {
              "preStop": {
                "exec": {
                  "command": [
                    "sleep",
                    "15"
                  ]
                }
              }
            },
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "imagePullPolicy": "Always",
            "resources": {}
          }
        ],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "enableServiceLinks": true
      },
      "status": {
        "phase": "Pending",
        "qosClass": "BestEffort"
      }
    }
    "##);
}

#[test]
fn a_service() {
    insta::assert_json_snapshot!(taken(my_service())["spec"], @r##"
    {
      "ports": [
        {
          "port": 80,
          "targetPort": 3000,
          "protocol": "TCP"
        }
      ],
      "selector": {
        "name": "app"
      },
      "type": "ClusterIP",
      "sessionAffinity": "None",
      "internalTrafficPolicy": "Cluster",
      "ipFamilyPolicy": "SingleStack",
      "ipFamilies": [
        "IPv4"
      ]
    }
    "##);
}

#[test]
fn a_deployment() {
    insta::assert_json_snapshot!(taken(app())["spec"], @r##"
    {
      "replicas": 3,
      "selector": {
        "matchLabels": {
          "name": "app"
        }
      },
      "template": {
        "metadata": {
          "labels": {
            "name": "app"
          }
        },
        "spec": {
          "containers": [
            {
              "name": "app",
              "image": "nginx:1.19",
              "ports": [
                {
                  "containerPort": 3000,
                  "protocol": "TCP"
                }
              ],
              "terminationMessagePath": "/dev/termination-log",
              "terminationMessagePolicy": "File",
              "imagePullPolicy": "IfNotPresent",
              "resources": {}
            }
          ],
          "restartPolicy": "Always",
          "terminationGracePeriodSeconds": 30,
          "dnsPolicy": "ClusterFirst",
          "securityContext": {},
          "schedulerName": "default-scheduler"
        }
      },
      "revisionHistoryLimit": 10,
      "progressDeadlineSeconds": 600,
      "strategy": {
        "type": "RollingUpdate",
        "rollingUpdate": {
          "maxUnavailable": "25%",
          "maxSurge": "25%"
        }
      }
    }
    "##);
}

#[test]
fn a_budget_is_as_it_was_written() {
    assert_eq!(taken(nginx_pdb()), nginx_pdb());
}

#[test]
fn probes_volumes_and_requests() {
    let mut pod = my_pod();
    pod["spec"]["hostNetwork"] = true.into();
    pod["spec"]["serviceAccountName"] = "robot".into();
    pod["spec"]["volumes"] = json!([
        {"name": "a"},
        {"name": "b", "configMap": {"name": "m"}},
        {"name": "c", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
        {"name": "d", "hostPath": {"path": "/x"}},
    ]);
    let container = &mut pod["spec"]["containers"][0];
    container["readinessProbe"] = json!({"httpGet": {"port": 80}, "periodSeconds": 0});
    container["livenessProbe"] = json!({"grpc": {"port": 80}, "failureThreshold": 9});
    container["env"] = json!([{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    container["resources"] = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}});
    let spec = taken(pod)["spec"].clone();
    insta::assert_json_snapshot!(json!({
        "volumes": spec["volumes"], "serviceAccount": spec["serviceAccount"], "container": spec["containers"][0],
    }), @r##"
    {
      "volumes": [
        {
          "name": "a",
          "emptyDir": {}
        },
        {
          "name": "b",
          "configMap": {
            "name": "m",
            "defaultMode": 420
          }
        },
        {
          "name": "c",
          "projected": {
            "sources": [
              {
                "serviceAccountToken": {
                  "path": "t",
                  "expirationSeconds": 3600
                }
              },
              {
                "downwardAPI": {
                  "items": [
                    {
                      "path": "p",
                      "fieldRef": {
                        "fieldPath": "metadata.name",
                        "apiVersion": "v1"
                      }
                    }
                  ]
                }
              }
            ],
            "defaultMode": 420
          }
        },
        {
          "name": "d",
          "hostPath": {
            "path": "/x",
            "type": ""
          }
        }
      ],
      "serviceAccount": "robot",
      "container": {
        "name": "web",
        "image": "nginx",
        "ports": [
          {
            "name": "web",
            "containerPort": 80,
            "protocol": "TCP",
            "hostPort": 80
          }
        ],
        "lifecycle": {
          "preStop": {
            "exec": {
              "command": [
                "sleep",
                "15"
              ]
            }
          }
        },
        "readinessProbe": {
          "httpGet": {
            "port": 80,
            "path": "/",
            "scheme": "HTTP"
          },
          "periodSeconds": 10,
          "timeoutSeconds": 1,
          "successThreshold": 1,
          "failureThreshold": 3
        },
        "livenessProbe": {
          "grpc": {
            "port": 80,
            "service": ""
          },
          "failureThreshold": 9,
          "timeoutSeconds": 1,
          "periodSeconds": 10,
          "successThreshold": 1
        },
        "env": [
          {
            "name": "N",
            "valueFrom": {
              "fieldRef": {
                "fieldPath": "metadata.name",
                "apiVersion": "v1"
              }
            }
          }
        ],
        "resources": {
          "limits": {
            "cpu": "1",
            "memory": "1Gi"
          },
          "requests": {
            "cpu": "500m",
            "memory": "1Gi"
          }
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always"
      }
    }
    "##);
}

#[test]
fn a_template_keeps_open_what_only_a_pod_fixes() {
    let limits = json!({"limits": {"cpu": "1"}});
    let spec =
        taken(with(app(), "/spec/template/spec/containers/0/resources", limits.clone()))["spec"]["template"]
            ["spec"]
            .clone();
    assert_eq!(spec["containers"][0]["resources"], limits);
    assert!(spec.get("enableServiceLinks").is_none());
}

#[test]
fn zero_is_a_number_of_replicas() {
    assert_eq!(taken(with(app(), "/spec/replicas", json!(0)))["spec"]["replicas"], 0);
    let recreate = taken(with(app(), "/spec/strategy", json!({"type": "Recreate"})));
    assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
}

#[test]
fn services_of_other_types() {
    let spec = |changes: Value| {
        let mut service = my_service();
        crate::patch::merge_patch(&mut service["spec"], &changes);
        taken(service)["spec"].clone()
    };
    let headless = spec(json!({"clusterIP": "None", "ports": [{"port": 53, "protocol": "UDP"}]}));
    assert_eq!(headless["clusterIPs"], json!(["None"]));
    assert_eq!(headless["ports"], json!([{"port": 53, "protocol": "UDP", "targetPort": 53}]));
    assert_eq!(spec(json!({"type": "NodePort"}))["externalTrafficPolicy"], "Cluster");
    assert_eq!(spec(json!({"type": "LoadBalancer"}))["allocateLoadBalancerNodePorts"], true);
    let external =
        spec(json!({"type": "ExternalName", "externalName": "a.b", "selector": null, "ports": null}));
    assert_eq!(external, json!({"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"}));
    let sticky = spec(json!({"sessionAffinity": "ClientIP"}));
    assert_eq!(sticky["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10_800}}));
}

#[test]
fn string_data_wins_and_is_gone() {
    let secret = taken(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "b2xk", "b": "a2VwdA=="}, "stringData": {"a": "new"},
    }));
    assert_eq!(secret["data"], json!({"a": "bmV3", "b": "a2VwdA=="}));
    assert_eq!((secret.get("stringData"), &secret["type"]), (None, &json!("Opaque")));
}

#[test]
fn a_namespace_that_goes_keeps_its_finalizers_off() {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    let new = taken(namespace.clone());
    assert_eq!(new["spec"], json!({"finalizers": ["kubernetes"]}));
    assert_eq!(new["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
    let going = taken(with(namespace, "/metadata/deletionTimestamp", json!("2026-11-21T10:00:00Z")));
    assert!(going.get("spec").is_none());
}

#[test]
fn a_consumer() {
    let mut bare = consumer();
    bare["spec"] = json!({"type": "DNS", "incarnation": "1"});
    assert_eq!(
        taken(bare)["spec"],
        json!({"type": "DNS", "incarnation": "1", "ackClass": "Asserted", "settleMilliseconds": 0, "settleScope": "All", "leaseDurationSeconds": 40})
    );
}

#[test]
fn what_a_new_object_starts_with() {
    let start = |object: &Value| (kind_of(object).initial_status)(object);
    assert_eq!(start(&my_pod()), Some(json!({"phase": "Pending", "qosClass": "BestEffort"})));
    assert_eq!(start(&my_service()), Some(json!({"loadBalancer": {}})));
    assert_eq!(start(&app()), Some(json!({})));
    assert_eq!(start(&consumer()), None);
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"conditions": []}});
    assert_eq!(start(&node), Some(json!({"conditions": []})));
}
