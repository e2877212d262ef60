//! Content negotiation: in which form the client wants its answer, and in which form it sent its body.

use axum::http::{HeaderMap, header};

use hitless_types::status::ApiFault;

use crate::{fault::Fault, lean, query::Query};

/// What an object or list is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Itself.
    Object,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata.
    Partial,
}

/// What a Table's rows carry beside their cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata.
    Metadata,
    /// The whole object.
    Object,
}

/// The answer's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) shape: Shape,
    pub(crate) include: IncludeObject,
    pub(crate) yaml: bool,
    pub(crate) pretty: bool,
    /// Without managed fields.
    pub(crate) lean: bool,
}

impl Format {
    /// JSON, as it is.
    pub(crate) const JSON: Self = Self {
        shape: Shape::Object,
        include: IncludeObject::Metadata,
        yaml: false,
        pretty: false,
        lean: false,
    };

    /// Whether stored bytes can be passed on without decoding.
    pub(crate) fn is_plain(self) -> bool {
        self.shape == Shape::Object && !self.yaml && !self.pretty
    }
}

/// Reads `Accept`, `pretty` and `includeObject`. The first form that can be given wins; weights are not looked at,
/// for clients list what they like best first.
///
/// # Errors
/// 406 when nothing that the client takes can be given; 400 for an unknown `includeObject`.
pub(crate) fn accept(headers: &HeaderMap, query: &Query) -> Result<Format, Fault> {
    let include = match query.get("includeObject") {
        None | Some("Metadata") => IncludeObject::Metadata,
        Some("None") => IncludeObject::None,
        Some("Object") => IncludeObject::Object,
        Some(other) => {
            return Err(Fault::bad_request(format!("unrecognized includeObject value: {other:?}")));
        }
    };
    let plain = Format { include, pretty: query.flag("pretty"), lean: lean::wanted(headers), ..Format::JSON };
    let mut any = false;
    for value in headers.get_all(header::ACCEPT) {
        for clause in value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|c| !c.is_empty()) {
            any = true;
            if let Some(format) = clause_format(clause, plain) {
                return Ok(format);
            }
        }
    }
    if any {
        let types = ["application/json", "application/yaml", "application/json;stream=watch"];
        return Err(ApiFault::NotAcceptable(types.map(str::to_owned).into()).into());
    }
    Ok(plain)
}

fn clause_format(clause: &str, plain: Format) -> Option<Format> {
    let mut parts = clause.split(';').map(str::trim);
    let yaml = match parts.next()? {
        "application/json" | "*/*" | "application/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let mut shape = Shape::Object;
    let (mut group, mut version) = ("", "");
    for part in parts {
        match part.split_once('=')? {
            ("as", "Table") => shape = Shape::Table,
            ("as", "PartialObjectMetadata" | "PartialObjectMetadataList") => shape = Shape::Partial,
            ("as", _) => return None,
            ("g", name) => group = name,
            ("v", name) => version = name,
            _ => {}
        }
    }
    if shape != Shape::Object && (group != "meta.k8s.io" || version != "v1") {
        return None;
    }
    Some(Format { shape, yaml, ..plain })
}

/// The form of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyType {
    Json,
    Yaml,
    Protobuf,
    JsonPatch,
    MergePatch,
    StrategicMergePatch,
    ApplyPatch,
}

/// Reads `Content-Type`; what is absent is JSON.
///
/// # Errors
/// 415 for what cannot be read here.
pub(crate) fn body_type(headers: &HeaderMap, patch: bool) -> Result<BodyType, Fault> {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let found = match (media.as_str(), patch) {
        ("" | "application/json" | "text/plain" | "application/x-www-form-urlencoded", false) => {
            Some(BodyType::Json)
        }
        ("application/yaml" | "application/x-yaml" | "text/yaml", false) => Some(BodyType::Yaml),
        ("application/vnd.kubernetes.protobuf", false) => Some(BodyType::Protobuf),
        ("application/json-patch+json", true) => Some(BodyType::JsonPatch),
        ("application/merge-patch+json", true) => Some(BodyType::MergePatch),
        ("application/strategic-merge-patch+json", true) => Some(BodyType::StrategicMergePatch),
        ("application/apply-patch+yaml", true) => Some(BodyType::ApplyPatch),
        _ => None,
    };
    found.ok_or_else(|| {
        let known: &[&str] = if patch {
            &[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
                "application/apply-patch+yaml",
            ]
        } else {
            &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]
        };
        ApiFault::UnsupportedMediaType(known.iter().map(|t| (*t).to_owned()).collect()).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(accept_header: &str) -> Result<Format, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept_header.parse().unwrap());
        accept(&headers, &Query::default()).map_err(|f| f.code())
    }

    #[test]
    fn the_first_form_that_can_be_given_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(shape(kubectl).map(|f| f.shape), Ok(Shape::Table));
        assert_eq!(shape("application/json").map(|f| f.shape), Ok(Shape::Object));
        assert_eq!(
            shape("application/vnd.kubernetes.protobuf,application/json").map(|f| f.shape),
            Ok(Shape::Object)
        );
        assert_eq!(shape("application/vnd.kubernetes.protobuf"), Err(406));
        assert_eq!(shape("application/yaml").map(|f| f.yaml), Ok(true));
        assert_eq!(accept(&HeaderMap::new(), &Query::default()), Ok(Format::JSON));
    }

    #[test]
    fn a_body_that_cannot_be_read_is_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(body_type(&headers, false), Ok(BodyType::Json));
        headers.insert(header::CONTENT_TYPE, "application/cbor".parse().unwrap());
        assert_eq!(body_type(&headers, false).map_err(|f| f.code()), Err(415));
        headers.insert(header::CONTENT_TYPE, "application/apply-patch+yaml".parse().unwrap());
        assert_eq!(body_type(&headers, true), Ok(BodyType::ApplyPatch));
        assert_eq!(body_type(&headers, false).map_err(|f| f.code()), Err(415));
        headers.insert(header::CONTENT_TYPE, "application/merge-patch+json; charset=utf-8".parse().unwrap());
        assert_eq!(body_type(&headers, true), Ok(BodyType::MergePatch));
    }
}
