//! Random bytes and random messages: nothing panics, and what is well-formed comes through as JSON.

use proptest::prelude::*;

use super::*;

/// What kubectl 1.32 sends for `create configmap c --from-literal=k=v`.
const CONFIG_MAP: &[u8] = b"k8s\x00\n\x0f\n\x02v1\x12\tConfigMap\x12\x1b\n\x11\n\x01c\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00\x12\x06\n\x01k\x12\x01v\x1a\x00\"\x00";

#[test]
fn a_body_of_kubectl_is_read() {
    assert_eq!(
        parse(CONFIG_MAP),
        Ok(json!({"metadata": {"name": "c"}, "data": {"k": "v"}, "apiVersion": "v1", "kind": "ConfigMap"}))
    );
}

/// A field by number, as bytes.
fn put(number: u8, bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len()).unwrap();
    assert!(number < 16 && len < 128);
    [&[number << 3 | 2, len], bytes].concat()
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let types = [put(1, api_version.as_bytes()), put(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), put(1, &types), put(2, raw)].concat()
}

#[test]
fn zero_is_kept_where_it_was_said() {
    // spec.replicas (a pointer) is 0; spec.minReadySeconds (none) is 0; spec.paused is false.
    let spec = [0x08, 0, 0x28, 0, 0x38, 0];
    let read = parse(&body("apps/v1", "Deployment", &put(2, &spec))).unwrap();
    assert_eq!(read["spec"], json!({"replicas": 0}));
    let read = parse(&body("policy/v1", "DeleteOptions", &[0x08, 0])).unwrap();
    assert_eq!(read["gracePeriodSeconds"], 0);
}

#[test]
fn special_types_are_written_as_json_has_them() {
    let time = put(8, &[0x08, 0x80, 0x94, 0xeb, 0xdc, 0x03]);
    let read = parse(&body("v1", "Pod", &put(1, &time))).unwrap();
    assert_eq!(read["metadata"]["creationTimestamp"], "2001-09-09T01:46:40Z");
    let port = put(1, &[put(1, b"web"), put(4, &[0x08, 1, 0x1a, 4, b'h', b't', b't', b'p'])].concat());
    let read = parse(&body("v1", "Service", &put(2, &port))).unwrap();
    assert_eq!(read["spec"]["ports"], json!([{"name": "web", "targetPort": "http"}]));
    let limit = put(1, &[put(1, b"cpu"), put(2, &put(1, b"250m"))].concat());
    let container = put(2, &put(8, &limit));
    let read = parse(&body("v1", "Pod", &put(2, &container))).unwrap();
    assert_eq!(read["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "250m"}));
    // A volume's source stands in the volume itself.
    let volume = [put(1, b"v"), put(2, &put(2, b""))].concat();
    let read = parse(&body("v1", "Pod", &put(2, &put(1, &volume)))).unwrap();
    assert_eq!(read["spec"]["volumes"], json!([{"name": "v", "emptyDir": {}}]));
}

#[test]
fn every_message_that_a_field_names_is_there() {
    let schema = Schema::get();
    for (name, fields) in schema.messages() {
        assert!(
            !fields.is_empty() || name.ends_with("Action") || name.contains("Status"),
            "{name} has no fields"
        );
        for field in fields {
            if let Shape::Message(inner) = field.shape {
                assert!(schema.messages().any(|(known, _)| known == inner), "{name}.{}: {inner}", field.name);
            }
        }
    }
}

#[test]
fn every_kind_of_kubernetes_can_be_sent() {
    for kind in hitless_types::kinds::all().iter().filter(|k| k.is_native()) {
        assert!(Schema::get().of_kind(&kind.api_version(), kind.kind).is_some(), "{}", kind.kind);
    }
    assert_eq!(parse(&body("hitless.dev/v1alpha1", "EndpointConsumer", b"")).unwrap_err().code(), 415);
    assert_eq!(parse(b"{}").unwrap_err().code(), 400);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(mut raw in proptest::collection::vec(any::<u8>(), 0..120), deep in 0..200_usize) {
        for _ in 0..deep.min(raw.len()) {
            raw.insert(0, 0x12);
        }
        for kind in ["Pod", "Deployment", "DeleteOptions"] {
            let types = [put(1, if kind == "Deployment" { b"apps/v1" } else { b"v1" }), put(2, kind.as_bytes())].concat();
            let len = raw.len();
            let head = [0x12, u8::try_from(len & 0x7f).unwrap() | 0x80, u8::try_from(len >> 7).unwrap()];
            let whole = [MAGIC.to_vec(), put(1, &types), head.to_vec(), raw.clone()].concat();
            let _read_or_refused = parse(&whole);
        }
    }
}
