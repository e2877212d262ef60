//! Where log lines go: standard error, filtered by `HITLESS_LOG` (default `info`).

use tracing_subscriber::EnvFilter;

/// Installs the process's one subscriber. A second call is ignored.
pub fn init(default_filter: &str) {
    let filter = EnvFilter::try_from_env("HITLESS_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let _already_set = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .try_init();
}
