//! Base64 for `Secret.data`, by the codec that k8s-openapi already brings for its byte strings.

use k8s_openapi::ByteString;
use serde_json::Value;

/// Standard base64 with padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    match serde_json::to_value(ByteString(bytes.to_vec())) {
        Ok(Value::String(text)) => text,
        _ => String::new(),
    }
}
