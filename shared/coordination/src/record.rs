//! The twin of ZooKeeper that stands on the record: for one machine, and for installations that have no ensemble.
//!
//! A node is a row with a lease that it renews each third of it; leading is a row with a lease and a fence. A lock or a
//! limit is a queue of rows: the first one (or so many) has it, and each process renews all of its rows with one statement.
//! Everything watched is polled. It sees what happens within a poll rather than at once, and promises the same. The
//! leases are reckoned on the database's clock: a clock that is set ahead ends leases early, and then it is the fence
//! that protects.

mod announcement;
mod bundles;
mod place;
mod tickets;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{Digest, LimitName, NodeName, TenantId};
use protocol::{BundleState, NodeInfo, NodeSettings};
use serde::de::DeserializeOwned;
use store::{ContendedKind, Record, StoreError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::error::chain;
use crate::notices::Notices;
use crate::port::Announcement;
use crate::view::View;
use crate::{
    BundleNotice, Contended, Contender, Coordination, CoordinationError, Lead, Link, Membership, Place,
    Queue, Refused, VersionNotice,
};
use announcement::Announced;
use tickets::Tickets;

/// How long what is announced outlives its process.
#[derive(Debug, Clone)]
pub struct RecordCoordinationConfig {
    /// The lease of a node's announcement, a lead, a lock, a limit and a place in a queue, in milliseconds.
    pub lease_ms: u64,
    /// How often nodes, settings and places in queues are read, in milliseconds; versions and bundles every other time,
    /// the first place of a queue five times as often.
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
    tickets: Tickets,
    notices: Notices,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Shared {
    /// How long a call that renews a lease may take: there is time for another one after it.
    fn call_limit(&self) -> Duration {
        self.lease / 3
    }
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
            tickets: Tickets::default(),
            notices: Notices::default(),
            closing: closing.clone(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(closing.clone().run_until_cancelled_owned(watch_record(Arc::clone(&shared))));
        shared.tasks.spawn(tickets::keep(Arc::clone(&shared)));
        shared.tasks.spawn(bundles::keep(Arc::clone(&shared)));
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
        what: &Contended,
        contender: &Contender,
        waiters_max: u32,
    ) -> Result<Place, Refused> {
        place::enter(&self.shared, what, contender, waiters_max).await
    }

    async fn queue(&self, tenant: &TenantId, what: &Contended) -> Result<Queue, CoordinationError> {
        place::queue(&self.shared, tenant, what).await
    }

    async fn limits(&self, tenant: &TenantId) -> Result<Vec<LimitName>, CoordinationError> {
        let names = self.shared.record.list_contended(tenant, ContendedKind::Limit).await;
        let names = names.map_err(|error| failed("list the limits", error))?;
        Ok(names.into_iter().filter_map(|name| name.try_into().ok()).collect())
    }

    /// The highest one dealt: the record deals them itself, so only fences that ZooKeeper dealt before can be higher.
    async fn fence_floor(&self) -> Option<i64> {
        self.shared.record.highest_contention_fence().await.ok()
    }

    fn settings(&self) -> watch::Receiver<Arc<BTreeMap<NodeName, NodeSettings>>> {
        let settings = self.shared.view.watch_settings();
        self.shared.wake.notify_one();
        settings
    }

    async fn set_node(&self, node: &NodeName, settings: &NodeSettings) -> Result<(), CoordinationError> {
        let set = self.shared.record.set_node(node, settings).await;
        self.shared.wake.notify_one();
        set.map_err(|error| failed("note what is asked of a node", error))
    }

    fn announce_bundle(&self, node: &NodeName, digest: Digest, state: Option<BundleState>) {
        self.shared.notices.set(node, digest, state);
    }

    fn bundles(&self) -> watch::Receiver<Arc<[BundleNotice]>> {
        let bundles = self.shared.view.bundles.subscribe();
        self.shared.wake.notify_one();
        bundles
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
    let mut unreadable = Unreadable::default();
    loop {
        let woken = match read(&shared, poll, &mut unreadable).await {
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
        // Whoever wakes us waits for what is read every other time, too.
        poll = if woken { 0 } else { poll + 1 };
    }
}

/// What has been warned about, by where it stands: each text once.
type Unreadable = HashMap<String, String>;

async fn read(shared: &Shared, poll: u64, unreadable: &mut Unreadable) -> Result<(), StoreError> {
    let (record, view) = (&shared.record, &shared.view);
    view.set_nodes(record.list_nodes().await?);
    if view.settings.receiver_count() > 0 {
        let settings = record.list_node_settings().await?.into_iter().filter_map(|(node, text)| {
            let settings = parsed(unreadable, format!("settings of node {node}"), text)?;
            Some((node, settings))
        });
        view.set_settings(settings.collect());
    }
    if !poll.is_multiple_of(2) {
        return Ok(());
    }
    if view.versions.receiver_count() > 0 {
        let versions = record.list_versions(&TenantId::default(), None).await?;
        let notice = |row: store::VersionRow| VersionNotice {
            model: row.model,
            version: row.version,
            digest: row.digest,
        };
        view.set_versions(versions.into_iter().map(notice).collect());
    }
    if view.bundles.receiver_count() > 0 {
        let bundles = record.list_bundles().await?.into_iter().filter_map(|row| {
            let state = parsed(unreadable, format!("bundle {} on node {}", row.digest, row.node), row.state)?;
            Some(BundleNotice { digest: row.digest, node: row.node, state })
        });
        view.set_bundles(bundles.collect());
    }
    Ok(())
}

fn parsed<T: DeserializeOwned>(unreadable: &mut Unreadable, what: String, text: String) -> Option<T> {
    match serde_json::from_str(&text) {
        Ok(value) => {
            unreadable.remove(&what);
            Some(value)
        }
        Err(error) => {
            if unreadable.get(&what) != Some(&text) {
                warn!(what, %error, "a text in the record cannot be read and counts for nothing");
                unreadable.insert(what, text);
            }
            None
        }
    }
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
