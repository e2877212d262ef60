//! Documents refer only to what they hold, and say of each kind what clients look for.

use super::*;
use crate::discovery::group_versions;

fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|inner| references(inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}

fn all_resolve(document: &Value) {
    let mut found = Vec::new();
    references(document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn every_reference_leads_to_a_schema() {
    for (group, version) in group_versions() {
        all_resolve(&document(group, version));
    }
    all_resolve(&document_v2());
}

#[test]
fn a_schema_says_how_its_lists_merge() {
    let document = document("apps", "v1");
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(
        *containers,
        json!({
            "type": "array", "items": {"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"},
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name",
        })
    );
    let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(strategy["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy");
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
}

/// Length-delimited fields and varints of a message, by number.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            number |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return number;
            }
        }
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = match tag & 7 {
            0 => varint(&mut bytes).to_le_bytes().to_vec(),
            2 => {
                let len = usize::try_from(varint(&mut bytes)).unwrap();
                let (value, rest) = bytes.split_at(len);
                bytes = rest;
                value.to_vec()
            }
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, value));
    }
    found
}

fn one(message: &[u8], number: u64) -> Vec<u8> {
    fields(message).into_iter().find(|(n, _)| *n == number).unwrap().1
}

#[test]
fn the_protobuf_encoding_holds_every_path_and_schema() {
    let document = document_v2();
    let bytes = to_protobuf(&document);
    assert_eq!(one(&bytes, 1), b"2.0");
    let paths = one(&bytes, 8);
    let patches: Vec<_> = fields(&paths)
        .into_iter()
        .filter(|(_, path)| fields(&one(path, 2)).iter().any(|f| f.0 == 8))
        .collect();
    assert_eq!(fields(&paths).len(), document["paths"].as_object().unwrap().len());
    // kubectl finds a kind by the extension of its patch, and there the parameter.
    let pods =
        patches.iter().find(|(_, p)| one(p, 1) == b"/api/v1/namespaces/{namespace}/pods/{name}").unwrap();
    let patch = one(&one(&pods.1, 2), 8);
    let extension = fields(&patch).into_iter().filter(|(n, _)| *n == 13).map(|(_, e)| e);
    let gvk = extension.into_iter().find(|e| one(e, 1) == b"x-kubernetes-group-version-kind").unwrap();
    let yaml = one(&one(&gvk, 2), 2);
    assert_eq!(
        serde_json::from_slice::<Value>(&yaml).unwrap(),
        json!({"group": "", "version": "v1", "kind": "Pod"})
    );
    let query = fields(&patch).into_iter().filter(|(n, _)| *n == 8).filter_map(|(_, item)| {
        let parameter = one(&item, 1);
        let other = fields(&parameter).into_iter().find(|(n, _)| *n == 2)?.1;
        Some(one(&one(&other, 3), 4))
    });
    assert!(query.into_iter().any(|name| name == b"dryRun"));
    let definitions = fields(&one(&bytes, 9));
    assert_eq!(definitions.len(), document["definitions"].as_object().unwrap().len());
}
