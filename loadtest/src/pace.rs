//! How fast something goes when it is done over and over by a fixed number of callers.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::accounting::own_cpu;

/// What comes before the measured time.
pub const WARMUP: Duration = Duration::from_millis(500);
/// The longest latency that is told from longer ones.
pub const LATENCY_US_MAX: u64 = 600_000_000;

/// A throughput with its latencies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Done per second.
    pub per_s: f64,
    /// The median latency.
    pub p50_us: u64,
    /// The latency that one in a hundred passes.
    pub p99_us: u64,
    /// CPU time of this process for each, if that says something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_cpu_us: Option<f64>,
}

impl Pace {
    /// Between two measurements of the same thing: the mean rate, the greater latencies.
    pub fn between(self, other: Self) -> Self {
        Self {
            per_s: f64::midpoint(self.per_s, other.per_s),
            p50_us: self.p50_us.midpoint(other.p50_us),
            p99_us: self.p99_us.max(other.p99_us),
            own_cpu_us: self.own_cpu_us.zip(other.own_cpu_us).map(|(one, two)| f64::midpoint(one, two)),
        }
    }
}

/// Calls over and over, `callers` at once in one task, for `limit` after [`WARMUP`]; `call` is given a number of its own.
///
/// # Errors
/// The first that a call reports; the other calls are dropped.
pub async fn measure(
    callers: u32,
    limit: Duration,
    call: impl AsyncFn(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Pace> {
    let began = Instant::now() + WARMUP;
    let end = began + limit;
    let number = RefCell::new(0..);
    let times = RefCell::new(Histogram::<u64>::new_with_bounds(1, LATENCY_US_MAX, 3)?);
    let cpu = RefCell::new(None);
    let caller = async || {
        loop {
            let sent = Instant::now();
            if sent >= end {
                return anyhow::Ok(());
            }
            let next = number.borrow_mut().next().unwrap_or(0);
            call(next).await?;
            if sent >= began {
                cpu.borrow_mut().get_or_insert_with(own_cpu);
                let us = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                times.borrow_mut().saturating_record(us.max(1));
            }
        }
    };
    let mut open: FuturesUnordered<_> = (0..callers.max(1)).map(|_| caller()).collect();
    while let Some(ended) = open.next().await {
        ended?;
    }
    let elapsed = began.elapsed();
    let times = times.borrow();
    let used = cpu.borrow().map(|before| (own_cpu() - before).as_secs_f64());
    Ok(Pace {
        per_s: times.len() as f64 / elapsed.as_secs_f64(),
        p50_us: times.value_at_quantile(0.5),
        p99_us: times.value_at_quantile(0.99),
        own_cpu_us: used.map(|used| used * 1e6 / times.len().max(1) as f64),
    })
}
