use std::time::Duration;

use async_trait::async_trait;
use domain::{
    AliasName, Ending, ExecuteId, ModelName, NodeId, NodeName, Payload, QueueName, TenantId, VersionNumber,
    VersionSelector,
};
use protocol::{NodeInfo, NodeSettings};
use uuid::Uuid;

use crate::{
    Acceptance, AliasSet, Append, Appended, BundleChange, BundleRow, ClaimAnswer, ClaimRequest, Conclusion,
    ContendedKind, Dispatch, Entered, ExecutionFilter, ExecutionPage, ExecutionRow, Fence, FenceTaken,
    Finish, Finished, Forgotten, Leadership, LogFilter, LogRetention, LogSearch, LogSlice, LogStep,
    LoggedLine, LogsFound, NewContender, NewExecution, NodeEvent, NodeEventKind, NodeLife, NodeSeen,
    PushVersion, PushedVersion, QueueLoad, QueuedContender, Renewal, Requeue, Rescued, RunningRow, SetAlias,
    Standing, StoreError, Turn, VersionRow,
};

/// The record of executions, logs, models and nodes. See the [crate] for the four rules every operation keeps.
///
/// The batch operations answer in the order of their batch, and fail as a whole: [`crate::Writer`] calls them, sees to
/// it that a batch holds each id (and each idempotency key) once, and splits one that a bad row spoils.
#[async_trait]
pub trait Record: Send + Sync + 'static {
    // --- the hot writes, batched across executions -----------------------------------------------------------------

    /// Records executions and their idempotency keys.
    ///
    /// # Errors
    /// [`StoreError`]; on [`crate::Recovery::Unknown`] they may be recorded.
    async fn accept(&self, batch: &[NewExecution]) -> Result<Vec<Acceptance>, StoreError>;

    /// Claims the executions of a chunk of deliveries; makes the rows of direct producers' messages. A row whose
    /// cancel was asked for, or whose deadline has passed, ends here, and so does one that has run already.
    ///
    /// # Errors
    /// [`StoreError`]; some may be claimed, on [`crate::Recovery::Unknown`] all: repeat with the same `claim_id`s.
    async fn claim(&self, batch: &[ClaimRequest]) -> Result<Vec<ClaimAnswer>, StoreError>;

    /// Appends log lines; their `log_id`s are dealt out by the execution's row: dense, and none to a stale attempt.
    ///
    /// # Errors
    /// [`StoreError`]; on [`crate::Recovery::Unknown`] they may be stored: repeat with the same bases.
    async fn append(&self, batch: &[Append]) -> Result<Vec<Appended>, StoreError>;

    /// Settles attempts, with their last log lines in the same statement.
    ///
    /// # Errors
    /// [`StoreError`]; some may be settled, on [`crate::Recovery::Unknown`] all: repeat as they were.
    async fn finish(&self, batch: &[Finish]) -> Result<Vec<Finished>, StoreError>;

    // --- the rest of an execution's life ---------------------------------------------------------------------------

    /// Notes that these were published and confirmed. Those no longer `queued` are left alone.
    ///
    /// # Errors
    /// [`StoreError`]: a sweeper will publish them again.
    async fn mark_dispatched(&self, ids: &[ExecuteId]) -> Result<(), StoreError>;

    /// Gives deliveries that found no slot back: `queued` and not dispatched, due for [`Record::take_undispatched`]
    /// after `delay`.
    ///
    /// # Errors
    /// [`StoreError`]: do not acknowledge them.
    async fn requeue(&self, batch: &[Requeue], delay: Duration) -> Result<(), StoreError>;

    /// Extends by `lease` the leases of `node` among `held` (id and attempt), and returns those extended. One that is
    /// not returned is lost: kill its tree.
    ///
    /// # Errors
    /// [`StoreError`]: the old leases hold until they run out.
    async fn renew(
        &self,
        node: &NodeId,
        held: &[(ExecuteId, i32)],
        lease: Duration,
    ) -> Result<Vec<Renewal>, StoreError>;

    /// Takes a fence for the running `attempt` of an execution, before its script starts.
    ///
    /// # Errors
    /// [`StoreError`]; on [`crate::Recovery::Unknown`] it may be taken: repeating is harmless.
    async fn take_fence(
        &self,
        tenant: &TenantId,
        fence: &Fence,
        execute_id: ExecuteId,
        attempt: i32,
    ) -> Result<FenceTaken, StoreError>;

    /// Notes that a running attempt only waits, for its lock or a limit, or that it no longer does. Who only waits spends no
    /// failure when its node is lost, and the time counts on. `false` if the attempt is no longer that.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn note_waiting(
        &self,
        execute_id: ExecuteId,
        attempt: i32,
        is_waiting: bool,
    ) -> Result<bool, StoreError>;

    /// The highest fence ever taken: generation and number.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn highest_fence(&self) -> Result<Option<(i64, i64)>, StoreError>;

    /// Asks to take an execution back: `queued` or `delayed` becomes `cancelled` now, `running` gets the intent.
    /// `None` if there is no such execution.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn cancel(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<CancelAnswer>, StoreError>;

    // --- the sweeps: any number of monitors call them at once ------------------------------------------------------

    /// Takes at most `limit` `queued` executions that nobody is known to have published and whose next dispatch is
    /// due (5 s after acceptance; then 5 s, 30 s, 2 min, 5 min after each take, by the record's clock).
    ///
    /// # Errors
    /// [`StoreError`]: the next sweep takes them.
    async fn take_undispatched(&self, limit: u32) -> Result<Vec<Dispatch>, StoreError>;

    /// Takes at most `limit` `queued`, dispatched executions whose message must be lost: one dispatched later to the
    /// same queue was claimed over 60 s ago, or the queue is one of `empty` and it was dispatched over 10 s ago. Each
    /// is taken again only after another 60 s.
    ///
    /// # Errors
    /// [`StoreError`]: the next sweep takes them.
    async fn take_overtaken(&self, empty: &[QueueName], limit: u32) -> Result<Vec<Dispatch>, StoreError>;

    /// Makes at most `limit` `delayed` executions whose `not_before` has come `queued`, not dispatched, and returns them.
    ///
    /// # Errors
    /// [`StoreError`]: the next sweep takes them.
    async fn take_due(&self, limit: u32) -> Result<Vec<Dispatch>, StoreError>;

    /// Takes at most `limit` executions back from lost leases: `failures` grows, and they are `delayed` (0 s, 1 s, 10 s
    /// by the number of failures) or, when [`domain::limits::FAILURES_MAX`] is reached, `dead`.
    ///
    /// A lease is lost when it ran out by the record's clock and the database has been up for `lease`; or, early, when
    /// `present` is given, its node is not among `present`, and its last renewal is more than two `renew_every` ago.
    ///
    /// # Errors
    /// [`StoreError`]: the next sweep takes them.
    async fn rescue(
        &self,
        present: Option<&[NodeId]>,
        lease: Duration,
        renew_every: Duration,
        limit: u32,
    ) -> Result<Vec<Rescued>, StoreError>;

    /// Ends at most `limit` `queued` or `delayed` executions whose deadline has passed as `expired`.
    ///
    /// # Errors
    /// [`StoreError`]: the next sweep takes them.
    async fn expire(&self, limit: u32) -> Result<Vec<Conclusion>, StoreError>;

    /// Ends an execution whose message was found among the dead letters as `dead`, if it is still `queued`; makes the
    /// row if there is none.
    ///
    /// # Errors
    /// [`StoreError`]: do not acknowledge the message.
    async fn bury(&self, letter: &Requeue, reason: &str) -> Result<Option<Conclusion>, StoreError>;

    // --- reading ---------------------------------------------------------------------------------------------------

    /// Which of `ids` have ended, and how: one statement for all who wait.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn endings(&self, ids: &[ExecuteId]) -> Result<Vec<Conclusion>, StoreError>;

    /// The row of an execution.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn find_execution(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<ExecutionRow>, StoreError>;

    /// How an execution ended, with its result; `None` if there is no such execution or it has not ended.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn find_ending(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<(i32, Ending)>, StoreError>;

    /// The input of an execution.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn find_input(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<Payload>, StoreError>;

    /// A page of executions, the youngest first: looks at no more than [`domain::limits::LIST_LOOK_MAX`] of them.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_executions(
        &self,
        tenant: &TenantId,
        filter: &ExecutionFilter,
    ) -> Result<ExecutionPage, StoreError>;

    /// A page of an execution's log: looks at no more than [`domain::limits::LOG_LOOK_MAX`] lines.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_log(&self, execute_id: ExecuteId, filter: &LogFilter) -> Result<LogSlice, StoreError>;

    /// Searches the logs of a model, the youngest execution first and the lines of each in order: looks at no more than
    /// [`domain::limits::LOG_LOOK_MAX`] lines of [`domain::limits::SEARCH_EXECUTIONS_MAX`] executions.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn search_logs(&self, tenant: &TenantId, search: &LogSearch) -> Result<LogsFound, StoreError>;

    /// For each follower (execution and the `log_id` it has seen) at most `limit_each` lines that follow: one statement
    /// for all. Followers with nothing new are left out.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn follow_logs(
        &self,
        followers: &[(ExecuteId, i64)],
        limit_each: u32,
    ) -> Result<Vec<(ExecuteId, LoggedLine)>, StoreError>;

    /// Were the lines of executions that are dated as `execute_id` dropped? If so none of them is there any more.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn is_log_dropped(&self, execute_id: ExecuteId) -> Result<bool, StoreError>;

    // --- models ----------------------------------------------------------------------------------------------------

    /// Adds a version to a model (made if new) and points `latest` at it.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn push_version(&self, version: &PushVersion) -> Result<PushedVersion, StoreError>;

    /// The version that `selector` means now.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn find_version(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        selector: &VersionSelector,
    ) -> Result<Option<VersionRow>, StoreError>;

    /// All versions of `model`, or of all models, by model and then the youngest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_versions(
        &self,
        tenant: &TenantId,
        model: Option<&ModelName>,
    ) -> Result<Vec<VersionRow>, StoreError>;

    /// Moves, makes or takes away an alias, if it points at what is expected.
    ///
    /// # Errors
    /// [`StoreError`]; on [`crate::Recovery::Unknown`] it may be done: list the aliases.
    async fn set_alias(&self, set: &SetAlias) -> Result<AliasSet, StoreError>;

    /// The aliases of a model and what they point at, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_aliases(
        &self,
        tenant: &TenantId,
        model: &ModelName,
    ) -> Result<Vec<(AliasName, VersionNumber)>, StoreError>;

    /// Notes that an alias is to move to this version as soon as enough nodes have it, so that they fetch it however old
    /// it is. A version that is not there is left alone.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn want_version(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        version: VersionNumber,
    ) -> Result<(), StoreError>;

    // --- nodes and leaders, for installations without ZooKeeper, and the history of nodes ---------------------------

    /// Announces a node for `lease`, or extends that.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn announce_node(&self, info: &NodeInfo, lease: Duration) -> Result<(), StoreError>;

    /// Takes a node's announcement back.
    ///
    /// # Errors
    /// [`StoreError`]: it runs out by itself.
    async fn withdraw_node(&self, node: &NodeId) -> Result<(), StoreError>;

    /// The nodes whose announcement has not run out, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_nodes(&self) -> Result<Vec<NodeInfo>, StoreError>;

    /// Takes or extends the lead of `what` for `lease`, if it is free or already `holder`'s.
    ///
    /// # Errors
    /// [`StoreError`]: whether it leads is unknown, so it must not act.
    async fn lead(&self, what: &str, holder: &str, lease: Duration) -> Result<Leadership, StoreError>;

    /// Records what is new about a node that was seen so, if anything is: the event that was recorded. Call it again until
    /// nothing is: a node may join and drain at once.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn note_node(&self, info: &NodeInfo, seen: NodeSeen) -> Result<Option<NodeEventKind>, StoreError>;

    /// The lives of nodes that are recorded as there, and those that ended within `gone_within`, by node; at most 10,000.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_node_lives(&self, gone_within: Duration) -> Result<Vec<NodeLife>, StoreError>;

    /// The last `limit` events, of `node` or of all, the youngest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_node_events(
        &self,
        node: Option<&NodeName>,
        limit: u32,
    ) -> Result<Vec<NodeEvent>, StoreError>;

    /// The events of the last hour that an operator is to be told of and has not been, the oldest first; at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_node_alarms(&self, limit: u32) -> Result<Vec<NodeEvent>, StoreError>;

    /// Notes that the operator was told of an event, or cannot be.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn settle_node_alarm(&self, event_id: i64) -> Result<(), StoreError>;

    /// What runs now, on `node` or anywhere, the oldest first; at most 10,000.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_running(&self, node: Option<&NodeId>) -> Result<Vec<RunningRow>, StoreError>;

    /// What waits in each of `queues`, counted up to `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn queue_loads(&self, queues: &[QueueName], limit: u32) -> Result<Vec<QueueLoad>, StoreError>;

    /// Where a `queued` execution is in its queue; `None` if it is not queued.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn find_turn(&self, execute_id: ExecuteId) -> Result<Option<Turn>, StoreError>;

    /// How many executions each node runs now.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn count_running(&self) -> Result<Vec<(NodeId, u32)>, StoreError>;

    // --- locks, limits, settings and bundles, for installations without ZooKeeper -----------------------------------

    /// Enters the queue of a lock or a limit at its end, unless more than `waiters_max` wait in it already, and is granted
    /// it at once if it is free. The place holds for `lease`, and as long as [`Record::stand`] extends that.
    ///
    /// # Errors
    /// [`StoreError`]; on [`crate::Recovery::Unknown`] it may be in: repeat with the same ticket, or leave.
    async fn enter(
        &self,
        new: &NewContender,
        waiters_max: u32,
        lease: Duration,
    ) -> Result<Entered, StoreError>;

    /// Extends the leases of these contenders by `lease`, takes whoever's lease ran out (and whom nobody extended since)
    /// out of the queues they wait in, and grants what is free, in the order of arrival. One that is not returned is
    /// lost. (A lease does not run out before the database has been up for `lease`.)
    ///
    /// # Errors
    /// [`StoreError`]: the old leases hold until they run out; they may have been extended.
    async fn stand(&self, tickets: &[Uuid], lease: Duration) -> Result<Vec<Standing>, StoreError>;

    /// Takes contenders out of their queues.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn leave(&self, tickets: &[Uuid]) -> Result<(), StoreError>;

    /// Who has a lock or limit and who waits for it, in the order of arrival.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_contenders(
        &self,
        tenant: &TenantId,
        kind: ContendedKind,
        name: &str,
    ) -> Result<Vec<QueuedContender>, StoreError>;

    /// The names of the locks or limits that somebody has or waits for.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_contended(&self, tenant: &TenantId, kind: ContendedKind)
    -> Result<Vec<String>, StoreError>;

    /// The highest fencing number that a contender was dealt; 0 if none was.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn highest_contention_fence(&self) -> Result<i64, StoreError>;

    /// Replaces what is asked of a node.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn set_node(&self, node: &NodeName, settings: &NodeSettings) -> Result<(), StoreError>;

    /// What is asked of nodes, as JSON, by name; those of which nothing is asked are left out.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_node_settings(&self) -> Result<Vec<(NodeName, String)>, StoreError>;

    /// Changes some of the notices of the process `announcer` and makes all of them hold for another `lease`. `false` if
    /// it was not known: only the notices among `changes` are there now.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn announce_bundles(
        &self,
        announcer: Uuid,
        changes: &[BundleChange],
        lease: Duration,
    ) -> Result<bool, StoreError>;

    /// Withdraws all notices of the process `announcer`.
    ///
    /// # Errors
    /// [`StoreError`]: they run out by themselves.
    async fn withdraw_bundles(&self, announcer: Uuid) -> Result<(), StoreError>;

    /// The notices that have not run out, by bundle and node.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_bundles(&self) -> Result<Vec<BundleRow>, StoreError>;

    // --- upkeep ----------------------------------------------------------------------------------------------------

    /// The leader's upkeep, done only if `fence` is still the highest taken for `upkeep` (the check is part of the same
    /// transaction): makes the log's partitions for the coming `days`, forgets idempotency keys that ran out
    /// and events of nodes older than `keep_events`.
    /// `false` if the fence is stale: nothing was done.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn upkeep(&self, fence: i64, days: u32, keep_events: Duration) -> Result<bool, StoreError>;

    /// Puts the oldest day of the log that is no longer written into its final shape, if there is one: in the order of its
    /// key, as small as it gets. It may take minutes; readers are let in meanwhile, and held up only for a moment at its end.
    /// Done only under `fence`, as [`Record::upkeep`]. A day in which an execution has not ended is left for later.
    ///
    /// Dropping the future leaves the day as it was, or done.
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn seal_log(&self, fence: i64) -> Result<LogStep, StoreError>;

    /// Drops the oldest day of the log that `keep` does not, if there is one, under `fence`. From then on
    /// [`Record::is_log_dropped`].
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn drop_log(&self, fence: i64, keep: LogRetention) -> Result<LogStep, StoreError>;

    /// Forgets at most `limit` executions that ended longer than `age` ago and whose ids are dated as long ago, from the
    /// first after `after`, with their inputs and results, under `fence`. Their lines can no longer be reached; they go with
    /// them or with their day. (An idempotency key is forgotten earlier: keep them for a day at least.)
    ///
    /// # Errors
    /// [`StoreError`]; repeating is harmless.
    async fn forget_executions(
        &self,
        fence: i64,
        age: Duration,
        after: Option<ExecuteId>,
        limit: u32,
    ) -> Result<Forgotten, StoreError>;

    /// Takes `fence` for `upkeep` if none higher was taken. ZooKeeper's leader brings its own; [`Record::lead`] takes
    /// it itself.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn take_upkeep_fence(&self, fence: i64) -> Result<bool, StoreError>;

    /// Does the database answer?
    ///
    /// # Errors
    /// [`StoreError`] if not.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// What became of a cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelAnswer {
    /// It is running: the intent is recorded.
    Requested,
    /// It is `cancelled` now: tell everybody who waits.
    Cancelled(Box<Conclusion>),
    /// It had ended before.
    AlreadyEnded(Box<Conclusion>),
}
