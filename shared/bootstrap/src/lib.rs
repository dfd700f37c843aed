//! What every process of Gantry does before and after its work: configuration, logs, metrics, shutdown, and the
//! [`Ports`] to the servers it stands on.
//!
//! - [`load`] reads a configuration of any shape from `gantry.toml` and the environment; its complaints name the line or
//!   the variable, the key, and what would be right ([`ConfigurationError`]).
//! - [`settings`] are the sections that say which servers: [`Ports::connect`] makes the four ports of them, and waits for
//!   servers that are not there yet.
//! - [`run`] is the whole of a process around its work: logs to stderr, the metrics recorder ([`metrics_text`]), the TLS
//!   provider, signals that begin a [`Shutdown`], and the exit code.

mod configuration;
mod connect;
mod log;
mod metrics;
mod ports;
mod process;
pub mod settings;
mod shutdown;

pub use configuration::{ConfigurationError, Entry, Loaded, Secret, defaults, load};
pub use connect::postgres_config;
pub use log::log_to_stderr;
pub use metrics::metrics_text;
pub use ports::Ports;
pub use process::{EXIT_CONFIGURATION, install_tls_provider, run};
pub use shutdown::{Shutdown, ShutdownTrigger};

/// An error with everything that caused it, in one line: `outer: inner: innermost`.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
