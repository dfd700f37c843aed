//! Claiming, and giving deliveries back unclaimed.

use std::collections::HashMap;
use std::time::Duration;

use domain::{Ending, ExecuteId, State};
use jiff::Timestamp;
use tokio_postgres::Row;

use super::accept::{LOOKS, lost_every_race};
use super::client::{Database, statement};
use super::fail::corrupt;
use super::row::{Columns, attributes_json, columns, delay_seconds, seconds, window};
use super::words::{CANCELLED, EXPIRED, OUTSIDE_WINDOW, addresses_max};
use crate::{AlreadyEnded, Claim, ClaimAnswer, ClaimRequest, Requeue, StoreError};

pub(super) async fn claim(
    database: &Database,
    batch: &[ClaimRequest],
) -> Result<Vec<ClaimAnswer>, StoreError> {
    let mut answers = vec![None; batch.len()];
    let new: Vec<usize> = (0..batch.len()).filter(|&place| !batch[place].request.recorded).collect();
    if !new.is_empty() {
        let items: Vec<&ClaimRequest> = new.iter().map(|&place| &batch[place]).collect();
        let made = make(database, &items).await?;
        for place in new {
            answers[place] = made.get(&batch[place].request.execute_id).cloned();
        }
    }
    for _ in 0..LOOKS {
        let open: Vec<usize> = (0..batch.len()).filter(|&place| answers[place].is_none()).collect();
        if open.is_empty() {
            break;
        }
        let items: Vec<&ClaimRequest> = open.iter().map(|&place| &batch[place]).collect();
        let rows = known(database, &items).await?;
        for (place, row) in open.into_iter().zip(&rows) {
            answers[place] = answer(row)?;
        }
    }
    answers.into_iter().collect::<Option<_>>().ok_or_else(|| lost_every_race("claim"))
}

/// Makes the rows of those that have none yet, and answers these. (To most that nobody recorded this is all there is to do:
/// it costs a third of looking for a row first.)
async fn make(
    database: &Database,
    batch: &[&ClaimRequest],
) -> Result<HashMap<ExecuteId, ClaimAnswer>, StoreError> {
    let (ids, claims, nodes, leases) = columns!(batch => |claim|
        claim.request.execute_id.as_uuid(), claim.claim_id, claim.node.to_string(), seconds(claim.lease));
    let (tenants, models, versions, queues) = columns!(batch => |claim|
        claim.tenant.as_str(), claim.request.model.as_str(), claim.version.map(|version| version.0),
        claim.request.queue.as_str());
    let (types, inputs, digests) = columns!(batch => |claim|
        &*claim.request.input.content_type, &claim.request.input.bytes[..], &claim.input_digest.as_bytes()[..]);
    let (reply_to, correlation_ids) = addresses(batch);
    let (deadlines, traceparents, attributes, dates) = columns!(batch => |claim|
        claim.request.deadline, claim.request.traceparent.as_deref(), attributes_json(&claim.request.attributes),
        dated_at(claim.request.execute_id));
    let (result_types, results) = results(batch);
    let [age, ahead] = window();
    let rows = database
        .rows(
            &statement!("claim_new"),
            &[
                &ids,
                &claims,
                &nodes,
                &leases,
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
                &attributes,
                &dates,
                &result_types,
                &results,
                &age,
                &ahead,
                &EXPIRED.class.label(),
                &EXPIRED.message,
            ],
        )
        .await?;
    let mut made = HashMap::with_capacity(rows.len());
    let claims: HashMap<_, _> = batch.iter().map(|claim| (claim.request.execute_id, claim)).collect();
    for row in rows.iter().map(Columns) {
        let execute_id = row.execute_id()?;
        let claim =
            claims.get(&execute_id).ok_or_else(|| corrupt("execution", "a claim nobody asked for"))?;
        let answer = match row.parsed("state")? {
            State::Running => ClaimAnswer::Claimed(Claim {
                attempt: 1,
                last_log_id: 0,
                version: claim.version,
                waited: Duration::ZERO,
                retries: 0,
                failures: 0,
                deadline_in: row.get::<Option<f64>>("deadline_in")?.map(Duration::from_secs_f64),
                claimed_at: row.get("claimed_at")?,
            }),
            State::Succeeded => ClaimAnswer::Succeeded {
                attempt: 1,
                reply_addresses: claim.request.reply_address.iter().cloned().collect(),
            },
            State::Expired => {
                ClaimAnswer::Ended(AlreadyEnded { attempt: 0, ending: Ending::Expired(EXPIRED.failure()) })
            }
            other @ (State::Queued
            | State::Delayed
            | State::Failed
            | State::TimedOut
            | State::Cancelled
            | State::Dead) => return Err(corrupt("execution", format!("made as {other}"))),
        };
        made.insert(execute_id, answer);
    }
    Ok(made)
}

/// Claims those whose rows are there.
async fn known(database: &Database, batch: &[&ClaimRequest]) -> Result<Vec<Row>, StoreError> {
    let (ids, claims, nodes, leases) = columns!(batch => |claim|
        claim.request.execute_id.as_uuid(), claim.claim_id, claim.node.to_string(), seconds(claim.lease));
    let (tenants, models, digests) = columns!(batch => |claim|
        claim.tenant.as_str(), claim.request.model.as_str(), &claim.input_digest.as_bytes()[..]);
    let (reply_to, correlation_ids) = addresses(batch);
    let (recorded, repeats, dates) = columns!(batch => |claim|
        claim.request.recorded, claim.redelivered || claim.request.recorded, dated_at(claim.request.execute_id));
    let versions: Vec<_> = batch.iter().map(|claim| claim.version.map(|version| version.0)).collect();
    let (result_types, results) = results(batch);
    let [age, ahead] = window();
    database
        .rows(
            &statement!("claim"),
            &[
                &ids,
                &claims,
                &nodes,
                &leases,
                &tenants,
                &digests,
                &reply_to,
                &correlation_ids,
                &recorded,
                &repeats,
                &dates,
                &versions,
                &result_types,
                &results,
                &age,
                &ahead,
                &addresses_max(),
                &EXPIRED.class.label(),
                &EXPIRED.message,
                &CANCELLED.class.label(),
                &CANCELLED.message,
                &models,
            ],
        )
        .await
}

/// Where the replies go, as two arrays.
fn addresses<'a>(batch: &[&'a ClaimRequest]) -> (Vec<Option<&'a str>>, Vec<Option<&'a str>>) {
    let addresses = batch.iter().map(|claim| claim.request.reply_address.as_ref());
    addresses
        .map(|address| (address.map(|a| a.reply_to.as_str()), address.map(|a| a.correlation_id.as_str())))
        .unzip()
}

/// What they came to, as two arrays.
fn results<'a>(batch: &[&'a ClaimRequest]) -> (Vec<Option<&'a str>>, Vec<Option<&'a [u8]>>) {
    let results = batch.iter().map(|claim| claim.result.as_ref());
    results.map(|result| (result.map(|r| &*r.content_type), result.map(|r| &r.bytes[..]))).unzip()
}

/// When an id says that it was made. (Every id that is a time at all fits; any other is outside the window.)
fn dated_at(execute_id: ExecuteId) -> Timestamp {
    i64::try_from(execute_id.unix_ms())
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default()
}

/// What the verdict says; `None` if the row has just gone.
fn answer(row: &Row) -> Result<Option<ClaimAnswer>, StoreError> {
    let row = Columns(row);
    let Some(verdict) = row.get::<Option<&str>>("verdict")? else { return Ok(None) };
    Ok(Some(match verdict {
        "claimed" => ClaimAnswer::Claimed(Claim {
            attempt: row.get("attempt")?,
            last_log_id: row.get("last_log_id")?,
            version: row.version()?,
            waited: Duration::from_secs_f64(row.get("waited")?),
            retries: row.get("retries")?,
            failures: row.get("failures")?,
            deadline_in: row.get::<Option<f64>>("deadline_in")?.map(Duration::from_secs_f64),
            claimed_at: row.get("claimed_at")?,
        }),
        "succeeded" => {
            ClaimAnswer::Succeeded { attempt: row.get("attempt")?, reply_addresses: row.reply_addresses()? }
        }
        "ended" => {
            let ending = row.ending()?.ok_or_else(|| corrupt("execution", "ended without an ending"))?;
            ClaimAnswer::Ended(AlreadyEnded { attempt: row.get("attempt")?, ending })
        }
        "not_now" => ClaimAnswer::NotNow,
        "unrecorded" => ClaimAnswer::Unrecorded,
        "id_reused" => ClaimAnswer::IdReused,
        "outside_window" => ClaimAnswer::OutsideWindow,
        other => return Err(corrupt("execution", format!("a claim whose verdict is {other:?}"))),
    }))
}

pub(super) async fn requeue(
    database: &Database,
    batch: &[Requeue],
    delay: Duration,
) -> Result<(), StoreError> {
    let (ids, tenants, models, versions) = columns!(batch => |back|
        back.request.execute_id.as_uuid(), back.tenant.as_str(), back.request.model.as_str(),
        back.version.map(|version| version.0));
    let (queues, types, inputs, digests) = columns!(batch => |back|
        back.request.queue.as_str(), &*back.request.input.content_type, &back.request.input.bytes[..],
        &back.input_digest.as_bytes()[..]);
    let (reply_to, correlation_ids) = columns!(batch => |back|
        back.request.reply_address.as_ref().map(|address| address.reply_to.as_str()),
        back.request.reply_address.as_ref().map(|address| address.correlation_id.as_str()));
    let (deadlines, traceparents, recorded) = columns!(batch => |back|
        back.request.deadline, back.request.traceparent.as_deref(), back.request.recorded);
    let attributes: Vec<_> = batch.iter().map(|back| attributes_json(&back.request.attributes)).collect();
    let [age, ahead] = window();
    for _ in 0..LOOKS {
        let rows = database
            .rows(
                &statement!("requeue"),
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
                    &recorded,
                    &age,
                    &ahead,
                    &addresses_max(),
                    &delay_seconds(delay),
                    &OUTSIDE_WINDOW.class.label(),
                    &OUTSIDE_WINDOW.message,
                    &attributes,
                ],
            )
            .await?;
        if rows.is_empty() {
            return Ok(());
        }
    }
    Err(lost_every_race("requeue"))
}
