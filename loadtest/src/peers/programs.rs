//! How each peer is started and asked.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Peers;
use super::servers::PeerServers;
use crate::pace::Pace;

/// What a client may take beyond what it measures.
const SLACK: Duration = Duration::from_secs(90);

/// A system in one configuration.
pub struct Peer {
    /// Its name in the report.
    pub name: &'static str,
    /// What it stands on, and how it is configured.
    pub setup: &'static str,
    /// As [`super::PeerRow::has_durable_record`].
    pub has_durable_record: bool,
    /// What comes first, once.
    prepare: Option<&'static [&'static str]>,
    /// The command line of its workers, nothing if its client is one too. `{}` is where the peers are installed.
    worker: &'static [&'static str],
    /// That of its client, without the measurement's arguments.
    client: &'static [&'static str],
}

const PYTHON: &str = "{}/venv/bin/python";

/// All of them.
pub const PEERS: [Peer; 5] = [
    Peer {
        name: "celery-prefork",
        setup: "RabbitMQ, transient queue, results by RPC; prefork of 2",
        has_durable_record: false,
        prepare: None,
        worker: &[
            "{}/venv/bin/celery",
            "-A",
            "celery_peer",
            "worker",
            "--pool=prefork",
            "--concurrency=2",
            "--queues=celery_peer",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel=ERROR",
        ],
        client: &[PYTHON, "celery_peer.py", "client"],
    },
    Peer {
        name: "celery-solo",
        setup: "RabbitMQ, transient queue, results by RPC; solo",
        has_durable_record: false,
        prepare: None,
        worker: &[
            "{}/venv/bin/celery",
            "-A",
            "celery_peer",
            "worker",
            "--pool=solo",
            "--queues=celery_peer",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel=ERROR",
        ],
        client: &[PYTHON, "celery_peer.py", "client"],
    },
    Peer {
        name: "dramatiq",
        setup: "RabbitMQ, durable queue, results in Redis without a disk; 2 processes of 8 threads",
        has_durable_record: false,
        prepare: None,
        worker: &["{}/venv/bin/dramatiq", "dramatiq_peer", "--processes=2", "--threads=8"],
        client: &[PYTHON, "dramatiq_peer.py", "client"],
    },
    Peer {
        name: "bullmq",
        setup: "Redis without a disk; 256 jobs at once, few finished ones kept",
        has_durable_record: false,
        prepare: None,
        worker: &["node", "bullmq.mjs", "worker"],
        client: &["node", "bullmq.mjs", "client"],
    },
    Peer {
        name: "graphile-worker",
        setup: "PostgreSQL; 64 jobs at once; the job is durable, there is no result",
        has_durable_record: true,
        prepare: Some(&["node", "graphile.mjs", "migrate"]),
        worker: &[],
        client: &["node", "graphile.mjs", "client"],
    },
];

/// The checkout this was built in: the peers' programs and the servers' scripts are read from it.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Starts its workers, asks its client, ends both.
pub async fn measure(
    peer: &Peer,
    installed: &Path,
    servers: &PeerServers,
    args: &Peers,
    concurrency: u32,
) -> anyhow::Result<Pace> {
    // Node looks for packages beside and above the program, so that goes to where they are.
    let place = installed.join("node");
    for program in
        ["measure.mjs", "bullmq.mjs", "graphile.mjs", "measure.py", "celery_peer.py", "dramatiq_peer.py"]
    {
        let from = root().join("loadtest/peers").join(program);
        std::fs::copy(&from, place.join(program)).with_context(|| format!("copy {}", from.display()))?;
    }
    let command = |words: &[&str]| {
        let mut words = words.iter().map(|word| word.replace("{}", &installed.display().to_string()));
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).current_dir(&place).stdin(Stdio::null()).stderr(Stdio::inherit());
        servers.name_in(&mut command);
        command
    };
    if let Some(prepare) = peer.prepare {
        let mut prepared = Family::start(command(prepare).stdout(Stdio::null()))?;
        let status = timeout(SLACK, prepared.child.wait()).await.context("it does not end")??;
        if !status.success() {
            bail!("{prepare:?} failed: {status}");
        }
    }
    let start = || Family::start(command(peer.worker).stdout(Stdio::null()).stderr(Stdio::null()));
    let worker = if peer.worker.is_empty() { None } else { Some(start()?) };
    let numbers = [
        concurrency.to_string(),
        args.duration.as_secs_f64().to_string(),
        args.warmup.as_secs_f64().to_string(),
        args.payload.to_string(),
    ];
    let mut client = Family::start(command(peer.client).args(numbers).stdout(Stdio::piped()))?;
    let mut output = client.child.stdout.take().context("the client has no output")?;
    let mut text = String::new();
    let read = tokio::io::AsyncReadExt::read_to_string(&mut output, &mut text);
    timeout(args.duration + args.warmup + SLACK, read).await.context("its client does not end")??;
    drop((client, worker));
    let last = text.lines().last().context("its client says nothing")?;
    serde_json::from_str(last).with_context(|| format!("its client says {last:?}"))
}

/// A process in a group of its own, with all that it starts there; dropping this kills the group.
pub struct Family {
    /// The first of them.
    pub child: Child,
    group: Option<rustix::process::Pid>,
}

impl Family {
    /// Starts it.
    ///
    /// # Errors
    /// The program is not there.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.process_group(0).kill_on_drop(true).spawn();
        let child = child.with_context(|| format!("start {:?}", command.as_std().get_program()))?;
        let group = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        Ok(Self { child, group })
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // They may all have ended.
            let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
