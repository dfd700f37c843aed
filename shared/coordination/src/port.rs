use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use domain::{Digest, LimitName, ModelName, NodeName, TenantId, VersionNumber};
use protocol::{BundleState, NodeInfo, NodeSettings};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{Contended, Contender, CoordinationError, Place, Queue, Refused};

/// Who is alive, and who may.
///
/// Everything watched is re-read after each reconnect and every 30 s, so a lost event is seen late, never missed. A
/// disconnect is not an expiry: while the link is down the last view stays, and [`Coordination::link`] says so.
#[async_trait]
pub trait Coordination: Send + Sync + 'static {
    /// Announces this node and keeps it announced (after an expired session: again, under the new one) until the
    /// [`Membership`] is left.
    ///
    /// Waits until the servers are there; dropping the future leaves nothing behind that does not run out by itself.
    ///
    /// # Errors
    /// [`CoordinationError::NameTaken`] if another life of the node is announced and stays so for longer than a session
    /// can outlive its process.
    async fn join(&self, info: NodeInfo) -> Result<Membership, CoordinationError>;

    /// The nodes that are there, by name. Kept current until every clone of the receiver is dropped.
    fn nodes(&self) -> watch::Receiver<Arc<[NodeInfo]>>;

    /// Is the view current?
    fn link(&self) -> watch::Receiver<Link>;

    /// Notes that every node must have this version. Repeating is harmless.
    ///
    /// # Errors
    /// [`CoordinationError`]: whoever needs the version fetches it when it is first run.
    async fn publish_version(&self, notice: &VersionNotice) -> Result<(), CoordinationError>;

    /// The versions every node must have.
    fn versions(&self) -> watch::Receiver<Arc<[VersionNotice]>>;

    /// Enters the queue of a lock or a limit, at its end; at most `waiters_max` may wait in it already.
    ///
    /// An answer that got lost is resolved by looking. If the future is dropped, what it left is taken out in the
    /// background.
    ///
    /// # Errors
    /// [`Refused`]; nothing is left behind. While the link is down it waits, in bounded time.
    async fn enter(
        &self,
        what: &Contended,
        contender: &Contender,
        waiters_max: u32,
    ) -> Result<Place, Refused>;

    /// Who has it and who waits.
    ///
    /// # Errors
    /// [`CoordinationError`].
    async fn queue(&self, tenant: &TenantId, what: &Contended) -> Result<Queue, CoordinationError>;

    /// The limits that somebody holds or waits for, by name.
    ///
    /// # Errors
    /// [`CoordinationError`].
    async fn limits(&self, tenant: &TenantId) -> Result<Vec<LimitName>, CoordinationError>;

    /// A fence that would be dealt now is higher than this. Lower than a fence that the record has seen, the ensemble was
    /// rebuilt or restored: nothing exclusive may run until an operator raises the generation. `None` if it cannot be
    /// known now.
    async fn fence_floor(&self) -> Option<i64>;

    /// What operators asked of nodes, by name. The receiver sees a change as soon as it was read, even if nothing is asked.
    fn settings(&self) -> watch::Receiver<Arc<BTreeMap<NodeName, NodeSettings>>>;

    /// Replaces what is asked of a node; the default asks nothing. It holds across restarts of the node.
    ///
    /// # Errors
    /// [`CoordinationError`]; on [`CoordinationError::Unknown`] it may be noted: repeating is harmless.
    async fn set_node(&self, node: &NodeName, settings: &NodeSettings) -> Result<(), CoordinationError>;

    /// Announces what is on this node of one bundle, until it is announced anew, is withdrawn (`None`), or this process
    /// ends. Kept up across sessions.
    fn announce_bundle(&self, node: &NodeName, digest: Digest, state: Option<BundleState>);

    /// What is where: every bundle on every node that said something of it, by digest and node.
    fn bundles(&self) -> watch::Receiver<Arc<[BundleNotice]>>;

    /// Stands for election to lead `what` until the receiver is dropped. It says who leads as far as this process
    /// knows; what protects is that the leader's writes carry the fence and the record refuses a stale one.
    fn lead(&self, what: &str, holder: &str) -> watch::Receiver<Lead>;

    /// Ends the session: whatever it announced is gone at once.
    async fn close(&self);
}

/// Is the view of the cluster current?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Not connected yet, or the link is down: the view may be old. Plain executions go on.
    Down,
    /// It is.
    Up,
}

/// Does this process lead?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// No, or it cannot know.
    No,
    /// Yes, with this fence: it grows with each change of leader.
    Yes {
        /// Required by everything the leader writes.
        fence: i64,
    },
}

/// A version that every node must have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VersionNotice {
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: VersionNumber,
    /// SHA-256 of its bundle.
    pub digest: Digest,
}

/// What a node has of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BundleNotice {
    /// Which bundle.
    pub digest: Digest,
    /// Which node.
    pub node: NodeName,
    /// What it has of it.
    pub state: BundleState,
}

/// The announcement of a node; kept up in the background.
pub struct Membership {
    announced: Arc<dyn Announcement>,
}

/// How an adapter keeps an announcement up.
#[async_trait]
pub(crate) trait Announcement: Send + Sync {
    async fn update(&self, info: NodeInfo) -> Result<(), CoordinationError>;
    async fn leave(&self);
}

impl Membership {
    pub(crate) fn new(announced: Arc<dyn Announcement>) -> Self {
        Self { announced }
    }

    /// Replaces what the node says of itself, as when it begins to drain.
    ///
    /// # Errors
    /// [`CoordinationError`]: the new text is announced when the link is back.
    pub async fn update(&self, info: NodeInfo) -> Result<(), CoordinationError> {
        self.announced.update(info).await
    }

    /// Takes the announcement back, in bounded time. (Dropped without it, the node stays announced until the process
    /// ends.)
    pub async fn leave(self) {
        self.announced.leave().await;
    }
}
