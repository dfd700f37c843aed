//! The log by days: sealed when they are over, dropped when they are old. And executions, forgotten when they are.

use std::time::Duration;

use domain::ExecuteId;
use futures::FutureExt;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use uuid::Uuid;

use super::alone::Alone;
use super::client::{Database, Statement, statement};
use super::config::PostgresConfig;
use super::fail;
use super::row::{Columns, seconds};
use crate::{Forgotten, LogDay, LogRetention, LogStep, StoreError};

/// A day may be large: the one limit is that a server which lost us gives up at last. It looks every second whether we are there.
/// The first lock is waited for longer than an autovacuum takes to make way.
const SEALING: &str = "-c statement_timeout=6h -c lock_timeout=5s -c idle_in_transaction_session_timeout=10s \
    -c client_connection_check_interval=1s -c work_mem=128MB -c maintenance_work_mem=256MB -c jit=off";
const DROPPING: &str =
    "-c statement_timeout=10min -c lock_timeout=5s -c client_connection_check_interval=1s -c jit=off";

/// How often the log's one short moment is tried for, each time for 200 ms.
const TRIES: i32 = 60;

pub(super) async fn is_dropped(database: &Database, execute_id: ExecuteId) -> Result<bool, StoreError> {
    let day = day_of(execute_id)?;
    Ok(!database.rows(&statement!("is_log_dropped"), &[&day]).await?.is_empty())
}

fn day_of(execute_id: ExecuteId) -> Result<Date, StoreError> {
    let ms = i64::try_from(execute_id.unix_ms()).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_millisecond(ms).map_err(|error| fail::corrupt("execution", error))?;
    Ok(at.to_zoned(TimeZone::UTC).date())
}

pub(super) async fn seal(config: &PostgresConfig, fence: i64) -> Result<LogStep, StoreError> {
    let alone = Alone::connect(config, SEALING).await?;
    let list = statement!("list_unsealed");
    let days = alone.client.query(list.sql, &[&seconds(LogDay::OPEN)]).await;
    let days = days.map_err(|error| fail::statement(list.name, error))?;
    let step = one_of(&alone, &statement!("seal_log_day"), fence, days.iter().map(|row| row.get(0))).await?;
    if let LogStep::Done(day) = &step {
        // It is never changed again: nobody has to look at its lines for that later. (It may be cut short: that does no harm.)
        let vacuum = format!("vacuum (freeze, truncate off) {}", partition(day.day));
        if let Err(error) = alone.client.batch_execute(&vacuum).await {
            tracing::warn!(day = %day.day, %error, "a sealed day of the log could not be frozen");
        }
    }
    Ok(step)
}

/// The name of a day's partition.
pub(super) fn partition(day: Date) -> String {
    format!("log_{:04}{:02}{:02}", day.year(), day.month(), day.day())
}

pub(super) async fn drop(
    config: &PostgresConfig,
    fence: i64,
    keep: LogRetention,
) -> Result<LogStep, StoreError> {
    let alone = Alone::connect(config, DROPPING).await?;
    let (age, bytes) =
        (keep.age_max.map(seconds), keep.bytes_max.map(|most| most.min(i64::MAX as u64) as i64));
    let list = statement!("list_droppable");
    let days = alone.client.query(list.sql, &[&seconds(LogDay::OPEN), &age, &bytes]).await;
    let days = days.map_err(|error| fail::statement(list.name, error))?;
    one_of(&alone, &statement!("drop_log_day"), fence, days.iter().map(|row| row.get(0))).await
}

/// Does it to the first of `days` it can be done to.
async fn one_of(
    alone: &Alone,
    statement: &Statement,
    fence: i64,
    days: impl Iterator<Item = Date>,
) -> Result<LogStep, StoreError> {
    for day in days {
        let row = alone.client.query_one(statement.sql, &[&day, &fence, &TRIES]).await;
        let row = row.map_err(|error| fail::statement(statement.name, error))?;
        let row = Columns(&row);
        let outcome: &str = row.get("outcome")?;
        let (lines, bytes) =
            (row.get::<i64>("line_count")?.unsigned_abs(), row.get::<i64>("byte_count")?.unsigned_abs());
        match outcome {
            "sealed" | "dropped" => return Ok(LogStep::Done(LogDay { day, lines, bytes })),
            "stale" => return Ok(LogStep::Stale),
            // Another one of us is at it, or one of its executions has not ended.
            "busy" | "open" => {}
            other => return Err(fail::corrupt("log_day", format!("the outcome {other:?}"))),
        }
    }
    Ok(LogStep::Nothing)
}

pub(super) async fn forget_executions(
    database: &Database,
    fence: i64,
    age: Duration,
    after: Option<ExecuteId>,
    limit: u32,
) -> Result<Forgotten, StoreError> {
    let (after, age, limit) = (after.map_or(Uuid::nil(), ExecuteId::as_uuid), seconds(age), i64::from(limit));
    let row = database
        .transaction("forget_executions", move |transaction| {
            async move {
                if transaction.query(statement!("hold_upkeep_fence").sql, &[&fence]).await?.is_empty() {
                    return Ok(None);
                }
                let sql = statement!("forget_executions").sql;
                transaction.query_one(sql, &[&after, &age, &limit]).await.map(Some)
            }
            .boxed()
        })
        .await?;
    let Some(row) = row else { return Ok(Forgotten::Stale) };
    let row = Columns(&row);
    let last = row.get::<Option<Uuid>>("last")?.map(ExecuteId::try_from).transpose();
    let last = last.map_err(|error| fail::corrupt("execution", error))?;
    let count = u32::try_from(row.get::<i64>("forgotten")?).unwrap_or(u32::MAX);
    Ok(Forgotten::Executions { count, last })
}
