//! Claiming, and how an execution ends.

use std::collections::HashMap;
use std::time::Duration;

use domain::{Ending, ErrorClass, Failure, Payload, State};
use protocol::http::TimelineEvent;
use rusqlite::{Connection, params};

use super::accept::{NewRow, insert};
use super::fail::Fail;
use super::row::{
    CONCLUSION, conclusion, digest, find, first_address, further_address, id_bytes, in_window, maybe_time,
    parsed, run, time, timeline_text, us, version,
};
use crate::{AlreadyEnded, Claim, ClaimAnswer, ClaimRequest, Conclusion};

/// How long a slot of `queue_mark` is, in microseconds.
pub(super) const MARK_SLOT_US: i64 = 10_000_000;

/// What a claim has to know of a row.
struct Known {
    key: i64,
    state: State,
    attempt: i32,
    cancel_requested: bool,
    deadline: Option<i64>,
    is_same: bool,
    is_same_claim: bool,
    reply_addresses: String,
    claim: Claim,
    /// No later than it was dispatched, if somebody dispatched it.
    dispatched_at: i64,
    waiting_since: Option<i64>,
}

pub(super) fn claim(c: &Connection, now: i64, batch: &[ClaimRequest]) -> Result<Vec<ClaimAnswer>, Fail> {
    let mut marks = HashMap::new();
    let answers = batch
        .iter()
        .map(|request| {
            let Some(row) = read(c, request)? else { return claim_new(c, now, request) };
            let answer = claim_known(c, now, request, &row)?;
            let is_claim = matches!(answer, ClaimAnswer::Claimed(_) | ClaimAnswer::Succeeded { .. });
            if is_claim && !row.is_same_claim {
                let mark = marks.entry(request.request.queue.as_str()).or_insert(row.dispatched_at);
                *mark = row.dispatched_at.max(*mark);
            }
            Ok(answer)
        })
        .collect::<Result<_, Fail>>()?;
    for (queue, dispatched_at) in marks {
        run(
            c,
            "insert into queue_mark (queue, claimed_slot, dispatched_at) values (?1, ?2, ?3)
             on conflict do update set dispatched_at = max(dispatched_at, excluded.dispatched_at)",
            params![queue, now / MARK_SLOT_US, dispatched_at],
        )?;
    }
    Ok(answers)
}

fn read(c: &Connection, request: &ClaimRequest) -> Result<Option<Known>, Fail> {
    let sql = "select id, tenant, input_digest, state, attempt, cancel_requested, deadline, claim_id, \
         reply_addresses, last_log_id, version, retries, failures, claimed_at, \
         coalesce(dispatched_at, accepted_at), waiting_since, model from execution where execute_id = ?1";
    find(c, sql, [id_bytes(request.request.execute_id)], |row| {
        let attempt = row.get(4)?;
        Ok(Known {
            key: row.get(0)?,
            state: parsed(row, 3)?,
            attempt,
            cancel_requested: row.get(5)?,
            deadline: row.get(6)?,
            is_same: row.get_ref(1)?.as_str().is_ok_and(|tenant| tenant == request.tenant.as_str())
                && row.get_ref(16)?.as_str().is_ok_and(|model| model == request.request.model.as_str())
                && digest(row, 2)? == request.input_digest,
            is_same_claim: row.get::<_, Option<[u8; 16]>>(7)? == Some(*request.claim_id.as_bytes()),
            reply_addresses: row.get(8)?,
            claim: Claim {
                attempt,
                last_log_id: row.get(9)?,
                version: version(row, 10)?,
                waited: Duration::ZERO,
                retries: row.get(11)?,
                failures: row.get(12)?,
                deadline_in: None,
                claimed_at: maybe_time(row, 13)?.unwrap_or_default(),
            },
            dispatched_at: row.get(14)?,
            waiting_since: row.get(15)?,
        })
    })
}

/// Makes the row of a direct producer's message.
fn claim_new(c: &Connection, now: i64, claim: &ClaimRequest) -> Result<ClaimAnswer, Fail> {
    if claim.request.recorded {
        return Ok(ClaimAnswer::Unrecorded);
    }
    if !in_window(claim.request.execute_id, now) {
        return Ok(ClaimAnswer::OutsideWindow);
    }
    let new = NewRow {
        tenant: &claim.tenant,
        version: claim.version,
        request: &claim.request,
        input_digest: claim.input_digest,
        dispatch_at: now,
        reply_addresses: String::new(),
    };
    let is_due = claim.request.deadline.is_none_or(|deadline| deadline.as_microsecond() > now);
    if let Some(result) = claim.result.as_ref().filter(|_| is_due) {
        return make_succeeded(c, now, claim, new, result);
    }
    insert(c, now, &new)?;
    match read(c, claim)? {
        // When it was dispatched is not known, so it is no mark for others.
        Some(row) => claim_known(c, now, claim, &row),
        None => Err(Fail::corrupt("execution", "a row that was just made is not there")),
    }
}

/// Makes the row of a message that has run already: what [`start`] and [`succeed`] would make of it.
fn make_succeeded(
    c: &Connection,
    now: i64,
    claim: &ClaimRequest,
    new: NewRow<'_>,
    result: &Payload,
) -> Result<ClaimAnswer, Fail> {
    let address = claim.request.reply_address.as_ref();
    let new = NewRow { reply_addresses: first_address(address, Some(claim.claim_id)), ..new };
    let key =
        insert(c, now, &new)?.ok_or_else(|| Fail::corrupt("execution", "a row that was not there is"))?;
    let (at, node) = (time(now)?, claim.node.to_string());
    let event = |event: &str| TimelineEvent { attempt: 1, event: event.to_owned(), at, node: node.clone() };
    run(
        c,
        "update execution set state = 'succeeded', attempt = 1, settled_attempt = 1, node = ?2, claim_id = ?3,
             claimed_at = ?4, renewed_at = ?4, finished_at = ?4, next_dispatch_at = null, timeline = ?5
         where id = ?1",
        params![
            key,
            node,
            claim.claim_id.as_bytes(),
            now,
            timeline_text(&[event("claimed"), event(State::Succeeded.label())]),
        ],
    )?;
    insert_result(c, key, result)?;
    Ok(ClaimAnswer::Succeeded { attempt: 1, reply_addresses: address.cloned().into_iter().collect() })
}

fn claim_known(c: &Connection, now: i64, claim: &ClaimRequest, row: &Known) -> Result<ClaimAnswer, Fail> {
    if !row.is_same {
        return Ok(ClaimAnswer::IdReused);
    }
    match row.state {
        State::Queued if row.cancel_requested => end_here(c, now, row, cancelled()),
        State::Queued if row.deadline.is_some_and(|deadline| deadline <= now) => {
            end_here(c, now, row, expired())
        }
        State::Queued => {
            let granted = start(c, now, claim, row)?;
            match &claim.result {
                Some(result) if claim.version.is_some() && granted.version == claim.version => {
                    succeed(c, now, claim, row.key, &granted, result)
                }
                Some(_) | None => Ok(ClaimAnswer::Claimed(granted)),
            }
        }
        State::Running if row.is_same_claim => Ok(ClaimAnswer::Claimed(granted(row, now))),
        State::Running | State::Delayed => {
            let request = &claim.request;
            let is_repeat = claim.redelivered || request.recorded;
            let address = request.reply_address.as_ref();
            let more = further_address(&row.reply_addresses, address, Some(claim.claim_id), is_repeat)?;
            if !more.is_empty() {
                let sql = "update execution set reply_addresses = reply_addresses || ?2 where id = ?1";
                run(c, sql, params![row.key, more])?;
            }
            Ok(ClaimAnswer::NotNow)
        }
        State::Succeeded if row.is_same_claim && claim.result.is_some() => succeeded(c, row.key),
        State::Succeeded
        | State::Failed
        | State::TimedOut
        | State::Cancelled
        | State::Expired
        | State::Dead => ended(c, row.key),
    }
}

fn start(c: &Connection, now: i64, claim: &ClaimRequest, row: &Known) -> Result<Claim, Fail> {
    let mut granted = granted(row, now);
    granted.attempt += 1;
    granted.claimed_at = time(now)?;
    let request = &claim.request;
    let is_repeat = claim.redelivered || request.recorded;
    let address = request.reply_address.as_ref();
    let more = further_address(&row.reply_addresses, address, Some(claim.claim_id), is_repeat)?;
    let event = TimelineEvent {
        attempt: granted.attempt,
        event: "claimed".to_owned(),
        at: granted.claimed_at,
        node: claim.node.to_string(),
    };
    run(
        c,
        "update execution set state = 'running', attempt = ?2, node = ?3, claim_id = ?4, claimed_at = ?5,
             renewed_at = ?5, leased_until = ?6, reply_addresses = reply_addresses || ?7, timeline = timeline || ?8
         where id = ?1",
        params![
            row.key,
            granted.attempt,
            event.node,
            claim.claim_id.as_bytes(),
            now,
            now + us(claim.lease),
            more,
            timeline_text(std::slice::from_ref(&event)),
        ],
    )?;
    Ok(granted)
}

/// Ends what has just been started with the result its claim brought.
fn succeed(
    c: &Connection,
    now: i64,
    claim: &ClaimRequest,
    key: i64,
    granted: &Claim,
    result: &Payload,
) -> Result<ClaimAnswer, Fail> {
    let ending = Ending::Succeeded(result.clone());
    let event = TimelineEvent {
        attempt: granted.attempt,
        event: ending.state().label().to_owned(),
        at: granted.claimed_at,
        node: claim.node.to_string(),
    };
    let also = Also {
        settled_attempt: Some(granted.attempt),
        timeline: std::slice::from_ref(&event),
        ..Also::default()
    };
    end(c, now, key, &ending, &also)?;
    succeeded(c, key)
}

fn succeeded(c: &Connection, key: i64) -> Result<ClaimAnswer, Fail> {
    let Conclusion { attempt, reply_addresses, .. } = conclusion_of(c, key)?;
    Ok(ClaimAnswer::Succeeded { attempt, reply_addresses })
}

fn granted(row: &Known, now: i64) -> Claim {
    let left = |deadline: i64| Duration::from_micros((deadline - now).max(0).unsigned_abs());
    let waited = row.waiting_since.map_or(0, |since| (now - since).max(0));
    Claim {
        deadline_in: row.deadline.map(left),
        waited: Duration::from_micros(waited.unsigned_abs()),
        ..row.claim.clone()
    }
}

fn end_here(c: &Connection, now: i64, row: &Known, ending: Ending) -> Result<ClaimAnswer, Fail> {
    end(c, now, row.key, &ending, &Also::default())?;
    Ok(ClaimAnswer::Ended(AlreadyEnded { attempt: row.attempt, ending }))
}

fn ended(c: &Connection, key: i64) -> Result<ClaimAnswer, Fail> {
    match conclusion_of(c, key)? {
        Conclusion { attempt, ending: Some(ending), .. } => {
            Ok(ClaimAnswer::Ended(AlreadyEnded { attempt, ending }))
        }
        Conclusion { ending: None, .. } => Err(Fail::corrupt("execution", "terminal without an ending")),
    }
}

pub(super) fn conclusion_of(c: &Connection, key: i64) -> Result<Conclusion, Fail> {
    find(c, &format!("select {CONCLUSION} where execution.id = ?1"), [key], conclusion)?
        .ok_or_else(|| Fail::corrupt("execution", "a row that was just read is not there"))
}

/// What changes together with an ending.
#[derive(Default)]
pub(super) struct Also<'a> {
    pub last_log_id: Option<i64>,
    pub settled_attempt: Option<i32>,
    pub failures: Option<i32>,
    pub timeline: &'a [TimelineEvent],
}

/// Writes the terminal state of the row `key`. Who calls it has seen in the same transaction that it is not terminal.
pub(super) fn end(c: &Connection, now: i64, key: i64, ending: &Ending, also: &Also<'_>) -> Result<(), Fail> {
    let failure = ending.failure();
    run(
        c,
        "update execution set state = ?2, finished_at = ?3, error_class = ?4, error = ?5, exit_code = ?6,
             signal = ?7, leased_until = null, waiting_since = null, not_before = null, next_dispatch_at = null,
             last_log_id = coalesce(?8, last_log_id), settled_attempt = coalesce(?9, settled_attempt),
             failures = coalesce(?10, failures), timeline = timeline || ?11
         where id = ?1",
        params![
            key,
            ending.state().label(),
            now,
            failure.map(|failure| failure.class.label()),
            failure.map(|failure| &failure.message),
            failure.and_then(|failure| failure.exit_code),
            failure.and_then(|failure| failure.signal),
            also.last_log_id,
            also.settled_attempt,
            also.failures,
            timeline_text(also.timeline),
        ],
    )?;
    ending.result().map_or(Ok(()), |result| insert_result(c, key, result))
}

fn insert_result(c: &Connection, key: i64, result: &Payload) -> Result<(), Fail> {
    let sql = "insert into execution_result (id, content_type, bytes) values (?1, ?2, ?3)";
    run(c, sql, params![key, &*result.content_type, &result.bytes[..]]).map(drop)
}

pub(super) fn cancelled() -> Ending {
    Ending::Cancelled(Failure::new(ErrorClass::Cancelled, "cancelled by its caller"))
}

pub(super) fn expired() -> Ending {
    Ending::Expired(Failure::new(ErrorClass::Deadline, "its deadline passed before it could start"))
}

pub(super) fn outside_window() -> Ending {
    Ending::Dead(Failure::new(ErrorClass::Input, "its execute_id is dated too far back or ahead"))
}
