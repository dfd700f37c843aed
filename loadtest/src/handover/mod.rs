//! How fast a lock goes from hand to hand, beside Curator's `InterProcessMutex` on the same server in the same run.
//!
//! Contenders of one process take one lock and give it back at once, again and again: one of them shows what an uncontended
//! lock costs, many show the hand-over. Ours and Curator's take turns, so that whatever else the machine does meets both.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use coordination::zookeeper::{ZooKeeper, ZooKeeperConfig};
use coordination::{Contended, Contender, Coordination, Link};
use domain::{ExecuteId, NodeId, TenantId};
use jiff::Timestamp;
use serde::Deserialize;
use testkit::{fresh_name, servers};
use tokio::task::JoinSet;
use tokio::time::timeout;

const CONTEND: &str = include_str!("Contend.java");
/// Debian's `libcurator-recipes-java`; its manifest names what it needs.
const CURATOR: &str = "/usr/share/java/curator-recipes.jar";
/// More than ever wait here.
const WAITERS_MAX: u32 = 10_000;

/// Measures a lock's hand-over, beside Curator's InterProcessMutex where it is installed
#[derive(Debug, Clone, Args)]
pub struct Handover {
    /// How many contend
    #[arg(long, value_delimiter = ',', default_value = "1,2,16,64")]
    contenders: Vec<u32>,
    /// How often ours and Curator's take turns
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long each turn is measured, in milliseconds
    #[arg(long, default_value_t = 4_000)]
    duration_ms: u64,
    /// What comes before that in each turn, in milliseconds
    #[arg(long, default_value_t = 2_000)]
    warmup_ms: u64,
}

/// One turn.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Turn {
    /// How often the lock was held.
    held: u64,
    p50_us: u64,
    p99_us: u64,
}

/// Measures and prints a line for each number of contenders. `true`: there is no promise to break here.
///
/// # Errors
/// ZooKeeper is missing, or a contender failed.
pub async fn run(args: Handover) -> anyhow::Result<bool> {
    let curator = Curator::prepare()?;
    if curator.is_none() {
        println!("Curator is not measured: it needs Debian's libcurator-recipes-java and a JDK");
    }
    println!("contenders  whose    held/s  p50 ms  p99 ms  (the median of {} turns)", args.rounds);
    for contenders in &args.contenders {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            ours.push(contend(&args, *contenders).await?);
            if let Some(curator) = &curator {
                theirs.push(curator.contend(&args, *contenders)?);
            }
        }
        let our_rate = line(&args, *contenders, "gantry", &mut ours);
        if !theirs.is_empty() {
            let their_rate = line(&args, *contenders, "curator", &mut theirs);
            println!("{contenders:>10}  gantry is {:.2} times as fast", our_rate / their_rate);
        }
    }
    Ok(true)
}

fn line(args: &Handover, contenders: u32, whose: &str, turns: &mut [Turn]) -> f64 {
    turns.sort_by_key(|turn| turn.held);
    let Turn { held, p50_us, p99_us } = turns[turns.len() / 2];
    let rate = held as f64 / Duration::from_millis(args.duration_ms).as_secs_f64();
    let ms = |us: u64| us as f64 / 1_000.0;
    println!("{contenders:>10}  {whose:<7} {rate:>7.0} {:>7.2} {:>7.2}", ms(p50_us), ms(p99_us));
    rate
}

/// One turn of ours.
async fn contend(args: &Handover, contenders: u32) -> anyhow::Result<Turn> {
    let zookeeper = Arc::new(ZooKeeper::connect(&ZooKeeperConfig {
        servers: servers().zookeeper(),
        root: format!("/{}", fresh_name("handover")),
        session_ms: 10_000,
        credential: None,
    }));
    let up = async { zookeeper.link().wait_for(|link| *link == Link::Up).await.map(drop) };
    timeout(Duration::from_secs(30), up).await.context("connect to ZooKeeper")??;
    let begin = Instant::now() + Duration::from_millis(args.warmup_ms);
    let end = begin + Duration::from_millis(args.duration_ms);
    let mut contending = JoinSet::new();
    for _ in 0..contenders {
        contending.spawn(hold_again_and_again(Arc::clone(&zookeeper), begin, end));
    }
    let mut all = Vec::new();
    while let Some(own) = contending.join_next().await {
        all.extend(own??);
    }
    zookeeper.close().await;
    all.sort_unstable();
    let at = |share: usize| all.get(all.len() * share / 100).copied().unwrap_or_default();
    Ok(Turn { held: all.len() as u64, p50_us: at(50), p99_us: at(99) })
}

async fn hold_again_and_again(
    zookeeper: Arc<ZooKeeper>,
    begin: Instant,
    end: Instant,
) -> anyhow::Result<Vec<u64>> {
    let lock = Contended::Lock("handover".parse()?);
    let contender = Contender {
        tenant: TenantId::default(),
        execute_id: ExecuteId::new(Timestamp::now().as_millisecond().try_into()?),
        attempt: 1,
        node: NodeId::new("loadtest".parse()?, 1, 1),
        since: Timestamp::now(),
    };
    let mut took = Vec::new();
    while Instant::now() < end {
        let asked = Instant::now();
        let place = zookeeper.enter(&lock, &contender, WAITERS_MAX).await.context("enter the queue")?;
        place.granted().await?.release().await;
        let done = Instant::now();
        if asked >= begin && done <= end {
            took.push((done - asked).as_micros().try_into()?);
        }
    }
    Ok(took)
}

/// The compiled contender of Curator.
struct Curator {
    classes: tempfile::TempDir,
}

impl Curator {
    /// Compiles it; `None` if Curator or a compiler is not installed.
    fn prepare() -> anyhow::Result<Option<Self>> {
        if !Path::new(CURATOR).exists() || Command::new("javac").arg("-version").output().is_err() {
            return Ok(None);
        }
        let classes = tempfile::tempdir()?;
        let source: PathBuf = classes.path().join("Contend.java");
        std::fs::write(&source, CONTEND)?;
        let compiled =
            Command::new("javac").args(["-cp", CURATOR, "-d"]).arg(classes.path()).arg(&source).status();
        if !compiled.context("run javac")?.success() {
            bail!("javac did not compile the contender of Curator");
        }
        Ok(Some(Self { classes }))
    }

    /// One turn of Curator's.
    fn contend(&self, args: &Handover, contenders: u32) -> anyhow::Result<Turn> {
        let numbers = [u64::from(contenders), args.warmup_ms, args.duration_ms];
        let ran = Command::new("java")
            .arg("-Djava.net.preferIPv4Stack=true")
            .arg("-cp")
            .arg(format!("{}:{CURATOR}", self.classes.path().display()))
            .args(["Contend", &servers().zookeeper(), &format!("/{}", fresh_name("curator"))])
            .args(numbers.map(|number| number.to_string()))
            .stderr(Stdio::null())
            .output()
            .context("run java")?;
        if !ran.status.success() {
            bail!("the contender of Curator failed: {}", ran.status);
        }
        serde_json::from_slice(&ran.stdout).context("read what Curator's contender printed")
    }
}
