//! What this machine does at most at this moment, without Gantry: the bare drivers, with as many calls in flight and the same
//! payload. A throughput means little by itself on a machine that is shared; its share of this does.
//!
//! This is why the load tests alone may name the drivers that are otherwise fenced in (`shared/testkit/tests/it/fences.rs`).

pub mod amqp;
mod http;
mod postgres;
mod sqlite;

use std::fmt::Write;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cli::Servers;
use crate::pace::Pace;

/// How each part is measured.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Calls in flight.
    pub concurrency: u32,
    /// Bytes of an input.
    pub payload: usize,
    /// For how long each part is measured.
    pub time: Duration,
}

/// What was measured. A part whose server is not there is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// A message to a worker and its answer back: persistent, confirmed, quorum queue, acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amqp: Option<Pace>,
    /// A request to a server that echoes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Pace>,
    /// Rows of executions by COPY, 1,000 per transaction; a latency is that of a transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_copy: Option<Pace>,
    /// The same rows inserted one by one over 8 connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_insert: Option<Pace>,
    /// Durable transactions of one row on SQLite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlite: Option<Pace>,
}

/// Measures what the named servers and this machine do at most, one part after another.
///
/// # Errors
/// A server that is named is not there.
pub async fn measure(servers: &Servers, shape: Shape) -> anyhow::Result<Ceiling> {
    let http = http::echoes(shape).await.context("measure raw HTTP")?;
    let mut ceiling = Ceiling { http: Some(http), ..Ceiling::default() };
    if let Some(url) = &servers.amqp_url {
        ceiling.amqp = Some(amqp::round_trips(url, shape).await.context("measure raw AMQP")?);
    }
    match &servers.postgres_url {
        Some(url) => {
            let (copy, insert) = postgres::rows(url, shape).await.context("measure raw PostgreSQL")?;
            ceiling.postgres_copy = Some(copy);
            ceiling.postgres_insert = Some(insert);
        }
        None => ceiling.sqlite = Some(sqlite::transactions(shape).await.context("measure raw SQLite")?),
    }
    Ok(ceiling)
}

/// A part's name and pace.
type Part = (&'static str, Option<Pace>);

impl Ceiling {
    /// Its parts, the one that counts first: what the platform stands on.
    pub fn parts(&self) -> [Part; 5] {
        [
            ("raw AMQP round trips", self.amqp),
            ("raw HTTP round trips", self.http),
            ("raw PostgreSQL rows by COPY", self.postgres_copy),
            ("raw PostgreSQL inserts", self.postgres_insert),
            ("raw SQLite transactions", self.sqlite),
        ]
    }

    /// The part that a throughput is first compared with.
    pub fn first(&self) -> Option<(&'static str, Pace)> {
        let [amqp, http, .., sqlite] = self.parts();
        [amqp, sqlite, http].into_iter().find_map(|(name, pace)| Some((name, pace?)))
    }

    /// Between one measured before a load and one measured after it.
    pub fn between(self, after: Self) -> Self {
        let both = |one: Option<Pace>, two: Option<Pace>| match (one, two) {
            (Some(one), Some(two)) => Some(one.between(two)),
            (one, two) => one.or(two),
        };
        Self {
            amqp: both(self.amqp, after.amqp),
            http: both(self.http, after.http),
            postgres_copy: both(self.postgres_copy, after.postgres_copy),
            postgres_insert: both(self.postgres_insert, after.postgres_insert),
            sqlite: both(self.sqlite, after.sqlite),
        }
    }

    /// For people, with the share that `throughput` is of each.
    pub fn text(&self, throughput: Option<f64>) -> String {
        let mut text = String::new();
        for (name, pace) in self.parts() {
            let Some(Pace { per_s, p50_us, p99_us, own_cpu_us }) = pace else { continue };
            let (p50, p99) = (p50_us as f64 / 1e3, p99_us as f64 / 1e3);
            let _infallible = write!(text, "  {name:<28}{per_s:>9.0}/s   p50 {p50:>7.2}   p99 {p99:>7.2} ms");
            if let Some(us) = own_cpu_us {
                let _infallible = write!(text, "   own CPU {us:>5.1} µs");
            }
            if let Some(throughput) = throughput {
                let _infallible = write!(text, "   ours is {:.1} % of it", 100.0 * throughput / per_s);
            }
            text.push('\n');
        }
        text
    }
}
