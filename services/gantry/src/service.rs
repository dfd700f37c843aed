//! The subcommands that are one service each.

use std::future::Future;
use std::process::ExitCode;

use bootstrap::settings::{LogSettings, RecordBackend};
use bootstrap::{ConfigurationError, Loaded, Ports, Shutdown, postgres_config};
use domain::ExecuteId;
use jiff::Timestamp;
use tokio::sync::oneshot;
use tracing::info;

use crate::cli;
use crate::client::Terminal;
use crate::configuration::{Configuration, reference};
use crate::memory;

/// `gantry gateway`.
pub fn gateway(args: &cli::Service) -> ExitCode {
    run("gateway", args, |configuration, ports, shutdown| {
        let (listening, _nobody) = oneshot::channel();
        gateway::run(configuration.gateway, ports, shutdown, listening)
    })
}

/// `gantry worker`.
pub fn worker(args: &cli::Service) -> ExitCode {
    run("worker", args, |configuration, ports, shutdown| worker::run(configuration.worker, ports, shutdown))
}

/// `gantry sync`.
pub fn sync(args: &cli::Service) -> ExitCode {
    run("sync", args, |configuration, ports, shutdown| sync::run(configuration.sync(), ports, shutdown))
}

/// `gantry monitor`.
pub fn monitor(args: &cli::Service) -> ExitCode {
    run("monitor", args, |configuration, ports, shutdown| {
        monitor::run(configuration.monitor, ports, shutdown)
    })
}

/// Reads the configuration, connects the ports and runs `service` until it has drained.
fn run<S, F>(name: &'static str, args: &cli::Service, service: S) -> ExitCode
where
    S: FnOnce(Configuration, Ports, Shutdown) -> F + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    memory::give_back();
    let loaded = Configuration::load(args.config.as_deref());
    let checked = loaded.and_then(|loaded| loaded.configuration.check_shared().map(|()| loaded));
    let configuration = match checked {
        Ok(Loaded { configuration, .. }) => configuration,
        Err(error) => return refused(error),
    };
    bootstrap::run(&configuration.log.clone(), move |shutdown| async move {
        info!("gantry {} {name} starts", env!("CARGO_PKG_VERSION"));
        let boot = ExecuteId::new(Timestamp::now().as_millisecond().try_into().unwrap_or(0));
        let connection = format!("{name}-{boot}");
        let settings = configuration.ports();
        let ports = tokio::select! {
            ports = Ports::connect(&settings, &connection) => ports?,
            () = shutdown.draining() => return Ok(()),
        };
        let result = service(configuration, ports.clone(), shutdown).await;
        ports.close().await;
        result
    })
}

/// `gantry migrate`.
pub fn migrate(args: &cli::Service) -> ExitCode {
    let settings = match Configuration::load(args.config.as_deref()) {
        Ok(loaded) => loaded.configuration.record,
        Err(error) => return refused(error),
    };
    bootstrap::run(&LogSettings::default(), move |shutdown| async move {
        if settings.backend == RecordBackend::Sqlite {
            info!("record.backend is \"sqlite\": it is migrated when it is opened; nothing to do");
            return Ok(());
        }
        let config = postgres_config(&settings)?;
        tokio::select! {
            migrated = store::postgres::migrate(&config) => {
                migrated?;
                info!("the schema is current");
            }
            () = shutdown.draining() => anyhow::bail!("stopped before the schema was current; run it again"),
        }
        Ok(())
    })
}

/// `gantry config`.
pub fn config(args: &cli::Config) -> ExitCode {
    let terminal = Terminal::detect();
    if args.reference {
        return said(terminal.write(reference().as_bytes()));
    }
    let loaded = match Configuration::load(args.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(error) => return refused(error),
    };
    let mut section = String::new();
    let mut text = String::new();
    for entry in loaded.entries() {
        let (of, name) = entry.key.split_once('.').unwrap_or(("", &entry.key));
        if of != section {
            text.push_str(&format!("{}[{of}]\n", if section.is_empty() { "" } else { "\n" }));
            section = of.to_owned();
        }
        let place = entry.place.map_or_else(String::new, |place| format!("   # {place}"));
        if entry.value.is_empty() {
            text.push_str(&format!("# {name} is not set\n"));
        } else {
            text.push_str(&format!("{name} = {}{place}\n", entry.value));
        }
    }
    said(terminal.write(text.as_bytes()))
}

fn said(result: Result<(), crate::client::ClientError>) -> ExitCode {
    result.map_or_else(|error| ExitCode::from(error.exit as u8), |()| ExitCode::SUCCESS)
}

/// Says why the configuration cannot be used.
pub fn refused(error: ConfigurationError) -> ExitCode {
    Terminal::detect().note(&format!("gantry: {error}"));
    ExitCode::from(bootstrap::EXIT_CONFIGURATION)
}
