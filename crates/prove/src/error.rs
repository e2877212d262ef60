//! What can go wrong with the proving itself. That a request was lost is no error but a result.

/// An error of whoever brings the clusters.
pub type ClusterError = Box<dyn std::error::Error + Send + Sync>;

/// Why a scenario, or the whole run, could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The cluster for a mode could not be had.
    #[error("no cluster with {mode}")]
    Cluster {
        /// Which mode.
        mode: crate::Mode,
        /// Why.
        #[source]
        source: ClusterError,
    },
    /// The API refused or was not there.
    #[error("could not {doing}")]
    Api {
        /// What was being done.
        doing: String,
        /// The API's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// Something did not come to pass in its bound.
    #[error("waited {seconds} s for {what}; still missing: {missing}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The bound, in seconds.
        seconds: u64,
        /// What was missing at the end.
        missing: String,
    },
    /// The scenario needs more nodes.
    #[error("needs {needed} nodes that are Ready and schedulable, found {found}")]
    TooFewNodes {
        /// How many it needs.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// No service proxy has registered for a node.
    #[error("no EndpointConsumer of type ServiceProxy serves node {node}")]
    NoConsumer {
        /// The node.
        node: String,
    },
    /// The cluster has not given something that the scenario needs.
    #[error("there is no {what}")]
    Missing {
        /// What.
        what: String,
    },
    /// A generator of traffic ended without its summary.
    #[error("the traffic generator {generator} ended without a summary{said}")]
    Generator {
        /// Pod and container.
        generator: String,
        /// Its last words, where it had any.
        said: String,
    },
    /// A manifest of this crate's own is no object of its kind.
    #[error("the manifest of {what} is malformed")]
    Manifest {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The caller asked to stop.
    #[error("stopped before the end")]
    Cancelled,
}

impl ProveError {
    /// For `map_err`: says what was being done.
    pub(crate) fn api(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api { doing: doing.into(), source: Box::new(source) }
    }
}
