//! Claiming, and giving deliveries back unclaimed.

use std::time::Duration;

use domain::ExecuteId;
use jiff::Timestamp;
use protocol::Request;
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
    for _ in 0..LOOKS {
        let open: Vec<usize> = (0..batch.len()).filter(|&place| answers[place].is_none()).collect();
        if open.is_empty() {
            break;
        }
        let items: Vec<&ClaimRequest> = open.iter().map(|&place| &batch[place]).collect();
        let rows = once(database, &items).await?;
        for (place, row) in open.into_iter().zip(&rows) {
            answers[place] = answer(row)?;
        }
    }
    answers.into_iter().collect::<Option<_>>().ok_or_else(|| lost_every_race("claim"))
}

/// The input as far as the database needs it: what is recorded is there already.
fn input(request: &Request) -> &[u8] {
    if request.recorded { &[] } else { &request.input.bytes }
}

async fn once(database: &Database, batch: &[&ClaimRequest]) -> Result<Vec<Row>, StoreError> {
    let (ids, claims, nodes, leases) = columns!(batch => |claim|
        claim.request.execute_id.as_uuid(), claim.claim_id, claim.node.to_string(), seconds(claim.lease));
    let (tenants, models, versions, queues) = columns!(batch => |claim|
        claim.tenant.as_str(), claim.request.model.as_str(), claim.version.map(|version| version.0),
        claim.request.queue.as_str());
    let (types, inputs, digests) = columns!(batch => |claim|
        &*claim.request.input.content_type, input(&claim.request), &claim.input_digest.as_bytes()[..]);
    let (reply_to, correlation_ids) = columns!(batch => |claim|
        claim.request.reply_address.as_ref().map(|address| address.reply_to.as_str()),
        claim.request.reply_address.as_ref().map(|address| address.correlation_id.as_str()));
    let (deadlines, traceparents) = columns!(batch => |claim|
        claim.request.deadline, claim.request.traceparent.as_deref());
    let (recorded, repeats, dates) = columns!(batch => |claim|
        claim.request.recorded, claim.redelivered || claim.request.recorded, dated_at(claim.request.execute_id));
    let attributes: Vec<_> = batch.iter().map(|claim| attributes_json(&claim.request.attributes)).collect();
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
                &repeats,
                &age,
                &ahead,
                &addresses_max(),
                &EXPIRED.class.label(),
                &EXPIRED.message,
                &CANCELLED.class.label(),
                &CANCELLED.message,
                &attributes,
                &dates,
            ],
        )
        .await
}

/// When an id says that it was made. (Every id that is a time at all fits; any other is outside the window.)
fn dated_at(execute_id: ExecuteId) -> Timestamp {
    i64::try_from(execute_id.unix_ms())
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default()
}

/// What the verdict says; `None` if another statement made the row just now.
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
