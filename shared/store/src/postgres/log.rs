//! Log lines, in and out.

use domain::limits::{LOG_LOOK_MAX, SEARCH_EXECUTIONS_MAX};
use domain::{ExecuteId, LogLine, TenantId};
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::client::{Database, Parameters, statement};
use super::fence::Fences;
use super::log_copy;
use super::row::{Columns, columns};
use crate::{Append, Appended, LogFilter, LogSearch, LogSlice, LoggedLine, LogsFound, StoreError};

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

/// From so many lines on a COPY is faster than a statement with arrays, though it takes a transaction of four round trips.
const COPY_LINES: usize = 2_000;

pub(super) async fn append(database: &Database, batch: &[Append]) -> Result<Vec<Appended>, StoreError> {
    if batch.iter().map(|append| append.lines.len()).sum::<usize>() >= COPY_LINES {
        return log_copy::append(database, batch).await;
    }
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
    Ok(batch.iter().zip(&rows).map(|(append, row)| answer(append, row.get(0))).collect())
}

pub(super) fn answer(append: &Append, is_stored: bool) -> Appended {
    let last_log_id = append.base + count(&append.lines);
    if is_stored { Appended::Stored { last_log_id } } else { Appended::Stale }
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
    filter: &LogFilter,
) -> Result<LogSlice, StoreError> {
    let (id, before) = (execute_id.as_uuid(), filter.before_or_end());
    // One more than the page holds tells whether there is one.
    let limit = filter.page_limit() as i64 + 1;
    let (look, levels) = (i64::from(LOG_LOOK_MAX), filter.lines.levels());
    let plain: &Parameters<'_> = &[&id, &filter.after, &before, &limit];
    let lines = &filter.lines;
    let filtered: &Parameters<'_> =
        &[&id, &filter.after, &before, &limit, &look, &levels, &lines.text, &lines.from, &lines.to];
    let (statement, parameters) = match (lines.is_any(), filter.from_end) {
        (true, false) => (statement!("list_log"), plain),
        (true, true) => (statement!("list_log_tail"), plain),
        (false, false) => (statement!("filter_log"), filtered),
        (false, true) => (statement!("filter_log_tail"), filtered),
    };
    let rows = database.rows(&statement, parameters).await?;
    let found = rows.iter().map(|row| Ok((logged(row)?, Columns(row).get("is_wanted")?)));
    let is_cut = rows.last().map_or(Ok(false), |row| Columns(row).get("is_cut"))?;
    Ok(filter.slice(found.collect::<Result<_, StoreError>>()?, is_cut))
}

pub(super) async fn search(
    database: &Database,
    tenant: &TenantId,
    search: &LogSearch,
) -> Result<LogsFound, StoreError> {
    let (first, last) = search.range();
    let most = SEARCH_EXECUTIONS_MAX;
    let rows = database
        .rows(
            &statement!("list_logged"),
            &[
                &tenant.as_str(),
                &search.model.as_str(),
                &first.as_uuid(),
                &search.before.map(ExecuteId::as_uuid),
                &last.map(ExecuteId::as_uuid),
                &i64::from(most),
            ],
        )
        .await?;
    let executions =
        rows.iter().map(|row| Ok((Columns(row).execute_id()?, Columns(row).get("last_log_id")?)));
    let spans = search.spans(&executions.collect::<Result<Vec<_>, StoreError>>()?, most);
    if spans.list.is_empty() {
        return Ok(search.found(Vec::new(), &spans));
    }
    let (ids, after, upto) = columns!(spans.list => |span| span.execute_id.as_uuid(), span.after, span.upto);
    let lines = &search.lines;
    let rows = database
        .rows(
            &statement!("search_logs"),
            &[
                &ids,
                &after,
                &upto,
                &(search.page_limit() as i64),
                &lines.levels(),
                &lines.text,
                &lines.from,
                &lines.to,
            ],
        )
        .await?;
    let lines = rows.iter().map(|row| Ok((Columns(row).execute_id()?, logged(row)?)));
    Ok(search.found(lines.collect::<Result<_, StoreError>>()?, &spans))
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
