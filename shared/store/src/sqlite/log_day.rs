//! Retention: of log lines by day, of executions by age.

use std::time::Duration;

use domain::ExecuteId;
use jiff::civil::Date;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::fail::Fail;
use super::node;
use super::row::{find, id, id_bytes, list, run, us, value};
use crate::{Forgotten, LogDay, LogRetention};

/// How many lines one transaction deletes at most, so that it never holds the others up for long.
const LINES_MAX: u64 = 5_000;

const DAY_MS: u64 = 86_400_000;

fn date(day: u64) -> Result<Date, Fail> {
    let days = i64::try_from(day).map_err(|error| Fail::corrupt("log", error))?;
    let span = jiff::Span::new().try_days(days).map_err(|error| Fail::corrupt("log", error))?;
    Date::constant(1970, 1, 1).checked_add(span).map_err(|error| Fail::corrupt("log", error))
}

pub(super) fn is_dropped(c: &Connection, execute_id: ExecuteId) -> Result<bool, Fail> {
    let day = execute_id.unix_ms() / DAY_MS;
    Ok(value::<i64>(c, "select 1 from log_day where day = ?1", [day as i64])?.is_some())
}

/// How many bytes of the file hold log lines.
pub(super) fn bytes(c: &Connection) -> Result<u64, Fail> {
    let sql = "select sum(pgsize) from dbstat where name = 'log' and aggregate = 1";
    Ok(value::<Option<i64>>(c, sql, [])?.flatten().unwrap_or(0).unsigned_abs())
}

/// How far one step of dropping days came.
pub(super) enum Dropped {
    /// The fence is stale: nothing was done.
    Stale,
    /// There is nothing to drop.
    Nothing,
    /// So many lines of this day, and there are more.
    Some(Date, u64),
    /// So many lines of this day, and they were the last.
    Last(Date, u64),
}

/// Deletes some lines of the oldest day that is not kept.
pub(super) fn drop_some(
    c: &Connection,
    now: i64,
    fence: i64,
    keep: LogRetention,
    bytes: u64,
) -> Result<Dropped, Fail> {
    if !node::holds_upkeep(c, fence)? {
        return Ok(Dropped::Stale);
    }
    let is_too_large = keep.bytes_max.is_some_and(|most| bytes > most);
    let mut from = [0; 16];
    loop {
        let sql = "select execute_id from log where execute_id >= ?1 order by execute_id limit 1";
        let Some(first) = find(c, sql, [from], |row| Ok(Uuid::from_bytes(row.get(0)?)))? else {
            return Ok(Dropped::Nothing);
        };
        let first = ExecuteId::try_from(first).map_err(|error| Fail::corrupt("log", error))?;
        let day = first.unix_ms() / DAY_MS;
        let ended = i64::try_from((day + 1) * DAY_MS).unwrap_or(i64::MAX).saturating_mul(1_000);
        if ended + us(LogDay::OPEN) > now {
            return Ok(Dropped::Nothing);
        }
        let (begin, end) =
            (id_bytes(ExecuteId::floor(day * DAY_MS)), id_bytes(ExecuteId::floor((day + 1) * DAY_MS)));
        let is_going = is_dropped(c, first)?;
        let is_old = keep.age_max.is_some_and(|age| ended + us(age) < now);
        if !is_going && !is_old && !is_too_large {
            return Ok(Dropped::Nothing);
        }
        let sql = "select 1 from execution
             where execute_id >= ?1 and execute_id < ?2 and finished_at is null limit 1";
        if value::<i64>(c, sql, [begin, end])?.is_some() {
            from = end;
            continue;
        }
        run(c, "insert or ignore into log_day (day, dropped_at) values (?1, ?2)", params![day as i64, now])?;
        let sql = "delete from log where (execute_id, log_id) in
             (select execute_id, log_id from log where execute_id >= ?1 and execute_id < ?2 limit ?3)";
        let lines = run(c, sql, params![begin, end, LINES_MAX as i64])? as u64;
        let day = date(day)?;
        return Ok(if lines < LINES_MAX { Dropped::Last(day, lines) } else { Dropped::Some(day, lines) });
    }
}

pub(super) fn forget_executions(
    c: &Connection,
    now: i64,
    fence: i64,
    age: Duration,
    after: Option<ExecuteId>,
    limit: u32,
) -> Result<Forgotten, Fail> {
    if !node::holds_upkeep(c, fence)? {
        return Ok(Forgotten::Stale);
    }
    let before = now - us(age);
    let floor = ExecuteId::floor(u64::try_from(before / 1_000).unwrap_or(0));
    let sql = "select id, execute_id from execution
         where execute_id > ?1 and execute_id < ?2 and finished_at < ?3 order by execute_id limit ?4";
    let by = params![after.map_or([0; 16], id_bytes), id_bytes(floor), before, limit];
    let gone = list(c, sql, by, |row| Ok((row.get::<_, i64>(0)?, id(row, 1)?)))?;
    for (key, execute_id) in &gone {
        run(c, "delete from log where execute_id = ?1", [id_bytes(*execute_id)])?;
        run(c, "delete from execution where id = ?1", [key])?;
    }
    let count = u32::try_from(gone.len()).unwrap_or(u32::MAX);
    Ok(Forgotten::Executions { count, last: gone.last().map(|(_, execute_id)| *execute_id) })
}
