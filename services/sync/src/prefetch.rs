use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Ports, Shutdown, chain};
use coordination::{Coordination, VersionNotice};
use domain::{Digest, NodeName, TenantId};
use jiff::Timestamp;
use protocol::NodeInfo;
use protocol::cache::FetchAnswer;
use store::{Record, VersionRow};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::Config;
use crate::desired::{Cluster, desired};
use crate::plan::{Desired, Observed};
use crate::transfers::Transfers;

/// How often everything is looked at anew, for what nobody told.
const REREAD: Duration = Duration::from_secs(30);
/// How soon after one reading of the record the next may begin.
const READ_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between two tries at one bundle.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Fetches what this node should have before anyone asks for it, and takes out what is too much: again and again what is
/// desired is compared with what is there ([`crate::plan`]). A pass takes nothing from the one before but the pauses after
/// failures, so that it may be repeated, or lost, at any time.
pub(crate) struct Prefetch {
    node: Option<NodeName>,
    versions: watch::Receiver<Arc<[VersionNotice]>>,
    nodes: watch::Receiver<Arc<[NodeInfo]>>,
    record: Arc<dyn Record>,
    transfers: Arc<Transfers>,
    versions_max: usize,
    /// The versions as the record had them last, and what the coordination told of them then.
    rows: Vec<VersionRow>,
    notices: Arc<[VersionNotice]>,
    /// What is under way, and what it will take.
    fetching: HashMap<Digest, u64>,
    /// What failed lately.
    failing: HashMap<Digest, Failing>,
}

/// A bundle that could not be had.
#[derive(Clone, Copy)]
struct Failing {
    failures: u32,
    /// When the next try is due.
    due: Instant,
}

impl Prefetch {
    pub(crate) fn new(config: &Config, ports: &Ports, transfers: Arc<Transfers>) -> Self {
        let coordination: &dyn Coordination = &*ports.coordination;
        Self {
            node: config.name.clone(),
            versions: coordination.versions(),
            nodes: coordination.nodes(),
            record: Arc::clone(&ports.record),
            transfers,
            versions_max: config.versions_max,
            rows: Vec::new(),
            notices: Arc::from([]),
            fetching: HashMap::new(),
            failing: HashMap::new(),
        }
    }

    /// Fetches until the drain begins.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut fetches = JoinSet::new();
        let mut watching = true;
        let mut read_at = Instant::now();
        loop {
            if read_at <= Instant::now() {
                self.read().await;
                read_at = Instant::now() + REREAD;
            }
            let next = self.pass(&mut fetches).await.min(read_at);
            tokio::select! {
                () = shutdown.draining() => break,
                changed = self.versions.changed(), if watching => {
                    watching = changed.is_ok();
                    self.versions.mark_unchanged();
                    // What changes together is read once.
                    read_at = read_at.min(Instant::now() + READ_PAUSE);
                }
                () = self.transfers.ended() => {}
                Some(ended) = fetches.join_next() => {
                    if let Ok((digest, answer)) = ended {
                        self.settle(digest, &answer);
                    }
                }
                () = sleep_until(next) => {}
            }
        }
        // The transfers answer at once when they are stopped.
        while fetches.join_next().await.is_some() {}
    }

    /// Reads what there is. Without the record, what the coordination tells must do.
    async fn read(&mut self) {
        self.notices = Arc::clone(&self.versions.borrow_and_update());
        match self.record.list_versions(&TenantId::default(), None).await {
            Ok(rows) => self.rows = rows,
            Err(error) => debug!(error = %chain(&error), "cannot read the versions of the record"),
        }
    }

    fn desired(&self) -> Vec<Desired> {
        let nodes = self.nodes.borrow().clone();
        let me = nodes.iter().find(|info| Some(info.id.name()) == self.node.as_ref());
        let cluster = Cluster {
            rows: &self.rows,
            notices: &self.notices,
            queues: me.map(|info| info.queues.as_slice()),
            now: Timestamp::now(),
        };
        desired(&cluster, self.versions_max, |digest| self.transfers.size_of(digest))
    }

    /// Takes out what is too much and begins what is missing, and says when to look again.
    async fn pass(&mut self, fetches: &mut JoinSet<(Digest, FetchAnswer)>) -> Instant {
        let desired = self.desired();
        let wanted: HashSet<_> = desired.iter().map(|it| it.digest).collect();
        self.failing.retain(|digest, _| wanted.contains(digest));
        let now = Instant::now();
        let waiting: HashSet<_> =
            self.failing.iter().filter(|(_, failing)| failing.due > now).map(|(digest, _)| *digest).collect();
        let next =
            waiting.iter().filter_map(|digest| self.failing.get(digest)).map(|failing| failing.due).min();
        let sizes: HashMap<_, _> = desired.iter().map(|it| (it.digest, it.bytes)).collect();
        let under_way = Observed { fetching: self.fetching.clone(), waiting, ..Observed::default() };
        for digest in self.transfers.sweep(desired, under_way).await {
            self.fetching.insert(digest, sizes.get(&digest).copied().unwrap_or(0));
            let transfers = Arc::clone(&self.transfers);
            fetches.spawn(async move { (digest, transfers.fetch(digest).await) });
        }
        next.unwrap_or(now + REREAD)
    }

    fn settle(&mut self, digest: Digest, answer: &FetchAnswer) {
        self.fetching.remove(&digest);
        let failures = self.failing.get(&digest).map_or(0, |failing| failing.failures);
        let (failures, pause) = match answer {
            FetchAnswer::Ready => {
                self.failing.remove(&digest);
                return;
            }
            FetchAnswer::Refused { retry_after_ms } => (failures, Duration::from_millis(*retry_after_ms)),
            FetchAnswer::Missing | FetchAnswer::Corrupt { .. } | FetchAnswer::Unavailable { .. } => {
                (failures + 1, backoff(failures))
            }
        };
        if failures == 3 {
            warn!(%digest, ?answer, "a bundle that this node should have cannot be had; trying on");
        }
        self.failing.insert(digest, Failing { failures, due: Instant::now() + pause });
    }
}

/// Full jitter, up to 1 s, 2 s, 4 s, ... 60 s, but never less than a quarter of that.
fn backoff(failures: u32) -> Duration {
    let most = Duration::from_secs(1 << failures.min(6)).min(BACKOFF_MAX);
    most.mul_f64(rand::random_range(0.25..1.0))
}
