//! A program for the tests of this crate: `worker-under-test shim` is a shim, `worker-under-test worker DIR` runs a worker
//! on the embedded ports in DIR with one execution of a script that leaves its pids in `DIR/pids`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bootstrap::settings::PortSettings;
use bootstrap::{Ports, Shutdown};
use domain::{Digest, ExecuteId, Manifest, Payload, QueueName, State, TenantId, VersionSelector};
use protocol::Request;
use store::{PushVersion, Record};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match (args.next(), args.next()) {
        (Some(mode), None) if mode == "shim" => worker::shim_main(),
        (Some(mode), Some(dir)) if mode == "worker" => match work(dir.into()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        },
        (Some(_) | None, _) => ExitCode::FAILURE,
    }
}

#[tokio::main]
async fn work(dir: PathBuf) -> anyhow::Result<()> {
    let mut settings = PortSettings::default();
    settings.record.path = dir.join("record.db");
    settings.artifacts.path = dir.join("artifacts");
    let ports = Ports::connect(&settings, "worker-under-test").await?;
    let (record, broker) = (Arc::clone(&ports.record), Arc::clone(&ports.broker));
    let config = worker::Config {
        name: "n1".parse()?,
        cache_dir: dir.join("cache"),
        scratch_dir: dir.join("scratch"),
        lease_ms: 2_000,
        renew_ms: 100,
        shim: vec![std::env::current_exe()?.to_string_lossy().into_owned(), "shim".to_owned()],
        ..worker::Config::default()
    };
    let execute_id = prepare(&record, &config, &dir).await?;
    let message = request(execute_id)?.to_message();
    let (_trigger, shutdown) = Shutdown::new();
    let produce = async {
        // The queue is there once the worker consumes from it; a message that comes twice changes nothing.
        while record.find_execution(&TenantId::default(), execute_id).await?.is_none() {
            broker.publish(&QueueName::default(), message.clone()).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        loop {
            let row = record.find_execution(&TenantId::default(), execute_id).await?;
            if row.is_some_and(|row| row.execution.state == State::Delayed && row.execution.failures == 0) {
                std::fs::write(dir.join("yielded"), "")?;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        ended = worker::run(config, ports, shutdown) => ended,
        failed = produce => failed,
    }
}

async fn prepare(
    record: &Arc<dyn Record>,
    config: &worker::Config,
    dir: &std::path::Path,
) -> anyhow::Result<ExecuteId> {
    let manifest = Manifest::parse("runtime = \"process\"\ncommand = [\"/bin/bash\", \"run.sh\"]\n")?;
    let digest = Digest::of(b"long");
    let version =
        PushVersion { tenant: TenantId::default(), model: "long".parse()?, digest, bytes: 1, manifest };
    record.push_version(&version).await?;
    let bundle = protocol::cache::bundle_dir(&config.cache_dir, digest);
    std::fs::create_dir_all(&bundle)?;
    let pids = dir.join("pids");
    // The script, its shim, a child, and one that made itself a daemon.
    let script = format!(
        "trap '' TERM HUP\nsleep 600 & child=$!\ndaemon=$(setsid bash -c 'trap \"\" TERM HUP; sleep 600 >&- 2>&- & echo $!')\n\
         printf '%s\\n' $$ $PPID $child $daemon > {0}.new; mv {0}.new {0}\nwait; sleep 600\n",
        pids.display()
    );
    std::fs::write(bundle.join("run.sh"), script)?;
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(ExecuteId::new(since.as_millis().try_into().context("the time")?))
}

fn request(execute_id: ExecuteId) -> anyhow::Result<Request> {
    Ok(Request {
        execute_id,
        model: "long".parse()?,
        version: VersionSelector::default(),
        queue: QueueName::default(),
        input: Payload::new(Payload::JSON, &b"1"[..]),
        deadline: None,
        reply_address: None,
        traceparent: None,
        attributes: domain::Attributes::default(),
        recorded: false,
    })
}
