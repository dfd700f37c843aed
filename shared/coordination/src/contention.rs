use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{ExecuteId, LimitName, LockKey, NodeId, TenantId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{Boottime, CoordinationError};

/// Who contends for a lock or a limit, kept where everybody can read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contender {
    /// Whose execution it is; locks and limits of different tenants have nothing to do with each other.
    pub tenant: TenantId,
    /// Which execution.
    pub execute_id: ExecuteId,
    /// Which attempt at it.
    pub attempt: i32,
    /// Where it is.
    pub node: NodeId,
    /// When it came, by its node's clock.
    pub since: Timestamp,
}

/// What is contended for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contended {
    /// One at a time, in the order of arrival.
    Lock(LockKey),
    /// At most `max` at a time, in the order of arrival. (Each contender brings its own `max`.)
    Limit {
        /// Which limit.
        name: LimitName,
        /// How many at a time.
        max: u32,
    },
}

/// A lock or limit as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    /// Who has it, in the order of arrival. `None` stands for one that is not Gantry's (another client of ZooKeeper in
    /// the same queue).
    pub holders: Vec<Option<Contender>>,
    /// Who waits, the next one first.
    pub waiters: Vec<Option<Contender>>,
}

/// A place in the queue of a lock or a limit.
///
/// Dropped before it is granted (also while [`Place::granted`] runs) it leaves the queue: a background task takes it out
/// and repeats that until the answer is certain.
pub struct Place {
    pub(crate) inner: Box<dyn PlaceInner>,
}

#[async_trait]
pub(crate) trait PlaceInner: Send + Sync {
    fn position(&self) -> watch::Receiver<u32>;
    async fn granted(&mut self) -> Result<Arc<dyn GrantInner>, Lost>;
}

/// The right was lost, or the place in the queue: the session is over, or somebody deleted the entry. Come again, at the
/// end of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the place in the queue is lost")]
pub struct Lost;

impl Place {
    /// How many are before it, as last seen; 0 is next (or has it).
    #[must_use]
    pub fn position(&self) -> watch::Receiver<u32> {
        self.inner.position()
    }

    /// Waits for its turn, however long the link is down meanwhile.
    ///
    /// # Errors
    /// [`Lost`].
    pub async fn granted(mut self) -> Result<Grant, Lost> {
        Ok(Grant { inner: self.inner.granted().await? })
    }
}

/// The right to a lock, or to one of the leases of a limit.
///
/// Dropped without [`Grant::release`] it is released in the background, repeated until that is certain.
pub struct Grant {
    pub(crate) inner: Arc<dyn GrantInner>,
}

#[async_trait]
pub(crate) trait GrantInner: Send + Sync {
    fn fence(&self) -> i64;
    fn validity(&self) -> watch::Receiver<Validity>;
    async fn release(&self);
}

/// For how long a right is certain, by the clock of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It is ours, and grows with each answered heartbeat: 2/3 and 9/10 of the lease after the heartbeat was *sent*.
    Until {
        /// From here on nothing that has an effect may begin: SIGTERM.
        stop_at: Boottime,
        /// The process tree must be dead: somebody else may have it soon after.
        kill_at: Boottime,
    },
    /// It is known to be lost: kill at once.
    Lost,
}

impl Validity {
    /// What a heartbeat grants that was sent at `sent_at`, of a right that outlives its last heartbeat by `lease`.
    #[must_use]
    pub fn granted(sent_at: Boottime, lease: Duration) -> Self {
        Self::Until {
            stop_at: sent_at.after(lease.mul_f64(2.0 / 3.0)),
            kill_at: sent_at.after(lease.mul_f64(0.9)),
        }
    }

    /// May an effect begin now?
    #[must_use]
    pub fn is_valid(self) -> bool {
        match self {
            Self::Until { stop_at, .. } => !stop_at.has_passed(),
            Self::Lost => false,
        }
    }
}

impl Grant {
    /// The fencing token: it is higher than that of every earlier holder of the same lock. (On ZooKeeper the `czxid` of
    /// the holder's znode, which, unlike its sequence number, also grows when the parent is made anew.)
    #[must_use]
    pub fn fence(&self) -> i64 {
        self.inner.fence()
    }

    /// For how long it is certain. The sender lives as long as the grant.
    #[must_use]
    pub fn validity(&self) -> watch::Receiver<Validity> {
        self.inner.validity()
    }

    /// Gives it to the next. Returns when that is certain, or after about 3 s, when the rest is done in the background.
    pub async fn release(self) {
        self.inner.release().await;
    }
}

/// Why no place in a queue was had.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// As many wait for it as may.
    #[error("{0} wait for it already")]
    Full(u32),
    /// The servers are away, or said no.
    #[error("enter the queue")]
    Failed(#[source] CoordinationError),
}
