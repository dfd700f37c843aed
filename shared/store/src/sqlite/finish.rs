//! What the holder of a lease writes: log lines, renewals, settlements. And what a caller may do about it: cancel.

use std::time::Duration;

use domain::{Ending, ExecuteId, Failure, LogLine, NodeId, State, TenantId, limits};
use rusqlite::{Connection, params};

use super::claim::{Also, cancelled, conclusion_of, end};
use super::fail::Fail;
use super::fence;
use super::row::{find, id_bytes, parsed, reply_addresses, run, timeline_text, us, value};
use crate::{Append, Appended, CancelAnswer, Conclusion, Finish, Finished, Renewal, Settlement};

pub(super) fn append(c: &Connection, batch: &[Append]) -> Result<Vec<Appended>, Fail> {
    batch.iter().map(|append| append_one(c, append)).collect()
}

fn append_one(c: &Connection, append: &Append) -> Result<Appended, Fail> {
    let sql =
        "select last_log_id from execution where execute_id = ?1 and attempt = ?2 and state = 'running'";
    let by = params![id_bytes(append.execute_id), append.attempt];
    let Some(last) = value::<i64>(c, sql, by)? else { return Ok(Appended::Stale) };
    let next = append.base + append.lines.len() as i64;
    if last == append.base {
        if !fence::allows(c, append.execute_id, append.fence.as_ref())? {
            return Ok(Appended::Stale);
        }
        insert_lines(c, append.execute_id, append.attempt, append.base, &append.lines)?;
        run(
            c,
            "update execution set last_log_id = ?2 where execute_id = ?1",
            params![id_bytes(append.execute_id), next],
        )?;
    } else if last != next {
        return Ok(Appended::Stale);
    }
    Ok(Appended::Stored { last_log_id: next })
}

fn insert_lines(
    c: &Connection,
    execute_id: ExecuteId,
    attempt: i32,
    base: i64,
    lines: &[LogLine],
) -> Result<(), Fail> {
    let mut insert = c.prepare_cached(
        "insert into log (execute_id, log_id, attempt, level, at, line, continues)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (log_id, line) in (base + 1..).zip(lines) {
        insert.execute(params![
            id_bytes(execute_id),
            log_id,
            attempt,
            line.level.letter(),
            line.at_unix_us,
            line.text,
            line.continues,
        ])?;
    }
    Ok(())
}

/// What a settlement has to know of a row.
struct Held {
    key: i64,
    state: State,
    attempt: i32,
    last_log_id: i64,
    retries: i32,
    failures: i32,
    cancel_requested: bool,
    settled_attempt: Option<i32>,
    reply_addresses: String,
}

pub(super) fn finish(c: &Connection, now: i64, batch: &[Finish]) -> Result<Vec<Finished>, Fail> {
    batch.iter().map(|finish| finish_one(c, now, finish)).collect()
}

fn finish_one(c: &Connection, now: i64, finish: &Finish) -> Result<Finished, Fail> {
    let sql = "select id, state, attempt, last_log_id, retries, failures, cancel_requested, settled_attempt, \
         reply_addresses from execution where execute_id = ?1";
    let held = find(c, sql, [id_bytes(finish.execute_id)], |row| {
        Ok(Held {
            key: row.get(0)?,
            state: parsed(row, 1)?,
            attempt: row.get(2)?,
            last_log_id: row.get(3)?,
            retries: row.get(4)?,
            failures: row.get(5)?,
            cancel_requested: row.get(6)?,
            settled_attempt: row.get(7)?,
            reply_addresses: row.get(8)?,
        })
    })?;
    let Some(held) = held else { return Ok(Finished::Stale) };
    if held.attempt != finish.attempt {
        return Ok(Finished::Stale);
    }
    if held.state != State::Running {
        let is_repeat = held.settled_attempt == Some(finish.attempt);
        return if is_repeat { stored(conclusion_of(c, held.key)?) } else { Ok(Finished::Stale) };
    }
    let is_allowed = fence::allows(c, finish.execute_id, finish.fence.as_ref())?;
    if held.last_log_id != finish.base || !is_allowed {
        return Ok(Finished::Stale);
    }
    insert_lines(c, finish.execute_id, finish.attempt, finish.base, &finish.tail)?;
    let ending = settle(c, now, finish, &held)?;
    stored(Conclusion {
        execute_id: finish.execute_id,
        attempt: finish.attempt,
        ending,
        reply_addresses: reply_addresses(&held.reply_addresses)?,
    })
}

fn stored(conclusion: Conclusion) -> Result<Finished, Fail> {
    Ok(Finished::Stored(Box::new(conclusion)))
}

/// Writes how the attempt was settled, and says how the execution ended if it did.
fn settle(c: &Connection, now: i64, finish: &Finish, held: &Held) -> Result<Option<Ending>, Fail> {
    let (ending, delay, retried, failed) = match &finish.settlement {
        Settlement::Ended(ending) => (Some(ending.clone()), Duration::ZERO, 0, 0),
        Settlement::Yielded { delay, .. } => (None, *delay, 0, 0),
        Settlement::Retried(delay) => (None, *delay, 1, 0),
        Settlement::Failed { delay, class, message } => {
            let is_dead = held.failures + 1 >= limits::FAILURES_MAX;
            let ending = is_dead.then(|| Ending::Dead(Failure::new(*class, message.as_str())));
            (ending, *delay, 0, 1)
        }
    };
    let is_end = matches!(finish.settlement, Settlement::Ended(_));
    let ending = if held.cancel_requested && !is_end { Some(cancelled()) } else { ending };
    let last_log_id = finish.base + finish.tail.len() as i64;
    let failures = held.failures + failed;
    if let Some(ending) = &ending {
        let also = Also {
            last_log_id: Some(last_log_id),
            settled_attempt: Some(finish.attempt),
            failures: Some(failures),
            timeline: &finish.timeline,
        };
        end(c, now, held.key, ending, &also)?;
        return Ok(Some(ending.clone()));
    }
    run(
        c,
        "update execution set state = 'delayed', not_before = ?2, leased_until = null, last_log_id = ?3,
             settled_attempt = ?4, retries = ?5, failures = ?6, timeline = timeline || ?7,
             waiting_since = case when ?8 then coalesce(waiting_since, claimed_at) end
         where id = ?1",
        params![
            held.key,
            now + us(delay.min(limits::DELAY_MAX)),
            last_log_id,
            finish.attempt,
            held.retries + retried,
            failures,
            timeline_text(&finish.timeline),
            // It has waited since the first of the attempts that only waited.
            matches!(finish.settlement, Settlement::Yielded { is_waiting: true, .. }),
        ],
    )?;
    Ok(None)
}

pub(super) fn note_waiting(
    c: &Connection,
    execute_id: ExecuteId,
    attempt: i32,
    is_waiting: bool,
) -> Result<bool, Fail> {
    let sql = "update execution set waiting_since = case when ?3 then coalesce(waiting_since, claimed_at) end
         where execute_id = ?1 and attempt = ?2 and state = 'running'";
    Ok(run(c, sql, params![id_bytes(execute_id), attempt, is_waiting])? > 0)
}

pub(super) fn renew(
    c: &Connection,
    now: i64,
    node: &NodeId,
    held: &[(ExecuteId, i32)],
    lease: Duration,
) -> Result<Vec<Renewal>, Fail> {
    let node = node.to_string();
    let sql = "update execution set leased_until = ?4, renewed_at = ?5
         where execute_id = ?1 and attempt = ?2 and node = ?3 and state = 'running' returning cancel_requested";
    let mut renewed = Vec::with_capacity(held.len());
    for &(execute_id, attempt) in held {
        let by = params![id_bytes(execute_id), attempt, node, now + us(lease), now];
        if let Some(cancel_requested) = value(c, sql, by)? {
            renewed.push(Renewal { execute_id, attempt, cancel_requested });
        }
    }
    Ok(renewed)
}

pub(super) fn cancel(
    c: &Connection,
    now: i64,
    tenant: &TenantId,
    execute_id: ExecuteId,
) -> Result<Option<CancelAnswer>, Fail> {
    let sql = "select id, state from execution where execute_id = ?1 and tenant = ?2";
    let by = params![id_bytes(execute_id), tenant.as_str()];
    let Some((key, state)) = find(c, sql, by, |row| Ok((row.get::<_, i64>(0)?, parsed::<State>(row, 1)?)))?
    else {
        return Ok(None);
    };
    Ok(Some(match state {
        State::Queued | State::Delayed => {
            run(c, "update execution set cancel_requested = 1 where id = ?1", [key])?;
            end(c, now, key, &cancelled(), &Also::default())?;
            CancelAnswer::Cancelled(Box::new(conclusion_of(c, key)?))
        }
        State::Running => {
            run(c, "update execution set cancel_requested = 1 where id = ?1", [key])?;
            CancelAnswer::Requested
        }
        State::Succeeded
        | State::Failed
        | State::TimedOut
        | State::Cancelled
        | State::Expired
        | State::Dead => CancelAnswer::AlreadyEnded(Box::new(conclusion_of(c, key)?)),
    }))
}
