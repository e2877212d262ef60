//! ConfigMap, Secret and ServiceAccount.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret, ServiceAccount},
};
use serde_json::Value;

use super::{AGE, Kind, NAME, ROW, column, typecheck};
use crate::{
    base64,
    field::FieldError,
    json::{set, typed, within},
    names, table,
};

/// Most that one ConfigMap or Secret holds, in bytes.
const DATA_LEN_MAX: usize = 1024 * 1024;

pub(super) const CONFIG_MAP: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    validate: validate_config_map,
    typecheck: typecheck::typecheck::<ConfigMap>,
    columns: &[NAME, column("Data", "string", "Number of keys."), AGE],
    cells: |object, now| {
        let map: ConfigMap = typed(object);
        let keys = map.data.map_or(0, |d| d.len()) + map.binary_data.map_or(0, |d| d.len());
        vec![table::name_of(&map.metadata), keys.into(), table::age_of(&map.metadata, now)]
    },
    ..ROW
};

pub(super) const SECRET: Kind = Kind {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    default: default_secret,
    validate: validate_secret,
    typecheck: typecheck::typecheck::<Secret>,
    columns: &[
        NAME,
        column("Type", "string", "What the data is for."),
        column("Data", "string", "Number of keys."),
        AGE,
    ],
    cells: |object, now| {
        let secret: Secret = typed(object);
        let keys = secret.data.map_or(0, |d| d.len());
        let type_ = secret.type_.unwrap_or_default();
        vec![
            table::name_of(&secret.metadata),
            type_.into(),
            keys.into(),
            table::age_of(&secret.metadata, now),
        ]
    },
    fields: &["type"],
    ..ROW
};

pub(super) const SERVICE_ACCOUNT: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    typecheck: typecheck::typecheck::<ServiceAccount>,
    columns: &[NAME, column("Secrets", "string", "Number of secrets."), AGE],
    cells: |object, now| {
        let account: ServiceAccount = typed(object);
        let secrets = account.secrets.map_or(0, |s| s.len());
        vec![table::name_of(&account.metadata), secrets.into(), table::age_of(&account.metadata, now)]
    },
    ..ROW
};

/// `stringData` is for writing only: it goes into `data`, and wins there.
fn default_secret(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    set(fields, "type", "Opaque");
    if let Some(Value::Object(plain)) = fields.remove("stringData") {
        within(fields, "data", |data| {
            for (key, text) in plain {
                data.insert(key, base64::encode(text.as_str().unwrap_or_default().as_bytes()).into());
            }
        });
    }
}

fn check_keys<'a>(field: &str, keys: impl Iterator<Item = &'a String>, faults: &mut Vec<FieldError>) {
    for key in keys {
        for fault in names::config_key_faults(key) {
            faults.push(FieldError::invalid(format!("{field}[{key}]"), key.as_str(), &fault));
        }
    }
}

fn validate_config_map(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let map: ConfigMap = typed(new);
    let mut faults = Vec::new();
    let (data, binary) = (map.data.clone().unwrap_or_default(), map.binary_data.clone().unwrap_or_default());
    check_keys("data", data.keys(), &mut faults);
    check_keys("binaryData", binary.keys(), &mut faults);
    for key in data.keys().filter(|k| binary.contains_key(*k)) {
        faults.push(FieldError::invalid(
            format!("data[{key}]"),
            key.as_str(),
            "duplicate of key present in binaryData",
        ));
    }
    let len =
        data.values().map(String::len).sum::<usize>() + binary.values().map(|v| v.0.len()).sum::<usize>();
    if len > DATA_LEN_MAX {
        faults.push(FieldError::too_long("", DATA_LEN_MAX));
    }
    if let Some(old) = old.map(typed::<ConfigMap>).filter(|o| o.immutable == Some(true)) {
        keeps_immutable(map.immutable, &mut faults);
        if map.data != old.data {
            faults.push(FieldError::forbidden("data", "field is immutable when `immutable` is set"));
        }
        if map.binary_data != old.binary_data {
            faults.push(FieldError::forbidden("binaryData", "field is immutable when `immutable` is set"));
        }
    }
    faults
}

fn keeps_immutable(immutable: Option<bool>, faults: &mut Vec<FieldError>) {
    if immutable != Some(true) {
        faults.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
}

/// Keys that a Secret of a well-known type must have.
fn required_keys(type_: &str) -> &'static [&'static str] {
    match type_ {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    }
}

fn validate_secret(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let secret: Secret = typed(new);
    let mut faults = Vec::new();
    let data: BTreeMap<String, ByteString> = secret.data.clone().unwrap_or_default();
    check_keys("data", data.keys(), &mut faults);
    if data.values().map(|v| v.0.len()).sum::<usize>() > DATA_LEN_MAX {
        faults.push(FieldError::too_long("data", DATA_LEN_MAX));
    }
    let type_ = secret.type_.as_deref().unwrap_or_default();
    for key in required_keys(type_).iter().filter(|k| !data.contains_key(**k)) {
        faults.push(FieldError::required(format!("data[{key}]"), ""));
    }
    if type_ == "kubernetes.io/basic-auth" && !data.contains_key("username") && !data.contains_key("password")
    {
        faults.push(FieldError::required("data[username]", ""));
        faults.push(FieldError::required("data[password]", ""));
    }
    if let Some(old) = old.map(typed::<Secret>) {
        if old.type_ != secret.type_ {
            faults.push(FieldError::invalid("type", type_, "field is immutable"));
        }
        if old.immutable == Some(true) {
            keeps_immutable(secret.immutable, &mut faults);
            if secret.data != old.data {
                faults.push(FieldError::forbidden("data", "field is immutable when `immutable` is set"));
            }
        }
    }
    faults
}
