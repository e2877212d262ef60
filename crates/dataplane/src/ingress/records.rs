//! Ingresses, classes, Services, EndpointSlices and Secrets cut down to what routing needs.
//!
//! What cannot be served (a backend that is no Service, a slice of host names) is left out at this door.

use std::{net::IpAddr, time::Duration};

use hitless_base::Timestamp;
use hitless_types::{meta, well_known};
use k8s_openapi::api::{
    core::v1::{Secret, Service},
    discovery::v1::{Endpoint, EndpointSlice},
    networking::v1::{Ingress, IngressBackend, IngressClass},
};

use super::settings::Settings;

/// The controller that classes name when their Ingresses are served here.
pub const CONTROLLER: &str = "hitless.dev/ingress";
/// The class that is there from the beginning.
pub const CLASS: &str = "hitless";
const ANNOTATION_CLASS: &str = "kubernetes.io/ingress.class";
const ANNOTATION_DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// An Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressRecord {
    /// `namespace/name`.
    pub key: String,
    /// The older of two that claim the same wins.
    pub created: Timestamp,
    /// The class that it names, by field or by the older annotation.
    pub class: Option<String>,
    /// What serves requests that match none of its rules.
    pub default: Option<BackendRef>,
    /// Its rules.
    pub rules: Vec<RuleRecord>,
    /// Its certificates.
    pub tls: Vec<TlsRecord>,
    /// Limits of its requests.
    pub settings: Settings,
}

/// One path of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRecord {
    /// In lower case; `*.` at its beginning stands for one label; none: every host.
    pub host: Option<String>,
    /// Begins with a slash.
    pub path: String,
    /// Whether the path must be the same; otherwise it is a prefix, element by element.
    pub exact: bool,
    /// Who serves it. None: something that is no Service; requests are answered with 503.
    pub backend: Option<BackendRef>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendRef {
    /// `namespace/name` of the Service.
    pub service: String,
    /// Which port.
    pub port: PortRef,
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortRef {
    /// Its number.
    Number(u16),
    /// Its name.
    Name(String),
}

/// A certificate for hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRecord {
    /// In lower case. Empty: whatever the certificate itself is for.
    pub hosts: Vec<String>,
    /// `namespace/name` of the Secret.
    pub secret: String,
}

/// An IngressClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRecord {
    /// Its name.
    pub name: String,
    /// Whether its Ingresses are served here.
    pub ours: bool,
    /// Whether it is the class of Ingresses that name none.
    pub default: bool,
}

/// A Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// `namespace/name`.
    pub key: String,
    /// Name (may be empty) and number of its TCP ports.
    pub ports: Vec<(String, u16)>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceRecord {
    /// `namespace/name` of the slice.
    pub key: String,
    /// `namespace/name` of its Service.
    pub service: String,
    /// Name (may be empty) and number of its TCP target ports.
    pub ports: Vec<(String, u16)>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointRecord>,
}

/// An endpoint and its conditions, absent ones resolved as the API documents them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRecord {
    /// The Pod's address.
    pub address: IpAddr,
    /// UID of the Pod: an address that goes from one Pod to another is another endpoint. Empty where no Pod stands behind it.
    pub uid: String,
    /// Absent: ready.
    pub ready: bool,
    /// Absent: as ready.
    pub serving: bool,
    /// Absent: not terminating.
    pub terminating: bool,
}

/// A Secret that holds a certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretRecord {
    /// `namespace/name`.
    pub key: String,
    /// The chain, in PEM.
    pub chain_pem: Vec<u8>,
    /// Its key, in PEM.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for SecretRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretRecord({})", self.key)
    }
}

impl IngressRecord {
    /// What routing needs of an Ingress.
    #[must_use]
    pub fn of(ingress: &Ingress) -> Self {
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let spec = ingress.spec.clone().unwrap_or_default();
        let class = spec
            .ingress_class_name
            .or_else(|| meta::annotation(&ingress.metadata, ANNOTATION_CLASS).map(str::to_owned));
        let mut rules = Vec::new();
        for rule in spec.rules.into_iter().flatten() {
            let host = rule.host.filter(|host| !host.is_empty()).map(|host| host.to_ascii_lowercase());
            // A rule without paths sends everything to the default backend, which is where what matches no rule goes anyhow.
            for path in rule.http.into_iter().flat_map(|http| http.paths) {
                rules.push(RuleRecord {
                    host: host.clone(),
                    path: path.path.filter(|path| path.starts_with('/')).unwrap_or_else(|| "/".to_owned()),
                    exact: path.path_type == "Exact",
                    backend: BackendRef::of(namespace, &path.backend),
                });
            }
        }
        let tls = spec.tls.into_iter().flatten().filter_map(|tls| {
            Some(TlsRecord {
                hosts: tls.hosts.into_iter().flatten().map(|host| host.to_ascii_lowercase()).collect(),
                secret: format!("{namespace}/{}", tls.secret_name.filter(|name| !name.is_empty())?),
            })
        });
        Self {
            key: meta::key(&ingress.metadata),
            created: ingress
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            class,
            default: spec.default_backend.as_ref().and_then(|backend| BackendRef::of(namespace, backend)),
            rules,
            tls: tls.collect(),
            settings: Settings::of(&ingress.metadata),
        }
    }

    /// Whether this controller serves it, given the classes that there are.
    #[must_use]
    pub fn is_served<'a>(&self, mut classes: impl Iterator<Item = &'a ClassRecord>) -> bool {
        match &self.class {
            Some(name) => classes.any(|class| class.ours && class.name == *name),
            None => classes.any(|class| class.ours && class.default),
        }
    }
}

impl BackendRef {
    fn of(namespace: &str, backend: &IngressBackend) -> Option<Self> {
        let service = backend.service.as_ref()?;
        let port = service.port.as_ref()?;
        let port = match (port.number, port.name.as_deref()) {
            (Some(number), _) if number != 0 => PortRef::Number(u16::try_from(number).ok()?),
            (_, Some(name)) if !name.is_empty() => PortRef::Name(name.to_owned()),
            _ => return None,
        };
        Some(Self { service: format!("{namespace}/{}", service.name), port })
    }
}

impl ClassRecord {
    /// What routing needs of a class.
    #[must_use]
    pub fn of(class: &IngressClass) -> Self {
        let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref());
        Self {
            name: class.metadata.name.clone().unwrap_or_default(),
            ours: controller == Some(CONTROLLER),
            default: meta::annotation(&class.metadata, ANNOTATION_DEFAULT_CLASS) == Some("true"),
        }
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

impl ServiceRecord {
    /// What routing needs of a Service. One that stands for a name elsewhere has no ports here.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"));
        let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
        let ports = ports
            .filter(|port| is_tcp(port.protocol.as_deref()))
            .filter_map(|port| Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port).ok()?)));
        Self { key: meta::key(&service.metadata), ports: ports.collect() }
    }

    /// The name that the port has in the Service's slices. None: the Service has no such port.
    #[must_use]
    pub fn port_name(&self, wanted: &PortRef) -> Option<&str> {
        let found = self.ports.iter().find(|(name, number)| match wanted {
            PortRef::Number(wanted) => wanted == number,
            PortRef::Name(wanted) => wanted == name,
        });
        found.map(|(name, _)| name.as_str())
    }
}

impl SliceRecord {
    /// What routing needs of a slice. One of host names, or of no Service, has no endpoints.
    #[must_use]
    pub fn of(slice: &EndpointSlice) -> Self {
        let labels = slice.metadata.labels.as_ref();
        let name = labels.and_then(|l| l.get(well_known::LABEL_SERVICE_NAME)).map_or("", String::as_str);
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let ports = slice.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
        let ports = ports.filter_map(|port| {
            Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port?).ok()?))
        });
        let usable = !name.is_empty();
        Self {
            key: meta::key(&slice.metadata),
            service: format!("{namespace}/{name}"),
            ports: ports.collect(),
            endpoints: slice
                .endpoints
                .iter()
                .flatten()
                .filter(|_| usable)
                .filter_map(EndpointRecord::of)
                .collect(),
        }
    }
}

impl EndpointRecord {
    /// Only the first address counts: the API says that consumers may take all addresses of an endpoint as the same.
    fn of(endpoint: &Endpoint) -> Option<Self> {
        let address = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        Some(Self {
            address,
            uid: endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default(),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        })
    }
}

impl SecretRecord {
    /// The certificate of a Secret that holds one.
    #[must_use]
    pub fn of(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        Some(Self {
            key: meta::key(&secret.metadata),
            chain_pem: data.get("tls.crt")?.0.clone(),
            key_pem: data.get("tls.key")?.0.clone(),
        })
    }
}

/// A time as annotations give it: a whole number and `ms`, `s` or `m`, at most an hour.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    let time = number.parse::<u64>().ok()?.checked_mul(unit_ms).map(Duration::from_millis)?;
    (!time.is_zero() && time <= Duration::from_secs(3600)).then_some(time)
}
