//! The HTTP side of the house: validates, records, publishes with confirms, and waits on a oneshot per `execute_id`.
//!
//! The files follow a submission: `server` and `wire` (the connection), `admission` (may it enter), `submission` (the row, the
//! message, the wait), `waiters` (the oneshots), `replies` and `lookups` (who wakes them), `api` (one file per resource:
//! decode, call, encode; no rules there). Three orders are kept:
//!
//! - the oneshot is registered **before** anything is sent, so no reply can come too early;
//! - whoever is told that an execution was accepted has its row: it is written **before** the message is published; only for a
//!   caller who waits, and could not find it again without the answer, the claim may write it (`submission::order`);
//! - what was begun for a caller who hangs up is finished, in a task of its own.
//!
//! Nothing costs a statement of its own per execution: acceptances go through the group-commit writer, waiters without a
//! reply share one look-up every 100 ms, and only publications that were not answered within a second are noted as
//! dispatched.

mod access_log;
mod admission;
mod api;
mod census;
mod config;
mod dispatched;
mod explanation;
mod export;
mod followers;
mod gateway;
mod health;
mod http2;
mod lookups;
mod metrics;
mod nodes;
mod problem;
mod readiness;
mod reading;
mod replies;
mod scaling;
mod server;
mod submission;
mod tls;
mod versions;
mod waiters;
mod wire;

use std::net::SocketAddr;

use anyhow::Context;
use bootstrap::{ConfigurationError, Ports, Shutdown};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub use config::Config;
use gateway::Gateway;

/// The API as an OpenAPI 3.1 document, in JSON.
#[must_use]
pub fn openapi() -> String {
    api::document()
}

/// Serves until `shutdown` drains: then no new connections, and callers still waiting get their answer or, after
/// `drain_ms_max`, their handle. Sends the address it listens on once it does.
///
/// # Errors
/// If the configuration cannot be used, the address cannot be bound, or the broker's topology is not what it must be.
pub async fn run(
    config: Config,
    ports: Ports,
    shutdown: Shutdown,
    listening: oneshot::Sender<SocketAddr>,
) -> anyhow::Result<()> {
    metrics::describe();
    config.check().map_err(|error| ConfigurationError::new(error.to_string()))?;
    let listener = server::Listener::bind(&config)?;
    let replies = ports.broker.replies().await.context("receive replies")?;
    let (gateway, writer_task) = Gateway::new(config, ports, shutdown.clone());
    let mut background = JoinSet::new();
    background.spawn(replies::receive(gateway.clone(), replies));
    background.spawn(lookups::run(gateway.clone()));
    background.spawn(health::watch(gateway.clone()));
    background.spawn(dispatched::run(gateway.clone()));
    background.spawn(writer_task.run());

    tracing::info!(address = %listener.address(), "the gateway listens");
    if listening.send(listener.address()).is_err() {
        tracing::debug!("nobody asked for the address");
    }
    listener.serve(&gateway, api::router(gateway.clone()), &shutdown).await;
    gateway.finish_tasks().await;
    dispatched::flush(&gateway).await;
    background.shutdown().await;
    tracing::info!("the gateway has drained");
    Ok(())
}
