//! The bodies of the HTTP API under `/v1`. Times are RFC 3339; an absent value is left out.

use domain::{AliasName, ErrorClass, ExecuteId, ModelName, NodeName, State, VersionNumber};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::NodeInfo;

/// Header of an answer about an execution: its id.
pub const EXECUTE_ID: &str = "gantry-execute-id";
/// Header of an answer about an ended execution: the attempt that ended it.
pub const ATTEMPT: &str = "gantry-attempt";
/// Header of a request: never start after this time (RFC 3339).
pub const DEADLINE: &str = "gantry-deadline";
/// Header of a request: the same key is the same execution for 24 hours.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Header of an answer: the key was known, the execution is the one it named.
pub const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";

/// An execution as its row says at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Execution {
    /// Its id.
    #[schema(value_type = String, format = Uuid)]
    pub execute_id: ExecuteId,
    /// What it runs.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Which version of it; absent if the name was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>)]
    pub version: Option<VersionNumber>,
    /// Its queue.
    pub queue: String,
    /// Where it is in its life.
    #[schema(value_type = String)]
    pub state: State,
    /// How often it was started.
    pub attempt: i32,
    /// How often our own side failed.
    pub failures: i32,
    /// The node that holds or held its lease, with its boot id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub accepted_at: Timestamp,
    /// When its last attempt was claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub claimed_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// Never start after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline: Option<Timestamp>,
    /// While `delayed`: not before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_before: Option<Timestamp>,
    /// A caller asked to take it back.
    pub cancel_requested: bool,
    /// Why it did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub error_class: Option<ErrorClass>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the script exited with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal the script died of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// How many log lines it has.
    pub log_lines: i64,
    /// What happened in which attempt, in order.
    pub timeline: Vec<TimelineEvent>,
}

/// One entry of an execution's timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimelineEvent {
    /// The attempt it belongs to.
    pub attempt: i32,
    /// `claimed`, a phase that began (`waiting_lock`, `fetching`, `loading`, `executing`, `storing`), or how the
    /// attempt was settled.
    pub event: String,
    /// When: the record's clock at the claim plus the time that passed on the node since.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The node.
    pub node: String,
}

/// A page of executions, the youngest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecutionList {
    /// The page.
    pub executions: Vec<Execution>,
    /// Pass as `before=` to get the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub next: Option<ExecuteId>,
}

/// The answer to a submission whose result is not there yet: `202`, with its URL in `Location`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Handle {
    /// Its id.
    #[schema(value_type = String, format = Uuid)]
    pub execute_id: ExecuteId,
    /// Where it is in its life.
    #[schema(value_type = String)]
    pub state: State,
    /// Where to ask, as in `Location`.
    pub location: String,
}

/// One row of an execution's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogRow {
    /// 1, 2, 3, ... without gaps.
    pub log_id: i64,
    /// The attempt that wrote it.
    pub attempt: i32,
    /// `D`, `I`, `W` or `E`.
    #[schema(value_type = String)]
    pub level: domain::Level,
    /// When the worker read it.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// At most 1,000 characters.
    pub line: String,
    /// The printed line goes on in the next row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
}

/// A page of an execution's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogPage {
    /// In order of `log_id`.
    pub lines: Vec<LogRow>,
    /// Pass as `after=` to get what follows.
    pub next_after: i64,
    /// The execution has ended and there are no lines after these.
    pub complete: bool,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Its number, counted from 1.
    #[schema(value_type = i32)]
    pub version: VersionNumber,
    /// SHA-256 of the bundle.
    pub digest: String,
    /// The bundle's size, packed.
    pub bytes: u64,
    /// The aliases that point at it.
    pub aliases: Vec<String>,
    /// Its manifest.
    #[schema(value_type = Object)]
    pub manifest: domain::Manifest,
    /// When it was pushed.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A hosted model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// Its name.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Its versions, the youngest first.
    pub versions: Vec<Version>,
}

/// All hosted models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// By name.
    pub models: Vec<Model>,
}

/// An alias and what it points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alias {
    /// Its name.
    #[schema(value_type = String)]
    pub alias: AliasName,
    /// The version.
    #[schema(value_type = i32)]
    pub version: VersionNumber,
}

/// The aliases of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AliasList {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// By name.
    pub aliases: Vec<Alias>,
}

/// Where an alias is to point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveAlias {
    /// The version.
    #[schema(value_type = i32)]
    pub version: VersionNumber,
    /// Move it however few nodes are ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Only if it points at this version now; 0: only if there is no such alias yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u32>,
}

/// An alias that points where it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovedAlias {
    /// Its name.
    #[schema(value_type = String)]
    pub alias: AliasName,
    /// The version.
    #[schema(value_type = i32)]
    pub version: VersionNumber,
    /// What it pointed at before; absent if it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>)]
    pub was: Option<VersionNumber>,
}

/// Which nodes have the bundles of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// How many percent of the nodes must be ready before an alias moves.
    pub ready_percent_min: u32,
    /// The versions asked for, the youngest first.
    pub versions: Vec<VersionReadiness>,
}

/// Which nodes have the bundle of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionReadiness {
    /// Its number.
    #[schema(value_type = i32)]
    pub version: VersionNumber,
    /// SHA-256 of the bundle.
    pub digest: String,
    /// The bundle's size, packed.
    pub bytes: u64,
    /// The aliases that point at it.
    pub aliases: Vec<String>,
    /// How many of `nodes` are ready.
    pub nodes_ready: u32,
    /// Are they enough for an alias to move to it?
    pub is_ready: bool,
    /// The nodes that are there, take work and serve the model's queue, by name.
    pub nodes: Vec<NodeReadiness>,
}

/// What a node has of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeReadiness {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeName,
    /// What it says.
    pub state: ReadyState,
    /// How many bytes of the bundle are there.
    pub bytes: u64,
    /// `fetching`: of how many; absent while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// `failed`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a node says of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadyState {
    /// Nothing: it has not begun to fetch it.
    Missing,
    /// It is on its way.
    Fetching,
    /// It is there, checked and unpacked.
    Ready,
    /// The last try failed; there will be another.
    Failed,
}

/// A node as the cluster sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// What it says of itself.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub info: NodeInfo,
    /// How many executions it runs now.
    pub running: u32,
}

/// All nodes that are there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// By name.
    pub nodes: Vec<Node>,
}
