//! Do exclusive executions exclude each other while processes die, freeze and are cut off from ZooKeeper?
//!
//! A house of its own is started (`testkit::House`) on the servers that `compose/test --up` names, each worker's link to
//! ZooKeeper through a proxy. Executions of a few lock keys arrive by the clock; every few seconds a random worker is killed
//! and started again, frozen for a while, or cut off by a link that swallows everything and never replays it.
//!
//! What happened is seen from outside (`witness.rs`): each script takes a kernel lock on its key's file and holds a socket to
//! this process, which sees the script's birth, and its death when the last process of its tree is gone. `check.rs` judges
//! that; the record and ZooKeeper are asked for the rest.

mod check;
mod faults;
mod witness;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use coordination::zookeeper::{ZooKeeper, ZooKeeperConfig};
use coordination::{Contended, Coordination, Link};
use domain::{ExecuteId, LockKey, State, TenantId};
use futures::StreamExt;
use serde_json::json;
use testkit::{House, Proxy, Shape};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use crate::call::{Call, Mode, Outcome};
use crate::http::{Gateways, Version};
use check::{Committed, Findings};
use faults::Faults;
use witness::Witness;

/// What each execution runs.
const SCRIPT: &str = include_str!("hold.py");
const MANIFEST: &str = "runtime = \"process\"
command = [\"python3\", \"-S\", \"-E\", \"hold.py\"]
exclusive = \"{input.key}\"
exclusive_wait_timeout_ms = 3600000

[limits]
run_timeout_ms = 600000
grace_ms = 1000
";
/// How long the house may take to stand.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Runs exclusive executions while workers are killed, frozen and cut off from ZooKeeper
#[derive(Debug, Clone, Args)]
pub struct Locks {
    /// The program to test; `gantry` beside this one if not given
    #[arg(long)]
    gantry: Option<PathBuf>,
    /// How many lock keys
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    keys: u32,
    /// How many workers
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=32))]
    workers: u32,
    /// How many executions
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    executions: u32,
    /// Executions that arrive per second
    #[arg(long, default_value_t = 20.0, value_parser = crate::cli::rate)]
    rate: f64,
    /// How long each holds its lock, in milliseconds
    #[arg(long, default_value_t = 50)]
    hold_ms: u64,
    /// A fault this often, in milliseconds; 0 for none
    #[arg(long, default_value_t = 3_000)]
    fault_ms: u64,
    /// How long a frozen worker stays so, in milliseconds
    #[arg(long, default_value_t = 20_000)]
    freeze_ms: u64,
    /// The ZooKeeper session of the workers, in milliseconds
    #[arg(long, default_value_t = 6_000)]
    session_ms: u64,
    /// What the choice of faults begins with
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long to wait for the last execution, in seconds
    #[arg(long, default_value_t = 600)]
    grace: u64,
}

/// Runs it, prints what was found, and says whether every promise was kept.
///
/// # Errors
/// A server is missing, or the house does not stand.
pub async fn run(args: Locks) -> anyhow::Result<bool> {
    let (mut house, proxies) = start(&args).await?;
    let gateways = Arc::new(Gateways::new(&house.urls, Version::Http1)?);
    let witness = Witness::listen(&house.path("witness"))?;
    push(&house)?;
    wait_for_model(&gateways).await?;
    println!(
        "{} executions of {} keys on {} workers at {}/s, each holds its lock for {} ms; sessions of {} ms, a fault every {} ms",
        args.executions, args.keys, args.workers, args.rate, args.hold_ms, args.session_ms, args.fault_ms
    );
    let began = Instant::now();
    let calls = offer(&args, house.path("witness"), house.path("keys"), Arc::clone(&gateways));
    let mut faults = Faults::new(&args, &proxies);
    let outcomes = {
        tokio::pin!(calls);
        tokio::select! {
            outcomes = &mut calls => outcomes?,
            () = faults.strike(&mut house) => unreachable!("faults go on for ever"),
        }
    };
    faults.heal(&mut house);
    let took = began.elapsed();
    let lives = witness.lives().await;
    let committed = committed(&gateways, &outcomes).await?;
    let leaked = leaked(&args, &house).await?;
    let findings = Findings::of(&lives, &committed);
    print!("{}", report(&outcomes, &findings, &faults, leaked, took));
    let ids: HashSet<_> = outcomes.iter().filter_map(|outcome| outcome.execute_id).collect();
    let all_succeeded = committed.len() == args.executions as usize && ids.len() == committed.len();
    Ok(all_succeeded && findings.is_clean() && leaked == 0)
}

async fn start(args: &Locks) -> anyhow::Result<(House, Vec<Proxy>)> {
    let beside = || std::env::current_exe().map(|own| own.with_file_name("gantry"));
    let program = args.gantry.clone().map_or_else(beside, Ok).context("find the program to test")?;
    if !program.is_file() {
        bail!("{} is not there; build it, or name it with --gantry", program.display());
    }
    let mut shape = Shape {
        workers: args.workers as usize,
        slots: 8,
        lease_ms: 10_000,
        renew_ms: 2_500,
        session_ms: args.session_ms,
        ..Shape::small()
    };
    let mut proxies = Vec::new();
    for n in 1..=args.workers {
        let proxy = Proxy::start(&shape.addresses.zookeeper).await;
        let through = proxy.url(&shape.addresses.zookeeper);
        shape.overrides.push((format!("worker-{n}"), "GANTRY_COORDINATION__SERVERS", through));
        proxies.push(proxy);
    }
    Ok((House::start(&program, &shape), proxies))
}

fn push(house: &House) -> anyhow::Result<()> {
    let bundle = house.path("bundle");
    std::fs::create_dir_all(&bundle)?;
    std::fs::write(bundle.join("hold.py"), SCRIPT)?;
    std::fs::write(bundle.join("gantry.toml"), MANIFEST)?;
    let began = Instant::now();
    loop {
        let pushed = Command::new(house.program())
            .arg("push")
            .arg(&bundle)
            .args(["--model", "hold"])
            .env("GANTRY_URL", &house.urls[0])
            .output()
            .context("run gantry push")?;
        if pushed.status.success() {
            return Ok(());
        }
        if began.elapsed() > START_LIMIT {
            bail!("gantry push: {}", String::from_utf8_lossy(&pushed.stderr));
        }
        std::thread::yield_now();
    }
}

async fn wait_for_model(gateways: &Gateways) -> anyhow::Result<()> {
    let model = "hold".parse()?;
    timeout(START_LIMIT, async {
        while gateways.check_model(&model).await.is_err() {
            sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .context("the house does not stand")
}

/// Makes all calls by the clock and waits until each is resolved or the grace is over.
async fn offer(
    args: &Locks,
    witness: PathBuf,
    files: PathBuf,
    gateways: Arc<Gateways>,
) -> anyhow::Result<Vec<Outcome>> {
    let run = ExecuteId::new(jiff::Timestamp::now().as_millisecond().try_into()?).to_string();
    let start = Instant::now();
    let last = start + Duration::from_secs_f64(f64::from(args.executions) / args.rate);
    let until = last + Duration::from_secs(args.grace);
    std::fs::create_dir_all(&files)?;
    let model: domain::ModelName = "hold".parse()?;
    let mut open = JoinSet::new();
    let mut outcomes = Vec::new();
    for number in 0..args.executions {
        let due = start + Duration::from_secs_f64(f64::from(number) / args.rate);
        sleep_until(due.into()).await;
        // Every third script is deaf: only the kill ends it.
        let input = json!({
            "key": key(number % args.keys), "number": number, "hold_ms": args.hold_ms, "deaf": number % 3 == 0,
            "witness": witness, "file": files.join((number % args.keys).to_string()),
        });
        let call = Call {
            number: number.into(),
            input: Bytes::from(input.to_string()),
            is_echo: false,
            until,
            retries: true,
        };
        let (gateways, model, run) = (Arc::clone(&gateways), model.clone(), run.clone());
        open.spawn(async move { gateways.call(&model, Mode::Sync, &run, call).await });
        while let Some(ended) = open.try_join_next() {
            outcomes.push(ended?);
        }
    }
    while let Some(ended) = open.join_next().await {
        outcomes.push(ended?);
        if outcomes.len().is_multiple_of(100) {
            println!(
                "{} of {} have ended after {} s",
                outcomes.len(),
                args.executions,
                start.elapsed().as_secs()
            );
        }
    }
    Ok(outcomes)
}

fn key(number: u32) -> String {
    format!("key-{number}")
}

/// What the record says of those that succeeded.
async fn committed(gateways: &Gateways, outcomes: &[Outcome]) -> anyhow::Result<Vec<Committed>> {
    let ids: HashSet<_> = outcomes.iter().filter_map(|outcome| outcome.execute_id).collect();
    let mut asked = futures::stream::iter(ids).map(|id| read(gateways, id)).buffer_unordered(8);
    let mut committed = Vec::new();
    while let Some(read) = asked.next().await {
        committed.extend(read?);
    }
    Ok(committed)
}

async fn read(gateways: &Gateways, id: ExecuteId) -> anyhow::Result<Option<Committed>> {
    let execution = gateways.execution(id).await?;
    if execution.state != State::Succeeded {
        return Ok(None);
    }
    let log = gateways.log(id).await?;
    let finished_at = execution.finished_at.context("it has ended")?;
    Ok(Some(Committed {
        execute_id: id,
        attempt: execution.attempt,
        finished_ms: finished_at.as_millisecond(),
        lines_of_attempt: log.iter().filter(|row| row.attempt == execution.attempt).count(),
        log_ids_are_dense: log.iter().map(|row| row.log_id).eq(1..=log.len() as i64),
    }))
}

/// How many entries are left in the queues of the locks, when every session that could have left one is over.
async fn leaked(args: &Locks, house: &House) -> anyhow::Result<usize> {
    sleep(Duration::from_millis(args.session_ms + 2_000)).await;
    let zookeeper = ZooKeeper::connect(&ZooKeeperConfig {
        servers: house.addresses.zookeeper.clone(),
        root: format!("/{}", house.prefix),
        session_ms: args.session_ms,
        credential: None,
    });
    let up = async { zookeeper.link().wait_for(|link| *link == Link::Up).await.map(drop) };
    timeout(START_LIMIT, up).await.context("connect to ZooKeeper")??;
    let mut leaked = 0;
    for number in 0..args.keys {
        let key: LockKey = key(number).parse()?;
        let queue = zookeeper.queue(&TenantId::default(), &Contended::Lock(key)).await?;
        leaked += queue.holders.len() + queue.waiters.len();
    }
    zookeeper.close().await;
    Ok(leaked)
}

fn report(outcomes: &[Outcome], found: &Findings, faults: &Faults, leaked: usize, took: Duration) -> String {
    let retried: u32 = outcomes.iter().map(|outcome| outcome.retried).sum();
    let margin = found.margin.map_or_else(|| "-".to_owned(), |margin| format!("{} ms", margin.as_millis()));
    let mut text = format!(
        "\n{} executions in {:.0} s, {} started (a rescue starts one again), calls sent again {retried}\n\
         faults: {faults}\n\
         overlapping holders          {}\n\
         grants out of znode order    {}\n\
         commits of stale holders     {}\n\
         committed with broken logs   {}\n\
         results not of their attempt {}\n\
         znodes left                  {leaked}\n\
         executions not succeeded     {}\n\
         hand-overs after a fault     {}, smallest time from old tree dead to new start {margin}\n",
        outcomes.len(),
        took.as_secs_f64(),
        found.started,
        found.overlapping,
        found.out_of_order,
        found.stale_commits,
        found.broken_logs,
        found.foreign,
        outcomes.len() - found.committed,
        found.broken_hand_overs,
    );
    for example in &found.examples {
        text.push_str(&format!("  {example}\n"));
    }
    text
}
