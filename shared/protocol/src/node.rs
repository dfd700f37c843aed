use std::collections::BTreeMap;

use domain::{NodeId, QueueName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a node says of itself where all can see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Which life of which node.
    pub id: NodeId,
    /// Name or address of its machine.
    pub address: String,
    /// The worker's process id on that machine.
    pub pid: u32,
    /// The version of Gantry it runs.
    pub version: String,
    /// How many executions it runs at once at most.
    pub slots: u32,
    /// The queues it serves.
    pub queues: Vec<QueueName>,
    /// What an operator wrote of it, as `zone = "a"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// It takes no new work.
    pub draining: bool,
    /// When this life began, by the node's clock.
    pub since: Timestamp,
}

/// What an operator asks of a node while it runs. It holds until it is asked otherwise, also across restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSettings {
    /// How many executions it runs at once at most; `None`: as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u16>,
    /// It takes no new work; `None`: it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// What a node is doing, as the cluster knows it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It is there and takes work.
    Up,
    /// It is there and takes no new work.
    Draining,
    /// It went by itself.
    Left,
    /// It is gone and had not said so before.
    Lost,
}

impl NodeState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Up, Self::Draining, Self::Left, Self::Lost];

    /// Its name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Left => "left",
            Self::Lost => "lost",
        }
    }

    /// Is it there?
    #[must_use]
    pub const fn is_present(self) -> bool {
        match self {
            Self::Up | Self::Draining => true,
            Self::Left | Self::Lost => false,
        }
    }
}

/// How a node is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// What becomes of what runs.
    pub mode: DrainMode,
    /// `finish`: what still runs then is given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// When it was asked for.
    pub since: Timestamp,
}

/// What becomes of what runs on a node that drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainMode {
    /// It runs to its end.
    Finish,
    /// It is asked to end (SIGTERM, then the kill after its grace) and begins again elsewhere.
    Requeue,
    /// It is killed at once and begins again elsewhere.
    Kill,
}

/// What a node has of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum BundleState {
    /// It is on its way.
    Fetching {
        /// How many bytes are there.
        bytes: u64,
        /// Of how many.
        bytes_total: u64,
    },
    /// It is there, checked and unpacked.
    Ready {
        /// How many bytes it was, packed.
        bytes: u64,
    },
    /// The last try failed; there will be another.
    Failed {
        /// Why.
        message: String,
    },
}
