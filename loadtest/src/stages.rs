//! Where the time of a call went.
//!
//! From the gateway's `Server-Timing`, the row's times and its timeline, and the load test's own clock: on one machine all are
//! one clock. The stages `publish` and `queue` go on at the same time; the others follow each other.

use std::time::Duration;

use domain::State;
use hdrhistogram::Histogram;
use jiff::Timestamp;
use protocol::http::Execution;
use serde::{Deserialize, Serialize};

use crate::pace::LATENCY_US_MAX;
use crate::tally::Accepted;

/// How many stages there are.
const COUNT: usize = 8;
const NAMES: [(&str, &str); COUNT] = [
    ("admit", "HTTP there and back, and admission"),
    ("record", "until the row is written, the wait for its batch included"),
    ("publish", "from there until the message is confirmed; goes on beside queue"),
    (
        "queue",
        "from the row's acceptance, or from the call if the claim makes the row, until a worker claims it",
    ),
    ("claim", "from the claim until the model starts; a builtin has run by then"),
    ("run", "the model"),
    ("commit", "from the model's end until the row has it, the way of the claim's answer included"),
    ("reply", "from there until the caller has the answer, the row's commit included"),
];

/// One stage of all calls that were looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// From when until when.
    pub what: String,
    /// Of how many calls it is known.
    pub calls: u64,
    /// The mean.
    pub mean_us: f64,
    /// The median.
    pub p50_us: u64,
    /// What one in a hundred passes.
    pub p99_us: u64,
}

/// The stages of many calls.
#[derive(Debug, Default)]
pub struct Stages {
    histograms: Option<[Histogram<u64>; COUNT]>,
}

impl Stages {
    /// Adds a call whose row is known.
    pub fn add(&mut self, accepted: &Accepted, execution: &Execution) {
        // One that took several attempts says little of where time goes.
        if execution.state != State::Succeeded || execution.attempt != 1 {
            return;
        }
        let new = || Histogram::new_with_bounds(1, LATENCY_US_MAX, 2).ok();
        if self.histograms.is_none() {
            let made: Option<Vec<_>> = (0..COUNT).map(|_| new()).collect();
            self.histograms = made.and_then(|made| made.try_into().ok());
        }
        for (histogram, length) in self.histograms.iter_mut().flatten().zip(lengths(accepted, execution)) {
            if let Some(length) = length {
                let us = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
                histogram.saturating_record(us.max(1));
            }
        }
    }

    /// Takes those of another kind of calls into this.
    ///
    /// # Errors
    /// Never with these bounds.
    pub fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        match (&mut self.histograms, &other.histograms) {
            (Some(own), Some(others)) => {
                for (own, other) in own.iter_mut().zip(others) {
                    own.add(other)?;
                }
            }
            (None, Some(others)) => self.histograms = Some(others.clone()),
            (_, None) => {}
        }
        Ok(())
    }

    /// The stages that are known of any call.
    pub fn report(&self) -> Vec<Stage> {
        let known = NAMES.iter().zip(self.histograms.iter().flatten());
        known
            .filter(|(_, histogram)| !histogram.is_empty())
            .map(|((name, what), histogram)| Stage {
                name: (*name).to_owned(),
                what: (*what).to_owned(),
                calls: histogram.len(),
                mean_us: histogram.mean(),
                p50_us: histogram.value_at_quantile(0.5),
                p99_us: histogram.value_at_quantile(0.99),
            })
            .collect()
    }
}

/// How long each stage took, as far as is known.
fn lengths(accepted: &Accepted, execution: &Execution) -> [Option<Duration>; COUNT] {
    let at =
        |wanted: &str| execution.timeline.iter().find(|event| event.event == wanted).map(|event| event.at);
    let settled = execution.timeline.iter().rev().find(|event| event.event.parse::<State>().is_ok());
    let settled = settled.map(|event| event.at);
    // Such a row is no older than its claim.
    let is_made_by_claim = execution.claimed_at.is_some_and(|claimed| claimed <= execution.accepted_at);
    let queued = if is_made_by_claim { accepted.sent_at } else { execution.accepted_at };
    let (claimed, executing, finished) = (execution.claimed_at, at("executing"), execution.finished_at);
    let steps = accepted.steps;
    let whole = between(Some(accepted.sent_at), Some(accepted.ended_at));
    let admit = match (whole, steps.record, steps.wait) {
        (Some(whole), Some(record), Some(wait)) => whole.checked_sub(record + wait),
        _ => None,
    };
    [
        admit,
        steps.record,
        steps.publish,
        between(Some(queued), claimed),
        between(claimed, executing),
        between(executing, settled),
        // What ran before its claim ends with it.
        executing.and(between(settled, finished)),
        between(finished, Some(accepted.ended_at)),
    ]
}

/// Clocks that differ by a little say zero, not a negative time.
fn between(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<Duration> {
    let span = to?.duration_since(from?);
    Some(Duration::try_from(span).unwrap_or(Duration::ZERO))
}
