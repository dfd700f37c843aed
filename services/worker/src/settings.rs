//! What an operator asks of this node while it runs: its slots, and whether it takes new work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coordination::Coordination;
use domain::NodeName;
use jiff::Timestamp;
use protocol::{Drain, DrainMode, NodeSettings};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::leases::Stop;
use crate::{Config, Worker};

/// How long a start waits for the coordination, so that a node which is to drain takes nothing first.
const FIRST: Duration = Duration::from_secs(2);
/// The most slots.
const SLOTS_MAX: u16 = 10_000;

/// What the node is to be, by its configuration and its operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// How many executions run at once at most.
    pub(crate) slots: u16,
    /// It takes no new work.
    pub(crate) drain: Option<Drain>,
}

type Settings = watch::Receiver<Arc<BTreeMap<NodeName, NodeSettings>>>;

impl Standing {
    /// As configured.
    pub(crate) const fn configured(config: &Config) -> Self {
        Self { slots: config.slots, drain: None }
    }

    fn asked(settings: &NodeSettings, config: &Config) -> Self {
        let slots = settings.slots.map_or(config.slots, |slots| slots.clamp(1, SLOTS_MAX));
        Self { slots, drain: settings.drain.clone() }
    }

    /// How many deliveries it may hold.
    pub(crate) const fn prefetch(&self) -> u16 {
        self.slots.saturating_mul(2)
    }
}

/// Waits for the settings that stand now, if the coordination is there, and applies them.
pub(crate) async fn first(worker: &Worker, coordination: &dyn Coordination) -> Settings {
    let mut settings = coordination.settings();
    // Without it the node is as configured until it comes.
    if let Ok(Ok(())) = timeout(FIRST, settings.changed()).await {
        apply(worker, &mut settings);
    } else {
        info!("the coordination is not there yet: the node is as configured until it is");
    }
    settings
}

/// Applies what is asked, whenever it changes, for ever.
pub(crate) async fn follow(worker: Arc<Worker>, mut settings: Settings) {
    loop {
        let drain = apply(&worker, &mut settings).drain;
        tokio::select! {
            changed = settings.changed() => if changed.is_err() {
                // The coordination is closed: what was asked last stands.
                std::future::pending::<()>().await;
            },
            () = order(&worker, drain.as_ref()) => {}
        }
    }
}

fn apply(worker: &Worker, settings: &mut Settings) -> Standing {
    let asked = settings.borrow_and_update().get(worker.node.name()).cloned().unwrap_or_default();
    let asked = Standing::asked(&asked, &worker.config);
    worker.standing.send_if_modified(|standing| {
        if *standing == asked {
            return false;
        }
        if standing.slots != asked.slots {
            info!(from = standing.slots, to = asked.slots, "slots changed");
            worker.slots.resize(asked.slots);
        }
        match (&standing.drain, &asked.drain) {
            (None, Some(drain)) => {
                info!(mode = ?drain.mode, running = worker.leases.count(), "asked to drain")
            }
            (Some(_), None) => info!("asked to take work again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        *standing = asked.clone();
        true
    });
    asked
}

/// Tells what runs, and what was claimed too late to be left alone, what the drain means for it. Never ends.
async fn order(worker: &Worker, drain: Option<&Drain>) {
    let order = match drain.map(|drain| (drain.mode, drain.until)) {
        None | Some((DrainMode::Finish, None)) => None,
        Some((DrainMode::Finish, Some(until))) => {
            worker.leases.order(None);
            sleep(until.duration_since(Timestamp::now()).try_into().unwrap_or_default()).await;
            info!(running = worker.leases.count(), "the drain's time is up: giving back what runs");
            Some(Stop::Yield)
        }
        Some((DrainMode::Requeue, _)) => Some(Stop::Yield),
        Some((DrainMode::Kill, _)) => Some(Stop::YieldAtOnce),
    };
    worker.leases.order(order);
    std::future::pending().await
}
