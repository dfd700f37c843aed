//! Are the record and the artifact store there? Asked in the background, so that a caller is refused at once while the
//! record is away, and no question from outside becomes one to them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::ProblemCode;
use tokio::time::timeout;

use crate::gateway::Gateway;
use crate::problem::Refusal;

/// How often the record is asked, and the artifact store.
const EVERY: Duration = Duration::from_secs(1);
const ARTIFACTS_EVERY: Duration = Duration::from_secs(10);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many silences in a row mean that the record is away: one may be a lost answer.
const SILENCES: u32 = 2;

/// What is known of them.
#[derive(Default)]
pub(crate) struct Health {
    is_record_up: AtomicBool,
    is_record_away: AtomicBool,
    are_artifacts_up: AtomicBool,
}

impl Health {
    /// Did the record answer when it was last asked?
    pub fn is_record_up(&self) -> bool {
        self.is_record_up.load(Ordering::Relaxed)
    }

    /// Did the artifact store answer when it was last asked?
    pub fn are_artifacts_up(&self) -> bool {
        self.are_artifacts_up.load(Ordering::Relaxed)
    }

    /// Refuses what the record would have to be there for, before any of it is done.
    pub fn admit(&self) -> Result<(), Refusal> {
        if self.is_record_away.load(Ordering::Relaxed) {
            return Err(Refusal::new(
                ProblemCode::Unavailable,
                "the record is away; nothing was accepted; try again",
            ));
        }
        Ok(())
    }
}

/// Asks both for ever.
pub(crate) async fn watch(gateway: Gateway) {
    tokio::join!(watch_record(&gateway), watch_artifacts(&gateway));
}

async fn watch_artifacts(gateway: &Gateway) {
    let mut ticks = tokio::time::interval(ARTIFACTS_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answered = matches!(timeout(PATIENCE, gateway.ports.artifacts.ping()).await, Ok(Ok(())));
        gateway.health.are_artifacts_up.store(answered, Ordering::Relaxed);
    }
}

async fn watch_record(gateway: &Gateway) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut silences = 0;
    loop {
        ticks.tick().await;
        let answered = matches!(timeout(PATIENCE, gateway.ports.record.ping()).await, Ok(Ok(())));
        silences = if answered { 0 } else { silences + 1 };
        if silences == SILENCES {
            tracing::warn!("the record is away: submissions are refused until it is back");
        }
        gateway.health.is_record_up.store(answered, Ordering::Relaxed);
        gateway.health.is_record_away.store(silences >= SILENCES, Ordering::Relaxed);
    }
}
