//! The record on PostgreSQL: for any number of machines.
//!
//! Every operation is one constant statement of `postgres/sql/`, which may be a batch of any size: lists travel as arrays.
//! Each statement guards what it changes by state and attempt, on the database's clock, and locks the rows it changes in
//! the order of their ids before it changes any, so overlapping batches wait for each other and never in a circle. (The
//! exceptions, pushing a version, a node's events and the upkeep, are transactions of a few statements.) A statement sees
//! the rows that were committed before it began; where it lost a race against one that committed since, it says so for
//! those rows, and only they are looked at again.
//!
//! Every call has a deadline, and the connection of one that missed it, or whose caller went away, is thrown away
//! (`postgres/client.rs`).

mod accept;
mod alone;
mod attempt;
mod claim;
mod client;
mod config;
mod contention;
mod fail;
mod fence;
mod list;
mod log;
mod log_copy;
mod log_day;
mod migrate;
mod model;
mod node;
mod read;
mod row;
mod status;
mod sweep;
#[cfg(test)]
mod tests;
mod tls;
mod words;

use std::time::Duration;

use async_trait::async_trait;
use domain::{
    AliasName, Ending, ExecuteId, ModelName, NodeId, NodeName, Payload, QueueName, TenantId, VersionNumber,
    VersionSelector,
};
use protocol::{NodeInfo, NodeSettings};
use uuid::Uuid;

use self::client::Database;
pub use self::config::PostgresConfig;
pub use self::migrate::migrate;
pub use self::status::log_status;
use crate::{
    Acceptance, AliasSet, Append, Appended, BundleChange, BundleRow, CancelAnswer, ClaimAnswer, ClaimRequest,
    Conclusion, ContendedKind, Dispatch, Entered, ExecutionFilter, ExecutionPage, ExecutionRow, Fence,
    FenceTaken, Finish, Finished, Forgotten, Leadership, LogFilter, LogRetention, LogSearch, LogSlice,
    LogStep, LoggedLine, LogsFound, NewContender, NewExecution, NodeEvent, NodeEventKind, NodeLife, NodeSeen,
    PushVersion, PushedVersion, QueueLoad, QueuedContender, Record, Renewal, Requeue, Rescued, RunningRow,
    SetAlias, Standing, StoreError, Turn, VersionRow,
};

/// The record in a schema of a PostgreSQL database. Dropping it closes its connections.
pub struct Postgres {
    database: Database,
    config: PostgresConfig,
}

impl Postgres {
    /// Connects, and checks that the schema is the one this program was built for.
    ///
    /// # Errors
    /// [`StoreError::Schema`] if the schema is older ([`migrate()`] it) or newer; one that is
    /// [permanent](crate::Recovery::Permanent) if the configuration cannot be used; [`StoreError::Connect`] or another one
    /// if the database cannot be reached now.
    pub async fn connect(config: &PostgresConfig) -> Result<Self, StoreError> {
        let database = Database::new(config)?;
        migrate::check_schema(&database).await?;
        Ok(Self { database, config: config.clone() })
    }
}
#[async_trait]
impl Record for Postgres {
    async fn accept(&self, batch: &[NewExecution]) -> Result<Vec<Acceptance>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        accept::accept(&self.database, batch).await
    }

    async fn claim(&self, batch: &[ClaimRequest]) -> Result<Vec<ClaimAnswer>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        claim::claim(&self.database, batch).await
    }

    async fn append(&self, batch: &[Append]) -> Result<Vec<Appended>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        log::append(&self.database, batch).await
    }

    async fn finish(&self, batch: &[Finish]) -> Result<Vec<Finished>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        attempt::finish(&self.database, batch).await
    }

    async fn mark_dispatched(&self, ids: &[ExecuteId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        sweep::mark_dispatched(&self.database, ids).await
    }

    async fn requeue(&self, batch: &[Requeue], delay: Duration) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        claim::requeue(&self.database, batch, delay).await
    }

    async fn renew(
        &self,
        node: &NodeId,
        held: &[(ExecuteId, i32)],
        lease: Duration,
    ) -> Result<Vec<Renewal>, StoreError> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        attempt::renew(&self.database, node, held, lease).await
    }

    async fn take_fence(
        &self,
        tenant: &TenantId,
        fence: &Fence,
        execute_id: ExecuteId,
        attempt: i32,
    ) -> Result<FenceTaken, StoreError> {
        fence::take(&self.database, tenant, fence, execute_id, attempt).await
    }

    async fn note_waiting(
        &self,
        execute_id: ExecuteId,
        attempt: i32,
        is_waiting: bool,
    ) -> Result<bool, StoreError> {
        attempt::note_waiting(&self.database, execute_id, attempt, is_waiting).await
    }

    async fn highest_fence(&self) -> Result<Option<(i64, i64)>, StoreError> {
        fence::highest(&self.database).await
    }

    async fn cancel(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<CancelAnswer>, StoreError> {
        attempt::cancel(&self.database, tenant, execute_id).await
    }

    async fn take_undispatched(&self, limit: u32) -> Result<Vec<Dispatch>, StoreError> {
        sweep::take_undispatched(&self.database, limit).await
    }

    async fn take_overtaken(&self, empty: &[QueueName], limit: u32) -> Result<Vec<Dispatch>, StoreError> {
        sweep::take_overtaken(&self.database, empty, limit).await
    }

    async fn take_due(&self, limit: u32) -> Result<Vec<Dispatch>, StoreError> {
        sweep::take_due(&self.database, limit).await
    }

    async fn rescue(
        &self,
        present: Option<&[NodeId]>,
        lease: Duration,
        renew_every: Duration,
        limit: u32,
    ) -> Result<Vec<Rescued>, StoreError> {
        sweep::rescue(&self.database, present, lease, renew_every, limit).await
    }

    async fn expire(&self, limit: u32) -> Result<Vec<Conclusion>, StoreError> {
        sweep::expire(&self.database, limit).await
    }

    async fn bury(&self, letter: &Requeue, reason: &str) -> Result<Option<Conclusion>, StoreError> {
        sweep::bury(&self.database, letter, reason).await
    }

    async fn endings(&self, ids: &[ExecuteId]) -> Result<Vec<Conclusion>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        read::endings(&self.database, ids).await
    }

    async fn find_execution(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<ExecutionRow>, StoreError> {
        read::find_execution(&self.database, tenant, execute_id).await
    }

    async fn find_ending(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<(i32, Ending)>, StoreError> {
        read::find_ending(&self.database, tenant, execute_id).await
    }

    async fn find_input(
        &self,
        tenant: &TenantId,
        execute_id: ExecuteId,
    ) -> Result<Option<Payload>, StoreError> {
        read::find_input(&self.database, tenant, execute_id).await
    }

    async fn list_executions(
        &self,
        tenant: &TenantId,
        filter: &ExecutionFilter,
    ) -> Result<ExecutionPage, StoreError> {
        list::list_executions(&self.database, tenant, filter).await
    }

    async fn list_log(&self, execute_id: ExecuteId, filter: &LogFilter) -> Result<LogSlice, StoreError> {
        log::list(&self.database, execute_id, filter).await
    }

    async fn search_logs(&self, tenant: &TenantId, search: &LogSearch) -> Result<LogsFound, StoreError> {
        log::search(&self.database, tenant, search).await
    }

    async fn follow_logs(
        &self,
        followers: &[(ExecuteId, i64)],
        limit_each: u32,
    ) -> Result<Vec<(ExecuteId, LoggedLine)>, StoreError> {
        if followers.is_empty() {
            return Ok(Vec::new());
        }
        log::follow(&self.database, followers, limit_each).await
    }

    async fn is_log_dropped(&self, execute_id: ExecuteId) -> Result<bool, StoreError> {
        log_day::is_dropped(&self.database, execute_id).await
    }

    async fn push_version(&self, version: &PushVersion) -> Result<PushedVersion, StoreError> {
        model::push(&self.database, version).await
    }

    async fn find_version(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        selector: &VersionSelector,
    ) -> Result<Option<VersionRow>, StoreError> {
        model::find(&self.database, tenant, model, selector).await
    }

    async fn list_versions(
        &self,
        tenant: &TenantId,
        model: Option<&ModelName>,
    ) -> Result<Vec<VersionRow>, StoreError> {
        model::list(&self.database, tenant, model).await
    }

    async fn set_alias(&self, set: &SetAlias) -> Result<AliasSet, StoreError> {
        model::set_alias(&self.database, set).await
    }

    async fn list_aliases(
        &self,
        tenant: &TenantId,
        model: &ModelName,
    ) -> Result<Vec<(AliasName, VersionNumber)>, StoreError> {
        model::list_aliases(&self.database, tenant, model).await
    }

    async fn want_version(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        version: VersionNumber,
    ) -> Result<(), StoreError> {
        model::want(&self.database, tenant, model, version).await
    }

    async fn announce_node(&self, info: &NodeInfo, lease: Duration) -> Result<(), StoreError> {
        node::announce(&self.database, info, lease).await
    }

    async fn withdraw_node(&self, node: &NodeId) -> Result<(), StoreError> {
        node::withdraw(&self.database, node).await
    }

    async fn list_nodes(&self) -> Result<Vec<NodeInfo>, StoreError> {
        node::list(&self.database).await
    }

    async fn lead(&self, what: &str, holder: &str, lease: Duration) -> Result<Leadership, StoreError> {
        node::lead(&self.database, what, holder, lease).await
    }

    async fn note_node(&self, info: &NodeInfo, seen: NodeSeen) -> Result<Option<NodeEventKind>, StoreError> {
        node::note(&self.database, info, seen).await
    }

    async fn list_node_lives(&self, gone_within: Duration) -> Result<Vec<NodeLife>, StoreError> {
        node::list_lives(&self.database, gone_within).await
    }

    async fn list_node_events(
        &self,
        node: Option<&NodeName>,
        limit: u32,
    ) -> Result<Vec<NodeEvent>, StoreError> {
        node::list_events(&self.database, node, limit).await
    }

    async fn list_node_alarms(&self, limit: u32) -> Result<Vec<NodeEvent>, StoreError> {
        node::list_alarms(&self.database, limit).await
    }

    async fn settle_node_alarm(&self, event_id: i64) -> Result<(), StoreError> {
        node::settle_alarm(&self.database, event_id).await
    }

    async fn list_running(&self, node: Option<&NodeId>) -> Result<Vec<RunningRow>, StoreError> {
        node::list_running(&self.database, node).await
    }

    async fn queue_loads(&self, queues: &[QueueName], limit: u32) -> Result<Vec<QueueLoad>, StoreError> {
        node::queue_loads(&self.database, queues, limit).await
    }

    async fn find_turn(&self, execute_id: ExecuteId) -> Result<Option<Turn>, StoreError> {
        node::find_turn(&self.database, execute_id).await
    }

    async fn count_running(&self) -> Result<Vec<(NodeId, u32)>, StoreError> {
        read::count_running(&self.database).await
    }

    async fn enter(
        &self,
        new: &NewContender,
        waiters_max: u32,
        lease: Duration,
    ) -> Result<Entered, StoreError> {
        contention::enter(&self.database, new, waiters_max, lease).await
    }

    async fn stand(&self, tickets: &[Uuid], lease: Duration) -> Result<Vec<Standing>, StoreError> {
        if tickets.is_empty() {
            return Ok(Vec::new());
        }
        contention::stand(&self.database, tickets, lease).await
    }

    async fn leave(&self, tickets: &[Uuid]) -> Result<(), StoreError> {
        if tickets.is_empty() {
            return Ok(());
        }
        contention::leave(&self.database, tickets).await
    }

    async fn list_contenders(
        &self,
        tenant: &TenantId,
        kind: ContendedKind,
        name: &str,
    ) -> Result<Vec<QueuedContender>, StoreError> {
        contention::list(&self.database, tenant, kind, name).await
    }

    async fn list_contended(
        &self,
        tenant: &TenantId,
        kind: ContendedKind,
    ) -> Result<Vec<String>, StoreError> {
        contention::list_contended(&self.database, tenant, kind).await
    }

    async fn highest_contention_fence(&self) -> Result<i64, StoreError> {
        contention::highest_fence(&self.database).await
    }

    async fn set_node(&self, node: &NodeName, settings: &NodeSettings) -> Result<(), StoreError> {
        contention::set_node(&self.database, node, settings).await
    }

    async fn list_node_settings(&self) -> Result<Vec<(NodeName, String)>, StoreError> {
        contention::list_settings(&self.database).await
    }

    async fn announce_bundles(
        &self,
        announcer: Uuid,
        changes: &[BundleChange],
        lease: Duration,
    ) -> Result<bool, StoreError> {
        contention::announce_bundles(&self.database, announcer, changes, lease).await
    }

    async fn withdraw_bundles(&self, announcer: Uuid) -> Result<(), StoreError> {
        contention::withdraw_bundles(&self.database, announcer).await
    }

    async fn list_bundles(&self) -> Result<Vec<BundleRow>, StoreError> {
        contention::list_bundles(&self.database).await
    }

    async fn upkeep(&self, fence: i64, days: u32, keep_events: Duration) -> Result<bool, StoreError> {
        node::upkeep(&self.database, fence, days, keep_events).await
    }

    async fn seal_log(&self, fence: i64) -> Result<LogStep, StoreError> {
        log_day::seal(&self.config, fence).await
    }

    async fn drop_log(&self, fence: i64, keep: LogRetention) -> Result<LogStep, StoreError> {
        log_day::drop(&self.config, fence, keep).await
    }

    async fn forget_executions(
        &self,
        fence: i64,
        age: Duration,
        after: Option<ExecuteId>,
        limit: u32,
    ) -> Result<Forgotten, StoreError> {
        log_day::forget_executions(&self.database, fence, age, after, limit).await
    }

    async fn take_upkeep_fence(&self, fence: i64) -> Result<bool, StoreError> {
        node::take_upkeep_fence(&self.database, fence).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        read::ping(&self.database).await
    }
}
