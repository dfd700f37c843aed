//! The record on SQLite: for one machine, with nothing else installed.
//!
//! One file in WAL mode with `synchronous = full`, so what was answered survives `kill -9` and a power cut. One thread
//! owns the connection that writes and works off one operation after the other, each as one transaction with one sync
//! (`sqlite/threads.rs`); so statements need no guard against each other, only against the past: each reads the row it changes
//! first. Two more threads read, on snapshots. A lock file beside the database keeps a second process out.
//!
//! The record's clock is this machine's: each transaction takes the time once.

mod accept;
mod claim;
mod contention;
mod fail;
mod fence;
mod finish;
mod list;
mod log_day;
mod model;
mod node;
mod queue;
mod read;
mod row;
mod schema;
mod status;
mod sweep;
#[cfg(test)]
mod tests;
mod threads;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    AliasName, Ending, ExecuteId, ModelName, NodeId, NodeName, Payload, QueueName, TenantId, VersionNumber,
    VersionSelector,
};
use protocol::{NodeInfo, NodeSettings};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::log_day::Dropped;
use self::node::Upkeep;
pub use self::status::log_status;
use self::threads::Threads;
use crate::{
    Acceptance, AliasSet, Append, Appended, BundleChange, BundleRow, CancelAnswer, ClaimAnswer, ClaimRequest,
    Conclusion, ContendedKind, Dispatch, Entered, ExecutionFilter, ExecutionPage, ExecutionRow, Fence,
    FenceTaken, Finish, Finished, Forgotten, Leadership, LogDay, LogFilter, LogRetention, LogSearch,
    LogSlice, LogStep, LoggedLine, LogsFound, NewContender, NewExecution, NodeEvent, NodeEventKind, NodeLife,
    NodeSeen, PushVersion, PushedVersion, QueueLoad, QueuedContender, Record, Renewal, Requeue, Rescued,
    RunningRow, SetAlias, Standing, StoreError, Turn, VersionRow,
};

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The file; made with its directory if it is not there.
    pub path: PathBuf,
}

/// The record in one file. Dropping it ends its threads and frees the file.
pub struct Sqlite {
    threads: Threads,
    /// By the record's clock.
    open_since: i64,
}

impl Sqlite {
    /// Opens the database, makes it if there is none, and brings its schema up to date. It blocks for a few syncs.
    ///
    /// # Errors
    /// [`StoreError::Connect`] if the file cannot be had or another process has it; [`StoreError::Schema`] if a newer
    /// program has used it; [`StoreError::Statement`] if it is no database.
    pub fn open(config: &SqliteConfig) -> Result<Self, StoreError> {
        let lock = schema::lock(&config.path)?;
        let (writing, reading) = schema::connect(&config.path)?;
        let threads =
            Threads::start(lock, writing, reading).map_err(|error| StoreError::Connect(error.into()))?;
        Ok(Self { threads, open_since: threads::now_us() })
    }
}

#[async_trait]
impl Record for Sqlite {
    async fn accept(&self, batch: &[NewExecution]) -> Result<Vec<Acceptance>, StoreError> {
        let batch = batch.to_vec();
        self.threads.write("accept", move |c, now| accept::accept(c, now, &batch)).await
    }

    async fn claim(&self, batch: &[ClaimRequest]) -> Result<Vec<ClaimAnswer>, StoreError> {
        let batch = batch.to_vec();
        self.threads.write("claim", move |c, now| claim::claim(c, now, &batch)).await
    }

    async fn append(&self, batch: &[Append]) -> Result<Vec<Appended>, StoreError> {
        let batch = batch.to_vec();
        self.threads.write("append", move |c, _| finish::append(c, &batch)).await
    }

    async fn finish(&self, batch: &[Finish]) -> Result<Vec<Finished>, StoreError> {
        let batch = batch.to_vec();
        self.threads.write("finish", move |c, now| finish::finish(c, now, &batch)).await
    }

    async fn mark_dispatched(&self, ids: &[ExecuteId]) -> Result<(), StoreError> {
        let ids = ids.to_vec();
        self.threads.write("mark_dispatched", move |c, now| accept::mark_dispatched(c, now, &ids)).await
    }

    async fn requeue(&self, batch: &[Requeue], delay: Duration) -> Result<(), StoreError> {
        let batch = batch.to_vec();
        self.threads.write("requeue", move |c, now| accept::requeue(c, now, &batch, delay)).await
    }

    async fn renew(
        &self,
        node: &NodeId,
        held: &[(ExecuteId, i32)],
        lease: Duration,
    ) -> Result<Vec<Renewal>, StoreError> {
        let (node, held) = (node.clone(), held.to_vec());
        self.threads.write("renew", move |c, now| finish::renew(c, now, &node, &held, lease)).await
    }

    async fn take_fence(
        &self,
        tenant: &TenantId,
        fence: &Fence,
        execute_id: ExecuteId,
        attempt: i32,
    ) -> Result<FenceTaken, StoreError> {
        let (tenant, fence) = (tenant.clone(), fence.clone());
        let take = move |c: &_, now| fence::take(c, now, &tenant, &fence, execute_id, attempt);
        self.threads.write("take_fence", take).await
    }

    async fn note_waiting(
        &self,
        execute_id: ExecuteId,
        attempt: i32,
        is_waiting: bool,
    ) -> Result<bool, StoreError> {
        let note = move |c: &_, _| finish::note_waiting(c, execute_id, attempt, is_waiting);
        self.threads.write("note_waiting", note).await
    }

    async fn highest_fence(&self) -> Result<Option<(i64, i64)>, StoreError> {
        self.threads.read("highest_fence", |c, _| fence::highest(c)).await
    }

    async fn cancel(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<CancelAnswer>, StoreError> {
        let tenant = tenant.clone();
        self.threads.write("cancel", move |c, now| finish::cancel(c, now, &tenant, execute_id)).await
    }

    async fn take_undispatched(&self, limit: u32) -> Result<Vec<Dispatch>, StoreError> {
        self.threads.write("take_undispatched", move |c, now| sweep::take_undispatched(c, now, limit)).await
    }

    async fn take_overtaken(&self, empty: &[QueueName], limit: u32) -> Result<Vec<Dispatch>, StoreError> {
        let empty = empty.to_vec();
        let take = move |c: &_, now| sweep::take_overtaken(c, now, &empty, limit);
        self.threads.write("take_overtaken", take).await
    }

    async fn take_due(&self, limit: u32) -> Result<Vec<Dispatch>, StoreError> {
        self.threads.write("take_due", move |c, now| sweep::take_due(c, now, limit)).await
    }

    async fn rescue(
        &self,
        present: Option<&[NodeId]>,
        lease: Duration,
        renew_every: Duration,
        limit: u32,
    ) -> Result<Vec<Rescued>, StoreError> {
        let present = present.map(<[NodeId]>::to_vec);
        let lost = sweep::Lost { open_since: self.open_since, present, lease, renew_every };
        self.threads.write("rescue", move |c, now| sweep::rescue(c, now, &lost, limit)).await
    }

    async fn expire(&self, limit: u32) -> Result<Vec<Conclusion>, StoreError> {
        self.threads.write("expire", move |c, now| sweep::expire(c, now, limit)).await
    }

    async fn bury(&self, letter: &Requeue, reason: &str) -> Result<Option<Conclusion>, StoreError> {
        let (letter, reason) = (letter.clone(), reason.to_owned());
        self.threads.write("bury", move |c, now| sweep::bury(c, now, &letter, &reason)).await
    }

    async fn endings(&self, ids: &[ExecuteId]) -> Result<Vec<Conclusion>, StoreError> {
        let ids = ids.to_vec();
        self.threads.read("endings", move |c, _| read::endings(c, &ids)).await
    }

    async fn find_execution(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<ExecutionRow>, StoreError> {
        let tenant = tenant.clone();
        self.threads.read("find_execution", move |c, _| read::find_execution(c, &tenant, execute_id)).await
    }

    async fn find_ending(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<(i32, Ending)>, StoreError> {
        let tenant = tenant.clone();
        self.threads.read("find_ending", move |c, _| read::find_ending(c, &tenant, execute_id)).await
    }

    async fn find_input(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<Payload>, StoreError> {
        let tenant = tenant.clone();
        self.threads.read("find_input", move |c, _| read::find_input(c, &tenant, execute_id)).await
    }

    async fn list_executions(
        &self,
        tenant: &TenantId,
        filter: &ExecutionFilter,
    ) -> Result<ExecutionPage, StoreError> {
        let (tenant, filter) = (tenant.clone(), filter.clone());
        self.threads.read("list_executions", move |c, _| list::list_executions(c, &tenant, &filter)).await
    }

    async fn list_log(&self, execute_id: ExecuteId, filter: &LogFilter) -> Result<LogSlice, StoreError> {
        let filter = filter.clone();
        self.threads.read("list_log", move |c, _| list::list_log(c, execute_id, &filter)).await
    }

    async fn search_logs(&self, tenant: &TenantId, search: &LogSearch) -> Result<LogsFound, StoreError> {
        let (tenant, search) = (tenant.clone(), search.clone());
        self.threads.read("search_logs", move |c, _| list::search_logs(c, &tenant, &search)).await
    }

    async fn follow_logs(
        &self,
        followers: &[(ExecuteId, i64)],
        limit_each: u32,
    ) -> Result<Vec<(ExecuteId, LoggedLine)>, StoreError> {
        let followers = followers.to_vec();
        self.threads.read("follow_logs", move |c, _| list::follow_logs(c, &followers, limit_each)).await
    }

    async fn is_log_dropped(&self, execute_id: ExecuteId) -> Result<bool, StoreError> {
        self.threads.read("is_log_dropped", move |c, _| log_day::is_dropped(c, execute_id)).await
    }

    async fn push_version(&self, version: &PushVersion) -> Result<PushedVersion, StoreError> {
        let version = version.clone();
        self.threads.write("push_version", move |c, now| model::push_version(c, now, &version)).await
    }

    async fn find_version(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        selector: &VersionSelector,
    ) -> Result<Option<VersionRow>, StoreError> {
        let (tenant, model, selector) = (tenant.clone(), model.clone(), selector.clone());
        let find = move |c: &_, _| model::find_version(c, &tenant, &model, &selector);
        self.threads.read("find_version", find).await
    }

    async fn list_versions(
        &self,
        tenant: &TenantId,
        model: Option<&ModelName>,
    ) -> Result<Vec<VersionRow>, StoreError> {
        let (tenant, model) = (tenant.clone(), model.cloned());
        let list = move |c: &_, _| model::list_versions(c, &tenant, model.as_ref());
        self.threads.read("list_versions", list).await
    }

    async fn set_alias(&self, set: &SetAlias) -> Result<AliasSet, StoreError> {
        let set = set.clone();
        self.threads.write("set_alias", move |c, _| model::set_alias(c, &set)).await
    }

    async fn list_aliases(
        &self,
        tenant: &TenantId,
        model: &ModelName,
    ) -> Result<Vec<(AliasName, VersionNumber)>, StoreError> {
        let (tenant, model) = (tenant.clone(), model.clone());
        self.threads.read("list_aliases", move |c, _| model::list_aliases(c, &tenant, &model)).await
    }

    async fn want_version(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        version: VersionNumber,
    ) -> Result<(), StoreError> {
        let (tenant, model) = (tenant.clone(), model.clone());
        let want = move |c: &_, now| model::want_version(c, now, &tenant, &model, version);
        self.threads.write("want_version", want).await
    }

    async fn announce_node(&self, info: &NodeInfo, lease: Duration) -> Result<(), StoreError> {
        let info = info.clone();
        self.threads.write("announce_node", move |c, now| node::announce_node(c, now, &info, lease)).await
    }

    async fn withdraw_node(&self, node: &NodeId) -> Result<(), StoreError> {
        let node = node.clone();
        self.threads.write("withdraw_node", move |c, _| node::withdraw_node(c, &node)).await
    }

    async fn list_nodes(&self) -> Result<Vec<NodeInfo>, StoreError> {
        self.threads.read("list_nodes", node::list_nodes).await
    }

    async fn lead(&self, what: &str, holder: &str, lease: Duration) -> Result<Leadership, StoreError> {
        let (what, holder) = (what.to_owned(), holder.to_owned());
        self.threads.write("lead", move |c, now| node::lead(c, now, &what, &holder, lease)).await
    }

    async fn note_node(&self, info: &NodeInfo, seen: NodeSeen) -> Result<Option<NodeEventKind>, StoreError> {
        let info = info.clone();
        self.threads.write("note_node", move |c, now| node::note(c, now, &info, seen)).await
    }

    async fn list_node_lives(&self, gone_within: Duration) -> Result<Vec<NodeLife>, StoreError> {
        let list = move |c: &_, now| node::list_lives(c, now, gone_within);
        self.threads.read("list_node_lives", list).await
    }

    async fn list_node_events(
        &self,
        node: Option<&NodeName>,
        limit: u32,
    ) -> Result<Vec<NodeEvent>, StoreError> {
        let name = node.cloned();
        self.threads.read("list_node_events", move |c, _| node::list_events(c, name.as_ref(), limit)).await
    }

    async fn list_node_alarms(&self, limit: u32) -> Result<Vec<NodeEvent>, StoreError> {
        self.threads.read("list_node_alarms", move |c, now| node::list_alarms(c, now, limit)).await
    }

    async fn settle_node_alarm(&self, event_id: i64) -> Result<(), StoreError> {
        self.threads.write("settle_node_alarm", move |c, _| node::settle_alarm(c, event_id)).await
    }

    async fn list_running(&self, node: Option<&NodeId>) -> Result<Vec<RunningRow>, StoreError> {
        let node = node.cloned();
        self.threads.read("list_running", move |c, _| queue::list_running(c, node.as_ref())).await
    }

    async fn queue_loads(&self, queues: &[QueueName], limit: u32) -> Result<Vec<QueueLoad>, StoreError> {
        let queues = queues.to_vec();
        self.threads.read("queue_loads", move |c, now| queue::loads(c, now, &queues, limit)).await
    }

    async fn find_turn(&self, execute_id: ExecuteId) -> Result<Option<Turn>, StoreError> {
        self.threads.read("find_turn", move |c, _| queue::find_turn(c, execute_id)).await
    }

    async fn count_running(&self) -> Result<Vec<(NodeId, u32)>, StoreError> {
        self.threads.read("count_running", |c, _| node::count_running(c)).await
    }

    async fn enter(
        &self,
        new: &NewContender,
        waiters_max: u32,
        lease: Duration,
    ) -> Result<Entered, StoreError> {
        let new = new.clone();
        self.threads.write("enter", move |c, now| contention::enter(c, now, &new, waiters_max, lease)).await
    }

    async fn stand(&self, tickets: &[Uuid], lease: Duration) -> Result<Vec<Standing>, StoreError> {
        let tickets = tickets.to_vec();
        self.threads.write("stand", move |c, now| contention::stand(c, now, &tickets, lease)).await
    }

    async fn leave(&self, tickets: &[Uuid]) -> Result<(), StoreError> {
        let tickets = tickets.to_vec();
        self.threads.write("leave", move |c, _| contention::leave(c, &tickets)).await
    }

    async fn list_contenders(
        &self,
        tenant: &TenantId,
        kind: ContendedKind,
        name: &str,
    ) -> Result<Vec<QueuedContender>, StoreError> {
        let (tenant, name) = (tenant.clone(), name.to_owned());
        let list = move |c: &_, now| contention::list_contenders(c, now, &tenant, kind, &name);
        self.threads.read("list_contenders", list).await
    }

    async fn list_contended(
        &self,
        tenant: &TenantId,
        kind: ContendedKind,
    ) -> Result<Vec<String>, StoreError> {
        let tenant = tenant.clone();
        let list = move |c: &_, now| contention::list_contended(c, now, &tenant, kind);
        self.threads.read("list_contended", list).await
    }

    async fn highest_contention_fence(&self) -> Result<i64, StoreError> {
        self.threads.read("highest_contention_fence", |c, _| contention::highest_fence(c)).await
    }

    async fn set_node(&self, node: &NodeName, settings: &NodeSettings) -> Result<(), StoreError> {
        let (node, settings) = (node.clone(), settings.clone());
        self.threads.write("set_node", move |c, _| contention::set_node(c, &node, &settings)).await
    }

    async fn list_node_settings(&self) -> Result<Vec<(NodeName, String)>, StoreError> {
        self.threads.read("list_node_settings", |c, _| contention::list_settings(c)).await
    }

    async fn announce_bundles(
        &self,
        announcer: Uuid,
        changes: &[BundleChange],
        lease: Duration,
    ) -> Result<bool, StoreError> {
        let changes = changes.to_vec();
        let announce = move |c: &_, now| contention::announce_bundles(c, now, announcer, &changes, lease);
        self.threads.write("announce_bundles", announce).await
    }

    async fn withdraw_bundles(&self, announcer: Uuid) -> Result<(), StoreError> {
        self.threads.write("withdraw_bundles", move |c, _| contention::withdraw_bundles(c, announcer)).await
    }

    async fn list_bundles(&self) -> Result<Vec<BundleRow>, StoreError> {
        self.threads.read("list_bundles", contention::list_bundles).await
    }

    async fn upkeep(&self, fence: i64, _days: u32, keep_events: Duration) -> Result<bool, StoreError> {
        loop {
            match self.threads.write("upkeep", move |c, now| node::upkeep(c, now, fence, keep_events)).await?
            {
                Upkeep::Stale => return Ok(false),
                Upkeep::More => {}
                Upkeep::Done => return Ok(true),
            }
        }
    }

    async fn seal_log(&self, _fence: i64) -> Result<LogStep, StoreError> {
        // It always is in the order of its key.
        Ok(LogStep::Nothing)
    }

    async fn drop_log(&self, fence: i64, keep: LogRetention) -> Result<LogStep, StoreError> {
        let bytes = match keep.bytes_max {
            Some(_) => self.threads.read("drop_log", |c, _| log_day::bytes(c)).await?,
            None => 0,
        };
        let (mut keep, mut done) = (keep, None);
        loop {
            let step = move |c: &_, now| log_day::drop_some(c, now, fence, keep, bytes);
            let (day, lines, is_last) = match self.threads.write("drop_log", step).await? {
                Dropped::Stale => return Ok(LogStep::Stale),
                Dropped::Nothing => break,
                Dropped::Some(day, lines) => (day, lines, false),
                Dropped::Last(day, lines) => (day, lines, true),
            };
            done.get_or_insert(LogDay { day, lines: 0, bytes: 0 }).lines += lines;
            if is_last {
                break;
            }
            // From here on only what has begun.
            keep = LogRetention::default();
        }
        Ok(done.map_or(LogStep::Nothing, LogStep::Done))
    }

    async fn forget_executions(
        &self,
        fence: i64,
        age: Duration,
        after: Option<ExecuteId>,
        limit: u32,
    ) -> Result<Forgotten, StoreError> {
        let forget = move |c: &_, now| log_day::forget_executions(c, now, fence, age, after, limit);
        self.threads.write("forget_executions", forget).await
    }

    async fn take_upkeep_fence(&self, fence: i64) -> Result<bool, StoreError> {
        self.threads.write("take_upkeep_fence", move |c, _| node::take_upkeep_fence(c, fence)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.threads.write("ping", |c, _| row::value::<i64>(c, "select 1", []).map(drop)).await
    }
}
