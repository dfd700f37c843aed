//! What monitors do: publish again, make due, rescue, expire, bury.

use std::time::Duration;

use domain::{ErrorClass, ExecuteId, NodeId, Payload, QueueName, VersionSelector, limits};
use protocol::Request;
use tokio_postgres::Row;
use uuid::Uuid;

use super::client::{Database, Parameters, Statement, statement};
use super::fail::corrupt;
use super::row::{Columns, attributes_json, conclusions, seconds, window};
use super::words::{CANCELLED, EXPIRED, NODE_LOST};
use crate::{Conclusion, Dispatch, Requeue, Rescued, StoreError};

/// How many bytes of input one sweep brings at most, unless one execution alone has more.
const SWEEP_BYTES_MAX: i64 = 16 << 20;

fn dispatch(row: &Row) -> Result<Dispatch, StoreError> {
    let row = Columns(row);
    let input: Option<Payload> = row.payload("input_type", "input")?;
    let request = Request {
        execute_id: row.execute_id()?,
        model: row.parsed("model")?,
        // Without a version the row says that there is none, whatever the message says.
        version: row.version()?.map_or_else(VersionSelector::default, VersionSelector::Number),
        queue: row.parsed("queue")?,
        input: input.ok_or_else(|| corrupt("execution", "a row without its input"))?,
        deadline: row.get("deadline")?,
        reply_address: None,
        traceparent: row.get("traceparent")?,
        attributes: domain::Attributes::default(),
        recorded: true,
    };
    Ok(Dispatch { request })
}

async fn take(
    database: &Database,
    statement: &Statement,
    parameters: &Parameters<'_>,
) -> Result<Vec<Dispatch>, StoreError> {
    database.rows(statement, parameters).await?.iter().map(dispatch).collect()
}

pub(super) async fn mark_dispatched(database: &Database, ids: &[ExecuteId]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    database.rows(&statement!("mark_dispatched"), &[&ids]).await?;
    Ok(())
}

pub(super) async fn take_undispatched(database: &Database, limit: u32) -> Result<Vec<Dispatch>, StoreError> {
    take(database, &statement!("take_undispatched"), &[&i64::from(limit), &SWEEP_BYTES_MAX]).await
}

pub(super) async fn take_due(database: &Database, limit: u32) -> Result<Vec<Dispatch>, StoreError> {
    take(database, &statement!("take_due"), &[&i64::from(limit), &SWEEP_BYTES_MAX]).await
}

pub(super) async fn take_overtaken(
    database: &Database,
    empty: &[QueueName],
    limit: u32,
) -> Result<Vec<Dispatch>, StoreError> {
    let empty: Vec<&str> = empty.iter().map(QueueName::as_str).collect();
    take(database, &statement!("take_overtaken"), &[&empty, &i64::from(limit), &SWEEP_BYTES_MAX]).await
}

pub(super) async fn rescue(
    database: &Database,
    present: Option<&[NodeId]>,
    lease: Duration,
    renew_every: Duration,
    limit: u32,
) -> Result<Vec<Rescued>, StoreError> {
    let present: Option<Vec<String>> = present.map(|nodes| nodes.iter().map(NodeId::to_string).collect());
    let rows = database
        .rows(
            &statement!("rescue"),
            &[
                &present,
                &seconds(lease),
                &seconds(renew_every),
                &i64::from(limit),
                &limits::FAILURES_MAX,
                &NODE_LOST.class.label(),
                &NODE_LOST.message,
                &CANCELLED.class.label(),
                &CANCELLED.message,
            ],
        )
        .await?;
    let rescued = |row| {
        let row = Columns(row);
        let conclusion = row.conclusion()?;
        Ok(Rescued {
            execute_id: conclusion.execute_id,
            attempt: conclusion.attempt,
            node: row.parsed("lost_by")?,
            conclusion: conclusion.ending.is_some().then(|| Box::new(conclusion)),
        })
    };
    rows.iter().map(rescued).collect()
}

pub(super) async fn expire(database: &Database, limit: u32) -> Result<Vec<Conclusion>, StoreError> {
    let (class, message) = (EXPIRED.class.label(), EXPIRED.message);
    conclusions(&database.rows(&statement!("expire"), &[&i64::from(limit), &class, &message]).await?)
}

pub(super) async fn bury(
    database: &Database,
    letter: &Requeue,
    reason: &str,
) -> Result<Option<Conclusion>, StoreError> {
    let request = &letter.request;
    let [age, ahead] = window();
    let rows = database
        .rows(
            &statement!("bury"),
            &[
                &request.execute_id.as_uuid(),
                &letter.tenant.as_str(),
                &request.model.as_str(),
                &letter.version.map(|version| version.0),
                &request.queue.as_str(),
                &&*request.input.content_type,
                &&request.input.bytes[..],
                &&letter.input_digest.as_bytes()[..],
                &request.reply_address.as_ref().map(|address| address.reply_to.as_str()),
                &request.reply_address.as_ref().map(|address| address.correlation_id.as_str()),
                &request.deadline,
                &request.traceparent,
                &ErrorClass::Internal.label(),
                &reason,
                &age,
                &ahead,
                &attributes_json(&request.attributes),
            ],
        )
        .await?;
    Ok(conclusions(&rows)?.pop())
}
