//! Days of executions that have ended, with their lines.

use std::pin::pin;

use anyhow::Context;
use domain::{Digest, ExecuteId};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

use super::database::{Row, copy};
use super::lines;

/// The model of one in ten of them; the others have others.
pub const MODEL: &str = "model-3";
/// How many lines of an execution come at a time.
const PIECE: u64 = 10;

/// What a day is made of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many executions.
    pub executions: u64,
    /// How many lines each.
    pub lines_each: u64,
    /// How many executions write at once, some lines at a time.
    pub interleaved: usize,
    /// How long a line is.
    pub chars: usize,
}

/// Makes a day, over all of `clients` at once: its executions, in order.
///
/// # Errors
/// The database refuses something.
pub async fn make(
    clients: Vec<Client>,
    day: Date,
    is_today: bool,
    shape: &Shape,
) -> anyhow::Result<Vec<ExecuteId>> {
    let begin = day.to_zoned(TimeZone::UTC)?.timestamp();
    let end = if is_today { Timestamp::now() } else { begin.checked_add(24.hours())? };
    let (begin_ms, end_ms) = (u64::try_from(begin.as_millisecond())?, u64::try_from(end.as_millisecond())?);
    let dated = |n: u64| begin_ms + n * (end_ms - begin_ms) / shape.executions;
    let mut ids: Vec<_> = (0..shape.executions).map(|n| ExecuteId::new(dated(n))).collect();
    ids.sort_unstable();
    let mut tasks = JoinSet::new();
    let table = format!("log_{:04}{:02}{:02}", day.year(), day.month(), day.day());
    let per = ids.len().div_ceil(clients.len());
    for (client, part) in clients.into_iter().zip(ids.chunks(per)) {
        let (part, shape, table) = (part.to_vec(), shape.clone(), table.clone());
        tasks.spawn(async move {
            executions(&client, &part, shape.lines_each).await.context("make executions")?;
            copy(&client, &table, rows(part, &shape)).await.context("make lines")
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(ids)
}

/// The lines of these executions, as those that run at once write them.
fn rows(ids: Vec<ExecuteId>, shape: &Shape) -> impl Iterator<Item = Row> {
    let (each, chars, interleaved) = (shape.lines_each, shape.chars, shape.interleaved.max(1));
    let groups: Vec<Vec<ExecuteId>> = ids.chunks(interleaved).map(<[_]>::to_vec).collect();
    groups.into_iter().flat_map(move |group| {
        (0..each.div_ceil(PIECE)).flat_map(move |piece| {
            let group = group.clone();
            group.into_iter().flat_map(move |id| {
                (piece * PIECE + 1..=((piece + 1) * PIECE).min(each)).map(move |log_id| Row {
                    execute_id: id.as_uuid(),
                    log_id: log_id as i64,
                    at: at(id, log_id),
                    line: lines::text(id.unix_ms(), log_id, chars),
                })
            })
        })
    })
}

fn at(id: ExecuteId, ms_later: u64) -> Timestamp {
    Timestamp::from_millisecond((id.unix_ms() + ms_later) as i64).unwrap_or_default()
}

async fn executions(client: &Client, ids: &[ExecuteId], lines_each: u64) -> anyhow::Result<()> {
    let sql = "copy execution (execute_id, tenant, model, version, queue, state, attempt, last_log_id, accepted_at,
            dispatched_at, claimed_at, finished_at, node, input_digest, input_type, input, result_type, result)
        from stdin (format binary)";
    let (text, time) = (Type::TEXT, Type::TIMESTAMPTZ);
    let types = [
        Type::UUID,
        text.clone(),
        text.clone(),
        Type::INT4,
        text.clone(),
        text.clone(),
        Type::INT4,
        Type::INT8,
        time.clone(),
        time.clone(),
        time.clone(),
        time,
        text.clone(),
        Type::BYTEA,
        text.clone(),
        Type::BYTEA,
        text,
        Type::BYTEA,
    ];
    let digest = Digest::of(b"{}");
    let (tenant, last) = (domain::TenantId::default(), lines_each as i64);
    let mut writer = pin!(BinaryCopyInWriter::new(client.copy_in(sql).await?, &types));
    for (n, id) in ids.iter().enumerate() {
        let model = format!("model-{}", n % 10);
        let (accepted, finished) = (at(*id, 0), at(*id, lines_each + 1));
        writer
            .as_mut()
            .write(&[
                &id.as_uuid(),
                &tenant.as_str(),
                &model.as_str(),
                &1_i32,
                &"default",
                &"succeeded",
                &1_i32,
                &last,
                &accepted,
                &accepted,
                &accepted,
                &finished,
                &"loadtest",
                &&digest.as_bytes()[..],
                &"application/json",
                &&b"{}"[..],
                &"application/json",
                &&b"{}"[..],
            ])
            .await?;
    }
    writer.finish().await?;
    Ok(())
}
