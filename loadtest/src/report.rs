use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use domain::{ExecuteId, State};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::call::{End, Outcome};

/// The longest latency that is told from longer ones.
const LATENCY_US_MAX: u64 = 600_000_000;
/// How many different complaints are kept.
const COMPLAINTS_MAX: usize = 5;

/// What became of all calls.
pub struct Tally {
    latency_us: Histogram<u64>,
    offered: u64,
    accepted: u64,
    succeeded: u64,
    failed: u64,
    wrong: u64,
    refused: u64,
    unresolved: u64,
    retried: u64,
    two_ids: u64,
    /// Succeeded in the measured time, for the throughput.
    measured: u64,
    measured_for: Duration,
    complaints: BTreeMap<String, u64>,
    /// Accepted ids, and whether their callers know that they ended.
    pub ids: Vec<(ExecuteId, Option<State>)>,
    /// What the record says.
    pub record: RecordSays,
}

/// What the record says of the accepted calls.
#[derive(Debug, Default)]
pub struct RecordSays {
    /// How many were looked at.
    pub looked_at: u64,
    /// How many have not ended.
    pub lost: u64,
    /// How many ended more than once.
    pub doubled: u64,
    /// How many ended another way than their callers were told.
    pub different: u64,
    /// How many succeeded without having their lines once and in order.
    pub broken_logs: u64,
    /// How many took more than one attempt.
    pub rescued: u64,
}

impl Tally {
    /// Nothing yet.
    ///
    /// # Errors
    /// Never with these bounds.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            latency_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?,
            offered: 0,
            accepted: 0,
            succeeded: 0,
            failed: 0,
            wrong: 0,
            refused: 0,
            unresolved: 0,
            retried: 0,
            two_ids: 0,
            measured: 0,
            measured_for: Duration::ZERO,
            complaints: BTreeMap::new(),
            ids: Vec::new(),
            record: RecordSays::default(),
        })
    }

    /// Adds what became of one call; `latency` if it was due in the measured time.
    pub fn add(&mut self, outcome: Outcome, latency: Option<Duration>) {
        self.offered += 1;
        self.retried += u64::from(outcome.retried);
        self.two_ids += u64::from(outcome.has_two_ids);
        self.accepted += u64::from(outcome.execute_id.is_some());
        let ended = match &outcome.end {
            End::Succeeded => {
                self.succeeded += 1;
                if let Some(latency) = latency {
                    self.measured += 1;
                    let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                    self.latency_us.saturating_record(us.clamp(1, LATENCY_US_MAX));
                }
                Some(State::Succeeded)
            }
            End::Wrong => {
                self.wrong += 1;
                self.complain("the result is not its own".to_owned());
                Some(State::Succeeded)
            }
            End::Ended(state) => {
                self.failed += 1;
                self.complain(format!("ended as {state}"));
                Some(*state)
            }
            End::Open => None,
            End::Refused(why) => {
                self.refused += 1;
                self.complain(why.clone());
                None
            }
            End::Unresolved(why) => {
                self.unresolved += 1;
                self.complain(why.clone());
                None
            }
        };
        if let Some(id) = outcome.execute_id {
            self.ids.push((id, ended));
        }
    }

    /// Sets for how long calls were measured.
    pub fn measured_for(&mut self, time: Duration) {
        self.measured_for = time;
    }

    fn complain(&mut self, why: String) {
        if self.complaints.len() < COMPLAINTS_MAX || self.complaints.contains_key(&why) {
            *self.complaints.entry(why).or_default() += 1;
        }
    }

    /// How many calls have more than one id or ended more than once.
    fn doubled(&self) -> u64 {
        self.two_ids + self.record.doubled
    }

    /// Was every promise kept?
    pub fn is_clean(&self) -> bool {
        let RecordSays { lost, different, broken_logs, .. } = self.record;
        self.doubled() + lost + different + broken_logs + self.wrong + self.unresolved == 0
    }

    fn per_second(&self) -> f64 {
        self.measured as f64 / self.measured_for.as_secs_f64().max(0.001)
    }

    /// The figures for people.
    pub fn text(&self, lines: Option<u32>) -> String {
        let mut text = String::new();
        let record = &self.record;
        let mut line = |name: &str, value: u64, note: String| {
            let _infallible = writeln!(text, "  {name:<11}{value:>9}  {note}");
        };
        line("offered", self.offered, String::new());
        line("accepted", self.accepted, String::new());
        line("succeeded", self.succeeded, format!("{:.1}/s in the measured time", self.per_second()));
        line("failed", self.failed, String::new());
        if self.refused > 0 {
            line("refused", self.refused, "for good".to_owned());
        }
        line("retried", self.retried, "requests sent again under the same key or id".to_owned());
        line("lost", record.lost, "accepted and never ended".to_owned());
        line("doubled", self.doubled(), "more than one id or end".to_owned());
        if self.unresolved > 0 {
            line("unresolved", self.unresolved, "nobody knows whether they were accepted".to_owned());
        }
        if self.wrong + record.different > 0 {
            line(
                "wrong",
                self.wrong + record.different,
                "answered with what is not in the record".to_owned(),
            );
        }
        if let Some(lines) = lines {
            line("bad logs", record.broken_logs, format!("without the lines 1 to {lines} once and in order"));
        }
        line(
            "rescued",
            record.rescued,
            format!("took more than one attempt; of {} looked at", record.looked_at),
        );
        let quantile = |q| self.latency_us.value_at_quantile(q) as f64 / 1_000.0;
        let _infallible = writeln!(
            text,
            "  latency ms    p50 {:.2}   p90 {:.2}   p99 {:.2}   p99.9 {:.2}   max {:.2}",
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            quantile(0.999),
            self.latency_us.max() as f64 / 1_000.0
        );
        for (why, count) in &self.complaints {
            let _infallible = writeln!(text, "  {count} x {why}");
        }
        text
    }

    /// The figures for programs.
    pub fn json(&self) -> Value {
        let quantile = |q| self.latency_us.value_at_quantile(q);
        json!({
            "offered": self.offered,
            "accepted": self.accepted,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "refused": self.refused,
            "retried": self.retried,
            "lost": self.record.lost,
            "doubled": self.doubled(),
            "unresolved": self.unresolved,
            "wrong": self.wrong + self.record.different,
            "bad_logs": self.record.broken_logs,
            "rescued": self.record.rescued,
            "looked_at": self.record.looked_at,
            "throughput_per_s": self.per_second(),
            "latency_us": {
                "p50": quantile(0.5),
                "p90": quantile(0.9),
                "p99": quantile(0.99),
                "p99_9": quantile(0.999),
                "max": self.latency_us.max(),
            },
        })
    }
}
