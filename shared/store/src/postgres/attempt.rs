//! What the holder of a lease does about it, and how a caller takes an execution back.

use std::time::Duration;

use domain::{Ending, ExecuteId, NodeId, State, TenantId, limits};
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::client::{Database, statement};
use super::fence::Fences;
use super::log::{Lines, count};
use super::row::{Columns, columns, delay_seconds, seconds};
use super::words::CANCELLED;
use crate::{CancelAnswer, Conclusion, Finish, Finished, Renewal, Settlement, StoreError};

/// The columns that a settlement writes.
#[derive(Default)]
struct Settled<'a> {
    settlement: &'static str,
    ended: Option<&'static str>,
    delay: f64,
    error_class: Option<&'static str>,
    error: Option<&'a str>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    result_type: Option<&'a str>,
    result: Option<&'a [u8]>,
}

impl<'a> Settled<'a> {
    fn of(settlement: &'a Settlement) -> Self {
        match settlement {
            Settlement::Ended(ending) => Self {
                settlement: "ended",
                ended: Some(ending.state().label()),
                error_class: ending.failure().map(|failure| failure.class.label()),
                error: ending.failure().map(|failure| failure.message.as_str()),
                exit_code: ending.failure().and_then(|failure| failure.exit_code),
                signal: ending.failure().and_then(|failure| failure.signal),
                result_type: ending.result().map(|payload| &*payload.content_type),
                result: ending.result().map(|payload| &payload.bytes[..]),
                ..Self::default()
            },
            Settlement::Yielded { delay, is_waiting } => Self {
                settlement: if *is_waiting { "waiting" } else { "yielded" },
                delay: delay_seconds(*delay),
                ..Self::default()
            },
            Settlement::Retried(delay) => {
                Self { settlement: "retried", delay: delay_seconds(*delay), ..Self::default() }
            }
            Settlement::Failed { delay, class, message } => Self {
                settlement: "failed",
                delay: delay_seconds(*delay),
                error_class: Some(class.label()),
                error: Some(message),
                ..Self::default()
            },
        }
    }
}

pub(super) async fn finish(database: &Database, batch: &[Finish]) -> Result<Vec<Finished>, StoreError> {
    let mut answers = vec![None; batch.len()];
    let plain: Vec<usize> = (0..batch.len()).filter(|&place| is_plain(&batch[place])).collect();
    if !plain.is_empty() {
        let items: Vec<&Finish> = plain.iter().map(|&place| &batch[place]).collect();
        for row in end_plain(database, &items).await?.iter().map(Columns) {
            let place = plain[usize::try_from(row.get::<i64>("place")? - 1).unwrap_or(usize::MAX)];
            answers[place] = Some(stored(&batch[place], &row)?);
        }
    }
    let open: Vec<usize> = (0..batch.len()).filter(|&place| answers[place].is_none()).collect();
    if !open.is_empty() {
        let items: Vec<&Finish> = open.iter().map(|&place| &batch[place]).collect();
        for (place, row) in open.into_iter().zip(&settle(database, &items).await?) {
            answers[place] = Some(finished(&batch[place], row)?);
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

/// Most are ended without a fence. To such a one there is little to look at, and half to pay.
const fn is_plain(finish: &Finish) -> bool {
    finish.fence.is_none() && matches!(finish.settlement, Settlement::Ended(_))
}

/// What both statements take: an element per attempt, and per line.
struct Arrays<'a> {
    ids: Vec<Uuid>,
    attempts: Vec<i32>,
    bases: Vec<i64>,
    counts: Vec<i64>,
    settled: Vec<Settled<'a>>,
    endings: Vec<Option<&'static str>>,
    classes: Vec<Option<&'static str>>,
    errors: Vec<Option<&'a str>>,
    exit_codes: Vec<Option<i32>>,
    signals: Vec<Option<i32>>,
    result_types: Vec<Option<&'a str>>,
    results: Vec<Option<&'a [u8]>>,
    timelines: Vec<Value>,
    lines: Lines<'a>,
}

impl<'a> Arrays<'a> {
    fn of(batch: &[&'a Finish]) -> Self {
        let (ids, attempts, bases, counts) = columns!(batch => |finish|
            finish.execute_id.as_uuid(), finish.attempt, finish.base, count(&finish.tail));
        let settled: Vec<Settled<'a>> = batch.iter().map(|finish| Settled::of(&finish.settlement)).collect();
        let (endings, classes, errors) = columns!(settled => |one| one.ended, one.error_class, one.error);
        let (exit_codes, signals) = columns!(settled => |one| one.exit_code, one.signal);
        let (result_types, results) = columns!(settled => |one| one.result_type, one.result);
        // Structs of strings, numbers and times: this cannot fail.
        let timelines =
            batch.iter().map(|finish| serde_json::to_value(&finish.timeline).unwrap_or_default()).collect();
        let lines = Lines::of(batch.iter().map(|finish| finish.tail.as_slice()));
        Self {
            ids,
            attempts,
            bases,
            counts,
            settled,
            endings,
            classes,
            errors,
            exit_codes,
            signals,
            result_types,
            results,
            timelines,
            lines,
        }
    }

    /// `$1` to `$18`.
    fn parameters(&self) -> [&(dyn ToSql + Sync); 18] {
        [
            &self.ids,
            &self.attempts,
            &self.bases,
            &self.counts,
            &self.endings,
            &self.classes,
            &self.errors,
            &self.exit_codes,
            &self.signals,
            &self.result_types,
            &self.results,
            &self.timelines,
            &self.lines.places,
            &self.lines.numbers,
            &self.lines.levels,
            &self.lines.times,
            &self.lines.texts,
            &self.lines.continues,
        ]
    }
}

/// Ends those that are still held by their attempts: a row for each, with its place among them.
async fn end_plain(database: &Database, batch: &[&Finish]) -> Result<Vec<Row>, StoreError> {
    database.rows(&statement!("finish_plain"), &Arrays::of(batch).parameters()).await
}

/// Settles any of them: a row for each, in order.
async fn settle(database: &Database, batch: &[&Finish]) -> Result<Vec<Row>, StoreError> {
    let arrays = Arrays::of(batch);
    let (settlements, delays) = columns!(arrays.settled => |one| one.settlement, one.delay);
    let (class, message) = (CANCELLED.class.label(), CANCELLED.message);
    let fences = Fences::of(batch.iter().map(|finish| finish.fence.as_ref()));
    let further: [&(dyn ToSql + Sync); 8] = [
        &settlements,
        &delays,
        &limits::FAILURES_MAX,
        &class,
        &message,
        &fences.keys,
        &fences.generations,
        &fences.numbers,
    ];
    database.rows(&statement!("finish"), &[&arrays.parameters()[..], &further].concat()).await
}

fn finished(finish: &Finish, row: &Row) -> Result<Finished, StoreError> {
    let row = Columns(row);
    if row.get("is_settled")? {
        stored(finish, &row)
    } else if row.get::<Option<bool>>("was_settled")? == Some(true) {
        Ok(Finished::Stored(Box::new(row.conclusion()?)))
    } else {
        Ok(Finished::Stale)
    }
}

/// What was stored just now.
fn stored(finish: &Finish, row: &Columns<'_>) -> Result<Finished, StoreError> {
    let ending = match &finish.settlement {
        // The result is at hand: it need not come back from the server.
        Settlement::Ended(ending) => Some(ending.clone()),
        Settlement::Yielded { .. } | Settlement::Retried(_) | Settlement::Failed { .. } => row.ending()?,
    };
    let (execute_id, attempt) = (finish.execute_id, finish.attempt);
    let reply_addresses = row.reply_addresses()?;
    Ok(Finished::Stored(Box::new(Conclusion { execute_id, attempt, ending, reply_addresses })))
}

pub(super) async fn renew(
    database: &Database,
    node: &NodeId,
    held: &[(ExecuteId, i32)],
    lease: Duration,
) -> Result<Vec<Renewal>, StoreError> {
    let (ids, attempts): (Vec<Uuid>, Vec<i32>) =
        held.iter().map(|(execute_id, attempt)| (execute_id.as_uuid(), *attempt)).unzip();
    let rows =
        database.rows(&statement!("renew"), &[&ids, &attempts, &node.to_string(), &seconds(lease)]).await?;
    let renewal = |row| {
        let row = Columns(row);
        Ok(Renewal {
            execute_id: row.execute_id()?,
            attempt: row.get("attempt")?,
            cancel_requested: row.get("cancel_requested")?,
        })
    };
    rows.iter().map(renewal).collect()
}

pub(super) async fn note_waiting(
    database: &Database,
    execute_id: ExecuteId,
    attempt: i32,
    is_waiting: bool,
) -> Result<bool, StoreError> {
    let rows =
        database.rows(&statement!("note_waiting"), &[&execute_id.as_uuid(), &attempt, &is_waiting]).await?;
    Ok(!rows.is_empty())
}

pub(super) async fn cancel(
    database: &Database,
    tenant: &TenantId,
    execute_id: ExecuteId,
) -> Result<Option<CancelAnswer>, StoreError> {
    let (class, message) = (CANCELLED.class.label(), CANCELLED.message);
    let rows = database
        .rows(&statement!("cancel"), &[&tenant.as_str(), &execute_id.as_uuid(), &class, &message])
        .await?;
    let Some(row) = rows.first().map(Columns) else { return Ok(None) };
    let before: State = row.parsed("before")?;
    let conclusion = Box::new(row.conclusion()?);
    Ok(Some(match (before.is_terminal(), &conclusion.ending) {
        (true, _) => CancelAnswer::AlreadyEnded(conclusion),
        (false, Some(Ending::Cancelled(_))) => CancelAnswer::Cancelled(conclusion),
        (false, _) => CancelAnswer::Requested,
    }))
}
