//! The upkeep of the record: what one monitor does for all.

use std::time::Duration;

use bootstrap::{Ports, Shutdown, chain};
use coordination::Lead;
use store::StoreError;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::metrics;

/// What is led.
const UPKEEP: &str = "upkeep";
/// How often the leader does it.
const EVERY: Duration = Duration::from_secs(3_600);
/// When the leader tries again after a failure.
const AGAIN: Duration = Duration::from_secs(10);
/// For how many days ahead the log has its partitions.
const DAYS_AHEAD: u32 = 3;

/// Stands for election, says in `leads` whether it does, and keeps the record in shape while it leads, until the drain.
pub(crate) async fn run(ports: Ports, keep_events: Duration, leads: watch::Sender<bool>, shutdown: Shutdown) {
    let holder = format!("monitor-{}-{:08x}", std::process::id(), rand::random::<u32>());
    let mut lead = ports.coordination.lead(UPKEEP, &holder);
    loop {
        let now = *lead.borrow_and_update();
        leads.send_replace(now != Lead::No);
        let next = match now {
            Lead::No => None,
            Lead::Yes { fence } => Some(keep(&ports, fence, keep_events).await),
        };
        tokio::select! {
            () = shutdown.draining() => return,
            () = changed(&mut lead) => {}
            () = sleep(next.unwrap_or(EVERY)) => {}
        }
    }
}

/// Waits for a change of leader; for ever if there will be none.
async fn changed(lead: &mut watch::Receiver<Lead>) {
    if lead.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Does it once, and says when to do it again.
async fn keep(ports: &Ports, fence: i64, keep_events: Duration) -> Duration {
    match try_keep(ports, fence, keep_events).await {
        Ok(true) => {
            info!(fence, "the record was kept in shape");
            metrics::upkeep("done");
            EVERY
        }
        Ok(false) => {
            info!(fence, "another monitor leads by now");
            metrics::upkeep("stale");
            AGAIN
        }
        Err(error) => {
            warn!(fence, error = %chain(&error), "the upkeep of the record failed; it is repeated");
            metrics::upkeep("failed");
            AGAIN
        }
    }
}

async fn try_keep(ports: &Ports, fence: i64, keep_events: Duration) -> Result<bool, StoreError> {
    let record = &ports.record;
    Ok(record.take_upkeep_fence(fence).await? && record.upkeep(fence, DAYS_AHEAD, keep_events).await?)
}
