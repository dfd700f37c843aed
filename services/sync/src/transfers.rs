use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use artifacts::bundle::BundleError;
use artifacts::{Artifacts, Bandwidth, FetchError, Meter};
use domain::Digest;
use metrics::{counter, gauge, histogram};
use protocol::BundleState;
use protocol::cache::FetchAnswer;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::cache::{Cache, Swept};
use crate::metrics::{DISCARDED, RECEIVED, REFUSED, TRANSFER_SECONDS, TRANSFERS, TRANSFERS_RUNNING};
use crate::notices::Notices;
use crate::plan::{Desired, Observed};

/// When a refused request should come again: on average after this.
const RETRY_AFTER_MS: u64 = 1_000;
/// How long a transfer is under way before the node speaks of it: most end sooner.
const SPEAK_AFTER: Duration = Duration::from_millis(500);
/// How often it says how far a transfer is.
const SPEAK_EVERY: Duration = Duration::from_secs(2);

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
    bandwidth: Arc<Bandwidth>,
    notices: Notices,
    /// A transfer ended.
    ended: Notify,
    running: Mutex<HashMap<Digest, watch::Receiver<Option<FetchAnswer>>>>,
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, HashMap<Digest, watch::Receiver<Option<FetchAnswer>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_gone(&self, swept: &Swept) {
        for digest in &swept.gone {
            self.notices.withdraw(*digest);
        }
    }
}

impl Transfers {
    pub(crate) fn new(
        cache: Cache,
        artifacts: Artifacts,
        bandwidth: Bandwidth,
        notices: Notices,
        transfers_max: usize,
    ) -> Self {
        for (digest, bytes) in cache.list() {
            notices.say(digest, BundleState::Ready { bytes });
        }
        let shared = Shared {
            cache,
            artifacts,
            bandwidth: Arc::new(bandwidth),
            notices,
            ended: Notify::new(),
            running: Mutex::default(),
        };
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

    /// One pass over the cache (see [`Cache::sweep`]), told where all can see it.
    pub(crate) async fn sweep(&self, desired: Vec<Desired>, under_way: Observed) -> Vec<Digest> {
        let shared = Arc::clone(&self.shared);
        let swept = tokio::task::spawn_blocking(move || {
            shared.cache.desire(&desired);
            let swept = shared.cache.sweep(&desired, &under_way, HashSet::new());
            shared.notices.forget_failures(&desired.iter().map(|it| it.digest).collect());
            shared.tell_gone(&swept);
            swept.fetch
        });
        swept.await.unwrap_or_default()
    }

    /// What `digest` takes in the cache, if it was ever there.
    pub(crate) fn size_of(&self, digest: Digest) -> Option<u64> {
        self.shared.cache.size_of(digest)
    }

    /// Waits until a transfer has ended since this was last waited for.
    pub(crate) async fn ended(&self) {
        self.shared.ended.notified().await;
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
            if let Some(outcome) = &outcome {
                shared.say(digest, outcome);
            }
            let outcome = outcome.unwrap_or_else(stopped);
            note(digest, &outcome, began.elapsed());
            // The place is free before anyone hears of it, so that whoever asks next finds it.
            drop(place);
            shared.ended.notify_one();
            sender.send_replace(Some(outcome));
        });
        Some(answer)
    }
}

impl Shared {
    /// Says where all can see it why a bundle could not be had. (That it is there was said when it was.)
    fn say(&self, digest: Digest, outcome: &FetchAnswer) {
        let message = match outcome {
            FetchAnswer::Ready | FetchAnswer::Refused { .. } => return,
            FetchAnswer::Missing => "the artifact store has no such bundle".to_owned(),
            FetchAnswer::Corrupt { reason } | FetchAnswer::Unavailable { reason } => reason.clone(),
        };
        self.notices.say(digest, BundleState::Failed { message });
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
    let meter = Meter::new(Arc::clone(&shared.bandwidth));
    let fetched = fetch(shared, digest, &meter).await;
    counter!(RECEIVED).increment(meter.received());
    counter!(DISCARDED).increment(meter.discarded());
    match fetched {
        Ok(()) => {}
        Err(FetchError::Missing(_)) => return FetchAnswer::Missing,
        Err(error @ FetchError::Corrupt(_)) => {
            return FetchAnswer::Corrupt { reason: bootstrap::chain(&error) };
        }
        Err(error @ (FetchError::Unavailable(_) | FetchError::NoSpace(_))) => {
            return FetchAnswer::Unavailable { reason: bootstrap::chain(&error) };
        }
    }
    let unpacking = Arc::clone(shared);
    match tokio::task::spawn_blocking(move || unpacking.cache.admit(digest)).await {
        Ok(Ok(swept)) => {
            shared.notices.say(digest, BundleState::Ready { bytes: meter.bytes() });
            shared.tell_gone(&swept);
            FetchAnswer::Ready
        }
        Ok(Err(error @ BundleError::Refused { .. })) => {
            FetchAnswer::Corrupt { reason: bootstrap::chain(&error) }
        }
        Ok(Err(error @ BundleError::Io { .. })) => {
            FetchAnswer::Unavailable { reason: bootstrap::chain(&error) }
        }
        Err(error) => FetchAnswer::Unavailable { reason: format!("unpacking failed: {error}") },
    }
}

/// Fetches the part, and says now and then how far it is.
async fn fetch(shared: &Shared, digest: Digest, meter: &Meter) -> Result<(), FetchError> {
    let part = shared.cache.part(digest);
    let mut fetching = std::pin::pin!(shared.artifacts.fetch(digest, &part, meter));
    let mut speak = interval_at(Instant::now() + SPEAK_AFTER, SPEAK_EVERY);
    loop {
        tokio::select! {
            fetched = &mut fetching => return fetched,
            _ = speak.tick() => {
                let (bytes, bytes_total) = (meter.bytes(), meter.bytes_total());
                shared.notices.say(digest, BundleState::Fetching { bytes, bytes_total });
            }
        }
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
