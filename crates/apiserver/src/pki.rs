//! The cluster's certificates: a CA of its own, ECDSA P-256 throughout, and what is signed with it.
//!
//! Names are Kubernetes': a client certificate's common name is the user, its organisations are the groups.
//! Private keys are written with mode 0600.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;

use crate::Identity;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{} cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate or key cannot be made.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// Several groups were asked for.
    #[error("a client certificate can carry one group")]
    Groups,
    /// Text is no certificate or key.
    #[error("what should be a certificate or key in PEM is none: {0}")]
    Pem(String),
    /// TLS cannot be set up with it.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// Clients cannot be checked.
    #[error("client certificates cannot be checked")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub cert_pem: String,
    /// The private key, PKCS 8.
    pub key_pem: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair")
    }
}

impl Pair {
    /// Writes `NAME.crt` and `NAME.key` (mode 0600) in `directory`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, directory: &Path, name: &str) -> Result<(), PkiError> {
        write_file(&directory.join(format!("{name}.crt")), &self.cert_pem, 0o644)?;
        write_file(&directory.join(format!("{name}.key")), &self.key_pem, 0o600)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let all = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        all.map_err(|e| PkiError::Pem(e.to_string()))
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| PkiError::Pem(e.to_string()))
    }
}

/// The cluster's certificate authority.
pub struct Ca {
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

const CA_NAME: &str = "hitless-ca";
/// Certificates are valid for ten years from a day ago: clocks differ.
const DAYS_VALID: i64 = 3650;

fn params(sans: &[String]) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(sans)?;
    let now = std::time::SystemTime::now();
    let day = std::time::Duration::from_secs(24 * 3600);
    params.not_before = (now - day).into();
    params.not_after = (now + day * u32::try_from(DAYS_VALID).unwrap_or(365)).into();
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

fn ca_params() -> Result<CertificateParams, PkiError> {
    let mut params = params(&[])?;
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

impl Ca {
    /// A new authority.
    ///
    /// # Errors
    /// No key can be made.
    pub fn create() -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let cert = ca_params()?.self_signed(&key)?;
        let pair = Pair { cert_pem: cert.pem(), key_pem: key.serialize_pem() };
        Ok(Self { pair, issuer: Issuer::new(ca_params()?, key) })
    }

    /// The authority in `directory` (`ca.crt`, `ca.key`); a new one is made and kept there if there is none.
    ///
    /// # Errors
    /// The files cannot be read or written, or hold something else.
    pub fn load_or_create(directory: &Path) -> Result<Self, PkiError> {
        let (cert, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        match (fs::read_to_string(&cert), fs::read_to_string(&key)) {
            (Ok(cert_pem), Ok(key_pem)) => {
                let pair = Pair { cert_pem, key_pem };
                pair.chain()?;
                let issuer = Issuer::new(ca_params()?, KeyPair::from_pem(&pair.key_pem)?);
                Ok(Self { pair, issuer })
            }
            // An authority whose half is missing is none: nothing that it signed could be relied on.
            (cert_read, key_read) => {
                for (path, read) in [(cert, cert_read), (key, key_read)] {
                    if let Err(source) = read
                        && source.kind() != std::io::ErrorKind::NotFound
                    {
                        return Err(PkiError::File { path, source });
                    }
                }
                fs::create_dir_all(directory)
                    .map_err(|source| PkiError::File { path: directory.to_owned(), source })?;
                let ca = Self::create()?;
                ca.pair.write(directory, "ca")?;
                Ok(ca)
            }
        }
    }

    /// The authority's certificate.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.pair.cert_pem
    }

    /// A server's certificate for these names and addresses. It may act as a client too, as kubelets do.
    ///
    /// # Errors
    /// A name cannot stand in a certificate.
    pub fn issue_server(&self, name: &str, sans: &[String]) -> Result<Pair, PkiError> {
        let mut params = params(sans)?;
        params.distinguished_name.push(DnType::CommonName, name);
        self.sign(params, vec![ExtendedKeyUsagePurpose::ServerAuth])
    }

    /// A client's certificate: the user `name` in `groups`, of which a certificate made here can carry one.
    ///
    /// # Errors
    /// A name cannot stand in a certificate, or there are several groups.
    pub fn issue_client(&self, name: &str, groups: &[&str]) -> Result<Pair, PkiError> {
        let mut params = params(&[])?;
        match groups {
            [] => {}
            // A distinguished name holds each of its parts once here; leaving a group out in silence would be worse.
            [group] => params.distinguished_name.push(DnType::OrganizationName, *group),
            [..] => return Err(PkiError::Groups),
        }
        params.distinguished_name.push(DnType::CommonName, name);
        self.sign(params, vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        usages: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<Pair, PkiError> {
        params.extended_key_usages = usages;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, PkiError> {
        roots(&self.pair.cert_pem)
    }

    /// TLS for a server that reads client certificates. With `require_client`, nobody comes in without one.
    ///
    /// # Errors
    /// The pair is none.
    pub fn server_config(
        &self,
        server: &Pair,
        require_client: bool,
    ) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, Arc::clone(&provider));
        let verifier = if require_client { verifier } else { verifier.allow_unauthenticated() }.build()?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(server.chain()?, server.key()?)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// TLS for a client of servers that this authority signed.
    ///
    /// # Errors
    /// The pair is none.
    pub fn client_config(&self, client: &Pair) -> Result<Arc<rustls::ClientConfig>, PkiError> {
        client_config(&self.pair.cert_pem, client)
    }

    /// A kubeconfig for `server` (`https://...`) with the client's certificate in it.
    #[must_use]
    pub fn kubeconfig(&self, cluster: &str, server: &str, user: &str, client: &Pair) -> String {
        kubeconfig(&self.pair.cert_pem, cluster, server, user, client)
    }
}

fn roots(ca_pem: &str) -> Result<Arc<RootCertStore>, PkiError> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(cert.map_err(|e| PkiError::Pem(e.to_string()))?)?;
    }
    Ok(Arc::new(roots))
}

/// TLS for a client of servers that the authority in `ca_pem` signed.
///
/// # Errors
/// Something is no certificate or key.
pub fn client_config(ca_pem: &str, client: &Pair) -> Result<Arc<rustls::ClientConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca_pem)?)
        .with_client_auth_cert(client.chain()?, client.key()?)?;
    Ok(Arc::new(config))
}

/// A kubeconfig with everything in it.
#[must_use]
pub fn kubeconfig(ca_pem: &str, cluster: &str, server: &str, user: &str, client: &Pair) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let context = format!("{user}@{cluster}");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": context,
        "clusters": [{"name": cluster, "cluster": {
            "server": server, "certificate-authority-data": STANDARD.encode(ca_pem),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&client.cert_pem),
            "client-key-data": STANDARD.encode(&client.key_pem),
        }}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
    });
    // A map of text always has a YAML form.
    serde_yaml_ng::to_string(&config).unwrap_or_default()
}

/// Writes a kubeconfig with mode 0600: it holds a private key.
///
/// # Errors
/// The file cannot be written.
pub fn write_kubeconfig(path: &Path, text: &str) -> Result<(), PkiError> {
    write_file(path, text, 0o600)
}

/// Writes a file whole or not at all, with this mode from the first byte on.
pub(crate) fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)
}

/// Who a client certificate names.
pub(crate) fn identity_of(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    groups.push("system:authenticated".to_owned());
    Some(Identity { name, groups })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_authority_is_kept_and_signs_on() {
        let directory = tempfile::tempdir().unwrap();
        let first = Ca::load_or_create(directory.path()).unwrap();
        let again = Ca::load_or_create(directory.path()).unwrap();
        assert_eq!(first.cert_pem(), again.cert_pem());
        let mode = fs::metadata(directory.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let server = again.issue_server("kube-apiserver", &["127.0.0.1".into(), "localhost".into()]).unwrap();
        first.server_config(&server, false).unwrap();
    }

    #[test]
    fn a_certificate_says_who_asks() {
        let ca = Ca::create().unwrap();
        let pair = ca.issue_client("system:node:n1", &["system:nodes"]).unwrap();
        let cert = pair.chain().unwrap().remove(0);
        let identity = identity_of(&cert).unwrap();
        assert_eq!(identity.name, "system:node:n1");
        assert!(matches!(ca.issue_client("a", &["b", "c"]), Err(PkiError::Groups)));
        assert_eq!(identity.groups, ["system:nodes", "system:authenticated"]);
    }
}
