//! Recording executions.

use domain::{ExecuteId, State, limits};
use tokio_postgres::Row;
use uuid::Uuid;

use super::client::{Database, statement};
use super::fail::corrupt;
use super::row::{Columns, attributes_json, columns, seconds, window};
use crate::{Acceptance, NewExecution, Recovery, StoreError};

/// How often what lost a race against another statement is looked at again: once it is committed, it is seen.
pub(super) const LOOKS: usize = 5;

/// What is answered when even that did not help: the other rows may be there by now, and repeating is harmless.
pub(super) fn lost_every_race(statement: &'static str) -> StoreError {
    let source = "it lost a race against other statements each time".into();
    StoreError::Statement { statement, recovery: Recovery::Repeat, source }
}

pub(super) async fn accept(
    database: &Database,
    batch: &[NewExecution],
) -> Result<Vec<Acceptance>, StoreError> {
    let mut answers = vec![None; batch.len()];
    for _ in 0..LOOKS {
        let open: Vec<usize> = (0..batch.len()).filter(|&place| answers[place].is_none()).collect();
        if open.is_empty() {
            break;
        }
        let items: Vec<&NewExecution> = open.iter().map(|&place| &batch[place]).collect();
        let rows = once(database, &items).await?;
        for ((place, new), row) in open.into_iter().zip(items).zip(&rows) {
            answers[place] = answer(new, row)?;
        }
    }
    answers.into_iter().collect::<Option<_>>().ok_or_else(|| lost_every_race("accept"))
}

async fn once(database: &Database, batch: &[&NewExecution]) -> Result<Vec<Row>, StoreError> {
    let (ids, tenants, models, versions, queues) = columns!(batch => |new|
        new.execute_id.as_uuid(), new.tenant.as_str(), new.model.as_str(), new.version.0, new.queue.as_str());
    let (types, inputs, digests) = columns!(batch => |new|
        &*new.input.content_type, &new.input.bytes[..], &new.input_digest.as_bytes()[..]);
    let (reply_to, correlation_ids) = columns!(batch => |new|
        new.reply_address.as_ref().map(|address| address.reply_to.as_str()),
        new.reply_address.as_ref().map(|address| address.correlation_id.as_str()));
    let (deadlines, traceparents, keys) = columns!(batch => |new|
        new.deadline, new.traceparent.as_deref(), new.idempotency_key.as_deref());
    let attributes: Vec<_> = batch.iter().map(|new| attributes_json(&new.attributes)).collect();
    let [age, ahead] = window();
    database
        .rows(
            &statement!("accept"),
            &[
                &ids,
                &tenants,
                &models,
                &versions,
                &queues,
                &types,
                &inputs,
                &digests,
                &reply_to,
                &correlation_ids,
                &deadlines,
                &traceparents,
                &keys,
                &age,
                &ahead,
                &seconds(limits::IDEMPOTENCY_KEY_LIFE),
                &attributes,
            ],
        )
        .await
}

/// What became of `new`; `None` if another statement was at the same id or key and its rows are not seen yet.
fn answer(new: &NewExecution, row: &Row) -> Result<Option<Acceptance>, StoreError> {
    let row = Columns(row);
    if row.get("is_recorded")? {
        return Ok(Some(Acceptance::Recorded));
    }
    let is_key_taken: bool = row.get("is_key_taken")?;
    if let Some(named) = row.get::<Option<Uuid>>("key_execute_id")?
        && !is_key_taken
    {
        if !row.get("key_is_same")? {
            return Ok(Some(Acceptance::KeyReused));
        }
        if named != new.execute_id.as_uuid() {
            let execute_id = ExecuteId::try_from(named).map_err(|error| corrupt("idempotency_key", error))?;
            let state = row.maybe("key_state")?;
            return Ok(state.map(|state| Acceptance::Attached { execute_id, state }));
        }
    }
    let Some(state) = row.maybe::<State>("state")? else {
        let in_window: bool = row.get("in_window")?;
        return Ok((!in_window).then_some(Acceptance::OutsideWindow));
    };
    if !row.get("is_same")? {
        return Ok(Some(Acceptance::IdReused));
    }
    if row.get("has_key")? && !is_key_taken {
        return Ok(None);
    }
    let is_repeat = state == State::Queued && row.get("is_undispatched")?;
    let attached = Acceptance::Attached { execute_id: new.execute_id, state };
    Ok(Some(if is_repeat { Acceptance::Recorded } else { attached }))
}
