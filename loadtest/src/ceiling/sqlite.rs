use std::time::Instant;

use hdrhistogram::Histogram;
use rusqlite::{Connection, params};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::Shape;
use crate::pace::{LATENCY_US_MAX, Pace};

/// Transactions of one small row, each on the disk before the next, as the embedded record's are.
pub async fn transactions(shape: Shape) -> anyhow::Result<Pace> {
    spawn_blocking(move || commit(shape)).await?
}

fn commit(shape: Shape) -> anyhow::Result<Pace> {
    let dir = tempfile::tempdir()?;
    let connection = Connection::open(dir.path().join("ceiling.db"))?;
    connection.execute_batch(
        "pragma journal_mode = wal; pragma synchronous = full;
         create table execution (execute_id blob primary key, input blob not null) without rowid;",
    )?;
    let mut insert = connection.prepare("insert into execution values (?1, ?2)")?;
    let input = vec![b'x'; shape.payload];
    let mut times = Histogram::<u64>::new_with_bounds(1, LATENCY_US_MAX, 3)?;
    let began = Instant::now();
    while began.elapsed() < shape.time {
        let sent = Instant::now();
        insert.execute(params![Uuid::now_v7().as_bytes().as_slice(), input])?;
        times.saturating_record(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(Pace {
        per_s: times.len() as f64 / began.elapsed().as_secs_f64(),
        p50_us: times.value_at_quantile(0.5),
        p99_us: times.value_at_quantile(0.99),
        own_cpu_us: None,
    })
}
