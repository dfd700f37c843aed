//! The sync of a node: keeps the node's cache of unpacked bundles filled, so that a worker finds a bundle before it needs
//! it.
//!
//! In the order in which things happen: the coordination (or, as a backstop every 30 s, the record) names the versions
//! there are; `desired` puts those that this node should have in order; `plan` compares them with what is there; and
//! `prefetch` does what the plan says, retrying with backoff. A worker that finds a bundle missing asks over the socket in
//! `server`. Both ask `Transfers`, which runs **one transfer per bundle** however many ask, and **at most
//! `transfers_max` at once**: one more is refused and told when to ask again. A transfer resumes the part that an earlier
//! one left, stays within the node's bandwidth, checks the SHA-256, unpacks beside the place and renames, so that a
//! directory in the cache is complete. `cache` keeps the whole below `cache_bytes_max`, and `notices` tells the cluster
//! what this node has, so that an alias can wait for it.
//!
//! What a transfer may wait for is bounded by the artifacts; nothing here holds a lock while it waits.

mod cache;
mod config;
mod desired;
mod metrics;
mod notices;
mod plan;
mod prefetch;
mod server;
mod transfers;

use std::sync::Arc;

use anyhow::Context;
use bootstrap::{Ports, Shutdown};
use tokio::task::JoinSet;
use tracing::info;

use artifacts::Bandwidth;
use cache::Cache;
pub use config::Config;
use notices::Notices;
use prefetch::Prefetch;
use server::Server;
use transfers::Transfers;

/// Runs until the drain begins; transfers under way then leave a part that the next life resumes.
///
/// # Errors
/// If the cache directory cannot be used, or another sync uses it.
pub async fn run(config: Config, ports: Ports, shutdown: Shutdown) -> anyhow::Result<()> {
    metrics::describe();
    let cache = tokio::task::spawn_blocking({
        let config = config.clone();
        move || Cache::open(&config)
    })
    .await?
    .with_context(|| format!("use the cache directory {}", config.cache_dir.display()))?;
    let transfers = Arc::new(Transfers::new(
        cache,
        ports.artifacts.clone(),
        Bandwidth::new(config.bandwidth_bytes_per_second_max),
        Notices::new(Arc::clone(&ports.coordination), config.name.clone()),
        config.transfers_max,
    ));
    let server = Server::bind(&config.cache_dir, Arc::clone(&transfers)).context("listen for the worker")?;
    let prefetch = Prefetch::new(&config, &ports, Arc::clone(&transfers));
    info!(cache_dir = %config.cache_dir.display(), transfers_max = config.transfers_max, "sync is ready");

    let mut tasks = JoinSet::new();
    tasks.spawn(server.run(shutdown.clone()));
    tasks.spawn(prefetch.run(shutdown.clone()));
    shutdown.draining().await;
    transfers.stop().await;
    while let Some(ended) = tasks.join_next().await {
        ended.context("a task of the sync panicked")?;
    }
    info!("sync has ended");
    Ok(())
}
