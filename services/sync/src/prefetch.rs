use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Ports, Shutdown, chain};
use coordination::VersionNotice;
use domain::{Digest, Runtime, TenantId};
use protocol::cache::FetchAnswer;
use store::Record;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, warn};

use crate::Config;
use crate::transfers::Transfers;

/// How often the record is asked, for what the coordination did not tell.
const REREAD: Duration = Duration::from_secs(30);
/// The longest pause between two tries at one bundle.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Fetches what every node must have before anyone asks for it.
///
/// It takes at most half of the places for transfers, so that a worker that needs a bundle now finds one; and it never
/// makes room in the cache: what does not fit, and what was taken out, is fetched when it is first run.
pub(crate) struct Prefetch {
    versions: watch::Receiver<Arc<[VersionNotice]>>,
    record: Arc<dyn Record>,
    transfers: Arc<Transfers>,
    at_once_max: usize,
    /// What must be here, and what became of it.
    wanted: HashMap<Digest, Wanted>,
}

enum Wanted {
    /// It was in the cache once.
    Had,
    /// A transfer is under way.
    Fetching { failures: u32 },
    /// The next try is due then.
    Due { at: Instant, failures: u32 },
}

impl Prefetch {
    pub(crate) fn new(config: &Config, ports: &Ports, transfers: Arc<Transfers>) -> Self {
        Self {
            versions: ports.coordination.versions(),
            record: Arc::clone(&ports.record),
            transfers,
            at_once_max: (config.transfers_max / 2).max(1),
            wanted: HashMap::new(),
        }
    }

    /// Fetches until the drain begins.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut fetching = JoinSet::new();
        let mut reread = interval(REREAD);
        reread.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watching = true;
        self.notice();
        loop {
            let next = self.begin_due(&mut fetching);
            tokio::select! {
                () = shutdown.draining() => break,
                changed = self.versions.changed(), if watching => {
                    watching = changed.is_ok();
                    self.notice();
                }
                _ = reread.tick() => self.read_record().await,
                Some(ended) = fetching.join_next() => {
                    if let Ok((digest, answer)) = ended {
                        self.settle(digest, &answer);
                    }
                }
                () = sleep_until(next) => {}
            }
        }
        // The transfers answer at once when they are stopped.
        while fetching.join_next().await.is_some() {}
    }

    /// Takes up what the coordination tells.
    fn notice(&mut self) {
        let versions = Arc::clone(&self.versions.borrow_and_update());
        self.want(versions.iter().map(|notice| notice.digest));
    }

    async fn read_record(&mut self) {
        match self.record.list_versions(&TenantId::default(), None).await {
            Ok(versions) => {
                let with_bundle = versions.iter().filter(|row| row.manifest.runtime != Runtime::Builtin);
                self.want(with_bundle.map(|row| row.digest));
            }
            Err(error) => debug!(error = %chain(&error), "cannot read the versions of the record"),
        }
    }

    fn want(&mut self, digests: impl Iterator<Item = Digest>) {
        for digest in digests {
            self.wanted.entry(digest).or_insert_with(|| Wanted::Due { at: Instant::now(), failures: 0 });
        }
    }

    /// Begins what is due as far as there is room, and says when to look again.
    fn begin_due(&mut self, fetching: &mut JoinSet<(Digest, FetchAnswer)>) -> Instant {
        let now = Instant::now();
        let mut next = now + REREAD;
        let room = self.transfers.has_room();
        for (digest, wanted) in &mut self.wanted {
            let Wanted::Due { at, failures } = *wanted else { continue };
            if at > now {
                next = next.min(at);
            } else if room && fetching.len() < self.at_once_max {
                *wanted = Wanted::Fetching { failures };
                let (digest, transfers) = (*digest, Arc::clone(&self.transfers));
                fetching.spawn(async move { (digest, transfers.fetch(digest).await) });
            }
        }
        next
    }

    fn settle(&mut self, digest: Digest, answer: &FetchAnswer) {
        let Some(wanted) = self.wanted.get_mut(&digest) else { return };
        let Wanted::Fetching { failures } = *wanted else { return };
        let (failures, pause) = match answer {
            FetchAnswer::Ready => {
                *wanted = Wanted::Had;
                return;
            }
            FetchAnswer::Refused { retry_after_ms } => (failures, Duration::from_millis(*retry_after_ms)),
            FetchAnswer::Missing | FetchAnswer::Corrupt { .. } | FetchAnswer::Unavailable { .. } => {
                (failures + 1, backoff(failures))
            }
        };
        if failures == 3 {
            warn!(%digest, ?answer, "a bundle that this node must have cannot be had; trying on");
        }
        *wanted = Wanted::Due { at: Instant::now() + pause, failures };
    }
}

/// Full jitter, up to 1 s, 2 s, 4 s, ... 60 s, but never less than a quarter of that.
fn backoff(failures: u32) -> Duration {
    let most = Duration::from_secs(1 << failures.min(6)).min(BACKOFF_MAX);
    most.mul_f64(rand::random_range(0.25..1.0))
}
