//! Nodes, leaders and their upkeep.

use std::time::Duration;

use domain::{ExecuteId, NodeId, NodeName, QueueName};
use futures::FutureExt;
use protocol::NodeInfo;
use tokio_postgres::Row;

use super::accept::{LOOKS, lost_every_race};
use super::client::{Database, statement};
use super::fail::corrupt;
use super::row::{Columns, seconds};
use crate::node::{LastKnown, follows, is_alarm, state_of};
use crate::{
    Leadership, NodeEvent, NodeEventKind, NodeLife, NodeSeen, QueueLoad, RunningRow, StoreError, Turn,
};

/// How many idempotency keys one upkeep forgets at most.
const KEYS_MAX: i64 = 10_000;
/// How many events of nodes one upkeep forgets at most.
const EVENTS_MAX: i64 = 10_000;
/// How many rows of nodes or of what they run are read at most.
const ROWS_MAX: i64 = 10_000;

pub(super) async fn announce(
    database: &Database,
    info: &NodeInfo,
    lease: Duration,
) -> Result<(), StoreError> {
    let json = serde_json::to_value(info).unwrap_or_default();
    let parameters = (info.id.to_string(), seconds(lease));
    database.rows(&statement!("announce_node"), &[&parameters.0, &json, &parameters.1]).await?;
    Ok(())
}

pub(super) async fn withdraw(database: &Database, node: &NodeId) -> Result<(), StoreError> {
    database.rows(&statement!("withdraw_node"), &[&node.to_string()]).await?;
    Ok(())
}

pub(super) async fn list(database: &Database) -> Result<Vec<NodeInfo>, StoreError> {
    let rows = database.rows(&statement!("list_nodes"), &[]).await?;
    rows.iter().map(|row| Columns(row).json("info")).collect()
}

pub(super) async fn lead(
    database: &Database,
    what: &str,
    holder: &str,
    lease: Duration,
) -> Result<Leadership, StoreError> {
    for _ in 0..LOOKS {
        let rows = database.rows(&statement!("lead"), &[&what, &holder, &seconds(lease)]).await?;
        if let Some(row) = rows.first().map(Columns) {
            let (fence, is_leader) = (row.get("fence")?, row.get("is_leader")?);
            return Ok(Leadership { fence, is_leader, holder: row.get("holder")? });
        }
    }
    Err(lost_every_race("lead"))
}

pub(super) async fn take_upkeep_fence(database: &Database, fence: i64) -> Result<bool, StoreError> {
    Ok(!database.rows(&statement!("take_upkeep_fence"), &[&fence]).await?.is_empty())
}

pub(super) async fn upkeep(
    database: &Database,
    fence: i64,
    days: u32,
    keep_events: Duration,
) -> Result<bool, StoreError> {
    let keep = seconds(keep_events);
    // Yesterday's and today's too.
    let days = i32::try_from(days).unwrap_or(i32::MAX).saturating_add(2).min(400);
    database
        .transaction("upkeep", move |transaction| {
            async move {
                if transaction.query(statement!("hold_upkeep_fence").sql, &[&fence]).await?.is_empty() {
                    return Ok(false);
                }
                transaction.query(statement!("make_log_partitions").sql, &[&days]).await?;
                transaction.query(statement!("forget_keys").sql, &[&KEYS_MAX]).await?;
                transaction.query(statement!("forget_nodes").sql, &[]).await?;
                transaction.query(statement!("forget_fences").sql, &[&KEYS_MAX]).await?;
                transaction.query(statement!("forget_contenders").sql, &[]).await?;
                transaction.query(statement!("forget_announcers").sql, &[]).await?;
                transaction.query(statement!("forget_node_events").sql, &[&keep, &EVENTS_MAX]).await?;
                Ok(true)
            }
            .boxed()
        })
        .await
}

pub(super) async fn note(
    database: &Database,
    info: &NodeInfo,
    seen: NodeSeen,
) -> Result<Option<NodeEventKind>, StoreError> {
    let (node, name, info) = (info.id.to_string(), info.id.name().to_string(), info.clone());
    let json = serde_json::to_value(&info).unwrap_or_default();
    let slots = i32::try_from(info.slots).unwrap_or(i32::MAX);
    database
        .transaction("note_node", move |transaction| {
            async move {
                // By itself, so that the next statement sees what those before it recorded.
                transaction.query(statement!("lock_node_events").sql, &[&name]).await?;
                let life = transaction.query_opt(statement!("find_node_life").sql, &[&node]).await?;
                let last = life.and_then(|row| {
                    let state = state_of(row.get("state"))?;
                    Some(LastKnown { state, slots: row.get::<_, i32>("slots").unsigned_abs() })
                });
                let Some((kind, state)) = follows(last.as_ref(), &info, seen) else { return Ok(None) };
                let before = transaction.query_opt(statement!("last_node_event").sql, &[&name]).await?;
                let before = before.and_then(|row| NodeEventKind::of(row.get("kind")));
                let event = (kind.label(), is_alarm(kind, before));
                let sql = statement!("record_node_event").sql;
                transaction.query(sql, &[&name, &node, &event.0, &slots, &event.1]).await?;
                let sql = statement!("put_node_life").sql;
                transaction.query(sql, &[&node, &state.label(), &json]).await?;
                Ok(Some(kind))
            }
            .boxed()
        })
        .await
}

pub(super) async fn list_lives(
    database: &Database,
    gone_within: Duration,
) -> Result<Vec<NodeLife>, StoreError> {
    let rows = database.rows(&statement!("list_node_lives"), &[&seconds(gone_within), &ROWS_MAX]).await?;
    let life = |row| {
        let row = Columns(row);
        let state = row.get("state")?;
        let state = state_of(state).ok_or_else(|| corrupt("node_life", format!("the state {state:?}")))?;
        Ok(NodeLife { info: row.json("info")?, state, changed_at: row.get("changed_at")? })
    };
    rows.iter().map(life).collect()
}

pub(super) async fn list_events(
    database: &Database,
    node: Option<&NodeName>,
    limit: u32,
) -> Result<Vec<NodeEvent>, StoreError> {
    let limit = i64::from(limit);
    let rows = match node {
        Some(name) => database.rows(&statement!("list_node_events_of"), &[&name.as_str(), &limit]).await?,
        None => database.rows(&statement!("list_node_events"), &[&limit]).await?,
    };
    rows.iter().map(event).collect()
}

pub(super) async fn list_alarms(database: &Database, limit: u32) -> Result<Vec<NodeEvent>, StoreError> {
    let rows = database.rows(&statement!("list_node_alarms"), &[&i64::from(limit)]).await?;
    rows.iter().map(event).collect()
}

pub(super) async fn settle_alarm(database: &Database, event_id: i64) -> Result<(), StoreError> {
    database.rows(&statement!("settle_node_alarm"), &[&event_id]).await?;
    Ok(())
}

fn event(row: &Row) -> Result<NodeEvent, StoreError> {
    let row = Columns(row);
    let kind = row.get("kind")?;
    let kind =
        NodeEventKind::of(kind).ok_or_else(|| corrupt("node_event", format!("an event of kind {kind:?}")))?;
    let slots = row.get::<i32>("slots")?.unsigned_abs();
    Ok(NodeEvent {
        event_id: row.get("event_id")?,
        node: row.parsed("node")?,
        kind,
        at: row.get("at")?,
        slots,
    })
}

pub(super) async fn list_running(
    database: &Database,
    node: Option<&NodeId>,
) -> Result<Vec<RunningRow>, StoreError> {
    let node = node.map(ToString::to_string);
    let rows = database.rows(&statement!("list_running"), &[&node, &ROWS_MAX]).await?;
    let running = |row| {
        let row = Columns(row);
        Ok(RunningRow {
            execute_id: row.execute_id()?,
            attempt: row.get("attempt")?,
            model: row.parsed("model")?,
            queue: row.parsed("queue")?,
            node: row.parsed("leased_by")?,
            claimed_at: row.get("claimed_at")?,
        })
    };
    rows.iter().map(running).collect()
}

pub(super) async fn queue_loads(
    database: &Database,
    queues: &[QueueName],
    limit: u32,
) -> Result<Vec<QueueLoad>, StoreError> {
    let queues: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
    let rows = database.rows(&statement!("queue_loads"), &[&queues, &i64::from(limit)]).await?;
    let span = |seconds: Option<f64>| seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)));
    let load = |row| {
        let row = Columns(row);
        Ok(QueueLoad {
            queue: row.parsed("queue")?,
            waiting: row.get::<i64>("waiting")?.unsigned_abs(),
            oldest: span(row.get("oldest")?),
            mean_run: span(row.get("mean")?),
        })
    };
    rows.iter().map(load).collect()
}

pub(super) async fn find_turn(database: &Database, id: ExecuteId) -> Result<Option<Turn>, StoreError> {
    let ahead_max = i64::from(Turn::AHEAD_MAX);
    let rows = database.rows(&statement!("find_turn"), &[&id.as_uuid(), &ahead_max]).await?;
    let turn = |row| {
        let row = Columns(row);
        let ahead = row.get::<i64>("ahead")?.unsigned_abs();
        Ok(Turn { dispatched_at: row.get("dispatched_at")?, ahead })
    };
    rows.first().map(turn).transpose()
}
