//! Scenario files: which calls, how often, and what must hold.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use domain::{ModelName, QueueName};
use serde::{Deserialize, Deserializer};

use crate::call::{Kind, Mode};
use crate::http::Version;
use crate::load::{Load, Pattern};
use crate::slo::Slo;

/// How many calls a kind may be of.
const WEIGHT_MAX: u32 = 1_000;
const BATCH_MAX: u32 = 1_000;

/// What is offered.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What the report calls it.
    pub name: String,
    /// What is spoken to the gateways.
    pub version: Version,
    /// How often and for how long.
    pub load: Load,
    /// The kinds of calls; at least one.
    pub kinds: Vec<Kind>,
    /// What must hold.
    pub slos: Vec<Slo>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    slo: Vec<Parsed<Slo>>,
    #[serde(default)]
    http2: bool,
    load: FileLoad,
    #[serde(rename = "call")]
    calls: Vec<FileCall>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLoad {
    concurrency: Option<u32>,
    rate: Option<f64>,
    ramp: Option<String>,
    duration_s: f64,
    #[serde(default = "one")]
    warmup_s: f64,
    #[serde(default = "minute")]
    grace_s: f64,
    #[serde(default = "yes")]
    retries: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCall {
    name: Option<String>,
    model: Parsed<ModelName>,
    queue: Option<Parsed<QueueName>>,
    mode: Mode,
    #[serde(default = "weight")]
    weight: u32,
    #[serde(default = "weight")]
    batch: u32,
    input: Option<String>,
    input_file: Option<String>,
    lines: Option<u32>,
}

/// Read from a string by its own rules, so that an error names the line.
#[derive(Debug, Clone)]
struct Parsed<T>(T);

impl<'de, T> Deserialize<'de> for Parsed<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl Scenario {
    /// Reads a scenario file; files it names are looked for beside it.
    ///
    /// # Errors
    /// It cannot be read, or says something that means nothing: then the line is named where there is one.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let beside = file.parent().unwrap_or(Path::new("."));
        Self::parse(&text, beside).with_context(|| format!("the scenario {}", file.display()))
    }

    /// Its load, for people.
    pub fn describe(&self) -> String {
        let load = self.load.describe();
        match self.version {
            Version::Http1 => load,
            Version::Http2 => format!("{load}, over HTTP/2"),
        }
    }

    fn parse(text: &str, beside: &Path) -> anyhow::Result<Self> {
        let file: File = toml::from_str(text)?;
        if file.calls.is_empty() {
            bail!("it has no [[call]]");
        }
        let kinds = file.calls.into_iter().map(|call| call.into_kind(beside)).collect::<Result<_, _>>()?;
        let slos = file.slo.into_iter().map(|Parsed(slo)| slo).collect();
        let version = Version::of(file.http2);
        Ok(Self { name: file.name, version, load: file.load.into_load()?, kinds, slos })
    }

    /// The order in which the kinds take turns: each as often as its weight says, spread evenly.
    pub fn turns(&self) -> Vec<usize> {
        let total: i64 = self.kinds.iter().map(|kind| i64::from(kind.weight)).sum();
        let mut due = vec![0_i64; self.kinds.len()];
        (0..total)
            .map(|_| {
                for (due, kind) in due.iter_mut().zip(&self.kinds) {
                    *due += i64::from(kind.weight);
                }
                let next = (0..due.len()).rev().max_by_key(|kind| due.get(*kind)).unwrap_or(0);
                if let Some(due) = due.get_mut(next) {
                    *due -= total;
                }
                next
            })
            .collect()
    }

    /// Bytes of the first kind's input, for a measurement of the ceiling beside it.
    pub fn payload(&self) -> usize {
        const OF_NUMBER: usize = 16;
        self.kinds.first().and_then(|kind| Some(kind.input.as_ref()?.len())).unwrap_or(OF_NUMBER)
    }
}

impl FileLoad {
    fn into_load(self) -> anyhow::Result<Load> {
        let seconds = |name: &str, value: f64| {
            if (0.0..=86_400.0).contains(&value) {
                return Ok(Duration::from_secs_f64(value));
            }
            bail!("load.{name} is 0 to 86400 seconds, not {value}")
        };
        let said = |error: String| anyhow::anyhow!("load: {error}");
        let pattern = match (self.concurrency, self.rate, &self.ramp) {
            (Some(callers @ 1..=10_000), None, None) => Pattern::Closed(callers),
            (None, Some(rate), None) => Pattern::Rate(crate::cli::rate(&rate.to_string()).map_err(said)?),
            (None, None, Some(ramp)) => crate::load::ramp(ramp).map_err(said)?,
            (Some(callers), None, None) => bail!("load.concurrency is 1 to 10000, not {callers}"),
            _ => bail!("load needs exactly one of concurrency, rate and ramp"),
        };
        Ok(Load {
            pattern,
            duration: seconds("duration_s", self.duration_s)?,
            warmup: seconds("warmup_s", self.warmup_s)?,
            grace: seconds("grace_s", self.grace_s)?,
            retries: self.retries,
        })
    }
}

impl FileCall {
    fn into_kind(self, beside: &Path) -> anyhow::Result<Kind> {
        let Parsed(model) = self.model;
        let name = self.name.unwrap_or_else(|| format!("{model} {}", self.mode.label()));
        if !(1..=WEIGHT_MAX).contains(&self.weight) || !(1..=BATCH_MAX).contains(&self.batch) {
            bail!("call {name:?}: weight and batch are 1 to {WEIGHT_MAX}");
        }
        let input = match (self.input, self.input_file) {
            (Some(_), Some(_)) => bail!("call {name:?} has both input and input_file"),
            (Some(text), None) => Some(Bytes::from(text)),
            (None, Some(file)) => {
                let file = beside.join(file);
                let read = fs::read(&file);
                Some(Bytes::from(read.with_context(|| format!("call {name:?}: read {}", file.display()))?))
            }
            (None, None) => None,
        };
        let queue = match self.queue {
            Some(Parsed(queue)) => queue,
            None => "default".parse().context("the default queue's name")?,
        };
        let (mode, weight, batch, lines) = (self.mode, self.weight, self.batch, self.lines);
        Ok(Kind { name, model, queue, mode, weight, batch, input, lines })
    }
}

fn one() -> f64 {
    1.0
}

fn minute() -> f64 {
    60.0
}

fn yes() -> bool {
    true
}

fn weight() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "mix"
slo = ["p99<50ms", "throughput>100"]
http2 = true

[load]
rate = 200
duration_s = 5

[[call]]
model = "echo"
mode = "sync"
weight = 3

[[call]]
name = "direct"
model = "echo"
mode = "amqp"
batch = 10
input = '{"a": 1}'
"#;

    fn error(text: &str) -> String {
        format!("{:#}", Scenario::parse(text, Path::new(".")).unwrap_err())
    }

    #[test]
    fn a_scenario_says_what_is_called_how_often() {
        let scenario = Scenario::parse(GOOD, Path::new(".")).unwrap();
        assert_eq!(scenario.load.pattern, Pattern::Rate(200.0));
        assert_eq!(scenario.load.grace, Duration::from_secs(60));
        assert_eq!((scenario.slos.len(), scenario.version), (2, Version::Http2));
        let [sync, direct] = &scenario.kinds[..] else { panic!("{scenario:?}") };
        assert_eq!((sync.name.as_str(), sync.mode, sync.weight, sync.batch), ("echo sync", Mode::Sync, 3, 1));
        assert_eq!((direct.name.as_str(), direct.mode, direct.batch), ("direct", Mode::Amqp, 10));
        assert_eq!(direct.input.as_deref(), Some(&b"{\"a\": 1}"[..]));
        assert_eq!(scenario.turns(), [0, 0, 1, 0]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (from, to, line, word) in [
            ("weight = 3", "wieght = 3", 13, "wieght"),
            ("mode = \"amqp\"", "mode = \"smtp\"", 18, "smtp"),
            ("p99<50ms", "p99<fast", 3, "fast"),
            ("model = \"echo\"", "model = \"No Model\"", 11, "model"),
            ("duration_s = 5", "duration_s = 'long'", 8, "expected f64"),
        ] {
            let said = error(&GOOD.replacen(from, to, 1));
            assert!(said.contains(&format!("line {line},")) && said.contains(word), "{from} → {to}: {said}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (from, to, word) in [
            ("rate = 200", "rate = 200\nconcurrency = 4", "exactly one"),
            ("rate = 200", "", "exactly one"),
            ("rate = 200", "ramp = \"5\"", "100..3000"),
            ("rate = 200", "concurrency = 0", "1 to 10000"),
            ("weight = 3", "weight = 0", "weight"),
            ("batch = 10", "input_file = \"x\"", "both input"),
            ("input = '{\"a\": 1}'", "input_file = \"nowhere.json\"", "nowhere.json"),
        ] {
            let said = error(&GOOD.replacen(from, to, 1));
            assert!(said.contains(word), "{from} → {to}: {said}");
        }
    }
}
