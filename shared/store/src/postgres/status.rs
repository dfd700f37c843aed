//! How the log lies on the disk.

use jiff::civil::Date;
use serde_json::Value;
use tokio_postgres::Error;
use uuid::Uuid;

use super::alone::Alone;
use super::client::statement;
use super::config::{PLANS, PostgresConfig};
use super::fail;
use super::log_day::partition;
use super::row::Columns;
use crate::{LogStatus, ReadCost, StoreError};

/// How many lines are looked at to say how well they are ordered.
const SAMPLE_LINES: f64 = 50_000.0;
/// How many lines a read asks for.
const READ_LINES: i64 = 100;
/// What a page has for rows and the pointers to them.
const PAGE_BYTES: f64 = 8_168.0;
/// A row's pointer.
const POINTER_BYTES: f64 = 4.0;
/// How many entries (8 bytes, the key of 24, and the pointer) a page of the index holds at most.
const INDEX_ENTRIES: f64 = 226.0;

/// How each partition of the log lies on the disk, by day; `reads` executions of each are read for that.
///
/// # Errors
/// [`StoreError`] if the database cannot be reached, or its schema is another one.
pub async fn log_status(config: &PostgresConfig, reads: u32) -> Result<Vec<LogStatus>, StoreError> {
    let settings = format!("-c statement_timeout=60s -c lock_timeout=5s {PLANS}");
    let alone = Alone::connect(config, &settings).await?;
    let failed = |error| fail::statement("log_status", error);
    let prepare = format!("prepare list_log as {}", statement!("list_log").sql);
    alone.client.batch_execute(&prepare).await.map_err(failed)?;
    let rows = alone.client.query(statement!("log_status").sql, &[]).await.map_err(failed)?;
    let mut all = Vec::with_capacity(rows.len());
    for row in rows.iter().map(Columns) {
        let day: Date = row.get("day")?;
        let counted: Option<i64> = row.get("lines")?;
        let estimate: f64 = row.get("estimate")?;
        let (lines, is_estimate) = match counted {
            Some(lines) => (lines.unsigned_abs(), false),
            None if estimate >= 0.0 => (estimate as u64, true),
            None => (count(&alone, day).await.map_err(failed)?, false),
        };
        let sample = sample(&alone, day, lines, reads).await.map_err(failed)?;
        all.push(LogStatus {
            day: Some(day),
            sealed_at: row.get("sealed_at")?,
            lines,
            is_estimate,
            bytes: row.get::<i64>("bytes")?.unsigned_abs(),
            correlation: sample.0,
            reads: sample.1,
        });
    }
    Ok(all)
}

async fn count(alone: &Alone, day: Date) -> Result<u64, Error> {
    let sql = format!("select count(*) from {}", partition(day));
    Ok(alone.client.query_one(&sql, &[]).await?.get::<_, i64>(0).unsigned_abs())
}

/// The correlation of a sample of lines, and what a sample of reads cost.
async fn sample(
    alone: &Alone,
    day: Date,
    lines: u64,
    reads: u32,
) -> Result<(Option<f64>, Option<ReadCost>), Error> {
    // Whole pages are taken: at least some, however few there are.
    let percent = (100.0 * SAMPLE_LINES / lines.max(1) as f64).min(100.0);
    let partition = partition(day);
    let sql = format!(
        "with sample as (
            select ctid as place, execute_id, log_id from {partition} tablesample system ({percent})
        ),
        ranked as (
            select execute_id, row_number() over (order by place)::float8 as on_disk,
                row_number() over (order by execute_id, log_id)::float8 as by_key
            from sample
        )
        select corr(on_disk, by_key),
            array(select execute_id from (select distinct execute_id from ranked) r order by random() limit {reads})
        from ranked"
    );
    let row = alone.client.query_one(&sql, &[]).await?;
    let (correlation, ids): (Option<f64>, Vec<Uuid>) = (row.get(0), row.get(1));
    if ids.is_empty() {
        return Ok((correlation, None));
    }
    let sql = format!(
        "select avg((pg_column_size(l) + 7) / 8 * 8)::float8
        from (select * from {partition} tablesample system ({percent}) limit 1000) l"
    );
    let row_bytes: Option<f64> = alone.client.query_one(&sql, &[]).await?.get(0);
    let levels = ((lines.max(2) as f64).ln() / INDEX_ENTRIES.ln()).ceil();
    let mut cost = ReadCost { reads: 0, lines: 0.0, pages: 0.0, pages_min: 0.0 };
    for id in ids {
        let (read, pages) = explain(alone, id).await?;
        let heap = (read * (row_bytes.unwrap_or(0.0) + POINTER_BYTES) / PAGE_BYTES).ceil();
        cost.reads += 1;
        cost.lines += read;
        cost.pages += pages;
        cost.pages_min += levels + heap;
    }
    let number = f64::from(cost.reads);
    (cost.lines, cost.pages, cost.pages_min) =
        (cost.lines / number, cost.pages / number, cost.pages_min / number);
    Ok((correlation, Some(cost)))
}

/// How many lines a read of an execution's log brings, and how many pages it touches.
async fn explain(alone: &Alone, id: Uuid) -> Result<(f64, f64), Error> {
    let sql = format!(
        "explain (analyze, buffers, timing off, format json) execute list_log ('{id}', 0, {}, {READ_LINES})",
        i64::MAX
    );
    let plans: Value = alone.client.query_one(&sql, &[]).await?.get(0);
    let plan = &plans[0]["Plan"];
    let number = |key: &str| plan[key].as_f64().unwrap_or(0.0);
    Ok((number("Actual Rows"), number("Shared Hit Blocks") + number("Shared Read Blocks")))
}
