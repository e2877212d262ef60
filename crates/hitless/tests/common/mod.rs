//! What the end-to-end tests share: a cluster of the real binary, stock kubectl, traffic, and steps that run beside each other.
//!
//! Each test file starts one cluster under a name of its own and runs its steps against it, each in a namespace of its own, because a
//! cluster costs seconds and a namespace nothing. What must hold: a missing part fails (nothing here skips), every wait has a
//! bound and waits for a condition, and a test leaves nothing behind, also when it panics.

#![allow(dead_code, reason = "each test file uses its part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

pub mod leftovers;
pub mod run;
pub mod tools;
pub mod traffic;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

pub use run::{Output, run, run_with_input};

/// The binary under test.
pub const HITLESS: &str = env!("CARGO_BIN_EXE_hitless");

/// How long a condition may take to hold on a machine where much else is going on.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory and a cluster name that are no one else's; both are cleared away at the end, and the cluster too, if one runs.
pub struct Home {
    /// The cluster's name.
    pub name: String,
    directory: tempfile::TempDir,
}

impl Home {
    /// `what` becomes part of the name.
    pub fn new(what: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("hitless-e2e-").tempdir_in("/tmp").unwrap();
        let name = format!("e2e-{what}-{}", std::process::id());
        Self { name, directory }
    }

    /// Where the test may put files.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What `--data-dir` gets.
    pub fn data_dir(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The cluster's part of the data directory.
    pub fn cluster_dir(&self) -> PathBuf {
        self.data_dir().join(&self.name)
    }

    /// A command of the binary for this cluster, e.g. `up`.
    pub fn hitless(&self, command: &str, more: &[&str]) -> Command {
        let mut hitless = Command::new(HITLESS);
        hitless.args([command, "--name", &self.name, "--data-dir"]).arg(self.data_dir()).args(more);
        // The tests' own surroundings must not matter.
        hitless.env_remove("KUBECONFIG").env_remove("RUST_LOG");
        hitless
    }

    /// `hitless up --detach`, two nodes, any port.
    pub fn up(&self) -> Output {
        run(&mut self.hitless("up", &["--nodes", "2", "--port", "0", "--detach"]))
    }

    /// `hitless down`.
    pub fn down(&self) -> Output {
        run(&mut self.hitless("down", &[]))
    }

    /// The process of the detached engine.
    pub fn engine(&self) -> i32 {
        let text = std::fs::read_to_string(format!("/run/hitless/{}/engine.json", self.name)).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        i32::try_from(json["pid"].as_i64().unwrap()).unwrap()
    }

    /// kubectl as the cluster's administrator.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl { kubeconfig: self.cluster_dir().join("admin.kubeconfig"), namespace: "default".to_owned() }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["engine.log", "node-1/agent.log", "node-2/agent.log"] {
                let directory = if log == "engine.log" {
                    self.cluster_dir()
                } else {
                    Path::new("/run/hitless").join(&self.name)
                };
                let text = std::fs::read_to_string(directory.join(log)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {log}, last lines\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
        let down = run(&mut self.hitless("down", &["--purge"]));
        if !down.ok {
            eprintln!("the cluster {} could not be taken away: {}", self.name, down.all());
        }
    }
}

/// A cluster that is up.
pub struct Cluster {
    /// Its name and directories; taken away at the end.
    pub home: Home,
}

impl Cluster {
    /// Brings it up with two nodes.
    pub fn up(what: &str) -> Self {
        let home = Home::new(what);
        home.up().succeeded();
        Self { home }
    }

    /// Runs each step in a namespace and a thread of its own, `threads` at a time, in the order given; then says which failed.
    pub fn steps(&self, threads: usize, steps: &[Step]) {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let failed = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((name, step)) =
                        steps.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    {
                        let began = Instant::now();
                        let outcome = std::panic::catch_unwind(|| {
                            let space = Space::new(&self.home, &name.replace('_', "-"));
                            step(&space);
                            space.leave();
                        });
                        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
                        eprintln!("step {name} ... {word} ({:.1} s)", began.elapsed().as_secs_f64());
                        if outcome.is_err() {
                            failed.lock().unwrap().push(*name);
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap();
        assert!(failed.is_empty(), "{} of {} steps failed: {}", failed.len(), steps.len(), failed.join(", "));
    }
}

/// A named step of a test, over the space that it works in.
pub type Step = (&'static str, fn(&Space));

/// A namespace of a running cluster, for one step.
pub struct Space<'a> {
    /// Where the cluster's files are.
    pub home: &'a Home,
    /// kubectl in this namespace.
    pub kubectl: Kubectl,
}

impl<'a> Space<'a> {
    fn new(home: &'a Home, namespace: &str) -> Self {
        let kubectl = Kubectl { namespace: namespace.to_owned(), ..home.kubectl() };
        kubectl.ok(&["create", "namespace", namespace]);
        // A Pod is only admitted once its namespace has this.
        until("the namespace has its service account", || {
            kubectl.try_json(&["get", "serviceaccount", "default"])
        });
        Self { home, kubectl }
    }

    /// Leaves the namespace to its own end: the next steps need not wait for it.
    fn leave(self) {
        self.kubectl.ok(&["delete", "namespace", &self.kubectl.namespace, "--wait=false"]);
    }

    /// Applies manifests, with validation, as a user does.
    pub fn apply(&self, manifests: &str) -> String {
        self.kubectl.with_input(&["apply", "-f", "-"], manifests).succeeded().stdout
    }

    /// One Pod of the project's server, at once Running; `spec` is merged over it (JSON).
    pub fn pod(&self, name: &str, args: &[&str], container: Value, spec: Value) -> Value {
        let mut base = serde_json::json!({
            "name": "web", "image": "hitless.dev/web:1", "args": args, "ports": [{"containerPort": 3000}],
        });
        merge(&mut base, container);
        let mut pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"name": name}},
            "spec": {"automountServiceAccountToken": false, "containers": [base]},
        });
        merge(&mut pod["spec"], spec);
        self.apply(&pod.to_string());
        pod
    }

    /// Waits until the Pod is Ready.
    pub fn ready(&self, pod: &str) {
        self.kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]);
    }

    /// The Events' reasons of an object, with their moments, in order of time.
    pub fn events(&self, name: &str) -> Vec<(String, String)> {
        let selector = format!("involvedObject.name={name}");
        let list = self.kubectl.json(&["get", "events", "--field-selector", &selector]);
        let mut events: Vec<(String, String)> = items(&list)
            .iter()
            .map(|e| {
                let at = e["eventTime"].as_str().or_else(|| e["lastTimestamp"].as_str()).unwrap_or_default();
                (at.to_owned(), e["reason"].as_str().unwrap_or_default().to_owned())
            })
            .collect();
        events.sort();
        events
    }

    /// The moment (RFC 3339, microseconds) of the first Event with this reason; waits for it.
    pub fn event_at(&self, name: &str, reason: &str) -> String {
        until(&format!("{name} has an Event {reason}"), || {
            self.events(name).into_iter().find(|(_, r)| r == reason).map(|(at, _)| at)
        })
    }
}

/// Stock kubectl with a kubeconfig and a namespace.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// Who and where.
    pub kubeconfig: PathBuf,
    /// `--namespace`.
    pub namespace: String,
}

impl Kubectl {
    /// The command, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["--namespace", &self.namespace]).args(args);
        command
    }

    /// Runs it, whatever comes of it.
    pub fn run(&self, args: &[&str]) -> Output {
        run(&mut self.command(args))
    }

    /// Runs it with something on standard input.
    pub fn with_input(&self, args: &[&str], input: &str) -> Output {
        run_with_input(&mut self.command(args), input)
    }

    /// Runs it; it must succeed. Gives standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        self.run(args).succeeded().stdout
    }

    /// Runs it; it must be refused. Gives what it said.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.ok, "{args:?} should have been refused, but said: {}", output.all());
        output.all()
    }

    /// Its answer as JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["-o", "json"]].concat())).unwrap()
    }

    /// Its answer as JSON, if it succeeds.
    pub fn try_json(&self, args: &[&str]) -> Option<Value> {
        let output = self.run(&[args, &["-o", "json"]].concat());
        output.ok.then(|| serde_json::from_str(&output.stdout).unwrap())
    }

    /// Names of the objects that a `get` lists.
    pub fn names(&self, args: &[&str]) -> Vec<String> {
        let list = self.json(&[&["get"], args].concat());
        items(&list).iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until the objects that a `get` lists are as `holds` wants them.
    pub fn until(&self, what: &str, get: &[&str], holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        until(what, || {
            let list = self.try_json(&[&["get"], get].concat())?;
            let found = items(&list);
            holds(&found).then_some(found)
        })
    }
}

/// The items of a list, or the object itself.
pub fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_else(|| vec![list.clone()])
}

/// The status of one condition of an object.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == kind)?["status"].as_str()
}

/// Whether a Pod is Ready and not on its way out.
pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == Some("True") && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Waits until `attempt` gives something, within [`PATIENCE`].
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// JSON merge of `over` into `base`.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, over) => *base = over,
    }
}

/// The application of the scenarios: a Deployment and its Service.
pub fn app(replicas: u32, container: Value) -> String {
    format!("{}\n{}\n", deployment(replicas, container), service())
}

/// The Deployment `app`; `container` is merged over its container.
pub fn deployment(replicas: u32, container: Value) -> Value {
    let mut web = serde_json::json!({
        "name": "web", "image": "hitless.dev/web:1",
        "args": ["serve", "--port", "3000", "--on-term", "exit"],
        "ports": [{"containerPort": 3000}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 3000}, "periodSeconds": 1},
    });
    merge(&mut web, container);
    serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"name": "app"}},
            "template": {
                "metadata": {"labels": {"name": "app"}},
                "spec": {"automountServiceAccountToken": false, "containers": [web]},
            },
        },
    })
}

/// The Service `my-service` of all Pods with the label `name: app`.
pub fn service() -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "my-service"},
        "spec": {"selector": {"name": "app"}, "ports": [{"port": 80, "targetPort": 3000}]},
    })
}
