//! From what the slices say of a Pod to whether, and since which revision, it is in rotation or out of it: pure.

use hitless_base::Revision;

/// How a slice has an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Ready and not terminating: consumers send it requests.
    Ready,
    /// Not ready and not terminating: it may be ready with the next change.
    NotReady,
    /// Terminating: consumers send it requests only while nothing else serves.
    Terminating,
}

/// One slice's word about the Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Key of the Service that the slice belongs to.
    pub service: String,
    /// Written by the EndpointSlice controller, not by a third party.
    pub managed: bool,
    /// Of a headless Service, as its label says.
    pub headless: bool,
    /// How it has the Pod.
    pub rotation: Rotation,
    /// The revision at which that became so, or a later one.
    pub since: Revision,
}

/// A Service that selects the Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSight {
    /// Its key.
    pub key: String,
    /// Whether its slices ought to name the Pod: it has an address of the Service's families and has not run to its end.
    pub lists: bool,
    /// The highest revision of its slices; zero if there are none yet.
    pub revision: Revision,
}

/// What Services and slices say of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// The Services that select it.
    pub services: Vec<ServiceSight>,
    /// The slices that name it.
    pub named: Vec<Named>,
    /// The last revision at which a slice ceased to have it in rotation, as far as that was seen.
    pub left: Option<Revision>,
    /// Its address stands in the records of a headless Service, or stood there as far as that was seen: clients may have kept it. A Pod that
    /// was only ever reached through cluster IPs has none to be kept.
    pub headless: bool,
}

/// Whether a Pod's endpoint is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It never was an endpoint and never will be.
    NoEndpoints,
    /// Not yet; the Service for which that is so.
    NotYet(String),
    /// Removed; consumers that have reached this revision know it.
    At(Revision),
}

/// Whether a Pod's endpoint is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// No Service would list it.
    NoEndpoints,
    /// Not yet; the Service for which that is so.
    NotYet(String),
    /// Every Service lists it as ready; consumers that have reached this revision know it.
    At(Revision),
}

impl Sight {
    /// Whether the endpoint of this *terminating* Pod is removed. It is asked of the level, and must hold against this race:
    ///
    /// The EndpointSlice controller may be behind. It may hold an older state of the Pod, in which that was Ready and not terminating,
    /// and publish it after we have looked. So "no slice names it" is no proof that none will name it as ready a
    /// moment later. What is proof:
    ///
    /// * A slice of the Service names the Pod as **terminating**. Terminating is never taken back in a Pod, so the controller
    ///   has seen the deletion, and it writes one state of a Service after the other: what it writes later is no older.
    ///   (Should a controller that has lost its leadership still write an old state, its write carries an old
    ///   resourceVersion and is refused; and were the Pod named as ready again after all, this answer turns back to `NotYet`.)
    /// * The Pod has **no address** (`lists` is false). Addresses are not taken from a Pod while it lives, so no older state had one
    ///   either, and a Pod without address is never published.
    /// * The Pod **has run to its end**. It may be published for a moment by a controller that is behind, but there
    ///   is no process left whose stop signal could be too early.
    /// * **No Service selects it.** Then nothing is to be published. If one selected it before (its labels or the Service
    ///   were changed), slices of the EndpointSlice controller that still have it in rotation will be written again, so they are waited for
    ///   whatever Service they belong to; and `left` remembers the revision at which they let go of it.
    ///
    /// (Not covered: a Pod that is published for the first time, loses its labels and is deleted, all within the moment by which
    /// this watch of slices is behind. Nothing that the API holds then tells it from a Pod that never had a Service.)
    ///
    /// So a Pod with an address that a Service selects must be *named as terminating* by each such Service; absence is not enough. The
    /// wait ends: a living controller names every terminating Pod with an address, also for a Service that was
    /// just made, and for one that is not living there is the budget.
    ///
    /// The revision is the highest of the slices concerned as of this look, hence at or beyond every change that took the Pod out of
    /// rotation. Slices that are gone meanwhile are covered by `left`.
    #[must_use]
    pub fn removal(&self) -> Removal {
        let selects = |key: &str| self.services.iter().any(|s| s.key == key);
        for named in &self.named {
            if named.rotation != Rotation::Terminating && (named.managed || selects(&named.service)) {
                return Removal::NotYet(named.service.clone());
            }
        }
        for service in self.services.iter().filter(|s| s.lists) {
            if !self.named.iter().any(|n| n.service == service.key) {
                return Removal::NotYet(service.key.clone());
            }
        }
        let concerned = |s: &&ServiceSight| s.lists || self.named.iter().any(|n| n.service == s.key);
        let slices = self.services.iter().filter(concerned).map(|s| s.revision);
        let named = self.named.iter().filter(|n| n.managed).map(|n| n.since);
        slices.chain(named).chain(self.left).max().map_or(Removal::NoEndpoints, Removal::At)
    }

    /// Whether the endpoint of this Ready Pod is published by every Service that selects it.
    #[must_use]
    pub fn listing(&self) -> Listing {
        let mut at = None;
        for service in self.services.iter().filter(|s| s.lists) {
            let ready =
                self.named.iter().filter(|n| n.service == service.key && n.rotation == Rotation::Ready);
            match ready.map(|n| n.since).min() {
                Some(since) => at = at.max(Some(since)),
                None => return Listing::NotYet(service.key.clone()),
            }
        }
        at.map_or(Listing::NoEndpoints, Listing::At)
    }
}
