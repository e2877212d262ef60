//! An ingress in front of fixed endpoints, without any API: what a measurement of the forwarding alone needs.

use std::{io, net::SocketAddr, sync::Arc};

use super::{
    current::Current,
    endpoint::Endpoint,
    records::{BackendRef, IngressRecord, PortRef},
    routes::Routing,
    server::{self, ListenError, Options, Servers},
    settings::Settings,
    table::{Backend, Table},
    tls::{Resolver, TlsError},
};

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum FixedError {
    /// A port is in use.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is no TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A thread cannot be started.
    #[error("the workers cannot be started")]
    Start(#[from] io::Error),
}

/// Forwards everything to these endpoints.
///
/// # Errors
/// See [`FixedError`].
pub fn serve(options: &Options, endpoints: &[SocketAddr]) -> Result<Servers, FixedError> {
    let backend = BackendRef { service: "default/fixed".to_owned(), port: PortRef::Number(80) };
    let ingress = IngressRecord {
        key: "default/fixed".to_owned(),
        created: hitless_base::Timestamp::UNIX_EPOCH,
        class: None,
        default: Some(backend),
        rules: Vec::new(),
        tls: Vec::new(),
        settings: Settings::default(),
    };
    let routing = Routing::build(std::iter::once(&ingress));
    let endpoints = endpoints.iter().map(|address| Arc::new(Endpoint::new(*address, options.workers.max(1))));
    let table = Current::new(Table::new(Arc::new(routing.routes), vec![Backend::new(endpoints)]));
    let tls = Arc::new(Arc::new(Resolver::new()?).server_config()?);
    Ok(Servers::start(server::bind(options)?, &table, &tls, options.connections_max)?)
}
