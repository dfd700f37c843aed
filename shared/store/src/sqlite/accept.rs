//! Recording executions, and giving deliveries back.

use std::time::Duration;

use domain::{ExecuteId, State, TenantId, VersionNumber, limits};
use protocol::Request;
use rusqlite::{Connection, params};

use super::claim::{Also, end, outside_window};
use super::fail::Fail;
use super::row::{
    attributes_text, digest, find, first_address, further_address, id, id_bytes, in_window, parsed, run, us,
};
use crate::{Acceptance, NewExecution, Requeue};

/// How long after its acceptance an execution that nobody published is taken by a sweeper.
const FIRST_DISPATCH: Duration = Duration::from_secs(5);

/// The columns of a row to be made.
pub(super) struct NewRow<'a> {
    pub tenant: &'a TenantId,
    pub version: Option<VersionNumber>,
    pub request: &'a Request,
    pub input_digest: domain::Digest,
    /// By when a sweeper dispatches it.
    pub dispatch_at: i64,
    pub reply_addresses: String,
}

/// Makes a `queued` row and its input, and returns its key; `None` if the id is known.
pub(super) fn insert(c: &Connection, now: i64, new: &NewRow<'_>) -> Result<Option<i64>, Fail> {
    let request = new.request;
    let made = run(
        c,
        "insert into execution (execute_id, tenant, model, version, queue, input_digest, traceparent, deadline,
             accepted_at, state, next_dispatch_at, reply_addresses, attributes)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'queued', ?10, ?11, ?12) on conflict (execute_id) do nothing",
        params![
            id_bytes(request.execute_id),
            new.tenant.as_str(),
            request.model.as_str(),
            new.version.map(|version| version.0),
            request.queue.as_str(),
            new.input_digest.as_bytes(),
            request.traceparent,
            request.deadline.map(|at| at.as_microsecond()),
            now,
            new.dispatch_at,
            new.reply_addresses,
            attributes_text(&request.attributes),
        ],
    )?;
    if made == 0 {
        return Ok(None);
    }
    let key = c.last_insert_rowid();
    let input = &request.input;
    run(
        c,
        "insert into execution_input (id, content_type, bytes) values (?1, ?2, ?3)",
        params![key, &*input.content_type, &input.bytes[..]],
    )?;
    Ok(Some(key))
}

pub(super) fn accept(c: &Connection, now: i64, batch: &[NewExecution]) -> Result<Vec<Acceptance>, Fail> {
    batch.iter().map(|new| accept_one(c, now, new)).collect()
}

fn accept_one(c: &Connection, now: i64, new: &NewExecution) -> Result<Acceptance, Fail> {
    if let Some(attached) = attach(c, now, new)? {
        return Ok(attached);
    }
    if in_window(new.execute_id, now) {
        let request = Request {
            execute_id: new.execute_id,
            model: new.model.clone(),
            version: domain::VersionSelector::Number(new.version),
            queue: new.queue.clone(),
            input: new.input.clone(),
            deadline: new.deadline,
            reply_address: None,
            traceparent: new.traceparent.clone(),
            attributes: new.attributes.clone(),
            recorded: true,
        };
        let row = NewRow {
            tenant: &new.tenant,
            version: Some(new.version),
            request: &request,
            input_digest: new.input_digest,
            dispatch_at: now + us(FIRST_DISPATCH),
            reply_addresses: first_address(new.reply_address.as_ref(), None),
        };
        if insert(c, now, &row)?.is_some() {
            keep_key(c, now, new)?;
            return Ok(Acceptance::Recorded);
        }
    }
    Ok(known(c, new)?.unwrap_or(Acceptance::OutsideWindow))
}

/// The execution that the idempotency key of `new` names already, if it is another one.
fn attach(c: &Connection, now: i64, new: &NewExecution) -> Result<Option<Acceptance>, Fail> {
    let Some(key) = &new.idempotency_key else { return Ok(None) };
    let sql = "select execute_id, state, input_digest from idempotency_key join execution using (execute_id)
         where idempotency_key.tenant = ?1 and idempotency_key.model = ?2 and key = ?3 and expires_at > ?4";
    let named = find(c, sql, params![new.tenant.as_str(), new.model.as_str(), key, now], |row| {
        Ok((id(row, 0)?, parsed::<State>(row, 1)?, digest(row, 2)?))
    })?;
    Ok(named.and_then(|(execute_id, state, input_digest)| {
        if input_digest != new.input_digest {
            return Some(Acceptance::KeyReused);
        }
        // With its own id it is the same request, sent again.
        (execute_id != new.execute_id).then_some(Acceptance::Attached { execute_id, state })
    }))
}

fn keep_key(c: &Connection, now: i64, new: &NewExecution) -> Result<(), Fail> {
    let Some(key) = &new.idempotency_key else { return Ok(()) };
    run(
        c,
        "insert into idempotency_key (tenant, model, key, execute_id, expires_at) values (?1, ?2, ?3, ?4, ?5)
         on conflict do update set execute_id = excluded.execute_id, expires_at = excluded.expires_at",
        params![
            new.tenant.as_str(),
            new.model.as_str(),
            key,
            id_bytes(new.execute_id),
            now + us(limits::IDEMPOTENCY_KEY_LIFE),
        ],
    )?;
    Ok(())
}

/// What a known id means to somebody who wants to record it; `None` if it is not known.
fn known(c: &Connection, new: &NewExecution) -> Result<Option<Acceptance>, Fail> {
    let sql =
        "select tenant, input_digest, state, dispatched_at is null from execution where execute_id = ?1";
    find(c, sql, [id_bytes(new.execute_id)], |row| {
        let (tenant, state): (TenantId, State) = (parsed(row, 0)?, parsed(row, 2)?);
        if tenant != new.tenant || digest(row, 1)? != new.input_digest {
            return Ok(Acceptance::IdReused);
        }
        if state == State::Queued && row.get::<_, bool>(3)? {
            return Ok(Acceptance::Recorded);
        }
        Ok(Acceptance::Attached { execute_id: new.execute_id, state })
    })
}

pub(super) fn mark_dispatched(c: &Connection, now: i64, ids: &[ExecuteId]) -> Result<(), Fail> {
    for id in ids {
        // Who was dispatched before keeps the time until which it is not taken for overtaken again.
        run(
            c,
            "update execution
             set next_dispatch_at = case when dispatched_at is null then null else next_dispatch_at end,
                 dispatched_at = ?2, takes = 0
             where execute_id = ?1 and state = 'queued'",
            params![id_bytes(*id), now],
        )?;
    }
    Ok(())
}

pub(super) fn requeue(c: &Connection, now: i64, batch: &[Requeue], delay: Duration) -> Result<(), Fail> {
    let dispatch_at = now + us(delay.min(limits::DELAY_MAX));
    for back in batch {
        let row = NewRow {
            tenant: &back.tenant,
            version: back.version,
            request: &back.request,
            input_digest: back.input_digest,
            dispatch_at,
            reply_addresses: first_address(back.request.reply_address.as_ref(), None),
        };
        if let Some(key) = insert(c, now, &row)? {
            if !in_window(back.request.execute_id, now) {
                // Neither run nor lost without a trace.
                end(c, now, key, &outside_window(), &Also::default())?;
            }
            continue;
        }
        let request = &back.request;
        let by = params![id_bytes(request.execute_id), back.tenant.as_str(), back.input_digest.as_bytes()];
        let sql = "select id, reply_addresses from execution
             where execute_id = ?1 and tenant = ?2 and input_digest = ?3 and finished_at is null";
        let known = find(c, sql, by, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
        let Some((key, known)) = known else { continue };
        let more = further_address(&known, request.reply_address.as_ref(), None, request.recorded)?;
        run(
            c,
            "update execution set reply_addresses = reply_addresses || ?2 where id = ?1",
            params![key, more],
        )?;
        run(
            c,
            "update execution set dispatched_at = null, takes = 0, next_dispatch_at = ?2
             where id = ?1 and state = 'queued'",
            params![key, dispatch_at],
        )?;
    }
    Ok(())
}
