//! What monitors sweep up: executions to publish (again), lost leases, passed deadlines, dead letters.

use std::time::Duration;

use domain::{Ending, ErrorClass, Failure, NodeId, QueueName, State, VersionSelector, limits};
use protocol::Request;
use protocol::http::TimelineEvent;
use rusqlite::{Connection, params};

use super::accept::{NewRow, insert};
use super::claim::{Also, MARK_SLOT_US, cancelled, conclusion_of, end, expired};
use super::fail::Fail;
use super::row::{
    find, first_address, id, id_bytes, in_window, list, maybe_time, parsed, payload, run, time,
    timeline_text, us, version,
};
use crate::{Conclusion, Dispatch, Requeue, Rescued};

/// The waits after each take of what nobody is known to have published.
const TAKE_WAITS: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120), Duration::from_secs(300)];
/// A dispatch is overtaken when a later one of its queue was claimed this long ago; taken for overtaken, it is left
/// alone for as long.
const OVERTAKEN: Duration = Duration::from_secs(60);
/// A dispatch to a queue that is empty now is lost after this time.
const EMPTY: Duration = Duration::from_secs(10);
/// When the next attempt is due, by the number of failures before it.
const RESCUE_DELAYS: [Duration; 3] =
    [Duration::from_secs(0), Duration::from_secs(1), Duration::from_secs(10)];

pub(super) fn take_undispatched(c: &Connection, now: i64, limit: u32) -> Result<Vec<Dispatch>, Fail> {
    let sql = "select id, takes from execution
         where state = 'queued' and dispatched_at is null and next_dispatch_at <= ?1
         order by next_dispatch_at limit ?2";
    let due = list(c, sql, params![now, limit], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?)))?;
    due.into_iter()
        .map(|(key, takes)| {
            let next = now + us(TAKE_WAITS[(takes as usize).min(TAKE_WAITS.len() - 1)]);
            let sql = "update execution set next_dispatch_at = ?2, takes = takes + 1 where id = ?1";
            run(c, sql, params![key, next])?;
            dispatch(c, key)
        })
        .collect()
}

pub(super) fn take_overtaken(
    c: &Connection,
    now: i64,
    empty: &[QueueName],
    limit: u32,
) -> Result<Vec<Dispatch>, Fail> {
    // A slot counts once it is over and its end lies far enough back.
    let slot = (now - us(OVERTAKEN)) / MARK_SLOT_US - 1;
    let sql = "select queue, max(dispatched_at) from queue_mark where claimed_slot <= ?1 group by queue";
    let mut marks = list(c, sql, [slot], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    for (queue, mark) in &marks {
        let sql = "delete from queue_mark where queue = ?1 and claimed_slot <= ?2 and dispatched_at < ?3";
        run(c, sql, params![queue, slot, mark])?;
    }
    marks.extend(empty.iter().map(|queue| (queue.to_string(), now - us(EMPTY))));
    let mut taken = Vec::new();
    for (queue, before) in marks {
        let sql = "select id from execution
             where state = 'queued' and dispatched_at is not null and queue = ?1 and dispatched_at < ?2
                 and coalesce(next_dispatch_at, 0) <= ?3
             order by dispatched_at limit ?4";
        let left = i64::from(limit) - taken.len() as i64;
        for key in list(c, sql, params![queue, before, now, left], |row| Ok(row.get::<_, i64>(0)?))? {
            let sql = "update execution set next_dispatch_at = ?2 where id = ?1";
            run(c, sql, params![key, now + us(OVERTAKEN)])?;
            taken.push(dispatch(c, key)?);
        }
    }
    Ok(taken)
}

pub(super) fn take_due(c: &Connection, now: i64, limit: u32) -> Result<Vec<Dispatch>, Fail> {
    let sql =
        "select id from execution where state = 'delayed' and not_before <= ?1 order by not_before limit ?2";
    let due = list(c, sql, params![now, limit], |row| Ok(row.get::<_, i64>(0)?))?;
    due.into_iter()
        .map(|key| {
            run(
                c,
                "update execution set state = 'queued', not_before = null, dispatched_at = null, takes = 0,
                     next_dispatch_at = ?2
                 where id = ?1",
                params![key, now + us(TAKE_WAITS[0])],
            )?;
            dispatch(c, key)
        })
        .collect()
}

fn dispatch(c: &Connection, key: i64) -> Result<Dispatch, Fail> {
    let sql = "select execute_id, model, version, queue, deadline, traceparent, content_type, bytes
         from execution left join execution_input using (id) where execution.id = ?1";
    let request = find(c, sql, [key], |row| {
        let input =
            payload(row, 6, 7)?.ok_or_else(|| Fail::corrupt("execution_input", "a row is missing"))?;
        Ok(Request {
            execute_id: id(row, 0)?,
            model: parsed(row, 1)?,
            version: version(row, 2)?.map_or_else(VersionSelector::default, VersionSelector::Number),
            queue: parsed(row, 3)?,
            input,
            deadline: maybe_time(row, 4)?,
            reply_address: None,
            traceparent: row.get(5)?,
            attributes: domain::Attributes::default(),
            recorded: true,
        })
    })?;
    let request =
        request.ok_or_else(|| Fail::corrupt("execution", "a row that was just read is not there"))?;
    Ok(Dispatch { request })
}

/// Since when the database is open, and whom to take leases from.
pub(super) struct Lost {
    pub open_since: i64,
    pub present: Option<Vec<NodeId>>,
    pub lease: Duration,
    pub renew_every: Duration,
}

pub(super) fn rescue(c: &Connection, now: i64, lost: &Lost, limit: u32) -> Result<Vec<Rescued>, Fail> {
    let present = lost.present.as_ref().map(|nodes| {
        let names: Vec<_> = nodes.iter().map(ToString::to_string).collect();
        serde_json::Value::from(names).to_string()
    });
    let is_long_up = lost.open_since + us(lost.lease) < now;
    let sql = "select id, execute_id, attempt, node, failures + (waiting_since is null), cancel_requested,
             waiting_since is null
         from execution
         where state = 'running' and ((leased_until < ?1 and ?2) or (?3 is not null and renewed_at < ?4
             and node not in (select value from json_each(coalesce(?3, '[]')))))
         order by leased_until limit ?5";
    let silent_since = now - us(lost.renew_every.saturating_mul(2));
    let by = params![now, is_long_up, present, silent_since, limit];
    let rows = list(c, sql, by, |row| {
        let rescued = Rescued {
            execute_id: id(row, 1)?,
            attempt: row.get(2)?,
            node: parsed(row, 3)?,
            conclusion: None,
        };
        // Who only waited for a lock or a limit spends nothing, and its time counts on.
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, i32>(4)?,
            row.get::<_, bool>(5)?,
            row.get::<_, bool>(6)?,
            rescued,
        ))
    })?;
    rows.into_iter()
        .map(|(key, failures, cancel_requested, ran, rescued)| {
            let ending = match cancel_requested {
                true => Some(cancelled()),
                false => (ran && failures >= limits::FAILURES_MAX).then(|| dead(failures, &rescued.node)),
            };
            rescue_one(c, now, key, failures, ending, rescued)
        })
        .collect()
}

fn dead(failures: i32, node: &NodeId) -> Ending {
    let message = format!("its nodes were lost in {failures} attempts, the last one was {node}");
    Ending::Dead(Failure::new(ErrorClass::NodeLost, message))
}

fn rescue_one(
    c: &Connection,
    now: i64,
    key: i64,
    failures: i32,
    ending: Option<Ending>,
    mut rescued: Rescued,
) -> Result<Rescued, Fail> {
    let event = TimelineEvent {
        attempt: rescued.attempt,
        event: "rescued".to_owned(),
        at: time(now)?,
        node: rescued.node.to_string(),
    };
    let timeline = [event];
    if let Some(ending) = ending {
        let also = Also { failures: Some(failures), timeline: &timeline, ..Also::default() };
        end(c, now, key, &ending, &also)?;
        rescued.conclusion = Some(Box::new(conclusion_of(c, key)?));
        return Ok(rescued);
    }
    let index = usize::try_from((failures - 1).max(0)).unwrap_or(0).min(RESCUE_DELAYS.len() - 1);
    run(
        c,
        "update execution set state = 'delayed', not_before = ?2, leased_until = null, failures = ?3,
             timeline = timeline || ?4
         where id = ?1",
        params![key, now + us(RESCUE_DELAYS[index]), failures, timeline_text(&timeline)],
    )?;
    Ok(rescued)
}

pub(super) fn expire(c: &Connection, now: i64, limit: u32) -> Result<Vec<Conclusion>, Fail> {
    let sql = "select id from execution
         where state in ('queued', 'delayed') and deadline is not null and deadline <= ?1
         order by deadline limit ?2";
    let overdue = list(c, sql, params![now, limit], |row| Ok(row.get::<_, i64>(0)?))?;
    overdue
        .into_iter()
        .map(|key| {
            end(c, now, key, &expired(), &Also::default())?;
            conclusion_of(c, key)
        })
        .collect()
}

pub(super) fn bury(
    c: &Connection,
    now: i64,
    letter: &Requeue,
    reason: &str,
) -> Result<Option<Conclusion>, Fail> {
    let new = NewRow {
        tenant: &letter.tenant,
        version: letter.version,
        request: &letter.request,
        input_digest: letter.input_digest,
        dispatch_at: now,
        reply_addresses: first_address(letter.request.reply_address.as_ref(), None),
    };
    let sql = "select id, state from execution where execute_id = ?1 and tenant = ?2 and input_digest = ?3";
    let execute_id = letter.request.execute_id;
    let by = params![id_bytes(execute_id), letter.tenant.as_str(), letter.input_digest.as_bytes()];
    let known = find(c, sql, by, |row| Ok((row.get::<_, i64>(0)?, parsed::<State>(row, 1)?)))?;
    let key = match known {
        Some((key, State::Queued)) => Some(key),
        Some(_) => None,
        None if in_window(execute_id, now) => insert(c, now, &new)?,
        None => None,
    };
    let Some(key) = key else { return Ok(None) };
    let ending = Ending::Dead(Failure::new(ErrorClass::Internal, reason));
    end(c, now, key, &ending, &Also::default())?;
    Ok(Some(conclusion_of(c, key)?))
}
