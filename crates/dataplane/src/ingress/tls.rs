//! Which certificate a client is shown: by the server name that it asks for, from the Secrets that Ingresses name.
//!
//! The set is replaced as a whole when Ingresses or Secrets change; connections that are open keep theirs. A client that asks for a name
//! without a certificate is shown a self-signed one, as ingress controllers commonly do: it can then see what is missing.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    level::Certificate,
    records::SecretRecord,
    routes::{by_wildcard, host_name},
};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The self-signed certificate cannot be made.
    #[error("no certificate can be made")]
    SelfSigned(#[from] rcgen::Error),
    /// A certificate, or its key, is none.
    #[error("tls.crt and tls.key are no certificate with its key in PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// They cannot be used.
    #[error("the certificate cannot be used")]
    Key(#[from] rustls::Error),
}

/// Certificates by server name.
#[derive(Debug)]
struct Certificates {
    hosts: HashMap<Box<str>, Arc<CertifiedKey>>,
    wildcards: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// For names that none of them is for.
    other: Arc<CertifiedKey>,
}

/// What connections look certificates up in.
#[derive(Debug)]
pub struct Resolver {
    present: ArcSwap<Certificates>,
    self_signed: Arc<CertifiedKey>,
}

impl Resolver {
    /// With nothing but a self-signed certificate.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self, TlsError> {
        let made = rcgen::generate_simple_self_signed(vec!["ingress.hitless.invalid".to_owned()])?;
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes())?;
        let self_signed =
            Arc::new(CertifiedKey::new(vec![made.cert.der().clone()], ring::sign::any_supported_type(&key)?));
        let present = ArcSwap::from_pointee(Certificates {
            hosts: HashMap::new(),
            wildcards: HashMap::new(),
            other: self_signed.clone(),
        });
        Ok(Self { present, self_signed })
    }

    /// Takes these in place of those before. What cannot be used is left out, with a word in the log.
    pub fn replace(&self, certificates: &[Certificate]) {
        let mut next = Certificates {
            hosts: HashMap::new(),
            wildcards: HashMap::new(),
            other: self.self_signed.clone(),
        };
        let mut is_other_own = false;
        for certificate in certificates {
            let secret = &certificate.secret;
            let Some(held) = &certificate.held else {
                tracing::warn!(
                    secret,
                    "an Ingress names a Secret of type kubernetes.io/tls that is not there"
                );
                continue;
            };
            let key = match certified(held) {
                Ok(key) => Arc::new(key),
                Err(error) => {
                    tracing::warn!(secret, error = %hitless_base::chain(&error), "a certificate is left out");
                    continue;
                }
            };
            for host in &certificate.hosts {
                match host.strip_prefix('*') {
                    Some(suffix) => next.wildcards.entry(suffix.into()).or_insert_with(|| key.clone()),
                    None => next.hosts.entry(host.as_str().into()).or_insert_with(|| key.clone()),
                };
            }
            if certificate.hosts.is_empty() && !is_other_own {
                (next.other, is_other_own) = (key, true);
            }
        }
        self.present.store(Arc::new(next));
    }

    /// What a server of the ingress is set up with.
    ///
    /// # Errors
    /// The library refuses its own defaults.
    pub fn server_config(self: Arc<Self>) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config =
            builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_cert_resolver(self);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn find(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let present = self.present.load();
        let found = name.and_then(|name| {
            let name = host_name(name);
            present.hosts.get(&*name).or_else(|| by_wildcard(&present.wildcards, &name))
        });
        found.unwrap_or(&present.other).clone()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.find(hello.server_name()))
    }
}

fn certified(secret: &SecretRecord) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&secret.chain_pem).collect::<Result<Vec<_>, _>>()?;
    if chain.is_empty() {
        return Err(rustls::pki_types::pem::Error::NoItemsFound.into());
    }
    let key = PrivateKeyDer::from_pem_slice(&secret.key_pem)?;
    let certified = CertifiedKey::new(chain, ring::sign::any_supported_type(&key)?);
    match certified.keys_match() {
        // A key whose public half cannot be told is believed.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(host: &str) -> SecretRecord {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        SecretRecord {
            key: format!("ns/{host}"),
            chain_pem: made.cert.pem().into_bytes(),
            key_pem: made.signing_key.serialize_pem().into_bytes(),
        }
    }

    fn certificate(hosts: &[&str], held: Option<SecretRecord>) -> Certificate {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Certificate { hosts, secret: "ns/s".to_owned(), held }
    }

    fn der(secret: &SecretRecord) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(&secret.chain_pem).unwrap()
    }

    #[test]
    fn the_name_decides_and_what_is_broken_is_left_out() {
        let resolver = Resolver::new().unwrap();
        let (a, b, star, any) = (secret("a"), secret("b"), secret("star"), secret("any"));
        let mixed = SecretRecord { key_pem: b.key_pem.clone(), ..a.clone() };
        let none = SecretRecord { chain_pem: b"none".to_vec(), ..a.clone() };
        let shown = |name: Option<&str>| resolver.find(name).cert[0].clone();
        let own = shown(None);
        resolver.replace(&[
            certificate(&["a.org"], Some(mixed)),
            certificate(&["a.org"], Some(none)),
            certificate(&["a.org"], Some(a.clone())),
            certificate(&["a.org", "b.org"], Some(b.clone())),
            certificate(&["*.org"], Some(star.clone())),
            certificate(&["c.net"], None),
        ]);
        assert_eq!(shown(Some("a.org")), der(&a), "the first that can be used");
        assert_eq!(shown(Some("B.org")), der(&b));
        assert_eq!(shown(Some("c.org")), der(&star));
        for name in [None, Some("c.net"), Some("x.c.org")] {
            assert_eq!(shown(name), own, "{name:?}");
        }
        resolver.replace(&[certificate(&[], Some(any.clone()))]);
        assert_eq!(shown(Some("a.org")), der(&any));
        resolver.replace(&[]);
        assert_eq!(shown(Some("a.org")), own);
    }
}
