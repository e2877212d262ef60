//! One endpoint as the workers see it: how busy it is, whether it can be reached, and its idle connections.
//!
//! What must hold: once an endpoint has gone, no connection of it is kept or given out; those in use end with their request.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// An endpoint that could not be reached is the last choice for this long.
const SUSPECT: Duration = Duration::from_secs(10);
/// Idle connections that a worker keeps of one endpoint.
const IDLE_MAX: usize = 128;
/// The longest that a connection is kept idle: less than what servers commonly allow.
const IDLE_LONGEST: Duration = Duration::from_secs(30);

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Which endpoint: where, and of which Pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId {
    /// Address and port.
    pub address: SocketAddr,
    /// UID of the Pod, where one stands behind it.
    pub uid: String,
}

impl EndpointId {
    /// Of a Pod's address and a port.
    #[must_use]
    pub fn new(address: IpAddr, port: u16, uid: &str) -> Self {
        Self { address: SocketAddr::new(address, port), uid: uid.to_owned() }
    }
}

/// Idle connections, with the moment at which each fell idle.
type Idle<C> = Mutex<Vec<(Instant, C)>>;

/// An endpoint that is, or was, in the table. `C` is a connection to it.
#[derive(Debug)]
pub struct Endpoint<C> {
    /// Where it is.
    pub address: SocketAddr,
    /// No other endpoint of this process has, had or will have it.
    pub number: u64,
    requests: AtomicU32,
    gone: AtomicBool,
    /// Milliseconds after `born`; 0: not suspect.
    suspect_until_ms: AtomicU64,
    born: Instant,
    /// One stack of idle connections for each worker, so that workers do not wait for each other.
    idle: Box<[Idle<C>]>,
}

impl<C> Endpoint<C> {
    /// A new endpoint, for this many workers.
    #[must_use]
    pub fn new(address: SocketAddr, workers: usize) -> Self {
        Self {
            address,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            requests: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            suspect_until_ms: AtomicU64::new(0),
            born: Instant::now(),
            idle: (0..workers).map(|_| Mutex::default()).collect(),
        }
    }

    /// Requests that it is working on, as far as this node's ingress knows.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// A request begins.
    pub fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that has begun ends.
    pub fn end(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether it has left the table.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// It has left the table: its idle connections are dropped, and none is kept from now on.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::SeqCst);
        for idle in &self.idle {
            // Dropped outside the lock.
            let connections = std::mem::take(&mut *idle.lock());
            drop(connections);
        }
    }

    /// It could not be reached.
    pub fn suspect(&self) {
        let until = self.born.elapsed() + SUSPECT;
        self.suspect_until_ms.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// It answered.
    pub fn clear(&self) {
        if self.suspect_until_ms.load(Ordering::Relaxed) != 0 {
            self.suspect_until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it is a last choice only.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        let until = self.suspect_until_ms.load(Ordering::Relaxed);
        until != 0 && self.born.elapsed() < Duration::from_millis(until)
    }

    /// The connection that was used last and that `usable` takes, if any is idle. Those that it does not take are dropped.
    pub fn take(&self, worker: usize, mut usable: impl FnMut(&C) -> bool) -> Option<C> {
        let idle = self.idle.get(worker)?;
        loop {
            let (since, connection) = idle.lock().pop()?;
            if since.elapsed() < IDLE_LONGEST && usable(&connection) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection that has no request, or drops it.
    pub fn keep(&self, worker: usize, connection: C) {
        let Some(idle) = self.idle.get(worker) else { return };
        let mut idle = idle.lock();
        // Asked under the lock: `leave` empties the stack after it has set the mark.
        if !self.is_gone() && idle.len() < IDLE_MAX {
            idle.push((Instant::now(), connection));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint<u32> {
        Endpoint::new(([10, 0, 0, 1], 80).into(), 2)
    }

    #[test]
    fn the_last_used_connection_comes_first_and_each_worker_has_its_own() {
        let endpoint = endpoint();
        for connection in [1, 2, 3] {
            endpoint.keep(0, connection);
        }
        assert_eq!(endpoint.take(1, |_| true), None);
        assert_eq!(endpoint.take(0, |c| *c != 3), Some(2), "what cannot be used is dropped");
        assert_eq!(endpoint.take(0, |_| true), Some(1));
        assert_eq!(endpoint.take(0, |_| true), None);
        assert_eq!(endpoint.take(7, |_| true), None);
    }

    #[test]
    fn nothing_is_kept_of_what_has_gone() {
        let endpoint = endpoint();
        endpoint.keep(0, 1);
        endpoint.keep(1, 2);
        endpoint.leave();
        endpoint.keep(0, 3);
        assert!((0..2).all(|worker| endpoint.take(worker, |_| true).is_none()));
        assert!(endpoint.is_gone());
    }

    #[test]
    fn idle_connections_are_bounded() {
        let endpoint = endpoint();
        (0..1000).for_each(|n| endpoint.keep(0, n));
        let mut count = 0;
        while endpoint.take(0, |_| true).is_some() {
            count += 1;
        }
        assert_eq!(count, IDLE_MAX);
    }

    #[test]
    fn what_could_not_be_reached_is_suspect_until_it_answers() {
        let endpoint = endpoint();
        assert!(!endpoint.is_suspect());
        endpoint.suspect();
        assert!(endpoint.is_suspect());
        endpoint.clear();
        assert!(!endpoint.is_suspect());
    }
}
