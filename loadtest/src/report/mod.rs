//! What is written of a run: the figures as data (JSON), for a terminal, as Markdown and as a page of HTML.

mod chart;
mod compare;
mod html;
mod markdown;
mod page;
mod text;

pub use compare::compare;

use std::fs;
use std::path::Path;

use anyhow::Context;
use hdrhistogram::Histogram;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::accounting::Accounting;
use crate::ceiling::Ceiling;
use crate::cli::Output;
use crate::curve::Curve;
use crate::peers::Comparison;
use crate::slo::{Figure, Slo, Verdict};
use crate::stages::Stage;

/// The quantiles that are kept for the chart of latencies.
const QUANTILES: [f64; 13] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0];

/// Everything a command of the load test found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its title.
    pub title: String,
    /// When it was written.
    pub at: Timestamp,
    /// The command line, without what holds passwords.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// The loads, in the order they were offered.
    pub runs: Vec<Run>,
    /// The load that was measured as capacity, and the shares of it that were offered then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve: Option<Curve>,
    /// Other systems, if they were measured beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Comparison>,
}

/// What the load test and what it measured ran on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Cores this process may use.
    pub cores: usize,
    /// The processor's name.
    pub processor: String,
    /// The kernel.
    pub kernel: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// One load and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its name.
    pub name: String,
    /// How often calls were made.
    pub load: String,
    /// Calls per second that were to be made, in an open loop of even rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_per_s: Option<f64>,
    /// All calls.
    pub figures: Figures,
    /// By kind, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<(String, Figures)>,
    /// What went wrong, and how often.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub complaints: Vec<(String, u64)>,
    /// Where the time went.
    pub stages: Vec<Stage>,
    /// By second.
    pub seconds: Vec<Second>,
    /// What this machine did at most before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Ceiling>,
    /// The throughput as a share of the ceiling's first part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// What it cost.
    pub accounting: Accounting,
    /// What had to hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slos: Vec<Verdict>,
}

/// What became of calls.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Made.
    pub offered: u64,
    /// Given an id.
    pub accepted: u64,
    /// Answered with their result.
    pub succeeded: u64,
    /// Ended otherwise.
    pub failed: u64,
    /// Refused for good.
    pub refused: u64,
    /// Turned away because there was too much, and not sent again.
    pub shed: u64,
    /// Requests sent again.
    pub retried: u64,
    /// Accepted and never ended.
    pub lost: u64,
    /// With more than one id or end.
    pub doubled: u64,
    /// Nobody knows whether they were accepted.
    pub unresolved: u64,
    /// Answered with what is not in the record, or not theirs.
    pub wrong: u64,
    /// Without their lines once and in order.
    pub bad_logs: u64,
    /// That took more than one attempt.
    pub rescued: u64,
    /// Looked up in the record.
    pub looked_at: u64,
    /// Successes per second within the measured time.
    pub throughput_per_s: f64,
    /// Successes per second among the calls due in the measured time that took no longer than a second.
    pub goodput_per_s: f64,
    /// Latencies of the successes that were due in the measured time.
    #[serde(rename = "latency_us")]
    pub latency: Latency,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: u64,
    /// 90 % were faster.
    pub p90: u64,
    /// 99 % were faster.
    pub p99: u64,
    /// 99.9 % were faster.
    pub p99_9: u64,
    /// The longest.
    pub max: u64,
    /// Of how many calls.
    pub calls: u64,
    /// More quantiles, rising.
    pub quantiles: Vec<(f64, u64)>,
}

/// One second of the measured time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// Its number, from 0.
    pub second: u64,
    /// Calls that succeeded in it.
    pub succeeded: u64,
    /// Calls that ended otherwise in it.
    pub unsuccessful: u64,
    /// The median latency of both.
    pub p50_us: u64,
    /// Their 99th percentile.
    pub p99_us: u64,
}

impl Report {
    /// A report of `runs` as of now.
    pub fn new(title: &str, runs: Vec<Run>) -> Self {
        let command = command(std::env::args());
        Self {
            title: title.to_owned(),
            at: Timestamp::now(),
            command,
            machine: Machine::this(),
            runs,
            curve: None,
            peers: None,
        }
    }

    /// Was every promise kept, and does every SLO hold?
    pub fn is_good(&self) -> bool {
        self.runs.iter().all(|run| run.figures.is_clean() && run.slos.iter().all(|slo| slo.holds))
    }

    /// Writes it wherever `output` says.
    ///
    /// # Errors
    /// A file cannot be written, or the flame graph not be read.
    pub fn write(&self, output: &Output) -> anyhow::Result<()> {
        if let Some(file) = &output.json {
            write(file, &format!("{}\n", serde_json::to_string_pretty(self)?))?;
        }
        if let Some(file) = &output.markdown {
            write(file, &self.markdown())?;
        }
        if let Some(file) = &output.html {
            let flame = output
                .flame
                .as_ref()
                .map(|svg| fs::read_to_string(svg).with_context(|| format!("read {}", svg.display())));
            write(file, &self.html(flame.transpose()?.as_deref()))?;
        }
        Ok(())
    }

    /// Reads one that was written as JSON.
    ///
    /// # Errors
    /// There is none in `file`.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no report of a load test", file.display()))
    }
}

/// Writes `text` to `file`; `-` is standard output.
///
/// # Errors
/// It cannot be written.
pub fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    if file.as_os_str() == "-" {
        print!("{text}");
        return Ok(());
    }
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

impl Run {
    /// Judges the SLOs by what was measured.
    pub fn judge(&mut self, slos: &[Slo]) {
        self.slos = slos.iter().map(|slo| slo.judge(self.figure(slo.figure))).collect();
    }

    fn figure(&self, figure: Figure) -> Option<f64> {
        let Figures { latency, offered, failed, refused, shed, unresolved, .. } = &self.figures;
        let ms = |us: u64| (latency.calls > 0).then_some(us as f64 / 1e3);
        match figure {
            Figure::P50 => ms(latency.p50),
            Figure::P90 => ms(latency.p90),
            Figure::P99 => ms(latency.p99),
            Figure::P999 => ms(latency.p99_9),
            Figure::Max => ms(latency.max),
            Figure::Throughput => Some(self.figures.throughput_per_s),
            Figure::Share => self.share,
            Figure::Errors => {
                (*offered > 0).then(|| (failed + refused + shed + unresolved) as f64 / *offered as f64)
            }
            Figure::Cpu => {
                (self.accounting.processes.len() > 1).then(|| self.accounting.cpu_us_per_execution())
            }
        }
    }
}

impl Figures {
    /// Was every promise kept?
    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.unresolved + self.wrong + self.bad_logs == 0
    }

    /// The sum of what was counted while calls were made.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            offered: self.offered + other.offered,
            accepted: self.accepted + other.accepted,
            succeeded: self.succeeded + other.succeeded,
            failed: self.failed + other.failed,
            refused: self.refused + other.refused,
            shed: self.shed + other.shed,
            retried: self.retried + other.retried,
            unresolved: self.unresolved + other.unresolved,
            wrong: self.wrong + other.wrong,
            ..self.clone()
        }
    }
}

impl Latency {
    /// The quantiles of `histogram`, which holds microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let quantile = |q| histogram.value_at_quantile(q);
        Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: histogram.max(),
            calls: histogram.len(),
            quantiles: QUANTILES.iter().map(|q| (*q, quantile(*q))).collect(),
        }
    }
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let line = |file: &str, name: &str| {
            let text = fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = line("/proc/meminfo", "MemTotal");
        let kib = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            cores,
            processor: line("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            memory_bytes: kib.unwrap_or(0) * 1_024,
        }
    }
}

/// A command line without what holds passwords.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut words = Vec::new();
    let mut is_secret = false;
    for argument in arguments {
        let hides = ["--amqp-url", "--postgres-url"].iter().any(|name| argument.starts_with(name));
        words.push(match argument.split_once('=') {
            _ if is_secret => "...".to_owned(),
            Some((name, _)) if hides => format!("{name}=..."),
            _ if words.is_empty() => "loadtest".to_owned(),
            _ => argument.clone(),
        });
        is_secret = hides && !argument.contains('=');
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_no_password() {
        let given = [
            "/x/loadtest",
            "http",
            "--amqp-url",
            "amqp://u:p@h",
            "--postgres-url=postgres://u:p@h",
            "--rate",
            "5",
        ];
        let said = command(given.into_iter().map(str::to_owned));
        assert_eq!(said, "loadtest http --amqp-url ... --postgres-url=... --rate 5");
    }
}
