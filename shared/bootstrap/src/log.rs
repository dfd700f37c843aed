use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::ConfigurationError;
use crate::settings::{LogFormat, LogSettings};

/// Sends what the process says of itself to stderr, from now on. Only the first call of a process has an effect.
///
/// # Errors
/// [`ConfigurationError`] if the filter cannot be read.
pub fn log_to_stderr(settings: &LogSettings) -> Result<(), ConfigurationError> {
    // The AMQP driver calls every end of a connection an error; the broker's adapter says what it means.
    let quiet = if settings.filter.contains("lapin") { "" } else { ",lapin=off" };
    let filter = EnvFilter::try_new(format!("{}{quiet}", settings.filter))
        .map_err(|error| ConfigurationError::new(format!("log.filter {:?}: {error}", settings.filter)))?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr);
    // A second initialisation is refused by the library; the first one stays.
    let _already = match settings.format {
        LogFormat::Text => registry.with(layer.with_ansi(stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    Ok(())
}
