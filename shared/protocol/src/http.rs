//! The bodies of the HTTP API under `/v1`. Times are RFC 3339; an absent value is left out.

use std::collections::BTreeMap;

use domain::{AliasName, Attributes, ErrorClass, ExecuteId, ModelName, NodeName, State, VersionNumber};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{BundleState, DrainMode, NodeInfo, NodeSettings, NodeState};

/// Header of an answer about an execution: its id.
pub const EXECUTE_ID: &str = "gantry-execute-id";
/// Header of an answer about an ended execution: the attempt that ended it.
pub const ATTEMPT: &str = "gantry-attempt";
/// Header of a request: never start after this time (RFC 3339).
pub const DEADLINE: &str = "gantry-deadline";
/// Header of a request: labels to find the execution by, as `customer=acme, run=7`.
pub const ATTRIBUTES: &str = "gantry-attributes";
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
    /// The labels its caller gave it.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub attributes: Attributes,
    /// What happened in which attempt, in order.
    pub timeline: Vec<TimelineEvent>,
}

/// An execution with what it waits for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecutionNow {
    /// Its row.
    #[serde(flatten)]
    pub execution: Execution,
    /// While it is `running` without running: `waiting_lock` or `waiting_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ReasonCode>,
    /// How many are before it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
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
    /// The page. May be short, or empty, although there is a `next`: the request ended before all was looked at.
    pub executions: Vec<Execution>,
    /// Pass as `cursor=` to get the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
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
    /// Of a page from the end: pass as `before=` to get what precedes it; absent on the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_before: Option<i64>,
    /// The execution has ended and there are no lines after these.
    pub complete: bool,
}

/// A row that a search found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundRow {
    /// Whose log it is in.
    #[schema(value_type = String, format = Uuid)]
    pub execute_id: ExecuteId,
    /// The row.
    #[serde(flatten)]
    pub row: LogRow,
}

/// A page of what a search found in the logs of a model: the youngest execution first, the rows of each in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundPage {
    /// May be few, or none, although there is a `next`: the request ended before all was looked at.
    pub lines: Vec<FoundRow>,
    /// Pass as `cursor=` to go on; absent if all was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
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

/// Why an execution is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// Which execution.
    #[schema(value_type = String, format = Uuid)]
    pub execute_id: ExecuteId,
    /// Where it is in its life.
    #[schema(value_type = String)]
    pub state: State,
    /// What it waits for or does, what must come first first.
    pub reasons: Vec<Reason>,
}

/// One thing that an execution waits for or does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// What kind: programs match on this.
    pub code: ReasonCode,
    /// The same in words.
    pub text: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// How many are before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
    /// The lock or limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Contending>,
}

/// What kind of reason it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// It has ended.
    Ended,
    /// Somebody asked to take it back.
    CancelRequested,
    /// It is not due yet.
    Delayed,
    /// Its message is not known to be in its queue.
    NotDispatched,
    /// Its message waits in its queue.
    Queued,
    /// No node serves its queue.
    NoNode,
    /// Every slot of the nodes that serve its queue is taken.
    SlotsFull,
    /// It waits for its lock.
    WaitingLock,
    /// It waits for a limit.
    WaitingLimit,
    /// Its bundle is on its way to its node.
    Fetching,
    /// It runs.
    Executing,
    /// What it waits for cannot be known now.
    Unknown,
}

/// Who has a lock or limit, or waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Contending {
    /// Which execution; absent for one that is not Gantry's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub execute_id: Option<ExecuteId>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When it came, by its node's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
}

/// A lock or a limit as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Contest {
    /// Its key or name.
    pub name: String,
    /// Who has it, in the order of arrival.
    pub holders: Vec<Contending>,
    /// Who waits, the next one first.
    pub waiters: Vec<Contending>,
}

/// The limits that somebody holds or waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitList {
    /// By name.
    pub limits: Vec<Contest>,
}

/// How much there is to do, and with how many nodes it would be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Scaling {
    /// By the queue's name.
    pub queues: BTreeMap<String, QueueScaling>,
    /// In how many seconds the backlog should be worked off.
    pub target_seconds: u32,
}

/// The same of one queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueueScaling {
    /// How many executions wait: queued, or delayed and due (counted up to 100,000).
    pub waiting: u64,
    /// How many run.
    pub running: u64,
    /// How many seconds of work wait, for one slot.
    pub backlog_seconds: f64,
    /// How many seconds ago the one that has waited longest was accepted.
    pub oldest_wait_seconds: f64,
    /// How many seconds an execution takes, by those started last: at least 0.01; 1 if none has ended.
    pub mean_run_seconds: f64,
    /// Slots taken, of those of the nodes that serve it and take work: 0 to 1.
    pub utilisation: f64,
    /// How many nodes serve it and take work.
    pub nodes: u32,
    /// How many would be enough: (running + backlog_seconds / target_seconds) / slots per node, rounded up.
    pub desired_nodes: u32,
    /// Which node to remove first: one that runs nothing, else the one with the least work left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove_first: Option<String>,
}
