//! ZooKeeper: nodes, leaders and versions as znodes under one root.
//!
//! | znode | is | holds |
//! |---|---|---|
//! | `nodes/<name>` | ephemeral | the [`NodeInfo`] of the node, as JSON |
//! | `models/<model>/<version>` | persistent | the [`VersionNotice`], as JSON |
//! | `leader/<what>/_c_<uuid>-latch-<sequence>` | ephemeral, sequential | who stands for election |
//! | `sessions/<session>` | ephemeral | nothing: it is written to, as a heartbeat, while locks are wanted |
//! | `locks/<key>/_c_<uuid>-lock-<sequence>` | ephemeral, sequential | the key in clear and the [`Contender`], as JSON |
//! | `limits/<name>/locks/_c_<uuid>-lock-<sequence>` | the same | the same, of who may take the next lease |
//! | `limits/<name>/leases/_c_<uuid>-lease-<sequence>` | the same | the same, of who has a lease |
//!
//! `<key>` and `<name>` are hashed with the tenant ([`domain::LockKey::path_part`]). The znodes of locks are named and
//! ordered as Curator's `InterProcessMutex` does it, those of limits as its `InterProcessSemaphoreV2`.
//!
//! `session` keeps one session alive for ever and says when it is connected. Everything else is a task that *reconciles*:
//! whenever a connection is made (again, or under a new session) and every 30 s it reads what is there and makes it what
//! it should be. So a disconnect, an expired session, a lost event and a lost answer all have one cure, and none of them
//! is trusted to be noticed.
//!
//! What the client crate does that its names don't say is hidden here, each under a test that names it: its lock recipe
//! is not used (a cancelled one leaks), every call has a time limit and an outcome that may be unknown, an expired client
//! is dead and a new one is made, watches may lose events over a reconnect.
//!
//! There is no TLS to ZooKeeper: the client crate ties it to a second cryptography provider (aws-lc), and the whole tree
//! has one (ring). Keep the ensemble on a network of its own, or put a TLS tunnel in front of it.

mod access;
mod announcement;
mod bundles;
mod election;
mod entry;
mod lease;
mod place;
mod queue;
mod session;
mod settings;
mod watching;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use domain::{Digest, LimitName, NodeName, TenantId};
use protocol::{BundleState, NodeInfo, NodeSettings};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::notices::Notices;
use crate::port::Announcement;
use crate::view::View;
use crate::{
    BundleNotice, Contended, Contender, Coordination, CoordinationError, Lead, Link, Membership, Place,
    Queue, Refused, VersionNotice,
};
pub use access::ZooKeeperCredential;
use announcement::Announced;
use lease::Lease;
use session::{Connection, Failure};

/// Which ensemble, and where in it.
#[derive(Debug, Clone)]
pub struct ZooKeeperConfig {
    /// `host:port,host:port,host:port`.
    pub servers: String,
    /// The znode everything is under; made if it is not there.
    pub root: String,
    /// How long a session outlives its last heartbeat, in milliseconds. The servers clamp it to 2 to 20 of their ticks.
    pub session_ms: u64,
    /// Closes everything under the root to all who have another one, or none.
    pub credential: Option<ZooKeeperCredential>,
}

/// The coordination on ZooKeeper.
///
/// Its tasks end when it is closed or dropped.
pub struct ZooKeeper {
    shared: Arc<Shared>,
    _ends_tasks: DropGuard,
}

struct Shared {
    config: ZooKeeperConfig,
    view: View,
    /// `None` while there is none.
    connection: watch::Sender<Option<Connection>>,
    /// The session that is not known to be over; 0 while there is none.
    session_id: watch::Sender<i64>,
    lease: Lease,
    /// Bounds the places in queues.
    places: Arc<Semaphore>,
    watches_versions: AtomicBool,
    watches_settings: AtomicBool,
    watches_bundles: AtomicBool,
    tells_bundles: AtomicBool,
    notices: Notices,
    /// Ends the tasks that use the session, which ends last.
    closing: CancellationToken,
    tasks: TaskTracker,
    /// Ends the session.
    ending: CancellationToken,
    session: TaskTracker,
}

const CLOSE_LIMIT: Duration = Duration::from_secs(3);
const TAKE_BACK_LIMIT: Duration = Duration::from_secs(2);

impl ZooKeeper {
    /// Begins to connect, and tries for ever. Must be called inside a Tokio runtime.
    #[must_use]
    pub fn connect(config: &ZooKeeperConfig) -> Self {
        crate::metrics::describe();
        let ending = CancellationToken::new();
        let shared = Arc::new(Shared {
            config: config.clone(),
            view: View::new(),
            connection: watch::Sender::new(None),
            session_id: watch::Sender::new(0),
            lease: Lease::new(),
            places: Arc::new(Semaphore::new(place::PLACES_MAX)),
            watches_versions: AtomicBool::new(false),
            watches_settings: AtomicBool::new(false),
            watches_bundles: AtomicBool::new(false),
            tells_bundles: AtomicBool::new(false),
            notices: Notices::default(),
            closing: ending.child_token(),
            tasks: TaskTracker::new(),
            ending: ending.clone(),
            session: TaskTracker::new(),
        });
        shared.session.spawn(session::supervise(Arc::clone(&shared)));
        shared.spawn(watching::nodes(Arc::clone(&shared)));
        shared.spawn(lease::keep(Arc::clone(&shared)));
        Self { shared, _ends_tasks: ending.drop_guard() }
    }
}

impl Shared {
    /// Runs until it is closed.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.closing.clone().run_until_cancelled_owned(task));
    }

    /// Does what takes something back, until it is done; or, once this is being closed, for as long as is left: then the
    /// end of the session takes it back. Giving up earlier would leave it there for as long as the session lives.
    async fn take_back(&self, what: &str, taking: impl Future<Output = ()>) {
        let too_late = async {
            self.closing.cancelled().await;
            sleep(TAKE_BACK_LIMIT).await;
        };
        tokio::select! {
            () = taking => {}
            () = too_late => warn!(what, "could not be taken back in time; it ends with the session"),
        }
    }

    /// Waits until there is a connection.
    async fn connected(&self) -> Connection {
        let mut connection = self.connection.subscribe();
        loop {
            if let Some(connection) = connection.borrow_and_update().clone() {
                return connection;
            }
            if connection.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends when `session` is known to be over.
    async fn session_over(&self, session: i64) {
        drop(self.session_id.subscribe().wait_for(|now| *now != session).await);
    }

    /// The connection that is there now.
    fn connection_now(&self) -> Result<Connection, CoordinationError> {
        let connection = self.connection.borrow().clone();
        connection.ok_or(CoordinationError::Away("there is no connection to ZooKeeper"))
    }

    /// Ends when `of` is no longer the connection.
    async fn disconnected(&self, of: &Connection) {
        let mut connection = self.connection.subscribe();
        let changed = connection.wait_for(|now| now.as_ref().is_none_or(|now| now.epoch != of.epoch));
        drop(changed.await);
    }
}

#[async_trait]
impl Coordination for ZooKeeper {
    async fn join(&self, info: NodeInfo) -> Result<Membership, CoordinationError> {
        let announced: Arc<dyn Announcement> = Arc::new(Announced::join(&self.shared, info).await?);
        Ok(Membership::new(announced))
    }

    fn nodes(&self) -> watch::Receiver<Arc<[NodeInfo]>> {
        self.shared.view.nodes.subscribe()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.shared.view.link.subscribe()
    }

    async fn publish_version(&self, notice: &VersionNotice) -> Result<(), CoordinationError> {
        const STEP: &str = "note a version for every node";
        let connection = self.shared.connection.borrow().clone();
        let Some(Connection { session, .. }) = connection else {
            return Err(CoordinationError::Away("there is no connection to ZooKeeper"));
        };
        let data = serde_json::to_vec(notice)
            .map_err(|error| CoordinationError::Refused { step: STEP, source: error.into() })?;
        let model = session.path(&["models", notice.model.as_str()]);
        let noted = async {
            session.make_directory(&model).await?;
            session.create_persistent(&format!("{model}/{}", notice.version), &data).await
        };
        noted.await.map_err(|failure: Failure| failure.at(STEP))
    }

    fn versions(&self) -> watch::Receiver<Arc<[VersionNotice]>> {
        if !self.shared.watches_versions.swap(true, Ordering::Relaxed) {
            self.shared.spawn(watching::versions(Arc::clone(&self.shared)));
        }
        self.shared.view.versions.subscribe()
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
        let session = self.shared.connection_now()?.session;
        let read = queue::read(&session, &queue::Place::of(tenant, what), what).await;
        read.map_err(|failure| failure.at("read a queue"))
    }

    async fn limits(&self, tenant: &TenantId) -> Result<Vec<LimitName>, CoordinationError> {
        let session = self.shared.connection_now()?.session;
        queue::limits(&session, tenant).await.map_err(|failure| failure.at("list the limits"))
    }

    async fn fence_floor(&self) -> Option<i64> {
        let session = self.shared.connection_now().ok()?.session;
        lease::beat(&self.shared, &session).await.ok()
    }

    fn settings(&self) -> watch::Receiver<Arc<BTreeMap<NodeName, NodeSettings>>> {
        if !self.shared.watches_settings.swap(true, Ordering::Relaxed) {
            self.shared.spawn(watching::settings(Arc::clone(&self.shared)));
        }
        self.shared.view.watch_settings()
    }

    async fn set_node(&self, node: &NodeName, settings: &NodeSettings) -> Result<(), CoordinationError> {
        let session = self.shared.connection_now()?.session;
        let set = settings::set(&session, node, settings).await;
        set.map_err(|failure| failure.at("note what is asked of a node"))
    }

    fn announce_bundle(&self, node: &NodeName, digest: Digest, state: Option<BundleState>) {
        self.shared.notices.set(node, digest, state);
        if !self.shared.tells_bundles.swap(true, Ordering::Relaxed) {
            self.shared.spawn(bundles::keep(Arc::clone(&self.shared)));
        }
    }

    fn bundles(&self) -> watch::Receiver<Arc<[BundleNotice]>> {
        if !self.shared.watches_bundles.swap(true, Ordering::Relaxed) {
            self.shared.spawn(watching::bundles(Arc::clone(&self.shared)));
        }
        self.shared.view.bundles.subscribe()
    }

    fn lead(&self, what: &str, holder: &str) -> watch::Receiver<Lead> {
        let (lead, watched) = watch::channel(Lead::No);
        let task = election::stand(Arc::clone(&self.shared), what.to_owned(), holder.to_owned(), lead);
        self.shared.tasks.spawn(task);
        watched
    }

    async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.tasks.close();
        let tasks = timeout(CLOSE_LIMIT, self.shared.tasks.wait()).await;
        self.shared.ending.cancel();
        self.shared.session.close();
        let session = timeout(CLOSE_LIMIT, self.shared.session.wait()).await;
        if tasks.is_err() || session.is_err() {
            warn!("the ZooKeeper session did not close in time; what it announced runs out by itself");
        }
    }
}
