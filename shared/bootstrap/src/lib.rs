//! What every process of Gantry does before and after its work: configuration, logs, metrics, health, shutdown, and the
//! [`Ports`] to the servers it stands on.

mod ports;
mod shutdown;

pub use ports::Ports;
pub use shutdown::{Shutdown, ShutdownTrigger};

/// An error with everything that caused it, in one line: `outer: inner: innermost`.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
