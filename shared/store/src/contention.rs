use domain::{Digest, NodeName, TenantId};
use uuid::Uuid;

/// What is contended for, where the queues are kept in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContendedKind {
    /// One at a time.
    Lock,
    /// A number at a time.
    Limit,
}

impl ContendedKind {
    /// The name it has in the record.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Limit => "limit",
        }
    }
}

/// Who enters the queue of a lock or a limit.
#[derive(Debug, Clone, PartialEq)]
pub struct NewContender {
    /// Chosen by who enters: entering again with it attaches.
    pub ticket: Uuid,
    /// Whose lock or limit it is.
    pub tenant: TenantId,
    /// Which of the two.
    pub kind: ContendedKind,
    /// Its name.
    pub name: String,
    /// How many may have it at once: the first so many of the queue have it.
    pub running_max: u32,
    /// What others are told of the contender.
    pub contender: serde_json::Value,
}

/// What became of entering a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It is in.
    Stands(Standing),
    /// It is not: so many wait already, which is more than may.
    Full(u32),
}

/// Where a contender stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub ticket: Uuid,
    /// How many are before it, those who have it included.
    pub before: u32,
    /// The fencing number, if it has it: higher than every one dealt before.
    pub fence: Option<i64>,
}

/// A contender, as others see it.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedContender {
    /// What it said of itself.
    pub contender: serde_json::Value,
    /// The fencing number, if it has it.
    pub fence: Option<i64>,
}

/// What changed of one bundle on one node.
#[derive(Debug, Clone, PartialEq)]
pub struct BundleChange {
    /// Which bundle; a batch holds each pair of bundle and node once.
    pub digest: Digest,
    /// Which node.
    pub node: NodeName,
    /// What it has of it; `None` withdraws the notice.
    pub state: Option<serde_json::Value>,
}

/// What a node said of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleRow {
    /// Which bundle.
    pub digest: Digest,
    /// Which node.
    pub node: NodeName,
    /// What it has of it, as JSON.
    pub state: String,
}
