//! The same no-op on other systems, in the same run on the same machine: submitted, and its result awaited, by as many callers.
//!
//! What is measured for each is a program of its own in `loadtest/peers/`, in its documented fast configuration. They use the
//! RabbitMQ and PostgreSQL of `compose/local` or `compose/test --up` (a virtual host and a database of their own) and a private
//! Redis. Then Gantry, and what the bare drivers do.

mod programs;
mod servers;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::call::{Kind, Mode};
use crate::ceiling::{self, Shape};
use crate::cli::{Output, Servers};
use crate::http::Version;
use crate::load::{Load, Pattern};
use crate::pace::Pace;
use crate::report::Report;
use crate::run;
use crate::scenario::Scenario;
use programs::PEERS;
use servers::PeerServers;

/// Measures Celery, Dramatiq, BullMQ and graphile-worker beside Gantry, and what the bare drivers do
#[derive(Debug, Clone, Args)]
pub struct Peers {
    /// Callers, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "64,256")]
    pub concurrency: Vec<u32>,
    /// How long each is measured, in seconds
    #[arg(long, value_parser = crate::cli::seconds, default_value = "10")]
    pub duration: Duration,
    /// What comes before that for each, in seconds
    #[arg(long, value_parser = crate::cli::seconds, default_value = "3")]
    pub warmup: Duration,
    /// Bytes of an input
    #[arg(long, default_value_t = 16)]
    pub payload: usize,
    /// Only these: celery-prefork, celery-solo, dramatiq, bullmq, graphile-worker
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Where they are installed [default: target/peers]
    #[arg(long, value_name = "DIR")]
    pub installed: Option<PathBuf>,
    /// Against what
    #[command(flatten)]
    pub servers: Servers,
    /// What is written
    #[command(flatten)]
    pub output: Output,
}

/// A way to call Gantry.
struct Way {
    name: &'static str,
    setup: &'static str,
    mode: Mode,
    version: Version,
}

const WAYS: [Way; 3] = [
    Way {
        name: "gantry",
        setup: "RabbitMQ quorum queue, confirms, PostgreSQL; over HTTP/1.1, a connection for each caller",
        mode: Mode::Sync,
        version: Version::Http1,
    },
    Way {
        name: "gantry-http2",
        setup: "RabbitMQ quorum queue, confirms, PostgreSQL; over HTTP/2, a connection for 100 callers",
        mode: Mode::Sync,
        version: Version::Http2,
    },
    Way {
        name: "gantry-amqp",
        setup: "RabbitMQ quorum queue, confirms, PostgreSQL; published directly",
        mode: Mode::Amqp,
        version: Version::Http1,
    },
];

/// A system, a number of callers, and how it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// The system.
    pub name: String,
    /// What it stands on, and how it is configured.
    pub setup: String,
    /// Is the execution in a database when its submission is answered, and its result when the caller has it?
    pub has_durable_record: bool,
    /// Callers, each with one call at a time.
    pub concurrency: u32,
    /// How it did; absent if it failed.
    pub pace: Option<Pace>,
}

/// What the peers found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The versions, a line each.
    pub versions: Vec<String>,
    /// In the order they were measured.
    pub rows: Vec<PeerRow>,
}

/// Measures all, prints the table, and says whether Gantry kept its promises. Leaves no process behind, also when interrupted.
///
/// # Errors
/// A server is missing, or the peers cannot be installed.
pub async fn run(args: Peers) -> anyhow::Result<bool> {
    let (mut interrupt, mut end) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Dropping it ends every process.
    tokio::select! {
        done = compare(&args) => done,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = end.recv() => bail!("told to end"),
    }
}

async fn compare(args: &Peers) -> anyhow::Result<bool> {
    let installed = args.installed.clone().unwrap_or_else(|| programs::root().join("target/peers"));
    let versions = install(&installed).await?;
    versions.iter().for_each(|version| println!("  {version}"));
    let mut found = Comparison { versions, rows: Vec::new() };
    let mut runs = Vec::new();
    {
        let servers = PeerServers::start(&args.servers).await?;
        for concurrency in args.concurrency.iter().copied() {
            for peer in PEERS
                .iter()
                .filter(|peer| args.only.is_empty() || args.only.iter().any(|name| name == peer.name))
            {
                let pace = programs::measure(peer, &installed, &servers, args, concurrency).await;
                let pace = pace.inspect_err(|error| eprintln!("loadtest: {}: {error:#}", peer.name)).ok();
                found.add(peer.name, peer.setup, peer.has_durable_record, concurrency, pace);
            }
            for Way { name, setup, mode, version } in WAYS {
                let run = run::one(&gantry(args, concurrency, name, mode, version)?, &args.servers).await?;
                let figures = &run.figures;
                let (p50_us, p99_us) = (figures.latency.p50, figures.latency.p99);
                let pace = Pace { per_s: figures.throughput_per_s, p50_us, p99_us, own_cpu_us: None };
                found.add(name, setup, true, concurrency, Some(pace));
                runs.push(run);
            }
            let shape = Shape { concurrency, payload: args.payload, time: args.output.ceiling_time };
            let raw = ceiling::measure(&args.servers, shape).await?.amqp;
            found.add(
                "raw AMQP",
                "RabbitMQ quorum queue, confirms; the bare driver",
                false,
                concurrency,
                raw,
            );
        }
        servers.stop().await?;
    }
    print!("{}", found.text());
    let mut report = Report::new(&args.output.title, runs);
    report.peers = Some(found);
    report.write(&args.output)?;
    Ok(report.is_good())
}

impl Comparison {
    fn add(
        &mut self,
        name: &str,
        setup: &str,
        has_durable_record: bool,
        concurrency: u32,
        pace: Option<Pace>,
    ) {
        let (name, setup) = (name.to_owned(), setup.to_owned());
        let row = PeerRow { name, setup, has_durable_record, concurrency, pace };
        println!("{}", row.text());
        self.rows.push(row);
    }
}

/// Gantry on the builtin `echo`, with a payload that is JSON of that size.
fn gantry(
    args: &Peers,
    concurrency: u32,
    name: &str,
    mode: Mode,
    version: Version,
) -> anyhow::Result<Scenario> {
    let kind = Kind {
        name: format!("{name} {concurrency}"),
        model: "echo".parse().context("the model's name")?,
        queue: "default".parse().context("the queue's name")?,
        mode,
        weight: 1,
        batch: 1,
        input: Some(format!("\"{}\"", "x".repeat(args.payload.saturating_sub(2))).into()),
        lines: None,
    };
    let load = Load {
        pattern: Pattern::Closed(concurrency),
        duration: args.duration,
        warmup: args.warmup,
        grace: Duration::from_secs(60),
        retries: false,
    };
    Ok(Scenario { name: kind.name.clone(), version, load, kinds: vec![kind], slos: Vec::new() })
}

/// Installs what is missing and gives the versions.
async fn install(dir: &std::path::Path) -> anyhow::Result<Vec<String>> {
    let script = programs::root().join("loadtest/peers/install");
    let mut command = Command::new(&script);
    command.arg(dir).kill_on_drop(true).stderr(std::process::Stdio::inherit());
    let output = command.output().await.with_context(|| format!("run {}", script.display()))?;
    if !output.status.success() {
        bail!("{} failed", script.display());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // What the installation of packages said comes before.
    let lines = text.lines().skip_while(|line| !line.starts_with("python "));
    Ok(lines.map(str::to_owned).collect())
}
