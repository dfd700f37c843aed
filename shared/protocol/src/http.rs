//! The bodies of the HTTP API under `/v1`. Times are RFC 3339; an absent value is left out.

mod models;
mod nodes;

use std::collections::BTreeMap;

use domain::{Attributes, ErrorClass, ExecuteId, ModelName, State, VersionNumber};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::models::{
    Alias, AliasList, Model, ModelList, MoveAlias, MovedAlias, NodeReadiness, Readiness, ReadyState, Version,
    VersionReadiness,
};
pub use self::nodes::{
    DrainNode, Node, NodeBundle, NodeDetail, NodeHistory, NodeList, RunningExecution, SetNode,
};

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
