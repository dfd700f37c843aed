//! The twin of ZooKeeper that stands on the record: for one machine, and for installations that have no ensemble.
//!
//! A node is a row with a lease that it renews each third of it; leading is a row with a lease and a fence. Everything
//! watched is polled. It sees what happens within a poll rather than at once, and promises the same.

mod announcement;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{Digest, LimitName, NodeName, TenantId};
use protocol::{BundleState, NodeInfo, NodeSettings};
use store::{Record, StoreError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::error::chain;
use crate::port::Announcement;
use crate::view::View;
use crate::{
    BundleNotice, Contended, Contender, Coordination, CoordinationError, Lead, Link, Membership, Place,
    Queue, Refused, VersionNotice,
};
use announcement::Announced;

/// How long what is announced outlives its process.
#[derive(Debug, Clone)]
pub struct RecordCoordinationConfig {
    /// The lease of a node's announcement and of a lead, in milliseconds.
    pub lease_ms: u64,
    /// How often the nodes are read, in milliseconds; the versions every other time.
    pub poll_ms: u64,
}

impl Default for RecordCoordinationConfig {
    fn default() -> Self {
        Self { lease_ms: 10_000, poll_ms: 1_000 }
    }
}

/// The coordination on the record.
///
/// Its tasks end when it is closed or dropped.
pub struct RecordCoordination {
    shared: Arc<Shared>,
    _ends_tasks: DropGuard,
}

struct Shared {
    record: Arc<dyn Record>,
    lease: Duration,
    poll: Duration,
    view: View,
    wake: Notify,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl RecordCoordination {
    /// Begins to watch. Must be called inside a Tokio runtime; asks the record nothing yet.
    #[must_use]
    pub fn new(record: Arc<dyn Record>, config: &RecordCoordinationConfig) -> Self {
        crate::metrics::describe();
        let closing = CancellationToken::new();
        let shared = Arc::new(Shared {
            record,
            lease: Duration::from_millis(config.lease_ms),
            poll: Duration::from_millis(config.poll_ms),
            view: View::new(),
            wake: Notify::new(),
            closing: closing.clone(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(closing.clone().run_until_cancelled_owned(watch_record(Arc::clone(&shared))));
        Self { shared, _ends_tasks: closing.drop_guard() }
    }
}

#[async_trait]
impl Coordination for RecordCoordination {
    async fn join(&self, info: NodeInfo) -> Result<Membership, CoordinationError> {
        let announced = Announced::join(&self.shared, info).await?;
        let announced: Arc<dyn Announcement> = Arc::new(announced);
        Ok(Membership::new(announced))
    }

    fn nodes(&self) -> watch::Receiver<Arc<[NodeInfo]>> {
        self.shared.view.nodes.subscribe()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.shared.view.link.subscribe()
    }

    async fn publish_version(&self, _notice: &VersionNotice) -> Result<(), CoordinationError> {
        // The record has it already; only those who watch in this process can be told at once.
        self.shared.wake.notify_one();
        Ok(())
    }

    fn versions(&self) -> watch::Receiver<Arc<[VersionNotice]>> {
        let versions = self.shared.view.versions.subscribe();
        self.shared.wake.notify_one();
        versions
    }

    async fn enter(
        &self,
        _what: &Contended,
        _contender: &Contender,
        _waiters_max: u32,
    ) -> Result<Place, Refused> {
        todo!()
    }

    async fn queue(&self, _tenant: &TenantId, _what: &Contended) -> Result<Queue, CoordinationError> {
        todo!()
    }

    async fn limits(&self, _tenant: &TenantId) -> Result<Vec<LimitName>, CoordinationError> {
        todo!()
    }

    async fn fence_floor(&self) -> Option<i64> {
        todo!()
    }

    fn settings(&self) -> watch::Receiver<Arc<BTreeMap<NodeName, NodeSettings>>> {
        todo!()
    }

    async fn set_node(&self, _node: &NodeName, _settings: &NodeSettings) -> Result<(), CoordinationError> {
        todo!()
    }

    fn announce_bundle(&self, _node: &NodeName, _digest: Digest, _state: Option<BundleState>) {
        todo!()
    }

    fn bundles(&self) -> watch::Receiver<Arc<[BundleNotice]>> {
        todo!()
    }

    fn lead(&self, what: &str, holder: &str) -> watch::Receiver<Lead> {
        let (lead, watched) = watch::channel(Lead::No);
        let task = stand(Arc::clone(&self.shared), what.to_owned(), holder.to_owned(), lead);
        self.shared.tasks.spawn(task);
        watched
    }

    async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.tasks.close();
        if timeout(CLOSE_LIMIT, self.shared.tasks.wait()).await.is_err() {
            warn!("the coordination's tasks did not end in time; what they announced runs out by itself");
        }
    }
}

const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Reads what is watched, for ever.
async fn watch_record(shared: Arc<Shared>) {
    let mut poll = 0_u64;
    loop {
        let woken = match read(&shared, poll).await {
            Ok(()) => {
                if shared.view.set_link(Link::Up) {
                    info!("the record answers: the view of the nodes is current");
                }
                timeout(shared.poll, shared.wake.notified()).await.is_ok()
            }
            Err(error) => {
                if shared.view.set_link(Link::Down) {
                    warn!(error = %chain(&error), "the record does not answer: the view of the nodes may be old");
                }
                sleep(shared.poll.mul_f64(0.5 + rand::random::<f64>())).await;
                false
            }
        };
        // Whoever wakes us waits for versions.
        poll = if woken { 0 } else { poll + 1 };
    }
}

async fn read(shared: &Shared, poll: u64) -> Result<(), StoreError> {
    shared.view.set_nodes(shared.record.list_nodes().await?);
    if poll.is_multiple_of(2) && shared.view.versions.receiver_count() > 0 {
        let versions = shared.record.list_versions(&TenantId::default(), None).await?;
        let notice = |row: store::VersionRow| VersionNotice {
            model: row.model,
            version: row.version,
            digest: row.digest,
        };
        shared.view.set_versions(versions.into_iter().map(notice).collect());
    }
    Ok(())
}

/// Asks for the lead again and again, until nobody wants to know. Given up, it runs out by itself.
async fn stand(shared: Arc<Shared>, what: String, holder: String, lead: watch::Sender<Lead>) {
    let mut leads_until = Instant::now();
    loop {
        let asked = Instant::now();
        let answer = tokio::select! {
            answer = shared.record.lead(&what, &holder, shared.lease) => answer,
            // Who cannot renew stops to believe in time, by the time of the last request that was answered.
            () = tokio::time::sleep_until(leads_until), if *lead.borrow() != Lead::No => {
                lead.send_replace(Lead::No);
                continue;
            }
            () = lead.closed() => return,
            () = shared.closing.cancelled() => break,
        };
        match answer {
            Ok(leadership) if leadership.is_leader => {
                leads_until = asked + shared.lease.mul_f64(2.0 / 3.0);
                set_lead(&lead, Lead::Yes { fence: leadership.fence });
            }
            Ok(_) => set_lead(&lead, Lead::No),
            Err(error) => {
                warn!(what, error = %chain(&error), "whether this process leads is unknown");
                if Instant::now() >= leads_until {
                    set_lead(&lead, Lead::No);
                }
            }
        }
        tokio::select! {
            () = sleep(shared.lease / 5) => {}
            () = lead.closed() => return,
            () = shared.closing.cancelled() => break,
        }
    }
    lead.send_replace(Lead::No);
}

fn set_lead(lead: &watch::Sender<Lead>, now: Lead) {
    lead.send_if_modified(|known| std::mem::replace(known, now) != now);
}

fn failed(step: &'static str, error: StoreError) -> CoordinationError {
    CoordinationError::Unknown { step, source: Some(error.into()) }
}
