//! Nodes, leaders and their upkeep.

use std::time::Duration;

use domain::NodeId;
use futures::FutureExt;
use protocol::NodeInfo;
use tokio_postgres::Row;

use super::accept::{LOOKS, lost_every_race};
use super::client::{Database, statement};
use super::fail::corrupt;
use super::row::{Columns, seconds};
use crate::{Leadership, NodeEvent, NodeEventKind, StoreError};

/// How many idempotency keys one upkeep forgets at most.
const KEYS_MAX: i64 = 10_000;

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

pub(super) async fn upkeep(database: &Database, fence: i64, days: u32) -> Result<bool, StoreError> {
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
                Ok(true)
            }
            .boxed()
        })
        .await
}

pub(super) async fn record_event(
    database: &Database,
    node: &NodeId,
    kind: NodeEventKind,
) -> Result<bool, StoreError> {
    let node = node.to_string();
    database
        .transaction("record_node_event", move |transaction| {
            async move {
                // By itself, so that the next statement sees what those before it recorded.
                transaction.query(statement!("lock_node_events").sql, &[&node]).await?;
                let sql = statement!("record_node_event").sql;
                Ok(!transaction.query(sql, &[&node, &kind.label()]).await?.is_empty())
            }
            .boxed()
        })
        .await
}

pub(super) async fn list_events(database: &Database, limit: u32) -> Result<Vec<NodeEvent>, StoreError> {
    let rows = database.rows(&statement!("list_node_events"), &[&i64::from(limit)]).await?;
    rows.iter().map(event).collect()
}

fn event(row: &Row) -> Result<NodeEvent, StoreError> {
    let row = Columns(row);
    let kind = match row.get("kind")? {
        "up" => NodeEventKind::Up,
        "down" => NodeEventKind::Down,
        other => return Err(corrupt("node_event", format!("an event of kind {other:?}"))),
    };
    Ok(NodeEvent { node: row.parsed("node")?, kind, at: row.get("at")? })
}
