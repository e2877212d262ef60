//! The ways through which requests go, one row each. Whoever adds a way adds a row here and, if its requests go to
//! something new, a [`Target`] with its arm in `traffic::resolve`.
//!
//! What must hold: each route carries both kinds of requests, those on new connections and those on kept-alive ones, and each of
//! the two is a path of its own in the report.

use std::fmt;

use crate::manifests::{APP_DNS_KEEP_ALIVE, APP_DNS_NEW, APP_KEEP_ALIVE, APP_NEW};

/// Where a generator runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In the node's own network.
    Node,
    /// In a Pod's.
    Pod,
}

impl Place {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Node, Self::Pod];

    /// As it stands in the names of generators.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Pod => "pod",
        }
    }
}

/// What requests are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The Service's cluster IP.
    ClusterIp,
    /// The Service's node port, on the address of another node than the one that the requests come from (if there is one).
    NodePort,
    /// The ingress of another node than the one that the requests come from (if there is one).
    Ingress,
    /// The name of a headless Service: the Pods' own addresses, as long as DNS says that they last.
    Headless,
}

/// A way, with its name in reports.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Of lower-case letters, digits and `-`: containers are named after it.
    pub name: &'static str,
    /// Where its requests come from.
    pub from: Place,
    /// Where they go.
    pub to: Target,
}

/// All ways, in the order of the report.
pub static ROUTES: [Route; 5] = [
    Route { name: "clusterip-node", from: Place::Node, to: Target::ClusterIp },
    Route { name: "clusterip-pod", from: Place::Pod, to: Target::ClusterIp },
    Route { name: "nodeport", from: Place::Node, to: Target::NodePort },
    Route { name: "ingress", from: Place::Node, to: Target::Ingress },
    Route { name: "dns-headless", from: Place::Pod, to: Target::Headless },
];

/// A way with new connections or with kept-alive ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// Which way.
    pub route: &'static Route,
    /// Whether connections are kept alive.
    pub keeps_alive: bool,
}

impl Path {
    /// In the order of the report.
    pub fn all() -> impl Iterator<Item = Self> {
        ROUTES.iter().flat_map(|route| [false, true].map(|keeps_alive| Self { route, keeps_alive }))
    }

    /// Whether requests go to addresses that a name was looked up for.
    #[must_use]
    pub fn is_by_name(self) -> bool {
        self.route.to == Target::Headless
    }

    /// The workload that its requests go to.
    pub(crate) fn app(self) -> &'static str {
        match (self.is_by_name(), self.keeps_alive) {
            (false, false) => APP_NEW,
            (false, true) => APP_KEEP_ALIVE,
            (true, false) => APP_DNS_NEW,
            (true, true) => APP_DNS_KEEP_ALIVE,
        }
    }

    /// The generator's `--mode`.
    pub(crate) fn mode(self) -> &'static str {
        if self.keeps_alive { "keep-alive" } else { "new" }
    }

    /// The name of the container that sends its requests.
    pub(crate) fn container(self) -> String {
        format!("{}-{}", self.route.name, self.mode())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.route.name, self.mode())
    }
}

/// The path of this name, for tests.
#[cfg(test)]
pub(crate) fn path(name: &str) -> Path {
    Path::all().find(|path| path.to_string() == name).unwrap()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_way_is_two_paths_with_names_of_their_own() {
        let names: BTreeSet<String> = Path::all().map(|path| path.to_string()).collect();
        assert_eq!(names.len(), ROUTES.len() * 2);
        assert!(names.contains("clusterip-pod/keep-alive"));
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(Path::all().all(|path| path.container().chars().all(label)));
    }
}
