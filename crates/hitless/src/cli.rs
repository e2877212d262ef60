//! The command line: what can be asked, and nothing of how it is done.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A Kubernetes cluster in one binary that never drops a request while Pods come and go.
#[derive(Debug, Parser)]
#[command(name = "hitless", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster on this machine; stop it with Ctrl-C or `hitless down`
    Up(Up),
    /// Stop a cluster and take away all that it made (images and objects are kept)
    Down(Down),
    /// Bring container images into a running cluster
    #[command(subcommand)]
    Images(Images),
    /// Show a Pod's life step by step, with each consumer's watermark
    Trace(Trace),
    /// Send traffic through a cluster while Pods come and go, and count what is lost
    Prove(Prove),
    /// Measure the figures of BENCHMARKS.md
    Bench(Bench),
    /// The cluster's own process, as `up --detach` starts it
    #[command(hide = true)]
    Engine(Up),
    /// The agent of one node, as the engine starts it
    #[command(hide = true)]
    Node {
        /// The agent's settings
        #[arg(long)]
        config: PathBuf,
    },
}

/// Whether stop signals wait for the consumers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Loop {
    /// A process is told to stop when every consumer has let go of it
    #[default]
    On,
    /// Plain Kubernetes' order, for comparison
    Off,
}

/// Where each node's ingress listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IngressPorts(pub Option<(u16, u16)>);

impl Default for IngressPorts {
    fn default() -> Self {
        Self(Some((80, 443)))
    }
}

impl std::str::FromStr for IngressPorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        text.split_once(',')
            .and_then(|(http, https)| Some((port(http)?, port(https)?)))
            .filter(|(http, https)| http != https)
            .map(|ports| Self(Some(ports)))
            .ok_or_else(|| "two ports, as in 80,443, or off".to_owned())
    }
}

impl std::fmt::Display for IngressPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some((http, https)) => write!(f, "{http},{https}"),
            None => f.write_str("off"),
        }
    }
}

/// Which cluster, and where its files are.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Name of the cluster; several can run beside each other
    #[arg(long, default_value = "hitless", value_name = "NAME")]
    pub name: String,
    /// Directory of images, objects, keys and logs
    #[arg(long, default_value = "/var/lib/hitless", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// `hitless up`.
#[derive(Clone, Debug, Args)]
pub struct Up {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Number of nodes, each a network namespace with a containerd of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub nodes: u8,
    /// Port of the API server on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 6443)]
    pub port: u16,
    /// Return when the cluster is ready; it runs on in the background
    #[arg(long)]
    pub detach: bool,
    /// Ports of each node's ingress, on the node's address; `off`: no ingress
    #[arg(long, default_value = "80,443", value_name = "HTTP,HTTPS|off")]
    pub ingress_ports: IngressPorts,
    /// Whether stop signals wait until the consumers have let go
    #[arg(long = "loop", value_enum, default_value_t = Loop::On, value_name = "on|off")]
    pub loop_: Loop,
}

impl Up {
    /// The command line of an engine that does in the background what is asked for here.
    pub fn engine_arguments(&self) -> Vec<OsString> {
        // Taken apart, so that no option can be forgotten.
        let Self { which: Which { name, data_dir }, nodes, port, detach: _, ingress_ports, loop_ } = self;
        let loop_ = if *loop_ == Loop::On { "on" } else { "off" };
        vec![
            "engine".into(),
            "--name".into(),
            name.into(),
            "--data-dir".into(),
            data_dir.into(),
            "--nodes".into(),
            nodes.to_string().into(),
            "--port".into(),
            port.to_string().into(),
            "--ingress-ports".into(),
            ingress_ports.to_string().into(),
            "--loop".into(),
            loop_.into(),
        ]
    }
}

/// `hitless images`.
#[derive(Clone, Debug, Subcommand)]
pub enum Images {
    /// Import OCI or `docker save` archives (tar, also with gzip) into every node
    Import {
        /// Which cluster.
        #[command(flatten)]
        which: Which,
        /// The archives
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// `hitless down`.
#[derive(Clone, Debug, Args)]
pub struct Down {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Remove images, objects, keys and logs too
    #[arg(long)]
    pub purge: bool,
}

/// How a running cluster is reached.
#[derive(Clone, Debug, Args)]
pub struct Reach {
    /// kubeconfig of the cluster [default: $KUBECONFIG, else that of the cluster `hitless`]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// `hitless trace`.
#[derive(Clone, Debug, Args)]
pub struct Trace {
    /// What to show: pod/NAME
    #[arg(value_name = "pod/NAME")]
    pub what: String,
    /// Namespace of the Pod
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// How the cluster is reached.
    #[command(flatten)]
    pub reach: Reach,
}

/// Forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// `hitless prove`.
#[derive(Clone, Debug, Args)]
pub struct Prove {
    /// delete, rollout, drain, slow-consumer [default: all]
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<hitless_prove::Scenario>,
    /// Run everything again with the loop off, and with `preStop: sleep 15`
    #[arg(long)]
    pub compare: bool,
    /// Write the result as JSON to FILE (`-`: standard output)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Use this cluster instead of one of its own
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the own cluster; several can run beside each other
    #[arg(long, default_value = crate::command::OWN_CLUSTER, value_name = "NAME")]
    pub name: String,
    /// Directory of the own cluster's images, objects, keys and logs
    #[arg(long, default_value = "/var/lib/hitless", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Requests a second on new connections, all paths together
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub rate_new: u32,
    /// Requests a second on kept-alive connections, all paths together
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub rate_keep_alive: u32,
    /// Send at least so many requests, all scenarios together, by carrying each out again
    #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u64).range(..=100_000_000))]
    pub requests: u64,
}

/// `hitless bench`.
#[derive(Clone, Debug, Args)]
pub struct Bench {
    /// What to measure
    #[arg(value_enum)]
    pub what: Figure,
    /// Directory of the cluster's images, objects, keys and logs
    #[arg(long, default_value = "/var/lib/hitless", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// What `hitless bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Figure {
    /// Delete to stop signal, over 200 single deletions
    Withdrawal,
    /// Create to Ready, one Pod and 20 at once, against containerd called directly
    Pods,
    /// `up` to both nodes Ready, images present, ten times
    Up,
    /// Memory and CPU of an idle cluster, without containerd, over 30 s
    Idle,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_ports_of_the_ingress_are_two_or_none() {
        assert_eq!("8080,8443".parse(), Ok(IngressPorts(Some((8080, 8443)))));
        assert_eq!("off".parse(), Ok(IngressPorts(None)));
        for text in ["", "80", "80,", "80,80", "0,443", "80,70000", "80,443,1"] {
            assert!(text.parse::<IngressPorts>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_detached_engine_is_told_everything() {
        let asked = [
            "hitless",
            "up",
            "--detach",
            "--name",
            "a",
            "--data-dir",
            "/d",
            "--nodes",
            "3",
            "--port",
            "0",
            "--ingress-ports",
            "off",
            "--loop",
            "off",
        ];
        let Command::Up(up) = Cli::parse_from(asked).command else { panic!("not `up`") };
        let told = std::iter::once("hitless".into()).chain(up.engine_arguments());
        let Command::Engine(engine) = Cli::parse_from(told).command else { panic!("not `engine`") };
        assert_eq!(format!("{:?}", Up { detach: true, ..engine }), format!("{up:?}"));
    }

    #[test]
    fn a_wrong_scenario_is_named_with_those_there_are() {
        let error = Cli::try_parse_from(["hitless", "prove", "drian"]).unwrap_err().to_string();
        assert!(error.contains("drian") && error.contains("slow-consumer"), "{error}");
    }
}
