//! Names that more than one room must spell alike.

/// API group of the project's own kinds.
pub const GROUP: &str = "hitless.dev";
/// Version of the project's own kinds.
pub const VERSION: &str = "v1alpha1";

/// Pod condition: every consumer in scope has reached the revision at which the endpoint became ready.
pub const PROGRAMMED: &str = "hitless.dev/Programmed";
/// Pod condition: every consumer in scope has let go of the endpoint (or the budget is spent; see the reason).
pub const WITHDRAWN: &str = "hitless.dev/Withdrawn";

/// Reason of `PROGRAMMED`/`WITHDRAWN`: every consumer has answered.
pub const REASON_ACKNOWLEDGED: &str = "Acknowledged";
/// Reason: no Service selects the Pod, or it never was an endpoint.
pub const REASON_NO_ENDPOINTS: &str = "NoEndpoints";
/// Reason: the withdrawal budget ran out; the message names who had not answered.
pub const REASON_BUDGET_SPENT: &str = "WithdrawalBudgetSpent";
/// Reason of a condition that is still False: the message names who is awaited.
pub const REASON_WAITING: &str = "WaitingForConsumers";

/// Pod annotation: withdrawal budget in whole seconds (default [`WITHDRAWAL_BUDGET_S_DEFAULT`], bound [`WITHDRAWAL_BUDGET_S_MAX`]).
pub const ANNOTATION_WITHDRAWAL_BUDGET: &str = "hitless.dev/withdrawal-budget-seconds";
/// Default of the withdrawal budget.
pub const WITHDRAWAL_BUDGET_S_DEFAULT: u64 = 30;
/// Upper bound of the withdrawal budget.
pub const WITHDRAWAL_BUDGET_S_MAX: u64 = 3600;

/// Pod annotation, set by the API server at creation: RFC 3339 time in microseconds at which the Pod was accepted.
pub const ANNOTATION_CREATED_AT: &str = "hitless.dev/created-at";
/// Pod annotation, set by the API server with `deletionTimestamp`: RFC 3339 time in microseconds.
pub const ANNOTATION_DELETED_AT: &str = "hitless.dev/deleted-at";
/// Event annotation on the loop's events: JSON `[{"consumer","revision","target","at","class"}]`.
pub const ANNOTATION_WATERMARKS: &str = "hitless.dev/watermarks";
/// EndpointConsumer annotation that makes a service proxy take each change this much later (`1s`, `250ms`): a fault, for `hitless prove`.
pub const ANNOTATION_FAULT_LAG: &str = "hitless.dev/fault-lag";

/// Standard label: the Service that an EndpointSlice belongs to.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Standard label of a Service that another proxy than the cluster's own is to serve.
pub const LABEL_SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Standard label: who manages an EndpointSlice.
pub const LABEL_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`] for the slices that the EndpointSlice controller writes, as in Kubernetes.
pub const ENDPOINTSLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// Standard label: node name.
pub const LABEL_HOSTNAME: &str = "kubernetes.io/hostname";
/// Standard label: hash of a ReplicaSet's Pod template.
pub const LABEL_POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Standard annotation: revision of a Deployment and its ReplicaSets.
pub const ANNOTATION_DEPLOYMENT_REVISION: &str = "deployment.kubernetes.io/revision";
/// Standard taint of a cordoned node.
pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Standard taint of a node that is not ready.
pub const TAINT_NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Standard taint of a node that nothing has been heard of.
pub const TAINT_UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Namespace of the nodes' leases.
pub const NAMESPACE_NODE_LEASE: &str = "kube-node-lease";

/// Event reasons of a Pod's life, in the order in which they come. `hitless trace` reads these.
/// Where Kubernetes has a word, it is that word.
pub mod reason {
    /// By the scheduler: bound to a node.
    pub const SCHEDULED: &str = "Scheduled";
    /// By the scheduler: no node fits; the message says why.
    pub const FAILED_SCHEDULING: &str = "FailedScheduling";
    /// By the kubelet: sandbox is up and has an address.
    pub const SANDBOX_READY: &str = "SandboxReady";
    /// By the kubelet: image is being pulled.
    pub const PULLING: &str = "Pulling";
    /// By the kubelet: image is present.
    pub const PULLED: &str = "Pulled";
    /// By the kubelet: container created.
    pub const CREATED: &str = "Created";
    /// By the kubelet: container started.
    pub const STARTED: &str = "Started";
    /// By the kubelet: a probe failed.
    pub const UNHEALTHY: &str = "Unhealthy";
    /// By the kubelet: the Pod's Ready condition became True and was published.
    pub const READY: &str = "Ready";
    /// By the loop: every consumer routes to the Pod.
    pub const PROGRAMMED: &str = "Programmed";
    /// By the kubelet: deletion seen, the gate is closed until the Pod is withdrawn.
    pub const WITHDRAWING: &str = "Withdrawing";
    /// By the loop: every consumer has let go; carries the watermarks.
    pub const WITHDRAWN: &str = "Withdrawn";
    /// By the loop, Warning: the budget ran out; the message names who did not answer.
    pub const WITHDRAWAL_BUDGET_SPENT: &str = "WithdrawalBudgetSpent";
    /// By the kubelet, Warning: connections that had come in before the withdrawal were not answered in time.
    pub const UNANSWERED: &str = "Unanswered";
    /// By the kubelet: preStop hook ran (with its duration).
    pub const PRE_STOP: &str = "PreStop";
    /// By the kubelet, Warning: preStop hook failed.
    pub const FAILED_PRE_STOP: &str = "FailedPreStopHook";
    /// By the kubelet: the stop signal was sent (eventTime is the moment).
    pub const KILLING: &str = "Killing";
    /// By the kubelet, Warning: SIGKILL after the grace period.
    pub const GRACE_EXCEEDED: &str = "ExceededGracePeriod";
    /// By the kubelet: container has exited (with its code).
    pub const EXITED: &str = "Exited";
    /// By the kubelet: sandbox gone, address and volumes released.
    pub const RELEASED: &str = "Released";
    /// By the kubelet, Warning: restart is held back.
    pub const BACK_OFF: &str = "BackOff";
    /// By the kubelet, Warning: something failed.
    pub const FAILED: &str = "Failed";
}

/// A request header: what of the metadata the answer, its items or its events shall be without. [`MANAGED_FIELDS`] is known.
pub const OMIT_HEADER: &str = "hitless-omit";
/// The metadata's field that says who manages what.
pub const MANAGED_FIELDS: &str = "managedFields";
