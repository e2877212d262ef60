//! The table that workers choose by: routes, and for each backend its endpoints. Immutable; a change makes another one.
//!
//! What must hold: an endpoint is listed only while some slice lists it as usable, by the rules of KEP-1669 (ready ones; if no endpoint of
//! the port is ready, those that terminate and still serve), and a choice gives only endpoints of the table that it was made by.

use std::sync::Arc;

use super::{
    endpoint::{Endpoint, EndpointId},
    records::{EndpointRecord, PortRef, ServiceRecord, SliceRecord},
    routes::Routes,
    settings::Settings,
};

/// The endpoints that a port of a Service has now, each once. None: the Service, or its port, is not there.
#[must_use]
pub fn endpoints_of<'a>(
    service: Option<&ServiceRecord>,
    port: &PortRef,
    slices: impl Iterator<Item = &'a SliceRecord>,
) -> Option<Vec<EndpointId>> {
    let name = service?.port_name(port)?;
    let (mut ready, mut serving) = (Vec::new(), Vec::new());
    for slice in slices {
        for (_, port) in slice.ports.iter().filter(|(of, _)| of == name) {
            let id = |record: &EndpointRecord| EndpointId::new(record.address, *port, &record.uid);
            ready.extend(slice.endpoints.iter().filter(|e| e.ready).map(id));
            serving.extend(slice.endpoints.iter().filter(|e| !e.ready && e.serving && e.terminating).map(id));
        }
    }
    let mut usable = if ready.is_empty() { serving } else { ready };
    usable.sort();
    usable.dedup();
    Some(usable)
}

/// Everything that a choice needs.
#[derive(Debug)]
pub struct Table<C> {
    routes: Arc<Routes>,
    /// By the numbers that the routes name.
    backends: Vec<Backend<C>>,
}

/// The endpoints of one backend. Clones share them.
#[derive(Debug)]
pub struct Backend<C>(Arc<[Arc<Endpoint<C>>]>);

impl<C> Clone for Backend<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What a request is to get.
#[derive(Debug)]
pub enum Choice<C> {
    /// To be sent there.
    Endpoint {
        /// The endpoint.
        endpoint: Arc<Endpoint<C>>,
        /// Limits of the Ingress.
        settings: Settings,
        /// Whether there are others that were not tried.
        others: bool,
    },
    /// No rule meets it: 404.
    NoRule,
    /// Nobody serves it now: 503.
    NoEndpoint,
    /// All that serve it were tried: 502.
    AllTried,
}

/// Where an endpoint stands in a choice: rather not suspect, rather idle.
fn rank<C>(endpoint: &Endpoint<C>) -> (bool, u32) {
    (endpoint.is_suspect(), endpoint.requests())
}

impl<C> Backend<C> {
    /// With these endpoints.
    #[must_use]
    pub fn new(endpoints: impl Iterator<Item = Arc<Endpoint<C>>>) -> Self {
        Self(endpoints.collect())
    }

    /// Its endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint<C>>> {
        self.0.iter()
    }

    /// Of two endpoints that `random` names, the one with fewer requests. If neither can be had, the best of all.
    fn choose(&self, tried: &[u64], random: u64) -> Option<&Arc<Endpoint<C>>> {
        let untried = |endpoint: &&Arc<Endpoint<C>>| !tried.contains(&endpoint.number);
        let count = self.0.len() as u64;
        if count == 0 {
            return None;
        }
        let first = random % count;
        // Another one than the first, each as often as the others.
        let second = (first + 1 + (random >> 32) % (count - 1).max(1)) % count;
        let pick =
            |at: u64| self.0.get(usize::try_from(at).ok()?).filter(untried).filter(|e| !e.is_suspect());
        match (pick(first), pick(second)) {
            (Some(a), Some(b)) => Some(if rank(b) < rank(a) { b } else { a }),
            (Some(one), None) | (None, Some(one)) => Some(one),
            (None, None) => self.0.iter().filter(untried).min_by_key(|endpoint| rank(endpoint)),
        }
    }
}

impl<C> Table<C> {
    /// The routes with their backends, which they name by number.
    #[must_use]
    pub fn new(routes: Arc<Routes>, backends: Vec<Backend<C>>) -> Self {
        Self { routes, backends }
    }

    /// Chooses for a request to `host` and `path`, as [`super::routes::host_name`] and [`super::path::plain`] give them. Not those whose numbers are in `tried`.
    pub fn choose(&self, host: &str, path: &str, tried: &[u64], random: u64) -> Choice<C> {
        let Some(route) = self.routes.find(host, path) else { return Choice::NoRule };
        let Some(backend) = route.backend.and_then(|number| self.backends.get(number)) else {
            return Choice::NoEndpoint;
        };
        match backend.choose(tried, random) {
            Some(endpoint) => Choice::Endpoint {
                endpoint: endpoint.clone(),
                settings: route.settings,
                others: backend.0.len() > tried.len() + 1,
            },
            None if backend.0.is_empty() => Choice::NoEndpoint,
            None => Choice::AllTried,
        }
    }
}
