use std::cell::RefCell;
use std::pin::pin;

use anyhow::Context;
use bytes::Bytes;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::Shape;
use crate::database::Database;
use crate::pace::{Pace, measure};

/// Rows of a COPY.
const CHUNK: u64 = 1_000;
/// One that an interrupted run left behind is dropped.
const TABLE: &str = "loadtest_ceiling";
/// Connections that insert rows one by one.
const CONNECTIONS: u32 = 8;
const TYPES: [Type; 6] = [Type::UUID, Type::TEXT, Type::INT4, Type::TEXT, Type::BYTEA, Type::BYTEA];

/// Rows like those of executions, by COPY over one connection and by single-row inserts over [`CONNECTIONS`], with an index on
/// the key as there.
pub async fn rows(url: &str, shape: Shape) -> anyhow::Result<(Pace, Pace)> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Database::connect(url).await?);
    }
    let first = connections.first().context("no connection")?;
    first
        .client
        .batch_execute(&format!(
            "drop table if exists {TABLE};
             create table {TABLE} (execute_id uuid primary key, model text not null, version integer not null,
                 state text not null, input bytea not null, result bytea not null,
                 accepted_at timestamptz not null default clock_timestamp())"
        ))
        .await?;
    let measured = both(&connections, shape).await;
    first.client.batch_execute(&format!("drop table {TABLE}")).await?;
    measured
}

async fn both(connections: &[Database], shape: Shape) -> anyhow::Result<(Pace, Pace)> {
    let first = connections.first().context("no connection")?;
    let input = Bytes::from(vec![b'x'; shape.payload]);
    let copy =
        format!("copy {TABLE} (execute_id, model, version, state, input, result) from stdin (format binary)");
    let chunks = measure(1, shape.time, async |_| {
        let mut rows = pin!(BinaryCopyInWriter::new(first.client.copy_in(&copy).await?, &TYPES));
        for _ in 0..CHUNK {
            let row: [&(dyn ToSql + Sync); 6] =
                [&Uuid::now_v7(), &"echo", &1_i32, &"succeeded", &&*input, &&*input];
            rows.as_mut().write(&row).await?;
        }
        rows.finish().await?;
        Ok(())
    })
    .await?;
    let copied = Pace { per_s: chunks.per_s * CHUNK as f64, own_cpu_us: None, ..chunks };

    let insert = format!(
        "insert into {TABLE} (execute_id, model, version, state, input, result) values ($1, $2, $3, $4, $5, $6)"
    );
    let mut idle = Vec::new();
    for database in connections {
        idle.push((database, database.client.prepare_typed(&insert, &TYPES).await?));
    }
    let idle = RefCell::new(idle);
    let inserted = measure(CONNECTIONS, shape.time, async |_| {
        let (database, statement) = idle.borrow_mut().pop().context("no connection is idle")?;
        let done = database
            .client
            .execute(&statement, &[&Uuid::now_v7(), &"echo", &1_i32, &"succeeded", &&*input, &&*input])
            .await;
        idle.borrow_mut().push((database, statement));
        done?;
        Ok(())
    })
    .await?;
    Ok((copied, inserted))
}
