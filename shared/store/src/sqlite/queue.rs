//! What waits, what runs, and how long it takes: for those who decide how many nodes there should be.

use std::time::Duration;

use domain::{ExecuteId, NodeId, QueueName};
use rusqlite::{Connection, params};

use super::fail::Fail;
use super::row::{find, id, id_bytes, list, maybe_time, parsed, time, value};
use crate::{QueueLoad, RunningRow, Turn};

/// Of how many of the last executions it is reckoned how long they take.
const LAST: u32 = 2_000;

pub(super) fn list_running(c: &Connection, node: Option<&NodeId>) -> Result<Vec<RunningRow>, Fail> {
    let sql = "select execute_id, attempt, model, queue, node, claimed_at from execution
         where state = 'running' and (?1 is null or node = ?1) order by execute_id limit 10000";
    list(c, sql, [node.map(ToString::to_string)], |row| {
        Ok(RunningRow {
            execute_id: id(row, 0)?,
            attempt: row.get(1)?,
            model: parsed(row, 2)?,
            queue: parsed(row, 3)?,
            node: parsed(row, 4)?,
            claimed_at: time(row.get(5)?)?,
        })
    })
}

pub(super) fn loads(
    c: &Connection,
    now: i64,
    queues: &[QueueName],
    limit: u32,
) -> Result<Vec<QueueLoad>, Fail> {
    queues.iter().map(|queue| load(c, now, queue, limit)).collect()
}

fn load(c: &Connection, now: i64, queue: &QueueName, limit: u32) -> Result<QueueLoad, Fail> {
    let mut waiting = 0;
    let mut oldest: Option<i64> = None;
    for sql in [
        "select count(*), min(accepted_at) from (select accepted_at from execution
             where state = 'queued' and dispatched_at is not null and queue = ?1 and ?2 = ?2 limit ?3)",
        "select count(*), min(accepted_at) from (select accepted_at from execution
             where state = 'queued' and dispatched_at is null and next_dispatch_at is not null
                 and queue = ?1 and ?2 = ?2 limit ?3)",
        "select count(*), min(accepted_at) from (select accepted_at from execution
             where state = 'delayed' and not_before <= ?2 and queue = ?1 limit ?3)",
    ] {
        let found = find(c, sql, params![queue.as_str(), now, limit], |row| {
            Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, Option<i64>>(1)?))
        })?;
        let (count, first) = found.unwrap_or_default();
        waiting += count;
        oldest = [oldest, first].into_iter().flatten().min();
    }
    let sql = "select avg(finished_at - claimed_at) from
         (select queue, finished_at, claimed_at from execution order by id desc limit ?2)
         where queue = ?1 and finished_at is not null and claimed_at is not null";
    let mean = value::<Option<f64>>(c, sql, params![queue.as_str(), LAST])?.flatten();
    Ok(QueueLoad {
        queue: queue.clone(),
        waiting,
        oldest: oldest.map(|at| Duration::from_micros((now - at).max(0).unsigned_abs())),
        mean_run: mean.map(|us| Duration::from_secs_f64(us.max(0.0) / 1e6)),
    })
}

pub(super) fn find_turn(c: &Connection, execute_id: ExecuteId) -> Result<Option<Turn>, Fail> {
    let sql = "select queue, dispatched_at from execution where execute_id = ?1 and state = 'queued'";
    let found = find(c, sql, [id_bytes(execute_id)], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?, maybe_time(row, 1)?))
    })?;
    let Some((queue, us, dispatched_at)) = found else { return Ok(None) };
    let sql =
        "select count(*) from (select 1 from execution where state = 'queued' and dispatched_at is not null
         and queue = ?1 and dispatched_at < ?2 limit ?3)";
    let ahead = match us {
        Some(us) => value::<i64>(c, sql, params![queue, us, Turn::AHEAD_MAX])?.unwrap_or(0).unsigned_abs(),
        None => 0,
    };
    Ok(Some(Turn { dispatched_at, ahead }))
}
