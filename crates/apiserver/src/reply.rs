//! The successful answer: an object in the form that the client wants.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use hitless_types::kinds::Kind;
use serde_json::{Value, json};

use crate::{
    codec::text,
    core::Core,
    fault::Fault,
    lean,
    negotiate::{Format, Shape},
    table,
};

/// An answer with one object.
pub(crate) struct Reply {
    code: StatusCode,
    object: Value,
    warnings: Vec<String>,
}

impl Reply {
    pub(crate) fn new(code: StatusCode, object: Value) -> Self {
        Self { code, object, warnings: Vec::new() }
    }

    pub(crate) fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }

    /// The object as Table or metadata, where the client wants that. A `Status` stays itself.
    pub(crate) fn shaped(mut self, core: &Core, kind: &Kind, format: Format) -> Self {
        if self.object.get("kind").is_some_and(|k| k == "Status") {
            return self;
        }
        match format.shape {
            Shape::Object => {}
            Shape::Partial => self.object = table::partial(&self.object),
            Shape::Table => {
                let metadata = json!({"resourceVersion": text(&self.object, "/metadata/resourceVersion")});
                self.object = table::table(kind, [&self.object], metadata, format.include, true, core.now());
            }
        }
        self
    }

    pub(crate) fn into_response(mut self, format: Format) -> Response {
        if format.lean {
            lean::strip(&mut self.object);
        }
        let (body, media) = if format.yaml {
            (
                serde_yaml_ng::to_string(&self.object).map(String::into_bytes).map_err(Fault::internal),
                "application/yaml",
            )
        } else if format.pretty {
            (serde_json::to_vec_pretty(&self.object).map_err(Fault::internal), "application/json")
        } else {
            (serde_json::to_vec(&self.object).map_err(Fault::internal), "application/json")
        };
        let mut response = match body {
            Ok(body) => bytes(self.code, body),
            Err(fault) => return fault.into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        for warning in self.warnings.iter().take(WARNINGS_MAX) {
            let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
            // Text that cannot be a header is left out; the warning is advice.
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                headers.append(header::WARNING, value);
            }
        }
        response
    }
}

/// Warnings in one answer.
const WARNINGS_MAX: usize = 20;

/// JSON that is ready.
pub(crate) fn bytes(code: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Text.
pub(crate) fn plain(code: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A `Status` that says that it went well.
pub(crate) fn success(code: StatusCode) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16()})
}
