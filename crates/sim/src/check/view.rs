//! What a bystander knows: the objects on the disk, what each kernel routes, and where each process is in its life.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use crate::world::{Fact, Routes, Step};

/// After the end of a fault, what it held up may take so much longer: clients that failed come back after a pause of their own.
const RECOVERY: Duration = Duration::from_secs(10);

/// A Pod, by its object.
#[derive(Clone, Debug)]
pub struct PodView {
    /// `namespace/name`.
    pub key: String,
    /// When the disk first held its deletion.
    pub deleted_at: Option<Duration>,
    /// Its deletion is one without any grace.
    pub forced: bool,
    /// Its grace period, as asked for.
    pub grace: Duration,
    /// When its object was removed.
    pub gone_at: Option<Duration>,
    /// Nodes whose service proxies had been silent for their lease when it was said to be withdrawn; `None`: it was not yet.
    pub left_out: Option<BTreeSet<String>>,
}

/// A process.
#[derive(Clone, Debug)]
pub struct ProcessView {
    /// The Pod's uid.
    pub uid: String,
    /// The Pod's address.
    pub ip: String,
    /// Its latest step.
    pub step: Step,
    /// It got a stop signal, or was killed.
    pub told: bool,
}

impl ProcessView {
    /// Whether whoever connects to it is served.
    pub fn takes_connections(&self) -> bool {
        self.step == Step::Accepts
    }
}

/// What the Deployment promises, over all that was ever asked for.
#[derive(Clone, Debug)]
pub struct Promise {
    /// The fewest replicas that were asked for.
    pub replicas_min: u64,
    /// The most.
    pub replicas_max: u64,
    /// `maxSurge`.
    pub surge: u64,
    /// `maxUnavailable`.
    pub unavailable: u64,
}

impl Default for Promise {
    fn default() -> Self {
        Self { replicas_min: u64::MAX, replicas_max: 0, surge: 0, unavailable: 0 }
    }
}

/// An endpoint of a slice.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// Its address.
    pub ip: String,
    /// The uid of its Pod.
    pub uid: String,
    /// As the slice has it.
    pub ready: bool,
    /// As the slice has it.
    pub serving: bool,
    /// As the slice has it.
    pub terminating: bool,
}

/// An EndpointSlice.
#[derive(Clone, Debug)]
pub struct SliceView {
    /// `namespace/name` of its Service.
    pub service: String,
    /// The target port.
    pub port: u64,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// A node's kernel and the service proxy that programs it.
#[derive(Clone, Debug, Default)]
pub struct KernelView {
    /// What it routes.
    pub routes: Arc<Routes>,
    /// Since when its service proxy does not run.
    pub dead_since: Option<Duration>,
    /// It has routed something.
    pub serves: bool,
    /// When the API last took a word of its service proxy.
    pub heard_at: Duration,
}

/// The lease of a service proxy.
const LEASE: Duration = Duration::from_secs(40);
/// How much earlier than its sender's answer the API may have taken a word.
const SLACK: Duration = Duration::from_millis(10);

impl KernelView {
    /// Whether nothing was heard of its service proxy for as long as its lease.
    pub fn is_silent(&self, now: Duration) -> bool {
        now.saturating_sub(self.heard_at) >= LEASE.saturating_sub(SLACK)
    }
}

/// All of it.
#[derive(Default)]
pub struct View {
    /// By uid.
    pub pods: BTreeMap<String, PodView>,
    /// By container id; those of removed Pods too.
    pub processes: BTreeMap<String, ProcessView>,
    /// The container that was started last at each address.
    pub at: BTreeMap<String, String>,
    /// `address:port` by `namespace/name`.
    pub services: BTreeMap<String, String>,
    /// By `namespace/name`.
    pub slices: BTreeMap<String, SliceView>,
    /// By node.
    pub kernels: BTreeMap<String, KernelView>,
    /// What routes should be at each revision at which they changed.
    pub wanted: Vec<(u64, Routes)>,
    /// What the Deployment promises.
    pub promise: Promise,
    /// Replicas that each ReplicaSet is to have.
    pub replicasets: BTreeMap<String, u64>,
    /// Answers to controllers may have been lost: what they did twice is no fault of theirs.
    pub has_lost_answers: bool,
    /// Faults that are in force, with their beginning.
    faults: BTreeMap<String, Duration>,
    /// Faults that are over.
    past: Vec<(Duration, Duration)>,
}

impl View {
    /// Takes a fact in. Gives what the kernel routed before, if the fact is about that.
    pub fn take(&mut self, now: Duration, fact: &Fact) -> Option<Arc<Routes>> {
        match fact {
            Fact::Stored { revision, key, object } => self.stored(now, *revision, key, object.as_deref()),
            Fact::Routes { node, routes } => {
                let kernel = self.kernels.entry(node.clone()).or_default();
                kernel.serves |= !routes.is_empty();
                return Some(std::mem::replace(&mut kernel.routes, routes.clone()));
            }
            Fact::Process { uid, ip, container, step, .. } => self.process(uid, ip, container, *step),
            Fact::Consumer { node, runs } => {
                let kernel = self.kernels.entry(node.clone()).or_default();
                kernel.dead_since = (!runs).then_some(now);
            }
            Fact::Fault { what, begins: true } => {
                self.has_lost_answers |= what.starts_with("LostControl");
                self.faults.insert(what.clone(), now);
            }
            Fact::Fault { what, begins: false } => {
                if let Some(since) = self.faults.remove(what) {
                    self.past.push((since, now));
                }
            }
            Fact::Called { client, code: 200, what } if what.ends_with("/status") => {
                let kernel = client.strip_prefix("proxy-").map(|number| format!("node-{number}"));
                if let Some(kernel) = kernel.and_then(|node| self.kernels.get_mut(&node)) {
                    kernel.heard_at = now;
                }
            }
            Fact::Said { .. } | Fact::Act { .. } | Fact::Called { .. } => {}
        }
        None
    }

    /// How much longer than usual something may take that began at `since`: as long as faults were in force, and their recovery.
    pub fn allowance(&self, since: Duration, now: Duration) -> Duration {
        let over = self.past.iter().map(|(from, to)| (*from, (*to + RECOVERY).min(now)));
        let mut windows: Vec<_> = over.chain(self.faults.values().map(|from| (*from, now))).collect();
        windows.sort_unstable();
        let (mut total, mut reached) = (Duration::ZERO, since);
        for (from, to) in windows {
            let from = from.max(reached);
            total += to.saturating_sub(from);
            reached = reached.max(to);
        }
        total
    }

    /// How long the longest fault has lasted.
    pub fn longest_fault(&self, now: Duration) -> Duration {
        let over = self.past.iter().map(|(from, to)| to.saturating_sub(*from));
        let open = self.faults.values().map(|from| now.saturating_sub(*from));
        over.chain(open).max().unwrap_or_default()
    }

    /// The process that lives at an address.
    pub fn process_at(&self, ip: &str) -> Option<&ProcessView> {
        self.processes.get(self.at.get(ip)?)
    }

    fn process(&mut self, uid: &str, ip: &str, container: &str, step: Step) {
        if step == Step::Started {
            self.at.insert(ip.to_owned(), container.to_owned());
        }
        let process = self.processes.entry(container.to_owned()).or_insert_with(|| ProcessView {
            uid: uid.to_owned(),
            ip: ip.to_owned(),
            step,
            told: false,
        });
        process.step = step;
        process.told |= matches!(step, Step::Signalled | Step::Killed);
    }

    fn stored(&mut self, now: Duration, revision: u64, key: &str, object: Option<&Value>) {
        let Some((kind, name)) = key.split_once('/') else { return };
        match kind {
            "pods" => self.pod(now, name, object),
            "deployments" => self.deployment(object),
            "replicasets" => {
                match object.and_then(|object| object["spec"]["replicas"].as_u64()) {
                    Some(replicas) => self.replicasets.insert(name.to_owned(), replicas),
                    None => self.replicasets.remove(name),
                };
            }
            "services" => {
                match object.and_then(address) {
                    Some(address) => self.services.insert(name.to_owned(), address),
                    None => self.services.remove(name),
                };
                self.want(revision);
            }
            "endpointslices" => {
                match object.and_then(slice) {
                    Some(slice) => self.slices.insert(name.to_owned(), slice),
                    None => self.slices.remove(name),
                };
                self.want(revision);
            }
            _ => {}
        }
    }

    fn deployment(&mut self, object: Option<&Value>) {
        let Some(spec) = object.map(|object| &object["spec"]) else { return };
        let replicas = spec["replicas"].as_u64().unwrap_or_default();
        self.promise.replicas_min = self.promise.replicas_min.min(replicas);
        self.promise.replicas_max = self.promise.replicas_max.max(replicas);
        let rolling = &spec["strategy"]["rollingUpdate"];
        self.promise.surge = rolling["maxSurge"].as_u64().unwrap_or_default();
        self.promise.unavailable = rolling["maxUnavailable"].as_u64().unwrap_or_default();
    }

    fn pod(&mut self, now: Duration, key: &str, object: Option<&Value>) {
        let Some(object) = object else {
            for pod in self.pods.values_mut().filter(|p| p.key == key && p.gone_at.is_none()) {
                pod.gone_at = Some(now);
                // A deletion without any grace removes the object at once; every other is stored first.
                pod.forced |= pod.deleted_at.is_none();
                pod.deleted_at.get_or_insert(now);
            }
            return;
        };
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let pod = self.pods.entry(uid.to_owned()).or_insert_with(|| PodView {
            key: key.to_owned(),
            deleted_at: None,
            forced: false,
            grace: Duration::ZERO,
            gone_at: None,
            left_out: None,
        });
        let conditions = object["status"]["conditions"].as_array();
        let is_withdrawn = |c: &Value| c["type"] == "hitless.dev/Withdrawn" && c["status"] == "True";
        if conditions.into_iter().flatten().any(is_withdrawn) {
            let silent = self.kernels.iter().filter(|(_, k)| k.is_silent(now));
            pod.left_out.get_or_insert_with(|| silent.map(|(node, _)| node.clone()).collect());
        }
        if !object["metadata"]["deletionTimestamp"].is_null() {
            pod.deleted_at.get_or_insert(now);
            let grace_s = object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or_default();
            pod.grace = Duration::from_secs(grace_s);
            pod.forced |= grace_s == 0;
        }
    }

    /// Notes what routes should be from `revision` on, as KEP-1669 has it: ready endpoints; if there is none, those that end and
    /// still serve.
    fn want(&mut self, revision: u64) {
        let mut wanted = Routes::new();
        for (service, to) in &self.services {
            let of = || self.slices.values().filter(|slice| slice.service == *service);
            let all = || of().flat_map(|s| s.endpoints.iter().map(|e| (e, format!("{}:{}", e.ip, s.port))));
            let mut chosen: BTreeSet<String> = all().filter(|(e, _)| e.ready).map(|(_, pod)| pod).collect();
            if chosen.is_empty() {
                chosen = all().filter(|(e, _)| e.terminating && e.serving).map(|(_, pod)| pod).collect();
            }
            if !chosen.is_empty() {
                wanted.insert(to.clone(), chosen);
            }
        }
        self.wanted.push((revision, wanted));
    }
}

fn address(service: &Value) -> Option<String> {
    let ip = service["spec"]["clusterIP"].as_str().filter(|ip| *ip != "None")?;
    Some(format!("{ip}:{}", service["spec"]["ports"][0]["port"].as_u64()?))
}

fn slice(object: &Value) -> Option<SliceView> {
    let meta = &object["metadata"];
    let service = meta["labels"]["kubernetes.io/service-name"].as_str()?;
    let endpoints = object["endpoints"].as_array().into_iter().flatten().filter_map(|e| {
        let is = |condition: &str, absent: bool| e["conditions"][condition].as_bool().unwrap_or(absent);
        let ready = is("ready", true);
        Some(EndpointView {
            ip: e["addresses"][0].as_str()?.to_owned(),
            uid: e["targetRef"]["uid"].as_str().unwrap_or_default().to_owned(),
            ready,
            serving: is("serving", ready),
            terminating: is("terminating", false),
        })
    });
    Some(SliceView {
        service: format!("{}/{service}", meta["namespace"].as_str().unwrap_or_default()),
        port: object["ports"][0]["port"].as_u64().unwrap_or_default(),
        endpoints: endpoints.collect(),
    })
}
