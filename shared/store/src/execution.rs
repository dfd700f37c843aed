//! What goes into and comes out of the operations on executions.

use std::time::Duration;

use domain::{
    Attributes, Digest, Ending, ErrorClass, ExecuteId, Level, LockKey, LogLine, ModelName, NodeId, Payload,
    QueueName, State, TenantId, VersionNumber,
};
use jiff::Timestamp;
use protocol::http::TimelineEvent;
use protocol::{ReplyAddress, Request};
use uuid::Uuid;

/// An execution to accept.
#[derive(Debug, Clone)]
pub struct NewExecution {
    /// Its id.
    pub execute_id: ExecuteId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it runs.
    pub model: ModelName,
    /// Which version: pinned from here on.
    pub version: VersionNumber,
    /// Its queue.
    pub queue: QueueName,
    /// Its input.
    pub input: Payload,
    /// SHA-256 of the input.
    pub input_digest: Digest,
    /// Where the reply goes.
    pub reply_address: Option<ReplyAddress>,
    /// Never start after this time.
    pub deadline: Option<Timestamp>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Labels to find it by.
    pub attributes: Attributes,
    /// The same key (with tenant and model) is the same execution for [`domain::limits::IDEMPOTENCY_KEY_LIFE`].
    pub idempotency_key: Option<String>,
}

/// What became of an execution to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It is recorded, `queued` and not dispatched. (Also on a repeat, while that is still so.)
    Recorded,
    /// Its id or its idempotency key is known with the same input: this is that execution. Nothing was changed.
    Attached {
        /// The id it has.
        execute_id: ExecuteId,
        /// Where it is in its life.
        state: State,
    },
    /// Its idempotency key is known with another input. Nothing was changed.
    KeyReused,
    /// Its id is known with another input or tenant. Nothing was changed.
    IdReused,
    /// Its id is dated outside the window by the record's clock. Nothing was changed.
    OutsideWindow,
}

/// A claim on one delivery's execution.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// Names this very claim, so that repeating it after a lost answer is recognised.
    pub claim_id: Uuid,
    /// Who claims.
    pub node: NodeId,
    /// For how long.
    pub lease: Duration,
    /// Whose it is.
    pub tenant: TenantId,
    /// What the message says. `request.recorded` means that the row should exist: the input then is not sent along,
    /// and the answer is [`ClaimAnswer::Unrecorded`] if it does not.
    pub request: Request,
    /// SHA-256 of the input.
    pub input_digest: Digest,
    /// The version the message's selector means now; used only if the claim makes the row. `None` if there is no such
    /// model or version: the row is made all the same, and the worker ends it as failed.
    pub version: Option<VersionNumber>,
    /// The broker says that it delivered this message before: its reply address is known already.
    pub redelivered: bool,
    /// What it comes to, if it has run already, in `version`: only for what may run any number of times and nobody notices.
    /// The claim then ends it.
    pub result: Option<Payload>,
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimAnswer {
    /// It is yours: acknowledge, run.
    Claimed(Claim),
    /// It has ended with the result that this claim brought (now, or when the same claim was sent before): acknowledge, reply.
    Succeeded {
        /// The attempt that this was.
        attempt: i32,
        /// Everybody who wants a reply.
        reply_addresses: Vec<ReplyAddress>,
    },
    /// It has ended (it may just have been cancelled or expired): acknowledge, reply.
    Ended(AlreadyEnded),
    /// Another claim holds its lease, or it waits for its `not_before`: acknowledge, do nothing. The reply address is
    /// kept with the row (up to [`domain::limits::REPLY_ADDRESSES_MAX`]) and gets a reply when it ends.
    NotNow,
    /// There is no row and the request brought no input: claim again with `recorded = false`.
    Unrecorded,
    /// The id is known with another model, input or tenant: reject.
    IdReused,
    /// The id is new and dated outside the window by the record's clock: reject.
    OutsideWindow,
}

/// A claim that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The number of the attempt it begins, from 1: the fence of all its writes.
    pub attempt: i32,
    /// The highest `log_id` so far: the base of the first log batch.
    pub last_log_id: i64,
    /// The version to run; `None` if there is no such model or version.
    pub version: Option<VersionNumber>,
    /// How many attempts failed by the script's fault so far.
    pub retries: i32,
    /// How often our own side failed so far.
    pub failures: i32,
    /// How long it had waited for its lock or limit when an earlier attempt gave up waiting.
    pub waited: Duration,
    /// How much time is left until the deadline.
    pub deadline_in: Option<Duration>,
    /// When it was claimed.
    pub claimed_at: Timestamp,
}

/// An execution that had ended before it could be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlreadyEnded {
    /// The attempt that ended it.
    pub attempt: i32,
    /// How.
    pub ending: Ending,
}

/// Log lines of one attempt.
#[derive(Debug, Clone)]
pub struct Append {
    /// Which execution.
    pub execute_id: ExecuteId,
    /// Which attempt: a stale one writes nothing.
    pub attempt: i32,
    /// The `last_log_id` the writer knows (from the claim, then its own count).
    pub base: i64,
    /// At least one line.
    pub lines: Vec<LogLine>,
    /// Of an exclusive execution: written only while this is the highest fence taken for its lock.
    pub fence: Option<Fence>,
}

/// The right of an exclusive execution to write, as it is kept in the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The lock.
    pub key: LockKey,
    /// Raised by an operator when the coordination was rebuilt and its numbers began anew.
    pub generation: i64,
    /// The fencing token.
    pub number: i64,
}

/// What became of a fence that was to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceTaken {
    /// It stands (or stood already): every lower one writes nothing from here on.
    Taken,
    /// A higher one was taken before: release the lock and come again.
    TooOld {
        /// Its generation.
        generation: i64,
        /// Its number.
        number: i64,
    },
}

/// What became of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// They are stored as `base + 1 ..= last_log_id` (now, or by the same batch sent before).
    Stored {
        /// The base of the next batch.
        last_log_id: i64,
    },
    /// The attempt no longer owns the execution: nothing was written, kill the tree.
    Stale,
}

/// The end of one attempt.
#[derive(Debug, Clone)]
pub struct Finish {
    /// Which execution.
    pub execute_id: ExecuteId,
    /// Which attempt: a stale one changes nothing.
    pub attempt: i32,
    /// The `last_log_id` the writer knows.
    pub base: i64,
    /// The last log lines, stored in the same statement.
    pub tail: Vec<LogLine>,
    /// How the attempt was settled.
    pub settlement: Settlement,
    /// What happened in it; appended to the row's timeline.
    pub timeline: Vec<TimelineEvent>,
    /// Of an exclusive execution that got its lock: settled only while this is the highest fence taken for it.
    pub fence: Option<Fence>,
}

/// How an attempt was settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The execution ended.
    Ended(Ending),
    /// It goes back without having failed (a drain, a lost lock, a full waiting room): `delayed`, due after this time.
    Yielded {
        /// When the next attempt is due.
        delay: Duration,
        /// It was waiting for a lock or a limit: the time it has waited counts on.
        is_waiting: bool,
    },
    /// The script failed and its policy grants another attempt: `delayed`, due after this time; `retries` grows.
    Retried(Duration),
    /// Our own side failed (the shim, the bundle): `delayed`, due after this time, and `failures` grows; `dead` with
    /// this class and message if it reaches [`domain::limits::FAILURES_MAX`].
    Failed {
        /// When the next attempt is due.
        delay: Duration,
        /// Why.
        class: ErrorClass,
        /// Why, in words.
        message: String,
    },
}

impl Settlement {
    /// It goes back, due at once.
    pub const YIELDED: Self = Self::Yielded { delay: Duration::ZERO, is_waiting: false };
}

/// What became of the end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// The row says so now (or said so already: the same attempt settled it before).
    Stored(Box<Conclusion>),
    /// The attempt no longer owns the execution: nothing was written, send no reply.
    Stale,
}

/// An execution as its row stands after a settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    /// Which execution.
    pub execute_id: ExecuteId,
    /// The attempt.
    pub attempt: i32,
    /// How it ended; `None` if it goes on. A cancel that was asked for before turns a settlement that is no ending
    /// into [`Ending::Cancelled`].
    pub ending: Option<Ending>,
    /// Everybody who wants a reply.
    pub reply_addresses: Vec<ReplyAddress>,
}

/// One of the leases a worker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// Which execution.
    pub execute_id: ExecuteId,
    /// Which attempt.
    pub attempt: i32,
    /// A caller asked to take it back.
    pub cancel_requested: bool,
}

/// A delivery that a full node gives back through the record.
#[derive(Debug, Clone)]
pub struct Requeue {
    /// Whose it is.
    pub tenant: TenantId,
    /// What the message says; makes the row if there is none.
    pub request: Request,
    /// SHA-256 of the input.
    pub input_digest: Digest,
    /// The version the message's selector means now.
    pub version: Option<VersionNumber>,
}

/// An execution to publish (again). Publishing it is always harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// The message, with `recorded = true`, the version pinned, and no reply address (the row has them).
    pub request: Request,
}

/// An execution taken back from a lost lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescued {
    /// Which execution.
    pub execute_id: ExecuteId,
    /// The attempt that was lost.
    pub attempt: i32,
    /// The node that held it.
    pub node: NodeId,
    /// Set if `failures` was used up and it is `dead` now.
    pub conclusion: Option<Box<Conclusion>>,
}

/// A stored log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedLine {
    /// 1, 2, 3, ... without gaps.
    pub log_id: i64,
    /// The attempt that wrote it.
    pub attempt: i32,
    /// How much it matters.
    pub level: Level,
    /// When the worker read it.
    pub at: Timestamp,
    /// At most [`domain::limits::LINE_CHARS_MAX`] characters.
    pub line: String,
    /// The printed line goes on in the next row.
    pub continues: bool,
}

/// An execution's row without its input and result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutionRow {
    /// As the API shows it.
    pub execution: protocol::http::Execution,
    /// Whose it is.
    pub tenant: TenantId,
}
