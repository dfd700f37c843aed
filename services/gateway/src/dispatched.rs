//! Which publications were confirmed and not answered yet: only those cost the record a write.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::ExecuteId;

use crate::gateway::Gateway;

/// How often, and how long after its confirm at least, a publication is noted.
const EVERY: Duration = Duration::from_secs(1);
/// The most publications kept for the next note; a sweeper publishes what is not noted again, which is harmless.
const MOST: usize = 100_000;

/// Publications under way (`None`) and those confirmed, by the time of their confirm.
///
/// A reply may overtake the confirm: what has ended meanwhile is not here any more when the confirm comes.
#[derive(Default)]
pub(crate) struct Dispatched(Mutex<HashMap<ExecuteId, Option<Instant>>>);

impl Dispatched {
    fn lock(&self) -> MutexGuard<'_, HashMap<ExecuteId, Option<Instant>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is about to be published.
    pub fn publishing(&self, execute_id: ExecuteId) {
        let mut known = self.lock();
        if known.len() < MOST {
            known.insert(execute_id, None);
        }
    }

    /// Its publication was confirmed.
    pub fn confirmed(&self, execute_id: ExecuteId) {
        if let Some(at) = self.lock().get_mut(&execute_id) {
            *at = Some(Instant::now());
        }
    }

    /// It has ended, or its publication has failed: there is nothing to note.
    pub fn forget(&self, execute_id: ExecuteId) {
        self.lock().remove(&execute_id);
    }

    /// Takes those confirmed at least `age` ago.
    fn take(&self, age: Duration) -> Vec<ExecuteId> {
        let now = Instant::now();
        let due = |at: &Instant| now.duration_since(*at) >= age;
        self.lock().extract_if(|_, at| at.as_ref().is_some_and(due)).map(|(id, _)| id).collect()
    }
}

/// Notes confirmed publications once a second, for ever.
pub(crate) async fn run(gateway: Gateway) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        note(&gateway, gateway.dispatched.take(EVERY)).await;
    }
}

/// Notes all that is left.
pub(crate) async fn flush(gateway: &Gateway) {
    note(gateway, gateway.dispatched.take(Duration::ZERO)).await;
}

async fn note(gateway: &Gateway, ids: Vec<ExecuteId>) {
    for chunk in ids.chunks(1_000) {
        if let Err(error) = gateway.ports.record.mark_dispatched(chunk).await {
            let error = bootstrap::chain(&error);
            tracing::warn!(
                error,
                count = chunk.len(),
                "cannot note publications; they will be published again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_confirmed_and_has_not_ended_is_noted() {
        let dispatched = Dispatched::default();
        let [open, ended, early, failed] = [1, 2, 3, 4].map(ExecuteId::new);
        for id in [open, ended, early, failed] {
            dispatched.publishing(id);
        }
        assert!(dispatched.take(Duration::ZERO).is_empty(), "nothing is confirmed yet");
        dispatched.confirmed(open);
        dispatched.confirmed(ended);
        dispatched.forget(ended);
        // A reply that overtook its confirm.
        dispatched.forget(early);
        dispatched.confirmed(early);
        dispatched.forget(failed);
        assert_eq!(dispatched.take(Duration::ZERO), [open]);
        assert!(dispatched.lock().is_empty());
    }
}
