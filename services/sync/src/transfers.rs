use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use artifacts::bundle::BundleError;
use artifacts::{Artifacts, FetchError};
use domain::Digest;
use metrics::{counter, gauge, histogram};
use protocol::cache::FetchAnswer;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::cache::Cache;
use crate::metrics::{REFUSED, TRANSFER_SECONDS, TRANSFERS, TRANSFERS_RUNNING};

/// When a refused request should come again: on average after this.
const RETRY_AFTER_MS: u64 = 1_000;

/// The transfers of this node: one per bundle, and so many at once at most.
pub(crate) struct Transfers {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    transfers_max: usize,
}

struct Shared {
    cache: Cache,
    artifacts: Artifacts,
    running: Mutex<HashMap<Digest, watch::Receiver<Option<FetchAnswer>>>>,
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, HashMap<Digest, watch::Receiver<Option<FetchAnswer>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfers {
    pub(crate) fn new(cache: Cache, artifacts: Artifacts, transfers_max: usize) -> Self {
        let shared = Shared { cache, artifacts, running: Mutex::default() };
        Self {
            shared: Arc::new(shared),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            transfers_max: transfers_max.max(1),
        }
    }

    /// Sees to it that `digest` is in the cache, and answers once it is or cannot be had now.
    ///
    /// Dropping the future does not end the transfer: others may wait for it.
    pub(crate) async fn fetch(&self, digest: Digest) -> FetchAnswer {
        if self.has(digest).await {
            return FetchAnswer::Ready;
        }
        let Some(mut answer) = self.join_or_begin(digest) else {
            counter!(REFUSED).increment(1);
            let retry_after_ms = rand::random_range(RETRY_AFTER_MS / 2..RETRY_AFTER_MS * 3 / 2);
            return FetchAnswer::Refused { retry_after_ms };
        };
        match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or_else(stopped),
            // The transfer was dropped.
            Err(_) => stopped(),
        }
    }

    /// Is `digest` in the cache? Then it counts as used now.
    pub(crate) async fn has(&self, digest: Digest) -> bool {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shared.cache.has(digest)).await.unwrap_or(false)
    }

    /// May something be fetched that nobody asked for?
    pub(crate) fn has_room(&self) -> bool {
        self.shared.cache.has_room()
    }

    /// Ends what is under way, in bounded time, and lets nothing begin.
    pub(crate) async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The answer of the transfer of `digest` that is under way, or of one that begins now; `None` if there are too many.
    fn join_or_begin(&self, digest: Digest) -> Option<watch::Receiver<Option<FetchAnswer>>> {
        let mut running = self.shared.running();
        if let Some(answer) = running.get(&digest) {
            return Some(answer.clone());
        }
        if running.len() >= self.transfers_max {
            return None;
        }
        let (sender, answer) = watch::channel(None);
        running.insert(digest, answer.clone());
        gauge!(TRANSFERS_RUNNING).set(running.len() as f64);
        drop(running);
        let shared = Arc::clone(&self.shared);
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            let place = Place { shared: &shared, digest };
            let began = Instant::now();
            let outcome = stopping.run_until_cancelled(transfer(&shared, digest)).await;
            let outcome = outcome.unwrap_or_else(stopped);
            note(digest, &outcome, began.elapsed());
            // The place is free before anyone hears of it, so that whoever asks next finds it.
            drop(place);
            sender.send_replace(Some(outcome));
        });
        Some(answer)
    }
}

fn stopped() -> FetchAnswer {
    FetchAnswer::Unavailable { reason: "the sync of this node is stopping".to_owned() }
}

/// One of the places for transfers; given back also if the transfer panics.
struct Place<'a> {
    shared: &'a Shared,
    digest: Digest,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut running = self.shared.running();
        running.remove(&self.digest);
        gauge!(TRANSFERS_RUNNING).set(running.len() as f64);
    }
}

async fn transfer(shared: &Arc<Shared>, digest: Digest) -> FetchAnswer {
    // Another may have ended between the look that found it missing and now.
    let looking = Arc::clone(shared);
    if tokio::task::spawn_blocking(move || looking.cache.has(digest)).await.unwrap_or(false) {
        return FetchAnswer::Ready;
    }
    match shared.artifacts.fetch(digest, &shared.cache.part(digest)).await {
        Ok(()) => {}
        Err(FetchError::Missing(_)) => return FetchAnswer::Missing,
        Err(error @ FetchError::Corrupt(_)) => {
            return FetchAnswer::Corrupt { reason: bootstrap::chain(&error) };
        }
        Err(error @ FetchError::Unavailable(_)) => {
            return FetchAnswer::Unavailable { reason: bootstrap::chain(&error) };
        }
    }
    let unpacking = Arc::clone(shared);
    match tokio::task::spawn_blocking(move || unpacking.cache.admit(digest)).await {
        Ok(Ok(())) => FetchAnswer::Ready,
        Ok(Err(error @ BundleError::Refused { .. })) => {
            FetchAnswer::Corrupt { reason: bootstrap::chain(&error) }
        }
        Ok(Err(error @ BundleError::Io { .. })) => {
            FetchAnswer::Unavailable { reason: bootstrap::chain(&error) }
        }
        Err(error) => FetchAnswer::Unavailable { reason: format!("unpacking failed: {error}") },
    }
}

fn note(digest: Digest, outcome: &FetchAnswer, took: Duration) {
    let label = match outcome {
        FetchAnswer::Ready => "ready",
        FetchAnswer::Refused { .. } => "refused",
        FetchAnswer::Missing => "missing",
        FetchAnswer::Corrupt { .. } => "corrupt",
        FetchAnswer::Unavailable { .. } => "unavailable",
    };
    counter!(TRANSFERS, "outcome" => label).increment(1);
    histogram!(TRANSFER_SECONDS).record(took);
    let took_ms = took.as_millis() as u64;
    match outcome {
        FetchAnswer::Ready => info!(%digest, took_ms, "a bundle is in the cache"),
        FetchAnswer::Corrupt { reason } | FetchAnswer::Unavailable { reason } => {
            warn!(%digest, took_ms, reason, "a bundle could not be had");
        }
        FetchAnswer::Missing | FetchAnswer::Refused { .. } => {
            warn!(%digest, took_ms, label, "a bundle could not be had")
        }
    }
}
