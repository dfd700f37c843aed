//! May anything exclusive run? Not when the fences that would be dealt now are lower than those the record has seen.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::chain;
use coordination::{Coordination, Link};
use store::Record;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::metrics;

/// How soon it is looked again when it could not be known.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often it is said that nothing exclusive runs.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What is known of the fences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not looked yet since the link came up, or the answer could not be had.
    Unknown,
    /// What will be dealt is higher than what was taken.
    Clear,
    /// It is not: an operator must raise the generation.
    Blocked,
}

/// Compares, once somebody wants to know, and after each reconnect from then on.
pub(crate) struct Fencing {
    coordination: Arc<dyn Coordination>,
    record: Arc<dyn Record>,
    generation: i64,
    verdict: watch::Sender<Verdict>,
    is_asked: CancellationToken,
}

impl Fencing {
    pub(crate) fn new(coordination: Arc<dyn Coordination>, record: Arc<dyn Record>, generation: i64) -> Self {
        let (verdict, is_asked) = (watch::Sender::new(Verdict::Unknown), CancellationToken::new());
        Self { coordination, record, generation, verdict, is_asked }
    }

    /// Which generation of fences an operator set.
    pub(crate) const fn generation(&self) -> i64 {
        self.generation
    }

    /// Waits until something is known.
    pub(crate) async fn known(&self) -> Verdict {
        self.is_asked.cancel();
        match self.verdict.subscribe().wait_for(|verdict| *verdict != Verdict::Unknown).await {
            Ok(verdict) => *verdict,
            Err(_) => unreachable!("the sender is ours"),
        }
    }

    /// Keeps the verdict current, until the future is dropped.
    pub(crate) async fn keep_watch(&self) {
        // A node that never runs anything exclusive never asks.
        self.is_asked.cancelled().await;
        let mut link = self.coordination.link();
        loop {
            let link_now = *link.borrow_and_update();
            let verdict = match link_now {
                Link::Down => Verdict::Unknown,
                Link::Up => self.look().await,
            };
            let before = self.verdict.send_replace(verdict);
            metrics::exclusive_blocked(verdict == Verdict::Blocked);
            if before == Verdict::Blocked && verdict == Verdict::Clear {
                info!("exclusive executions run again");
            }
            let again = match (link_now, verdict) {
                (Link::Down, _) | (Link::Up, Verdict::Clear) => None,
                (Link::Up, Verdict::Unknown) => Some(LOOK_AGAIN),
                (Link::Up, Verdict::Blocked) => Some(SAY_EVERY),
            };
            tokio::select! {
                changed = link.changed() => if changed.is_err() { std::future::pending().await },
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
            }
        }
    }

    async fn look(&self) -> Verdict {
        let Some(floor) = self.coordination.fence_floor().await else { return Verdict::Unknown };
        let highest = match self.record.highest_fence().await {
            Ok(highest) => highest,
            Err(error) => {
                warn!("the fences of exclusive executions are not compared yet: {}", chain(&error));
                return Verdict::Unknown;
            }
        };
        match highest {
            Some((generation, number)) if (generation, number) > (self.generation, floor) => {
                error!(
                    generation,
                    number,
                    floor,
                    own_generation = self.generation,
                    "nothing exclusive runs: the record has seen a higher fence than can be dealt now; if ZooKeeper \
                     was rebuilt or restored, set worker.fence_generation of all workers higher than {generation}"
                );
                Verdict::Blocked
            }
            Some(_) | None => Verdict::Clear,
        }
    }
}
