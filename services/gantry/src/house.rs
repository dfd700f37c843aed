//! Everything in one process, on the embedded default: real adapters and real services, nothing else to install.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use bootstrap::settings::{
    ArtifactsBackend, ArtifactsSettings, BrokerSettings, CoordinationSettings, RecordBackend, RecordSettings,
};
use bootstrap::{ConfigurationError, Ports, Shutdown};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::configuration::Configuration;

/// The directory `dir`, made if it is not there, for its owner only, as an absolute path.
///
/// # Errors
/// [`ConfigurationError`] if it cannot be had.
pub fn open_directory(dir: &Path) -> Result<PathBuf, ConfigurationError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.and_then(|()| dir.canonicalize())
        .map_err(|error| ConfigurationError::new(format!("--dir {}: {error}", dir.display())))
}

/// `configuration` with everything below `dir`, and with the adapters that need no server.
pub fn at_home(configuration: Configuration, dir: &Path, listen: SocketAddr) -> Configuration {
    let mut home = configuration;
    home.gateway.listen = listen;
    home.worker.cache_dir = dir.join("cache");
    home.worker.scratch_dir = dir.join("scratch");
    home.sync.cache_dir = dir.join("cache");
    home.monitor.alone = true;
    home.record = RecordSettings {
        backend: RecordBackend::Sqlite,
        path: dir.join("record.db"),
        ..RecordSettings::default()
    };
    home.broker = BrokerSettings::default();
    home.coordination = CoordinationSettings::default();
    home.artifacts = ArtifactsSettings {
        backend: ArtifactsBackend::Directory,
        path: dir.join("artifacts"),
        ..ArtifactsSettings::default()
    };
    home
}

/// Where to listen: at `wanted`; else at the usual address; else, if that is taken, at a port that is free.
pub fn address(wanted: Option<SocketAddr>, usual: SocketAddr) -> SocketAddr {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    wanted.unwrap_or_else(|| TcpListener::bind(usual).map_or(any, |_free| usual))
}

/// Runs all services until `shutdown` drains and they have. Sends the gateway's address once it listens.
///
/// # Errors
/// If one of the services fails; the others are stopped then.
pub async fn run(
    configuration: Configuration,
    shutdown: Shutdown,
    listening: oneshot::Sender<SocketAddr>,
) -> anyhow::Result<()> {
    let ports = Ports::connect(&configuration.ports(), "dev").await?;
    let (trigger, inner) = Shutdown::new();
    let mut services = JoinSet::new();
    let sync = configuration.sync();
    let Configuration { gateway, worker, monitor, .. } = configuration;
    spawn(&mut services, "monitor", monitor::run(monitor, ports.clone(), inner.clone()));
    spawn(&mut services, "sync", sync::run(sync, ports.clone(), inner.clone()));
    spawn(&mut services, "worker", worker::run(worker, ports.clone(), inner.clone()));
    spawn(&mut services, "gateway", gateway::run(gateway, ports.clone(), inner, listening));

    let mut result = Ok(());
    loop {
        tokio::select! {
            ended = services.join_next() => {
                let Some(ended) = ended else { break };
                let ended = ended.unwrap_or_else(|panicked| Err(anyhow!(panicked)));
                if ended.is_err() {
                    trigger.stop();
                    result = result.and(ended);
                } else if !shutdown.is_draining() {
                    trigger.drain();
                }
            }
            () = shutdown.draining(), if !trigger.is_draining() => trigger.drain(),
            () = shutdown.stopping(), if !trigger.is_stopping() => trigger.stop(),
        }
    }
    ports.close().await;
    result
}

fn spawn(
    services: &mut JoinSet<anyhow::Result<()>>,
    name: &'static str,
    service: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    services.spawn(async move { service.await.with_context(|| format!("the {name}")) });
}
