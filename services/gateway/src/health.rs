//! Is the record there? Asked once a second, so that a caller is refused at once while it is away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::ProblemCode;
use tokio::time::timeout;

use crate::gateway::Gateway;
use crate::problem::Refusal;

/// How often it is asked, and how long it may take to answer.
const EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(2);
/// So many silences in a row mean that it is away: one may be a lost answer.
const SILENCES: u32 = 2;

/// What is known of the record.
#[derive(Default)]
pub(crate) struct Health {
    is_up: AtomicBool,
    is_away: AtomicBool,
}

impl Health {
    /// Did the record answer when it was last asked?
    pub fn is_record_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Refuses what the record would have to be there for, before any of it is done.
    pub fn admit(&self) -> Result<(), Refusal> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(Refusal::new(
                ProblemCode::Unavailable,
                "the record is away; nothing was accepted; try again",
            ));
        }
        Ok(())
    }
}

/// Asks for ever.
pub(crate) async fn watch(gateway: Gateway) {
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
        gateway.health.is_up.store(answered, Ordering::Relaxed);
        gateway.health.is_away.store(silences >= SILENCES, Ordering::Relaxed);
    }
}
