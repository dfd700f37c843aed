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

/// Confirmed publications, by the time of their confirm.
#[derive(Default)]
pub(crate) struct Dispatched(Mutex<HashMap<ExecuteId, Instant>>);

impl Dispatched {
    fn lock(&self) -> MutexGuard<'_, HashMap<ExecuteId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its publication was confirmed.
    pub fn confirmed(&self, execute_id: ExecuteId) {
        let mut confirmed = self.lock();
        if confirmed.len() < MOST {
            confirmed.insert(execute_id, Instant::now());
        }
    }

    /// It has ended: there is nothing to note.
    pub fn forget(&self, execute_id: ExecuteId) {
        self.lock().remove(&execute_id);
    }

    /// Takes those confirmed at least `age` ago.
    fn take(&self, age: Duration) -> Vec<ExecuteId> {
        let now = Instant::now();
        let due = |at: &Instant| now.duration_since(*at) >= age;
        self.lock().extract_if(|_, at| due(at)).map(|(id, _)| id).collect()
    }
}

/// Notes confirmed publications once a second, for ever.
pub(crate) async fn run(gateway: Gateway) {
    let mut ticks = tokio::time::interval(EVERY);
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
