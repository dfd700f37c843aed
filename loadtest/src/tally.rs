//! What became of the calls, counted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use domain::{ExecuteId, State};
use hdrhistogram::Histogram;
use jiff::Timestamp;

use crate::call::{End, Outcome, Steps};
use crate::pace::LATENCY_US_MAX;
use crate::report::{Figures, Latency, Second};
use crate::verify::RecordSays;

/// How many different complaints are kept.
const COMPLAINTS_MAX: usize = 5;
/// A success that takes longer is not counted as good.
const GOOD_US_MAX: u64 = 1_000_000;

/// A call, and when it was due, sent and resolved.
pub struct Ended {
    /// The place of its kind in the scenario.
    pub kind: usize,
    /// When it should have been sent.
    pub due: Instant,
    /// When it was, by the wall clock.
    pub sent_at: Timestamp,
    /// What became of it.
    pub outcome: Outcome,
    /// When it was resolved.
    pub ended: Instant,
    /// The same by the wall clock.
    pub ended_at: Timestamp,
    /// The batch it was made in has no later one.
    pub is_last_of_batch: bool,
}

/// An accepted call.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Its id.
    pub id: ExecuteId,
    /// How it ended, as its caller knows.
    pub told: Option<State>,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// When its caller had the answer.
    pub ended_at: Timestamp,
    /// What the gateway said of its steps.
    pub steps: Steps,
}

/// What became of the calls of one kind.
pub struct Tally {
    latency_us: Histogram<u64>,
    counts: Figures,
    two_ids: u64,
    /// Succeeded within the measured time, for the throughput.
    measured: u64,
    length: Duration,
    /// What went wrong, and how often.
    pub complaints: BTreeMap<String, u64>,
    /// Those that are to be found in the record.
    pub accepted: Vec<Accepted>,
    /// What the record says.
    pub record: RecordSays,
}

impl Tally {
    /// Nothing yet, of a measured time of `length`.
    ///
    /// # Errors
    /// Never with these bounds.
    pub fn new(length: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            latency_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?,
            counts: Figures::default(),
            two_ids: 0,
            measured: 0,
            length,
            complaints: BTreeMap::new(),
            accepted: Vec::new(),
            record: RecordSays::default(),
        })
    }

    /// Adds what became of one call: `latency` if it was due in the measured time, `is_measured` if it ended in it.
    pub fn add(&mut self, ended: Ended, latency: Option<Duration>, is_measured: bool) {
        let outcome = ended.outcome;
        let counts = &mut self.counts;
        counts.offered += 1;
        counts.retried += u64::from(outcome.retried);
        counts.accepted += u64::from(outcome.execute_id.is_some());
        self.two_ids += u64::from(outcome.has_two_ids);
        let (told, complaint) = match outcome.end {
            End::Succeeded => {
                counts.succeeded += 1;
                self.measured += u64::from(is_measured);
                if let Some(latency) = latency {
                    record(&mut self.latency_us, latency);
                }
                (Some(State::Succeeded), None)
            }
            End::Wrong => {
                counts.wrong += 1;
                (Some(State::Succeeded), Some("the result is not its own".to_owned()))
            }
            End::Ended(state) => {
                counts.failed += 1;
                (Some(state), Some(format!("ended as {state}")))
            }
            End::Open => (None, None),
            End::Refused(why) => {
                counts.refused += 1;
                (None, Some(why))
            }
            End::Shed => {
                counts.shed += 1;
                (None, None)
            }
            End::Unresolved(why) => {
                counts.unresolved += 1;
                (None, Some(why))
            }
        };
        if let Some(why) = complaint {
            self.complain(why);
        }
        if let Some(id) = outcome.execute_id {
            let (sent_at, ended_at, steps) = (ended.sent_at, ended.ended_at, outcome.steps);
            self.accepted.push(Accepted { id, told, sent_at, ended_at, steps });
        }
    }

    fn complain(&mut self, why: String) {
        if self.complaints.len() < COMPLAINTS_MAX || self.complaints.contains_key(&why) {
            *self.complaints.entry(why).or_default() += 1;
        }
    }

    /// Takes what another kind's calls became into this.
    ///
    /// # Errors
    /// Never between tallies of one run.
    pub fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        self.latency_us.add(&other.latency_us)?;
        self.counts = self.counts.plus(&other.counts);
        self.two_ids += other.two_ids;
        self.measured += other.measured;
        self.record.merge(&other.record)?;
        for (why, count) in &other.complaints {
            *self.complaints.entry(why.clone()).or_default() += count;
        }
        Ok(())
    }

    /// The figures, with what the record says.
    pub fn figures(&self) -> Figures {
        let RecordSays { looked_at, lost, doubled, different, broken_logs, rescued, .. } = self.record;
        Figures {
            lost,
            doubled: self.two_ids + doubled,
            wrong: self.counts.wrong + different,
            bad_logs: broken_logs,
            rescued,
            looked_at,
            throughput_per_s: self.measured as f64 / self.length.as_secs_f64().max(0.001),
            goodput_per_s: self.latency_us.count_between(0, GOOD_US_MAX) as f64
                / self.length.as_secs_f64().max(0.001),
            latency: Latency::of(&self.latency_us),
            ..self.counts.clone()
        }
    }
}

/// How it went from second to second, by when calls ended.
pub struct Series {
    measured: Range<Instant>,
    whole: Histogram<u64>,
    current: Histogram<u64>,
    current_second: Second,
    seconds: Vec<Second>,
    /// Executions that ended within the measured time.
    executions: u64,
    /// All that succeeded so far.
    pub succeeded: u64,
    /// All that ended otherwise so far.
    pub unsuccessful: u64,
}

impl Series {
    /// Nothing yet.
    ///
    /// # Errors
    /// Never with these bounds.
    pub fn new(measured: Range<Instant>) -> anyhow::Result<Self> {
        Ok(Self {
            measured,
            whole: Histogram::new_with_bounds(1, LATENCY_US_MAX, 2)?,
            current: Histogram::new_with_bounds(1, LATENCY_US_MAX, 2)?,
            current_second: Second::default(),
            seconds: Vec::new(),
            executions: 0,
            succeeded: 0,
            unsuccessful: 0,
        })
    }

    /// Adds a call. Those that ended before the measured time only count for what is seen meanwhile.
    pub fn add(&mut self, ended: &Ended) {
        let is_success = ended.outcome.end == End::Succeeded;
        let (succeeded, unsuccessful) = (u64::from(is_success), u64::from(!is_success));
        self.succeeded += succeeded;
        self.unsuccessful += unsuccessful;
        record(&mut self.whole, ended.ended - ended.due);
        if ended.ended < self.measured.start {
            return;
        }
        self.executions +=
            u64::from(ended.outcome.execute_id.is_some() && self.measured.contains(&ended.ended));
        let second = (ended.ended - self.measured.start).as_secs();
        while self.current_second.second < second {
            self.roll();
        }
        self.current_second.succeeded += succeeded;
        self.current_second.unsuccessful += unsuccessful;
        record(&mut self.current, ended.ended - ended.due);
    }

    fn roll(&mut self) {
        let next = Second { second: self.current_second.second + 1, ..Second::default() };
        let mut full = std::mem::replace(&mut self.current_second, next);
        full.p50_us = self.current.value_at_quantile(0.5);
        full.p99_us = self.current.value_at_quantile(0.99);
        self.current.reset();
        self.seconds.push(full);
    }

    /// How many executions ended within the measured time.
    pub fn executions(&self) -> u64 {
        self.executions
    }

    /// The median and the 99th percentile so far.
    pub fn latencies_ms(&self) -> (f64, f64) {
        let quantile = |q| self.whole.value_at_quantile(q) as f64 / 1e3;
        (quantile(0.5), quantile(0.99))
    }

    /// The whole seconds of the measured time.
    pub fn into_seconds(mut self) -> Vec<Second> {
        let whole = (self.measured.end - self.measured.start).as_secs();
        while self.current_second.second < whole {
            self.roll();
        }
        self.seconds.retain(|second| second.second < whole);
        self.seconds
    }
}

fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    histogram.saturating_record(us.clamp(1, LATENCY_US_MAX));
}
