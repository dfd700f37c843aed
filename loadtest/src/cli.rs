use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use domain::{ModelName, QueueName};

use crate::handover::Handover;
use crate::locks::Locks;
use crate::logs::Logs;

/// Calls a model at a given rate or from a given number of callers, and says what became of every call.
///
/// With --rate the calls start by the clock, whatever became of those before (an open loop): latency counts from the moment a
/// call was due, so a stall shows in every call it delayed. With --concurrency each caller waits for its answer before the
/// next call (a closed loop). What is refused or breaks off is sent again under the same key or id until it is resolved, so
/// servers may be restarted meanwhile. Afterwards the record is asked over HTTP what became of the calls: `lost` are those
/// that were accepted and never ended, `doubled` those that have more than one id or ended more than once.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, arg_required_else_help = true)]
#[command(after_help = "\
  loadtest http --model echo --concurrency 64 --duration 10
  loadtest http --model counter --rate 50 --duration 60 --lines 20
  loadtest amqp --model echo --rate 200 --duration 30 --json amqp.json
  loadtest locks --keys 5 --workers 4 --executions 2000
  loadtest handover --contenders 2,16,64
  loadtest logs write --executions 100

`locks`, `handover` and `logs` use the servers of `compose/test --up DIR`.

The exit code is 1 if a call was lost, doubled, unresolved or answered wrongly.")]
pub struct Cli {
    /// Over what.
    #[command(subcommand)]
    pub transport: Transport,
}

/// Over what the calls go.
#[derive(Debug, Subcommand)]
pub enum Transport {
    /// Call over HTTP
    Http(Plan),
    /// Publish straight to RabbitMQ and wait for the replies
    Amqp(Amqp),
    Locks(Locks),
    Handover(Handover),
    Logs(Logs),
}

/// What is called, how often and for how long.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// The model
    #[arg(long)]
    pub model: ModelName,
    /// Calls per second (open loop)
    #[arg(long, required_unless_present = "concurrency", conflicts_with = "concurrency", value_parser = rate)]
    pub rate: Option<f64>,
    /// Callers, each with one call at a time (closed loop)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: Option<u32>,
    /// For how long calls are made, in seconds
    #[arg(long, value_parser = seconds)]
    pub duration: Duration,
    /// Calls made before, which do not count for latency and throughput, in seconds
    #[arg(long, value_parser = seconds, default_value = "1")]
    pub warmup: Duration,
    /// How long what is open may take after the last call, in seconds
    #[arg(long, value_parser = seconds, default_value = "60")]
    pub grace: Duration,
    /// The input, or @FILE [default: {"n": N} with the call's number]
    #[arg(long)]
    pub input: Option<String>,
    /// Each execution must have logged the lines 1 to N, once and in order
    #[arg(long, value_name = "N")]
    pub lines: Option<u32>,
    /// Also write the figures to FILE as JSON (- is stdout)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The gateways, separated by commas
    #[arg(long, env = "GANTRY_URL", value_delimiter = ',', default_value = "http://127.0.0.1:7070")]
    pub url: Vec<String>,
}

/// Options of `loadtest amqp`.
#[derive(Debug, Clone, Args)]
pub struct Amqp {
    /// What is called, how often and for how long.
    #[command(flatten)]
    pub plan: Plan,
    /// The broker
    #[arg(long, env = "GANTRY_AMQP_URL", default_value = "amqp://guest:guest@127.0.0.1:5672/")]
    #[arg(hide_env_values = true)]
    pub amqp_url: String,
    /// What the names of exchanges and queues begin with
    #[arg(long, default_value = "gantry")]
    pub prefix: String,
    /// The model's queue
    #[arg(long, default_value = "default")]
    pub queue: QueueName,
}

pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=100_000.0).contains(rate));
    rate.ok_or_else(|| "calls per second, 0.001 to 100000".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "seconds, 0 to 86400".to_owned())
}
