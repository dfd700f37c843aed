//! The monitor: brings on what stands still, whatever died.
//!
//! It holds no state that matters. Any number of monitors run at once, and each finds its work in the record, where a row
//! is taken by one of them; so none has to know of the others, and a killed one leaves nothing that the next look of
//! another does not find.
//!
//! - `sweeps`: executions that nobody published or whose message got lost, that are due, whose lease was lost, whose
//!   deadline has passed. Each kind has its own loop: a broker that is away holds up no rescue.
//! - `letters`: messages that no queue took go back through the record; those that were given back too often are buried.
//! - `nodes`: who came, who went and what else became of them, as events in the record. `alarms`: whom the leader tells.
//! - `upkeep`: the one thing a leader does, under a fence that the record checks.
//!
//! Publishing again is always harmless, because a message is only a hint.

mod alarms;
mod config;
mod letters;
pub mod metrics;
mod nodes;
mod sweeps;
mod upkeep;

use std::time::{Duration, Instant};

use anyhow::Context;
use bootstrap::{Ports, Shutdown};
use broker::DeliverySource;
use protocol::Reply;
use store::Conclusion;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::info;

use alarms::Hook;
pub use config::Config;
use letters::Letters;
use sweeps::{Sweep, Sweeps};
use upkeep::Keep;

/// Runs until the drain begins, and a few seconds longer if something is under way then.
///
/// With [`Config::alone`] it must be started before or together with the worker of its process: it takes every lease
/// from before its own start.
///
/// # Errors
/// If the configuration cannot be, or a task of it panicked. A server that is away is no error: it is waited for.
pub async fn run(config: Config, ports: Ports, shutdown: Shutdown) -> anyhow::Result<()> {
    let started = Instant::now();
    metrics::describe();
    let mut tasks = JoinSet::new();
    let sweeps = Sweeps::new(config.clone(), ports.clone(), started);
    for sweep in Sweep::ALL {
        tasks.spawn(sweeps.clone().run(sweep, shutdown.clone()));
    }
    for source in [DeliverySource::Unroutable, DeliverySource::Dead] {
        tasks.spawn(Letters::new(ports.clone(), source).run(shutdown.clone()));
    }
    let missed = config.renew_every() * 2;
    tasks.spawn(nodes::run(ports.clone(), sweeps, missed, shutdown.clone()));
    let (leads, leading) = watch::channel(false);
    let keep = Keep {
        node_events: config.keep_node_events(),
        logs: config.keep_logs(),
        executions: config.keep_executions(),
    };
    tasks.spawn(upkeep::run(ports.clone(), keep, leads, shutdown.clone()));
    if let Some(hook) = Hook::new(&config)? {
        tasks.spawn(alarms::run(hook, ports, leading, shutdown.clone()));
    }
    info!(sweep_ms = config.sweep_ms, alone = config.alone, "monitor is ready");
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(ended) => ended.context("a task of the monitor panicked")?,
                None => break,
            },
            () = shutdown.stopping() => break,
        }
    }
    tasks.shutdown().await;
    info!("monitor has ended");
    Ok(())
}

/// Tells everybody who waits how an execution ended.
fn reply(ports: &Ports, conclusion: &Conclusion) {
    let Some(ending) = &conclusion.ending else { return };
    for address in &conclusion.reply_addresses {
        let reply = Reply {
            execute_id: conclusion.execute_id,
            attempt: conclusion.attempt,
            ending: ending.clone(),
            run: Duration::ZERO,
        };
        ports.broker.reply(address, reply.to_message(address.correlation_id.clone()));
    }
}

/// Waits; `false` if the drain began meanwhile.
async fn pause(time: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = sleep(time) => true,
        () = shutdown.draining() => false,
    }
}
