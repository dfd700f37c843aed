//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use domain::{ModelName, QueueName};

use crate::curve::MeasureCurve;
use crate::follow::Follow;
use crate::handover::Handover;
use crate::load::{Load, Pattern};
use crate::locks::Locks;
use crate::logs::Logs;
use crate::peers::Peers;
use crate::slo::Slo;
use crate::waiters::Waiters;

/// Offers load to Gantry, says what became of every call, and measures in the same run what this machine does at most.
///
/// With --rate or --ramp the calls start by the clock, whatever became of those before (an open loop): latency counts from the
/// moment a call was due, so a stall shows in every call it delayed. With --concurrency each caller waits for its answer before
/// the next call (a closed loop). What is refused or breaks off is sent again under the same key or id until it is resolved, so
/// servers may be restarted meanwhile. Afterwards the record is asked over HTTP what became of the calls: `lost` are those
/// that were accepted and never ended, `doubled` those that have more than one id or ended more than once.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, arg_required_else_help = true)]
#[command(after_help = "\
  eval \"$(compose/local env)\"                      # the servers of `make up`; without it: a `gantry dev`
  loadtest http --model echo --concurrency 64 --duration 10
  loadtest http --http2 --model echo --concurrency 256 --duration 10
  loadtest http --model counter --ramp 100..3000 --duration 60 --lines 20 --html report.html
  loadtest amqp --model echo --rate 200 --duration 30 --json amqp.json --slo 'p99<50ms'
  loadtest run loadtest/scenarios/mix.toml
  loadtest ceiling --concurrency 256
  loadtest curve --percent 10,50,80,120 --html curve.html
  loadtest compare before.json after.json
  loadtest peers --concurrency 64,256 --duration 10
  loadtest locks --keys 5 --workers 4 --executions 2000
  loadtest handover --contenders 2,16,64
  loadtest logs write --executions 100
  loadtest follow --executions 100 --readers 1000
  loadtest waiters --callers 10000

`locks`, `handover` and `logs` use the servers of `compose/test --up DIR`.

The exit code is 1 if a call was lost, doubled, unresolved or answered wrongly, or if an --slo does not hold.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Call over HTTP
    Http(Calls),
    /// Publish straight to RabbitMQ and wait for the replies
    Amqp(Calls),
    /// Make the calls that a scenario file describes
    Run(RunScenario),
    /// Measure what this machine does at most without Gantry: bare drivers, same payload and concurrency
    Ceiling(MeasureCeiling),
    Curve(MeasureCurve),
    /// Compare two reports that were written as JSON
    Compare(Compare),
    Peers(Peers),
    Locks(Locks),
    Handover(Handover),
    Logs(Logs),
    Follow(Follow),
    Waiters(Waiters),
}

/// `loadtest http` and `loadtest amqp`.
#[derive(Debug, Clone, Args)]
pub struct Calls {
    /// The model
    #[arg(long)]
    pub model: ModelName,
    /// The model's queue, for `amqp`
    #[arg(long, default_value = "default")]
    pub queue: QueueName,
    /// Speak HTTP/2, 100 calls at once on each connection, for `http`
    #[arg(long)]
    pub http2: bool,
    /// Submit without waiting, then ask for the end, for `http`
    #[arg(long = "async", conflicts_with = "sse")]
    pub is_async: bool,
    /// Submit without waiting, then follow the log to its end, for `http`
    #[arg(long)]
    pub sse: bool,
    /// How many calls are made at once whenever one is due
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub batch: u32,
    /// The input, or @FILE [default: {"n": N} with the call's number]
    #[arg(long)]
    pub input: Option<String>,
    /// Each execution must have logged the lines 1 to N, once and in order
    #[arg(long, value_name = "N")]
    pub lines: Option<u32>,
    /// How often and for how long
    #[command(flatten)]
    pub pace: Paced,
    /// Against what
    #[command(flatten)]
    pub servers: Servers,
    /// What is written
    #[command(flatten)]
    pub output: Output,
}

/// How often calls are made and for how long.
#[derive(Debug, Clone, Args)]
pub struct Paced {
    /// Calls per second (open loop)
    #[arg(long, required_unless_present_any = ["concurrency", "ramp"], conflicts_with_all = ["concurrency", "ramp"])]
    #[arg(value_parser = rate)]
    pub rate: Option<f64>,
    /// Callers, each with one call at a time (closed loop)
    #[arg(long, conflicts_with = "ramp", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: Option<u32>,
    /// Calls per second that grow evenly from the first to the second number (open loop)
    #[arg(long, value_name = "FROM..TO", value_parser = crate::load::ramp)]
    pub ramp: Option<Pattern>,
    /// For how long calls are made, in seconds
    #[arg(long, value_parser = seconds)]
    pub duration: Duration,
    /// Calls made before, which do not count for latency and throughput, in seconds
    #[arg(long, value_parser = seconds, default_value = "1")]
    pub warmup: Duration,
    /// How long what is open may take after the last call, in seconds
    #[arg(long, value_parser = seconds, default_value = "60")]
    pub grace: Duration,
    /// Send nothing again, and so under no key: what is turned away because there is too much counts as shed
    #[arg(long)]
    pub no_retry: bool,
}

impl Paced {
    /// The load this means.
    pub fn load(&self) -> Load {
        let Self { rate, concurrency, ramp, .. } = self;
        let steady = rate.map(Pattern::Rate).or(*ramp);
        Load {
            pattern: steady.unwrap_or(Pattern::Closed(concurrency.unwrap_or(1))),
            duration: self.duration,
            warmup: self.warmup,
            grace: self.grace,
            retries: !self.no_retry,
        }
    }
}

/// The servers. Those of `make up` are named by `eval "$(compose/local env)"`.
#[derive(Debug, Clone, Args)]
pub struct Servers {
    /// The gateways, separated by commas
    #[arg(long, env = "GANTRY_URL", value_delimiter = ',', default_value = "http://127.0.0.1:7070")]
    pub url: Vec<String>,
    /// The broker; without it no raw AMQP is measured
    #[arg(long, env = "GANTRY_AMQP_URL", hide_env_values = true)]
    pub amqp_url: Option<String>,
    /// What the names of exchanges and queues begin with
    #[arg(long, default_value = "gantry")]
    pub prefix: String,
    /// The record's database; without it neither statements nor WAL are counted
    #[arg(long, env = "GANTRY_POSTGRES_URL", hide_env_values = true)]
    pub postgres_url: Option<String>,
    /// The run directory of `compose/local`, whose processes are accounted for; without it whoever listens at the gateways' URLs
    #[arg(long, env = "GANTRY_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
}

/// What is written at the end, and what must hold.
#[derive(Debug, Clone, Args)]
pub struct Output {
    /// Write the figures to FILE as JSON (- is stdout)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report to FILE as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write the report to FILE as one page of HTML
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// A flame graph (SVG) to show in that page
    #[arg(long, value_name = "SVG")]
    pub flame: Option<PathBuf>,
    /// What must hold, or the exit code is 1: 'p99<50ms', 'throughput>1000', 'share>60%'; may be repeated
    #[arg(long, value_name = "SLO")]
    pub slo: Vec<Slo>,
    /// Do not measure the ceiling before and after the load
    #[arg(long)]
    pub no_ceiling: bool,
    /// How long each part of the ceiling is measured, in seconds
    #[arg(long, value_parser = seconds, default_value = "2", value_name = "SECONDS")]
    pub ceiling_time: Duration,
    /// What the report is called
    #[arg(long, default_value = "Load test")]
    pub title: String,
}

/// `loadtest run`.
#[derive(Debug, Clone, Args)]
pub struct RunScenario {
    /// The scenario (TOML); docs/loadtest.md says what it may hold
    pub scenario: PathBuf,
    /// Against what
    #[command(flatten)]
    pub servers: Servers,
    /// What is written
    #[command(flatten)]
    pub output: Output,
}

/// `loadtest ceiling`.
#[derive(Debug, Clone, Args)]
pub struct MeasureCeiling {
    /// Calls in flight, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    pub concurrency: Vec<u32>,
    /// Bytes of an input
    #[arg(long, default_value_t = 256)]
    pub payload: usize,
    /// How long each part is measured, in seconds
    #[arg(long, value_parser = seconds, default_value = "3")]
    pub duration: Duration,
    /// Write the figures to FILE as JSON (- is stdout)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Against what
    #[command(flatten)]
    pub servers: Servers,
}

/// `loadtest compare`.
#[derive(Debug, Clone, Args)]
pub struct Compare {
    /// The report from before
    pub before: PathBuf,
    /// The report from after
    pub after: PathBuf,
}

/// Reads calls per second.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=100_000.0).contains(rate));
    rate.ok_or_else(|| "calls per second, 0.001 to 100000".to_owned())
}

/// Reads seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "seconds, 0 to 86400".to_owned())
}
