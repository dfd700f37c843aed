//! Log lines, in and out.

use domain::{ExecuteId, LogLine};
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::client::{Database, statement};
use super::fence::Fences;
use super::row::{Columns, columns};
use crate::{Append, Appended, LoggedLine, StoreError};

/// Lines as the arrays of a statement.
#[derive(Default)]
pub(super) struct Lines<'a> {
    /// The place of their owner in its batch, from 1.
    pub places: Vec<i64>,
    /// Their own place among the owner's lines, from 1.
    pub numbers: Vec<i64>,
    pub levels: Vec<&'static str>,
    pub times: Vec<Timestamp>,
    pub texts: Vec<&'a str>,
    pub continues: Vec<bool>,
}

impl<'a> Lines<'a> {
    /// The lines of all owners, in order.
    pub fn of(owners: impl Iterator<Item = &'a [LogLine]>) -> Self {
        let mut all = Self::default();
        for (place, lines) in (1..).zip(owners) {
            for (number, line) in (1..).zip(lines) {
                all.places.push(place);
                all.numbers.push(number);
                all.levels.push(line.level.letter());
                // By the worker's clock, for people: a time that is none is shown as 1970.
                all.times.push(Timestamp::from_microsecond(line.at_unix_us).unwrap_or_default());
                all.texts.push(&line.text);
                all.continues.push(line.continues);
            }
        }
        all
    }
}

pub(super) fn count(lines: &[LogLine]) -> i64 {
    i64::try_from(lines.len()).unwrap_or(i64::MAX)
}

pub(super) async fn append(database: &Database, batch: &[Append]) -> Result<Vec<Appended>, StoreError> {
    let (ids, attempts, bases, counts) = columns!(batch => |append|
        append.execute_id.as_uuid(), append.attempt, append.base, count(&append.lines));
    let fences = Fences::of(batch.iter().map(|append| append.fence.as_ref()));
    let lines = Lines::of(batch.iter().map(|append| append.lines.as_slice()));
    let rows = database
        .rows(
            &statement!("append"),
            &[
                &ids,
                &attempts,
                &bases,
                &counts,
                &lines.places,
                &lines.numbers,
                &lines.levels,
                &lines.times,
                &lines.texts,
                &lines.continues,
                &fences.keys,
                &fences.generations,
                &fences.numbers,
            ],
        )
        .await?;
    let answer = |(append, row): (&Append, &Row)| {
        let last_log_id = append.base + count(&append.lines);
        if row.get(0) { Appended::Stored { last_log_id } } else { Appended::Stale }
    };
    Ok(batch.iter().zip(&rows).map(answer).collect())
}

fn logged(row: &Row) -> Result<LoggedLine, StoreError> {
    let row = Columns(row);
    Ok(LoggedLine {
        log_id: row.get("log_id")?,
        attempt: row.get("attempt")?,
        level: row.parsed("level")?,
        at: row.get("at")?,
        line: row.get("line")?,
        continues: row.get("continues")?,
    })
}

pub(super) async fn list(
    database: &Database,
    execute_id: ExecuteId,
    after: i64,
    limit: u32,
) -> Result<Vec<LoggedLine>, StoreError> {
    let parameters = (execute_id.as_uuid(), i64::from(limit));
    let rows = database.rows(&statement!("list_log"), &[&parameters.0, &after, &parameters.1]).await?;
    rows.iter().map(logged).collect()
}

pub(super) async fn list_tail(
    database: &Database,
    execute_id: ExecuteId,
    limit: u32,
) -> Result<Vec<LoggedLine>, StoreError> {
    let (id, limit) = (execute_id.as_uuid(), i64::from(limit));
    let rows = database.rows(&statement!("list_log_tail"), &[&id, &limit]).await?;
    rows.iter().rev().map(logged).collect()
}

pub(super) async fn follow(
    database: &Database,
    followers: &[(ExecuteId, i64)],
    limit_each: u32,
) -> Result<Vec<(ExecuteId, LoggedLine)>, StoreError> {
    let (ids, after): (Vec<Uuid>, Vec<i64>) =
        followers.iter().map(|(execute_id, after)| (execute_id.as_uuid(), *after)).unzip();
    let rows = database.rows(&statement!("follow_logs"), &[&ids, &after, &i64::from(limit_each)]).await?;
    rows.iter().map(|row| Ok((Columns(row).execute_id()?, logged(row)?))).collect()
}
