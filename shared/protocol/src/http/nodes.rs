//! Nodes: what is known of them, what they run, and what is asked of them.

use domain::{ExecuteId, ModelName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{BundleState, DrainMode, NodeInfo, NodeSettings, NodeState};

/// A node as the cluster sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// What it says (or said last) of itself.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub info: NodeInfo,
    /// What it is doing.
    pub state: NodeState,
    /// How many executions it runs now.
    pub running: u32,
    /// When it was last known to be there.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// What an operator asked of it.
    #[schema(value_type = Object)]
    pub settings: NodeSettings,
}

/// The nodes that are there, and those that went or were lost in the last 24 hours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// By name.
    pub nodes: Vec<Node>,
    /// The gateway sees the cluster as it is; otherwise as it was when the coordination was last there.
    pub is_current: bool,
}

/// A node with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeDetail {
    /// The node.
    #[serde(flatten)]
    pub node: Node,
    /// What it runs, the oldest first.
    pub executions: Vec<RunningExecution>,
    /// What became of it, the youngest first.
    pub history: Vec<NodeHistory>,
    /// What it has of which bundle.
    #[schema(value_type = Vec<Object>)]
    pub bundles: Vec<NodeBundle>,
}

/// An execution that a node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunningExecution {
    /// Its id.
    #[schema(value_type = String, format = Uuid)]
    pub execute_id: ExecuteId,
    /// What it runs.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Which attempt.
    pub attempt: i32,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// Something that happened to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeHistory {
    /// `joined`, `draining`, `back` (takes work again, or was lost and is there again), `resized`, `left`, `lost`.
    pub event: String,
    /// When it was noted.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Which life of the node.
    pub boot: String,
    /// How many slots it had then.
    pub slots: u32,
}

/// What a node has of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeBundle {
    /// SHA-256 of the bundle.
    pub digest: String,
    /// What is there.
    #[serde(flatten)]
    pub state: BundleState,
}

/// The body of `PUT /v1/nodes/{node}/settings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetNode {
    /// How many executions it runs at once at most, 1 to 10000; `null`: as configured.
    pub slots: Option<u16>,
}

/// The body of `POST /v1/nodes/{node}/drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrainNode {
    /// What becomes of what runs: `finish`, `requeue` (SIGTERM, grace, and again elsewhere) or `kill`.
    #[schema(value_type = String)]
    pub mode: DrainMode,
    /// `finish`: after so many seconds what still runs is given back; absent: it may take as long as it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u32>,
}

impl Default for DrainNode {
    fn default() -> Self {
        Self { mode: DrainMode::Finish, deadline_seconds: None }
    }
}
