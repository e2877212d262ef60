//! The consumer's plane: builds the next table, puts it in force, and takes leave of endpoints.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
};

use async_trait::async_trait;

use super::{
    current::Current,
    endpoint::{Endpoint, EndpointId},
    level::{Dirty, IngressLevel},
    records::BackendRef,
    routes::Routes,
    table::{Backend, Table},
    tls::Resolver,
    upstream::{Connection, Target},
};
use crate::consumer::Plane;

/// The workers, as the consumer sees them.
pub struct Workers {
    table: Current<Table<Connection>>,
    resolver: Arc<Resolver>,
    workers: usize,
    routes: Arc<Routes>,
    /// The backends in the order of the routes' numbers.
    order: Vec<BackendRef>,
    backends: HashMap<BackendRef, (Vec<EndpointId>, Backend<Connection>)>,
    /// Every endpoint of the table in force, and of the next one.
    endpoints: HashMap<EndpointId, Arc<Target>>,
    changed: bool,
    /// Called once, when the first table is in force.
    ready: Option<Box<dyn FnOnce() + Send>>,
}

impl Workers {
    /// Nothing in force yet. `ready` is called when the first table is.
    #[must_use]
    pub fn new(
        table: Current<Table<Connection>>,
        resolver: Arc<Resolver>,
        workers: usize,
        ready: Box<dyn FnOnce() + Send>,
    ) -> Self {
        Self {
            table,
            resolver,
            workers,
            routes: Arc::default(),
            order: Vec::new(),
            backends: HashMap::new(),
            endpoints: HashMap::new(),
            changed: false,
            ready: Some(ready),
        }
    }

    fn backend(&mut self, ids: &[EndpointId]) -> Backend<Connection> {
        let (endpoints, workers) = (&mut self.endpoints, self.workers);
        Backend::new(ids.iter().map(|id| {
            let new = || Arc::new(Endpoint::new(id.address, workers));
            endpoints.entry(id.clone()).or_insert_with(new).clone()
        }))
    }
}

#[async_trait]
impl Plane for Workers {
    type Level = IngressLevel;
    type Error = Infallible;

    fn take(&mut self, dirty: Dirty) {
        if let Some(certificates) = dirty.certificates {
            self.resolver.replace(&certificates);
        }
        if let Some(routing) = dirty.routing {
            self.routes = Arc::new(routing.routes);
            let named: HashSet<_> = routing.backends.iter().collect();
            self.backends.retain(|backend, _| named.contains(backend));
            self.order = routing.backends;
            self.changed = true;
        }
        for (backend, ids) in dirty.endpoints {
            if self.backends.get(&backend).is_some_and(|(before, _)| *before == ids) {
                continue;
            }
            let made = self.backend(&ids);
            self.backends.insert(backend, (ids, made));
            self.changed = true;
        }
    }

    /// Returns when no worker can choose an endpoint any more that is not in the table now.
    async fn commit(&mut self) -> Result<(), Infallible> {
        if std::mem::take(&mut self.changed) {
            let none = Backend::new(std::iter::empty());
            let backend = |of: &BackendRef| {
                self.backends.get(of).map_or_else(|| none.clone(), |(_, made)| made.clone())
            };
            let backends: Vec<_> = self.order.iter().map(backend).collect();
            let present: HashSet<u64> =
                backends.iter().flat_map(Backend::endpoints).map(|endpoint| endpoint.number).collect();
            self.table.publish(Table::new(self.routes.clone(), backends)).await;
            self.endpoints.retain(|_, endpoint| {
                let stays = present.contains(&endpoint.number);
                if !stays {
                    endpoint.leave();
                }
                stays
            });
        }
        if let Some(ready) = self.ready.take() {
            ready();
        }
        Ok(())
    }
}
