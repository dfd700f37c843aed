use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use bootstrap::{ConfigurationError, Ports, Shutdown};
use broker::{Broker, Control, DeliverySource};
use coordination::{Coordination, Link};
use domain::{NodeId, TenantId};
use jiff::Timestamp;
use protocol::NodeInfo;
use store::{Record, Writer, WriterConfig};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::Config;
use crate::cache::Cache;
use crate::claim::RecordLink;
use crate::consumer::Consumer;
use crate::drain::drain;
use crate::fencing::Fencing;
use crate::leases::{Leases, Stop};
use crate::membership::announce;
use crate::metrics;
use crate::scratch::ScratchRoot;
use crate::settings::{self, Standing};
use crate::slots::Slots;
use crate::versions::Versions;
use crate::waiting::WaitingRoom;

/// The most builtins that are on their way through their claim without a slot: their memory, and how many a batch can hold.
const QUICK_MAX: u16 = 256;

/// What all executions of a worker share.
pub(crate) struct Worker {
    pub(crate) config: Config,
    pub(crate) node: NodeId,
    pub(crate) node_text: String,
    pub(crate) tenant: TenantId,
    pub(crate) shim: Vec<String>,
    pub(crate) record: Arc<dyn Record>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) writer: Writer,
    pub(crate) record_link: RecordLink,
    pub(crate) versions: Versions,
    pub(crate) cache: Cache,
    pub(crate) scratch: ScratchRoot,
    pub(crate) coordination: Arc<dyn Coordination>,
    pub(crate) slots: Slots,
    /// For builtins, which start no process: on their way through their claim.
    pub(crate) quick: Slots,
    pub(crate) waiting: WaitingRoom,
    pub(crate) fencing: Fencing,
    /// What the node is to be.
    pub(crate) standing: watch::Sender<Standing>,
    since: Timestamp,
    /// It is about to end, whatever the reason.
    leaving: CancellationToken,
    pub(crate) leases: Arc<Leases>,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: Shutdown,
}

impl Worker {
    fn new(config: Config, ports: &Ports, writer: Writer, shutdown: Shutdown) -> anyhow::Result<Self> {
        config.check().map_err(|error| ConfigurationError::new(error.to_string()))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let boot_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let node = NodeId::new(config.name.clone(), boot_ms, rand::random());
        let shim = if config.shim.is_empty() {
            let program = std::env::current_exe().context("find this program for its shims")?;
            vec![program.to_string_lossy().into_owned(), "shim".to_owned()]
        } else {
            config.shim.clone()
        };
        let scratch = ScratchRoot::new(&config.scratch_dir, &node)
            .with_context(|| format!("make scratch directory {}", config.scratch_dir.display()))?;
        let fetch_timeout = Duration::from_millis(config.fetch_timeout_ms);
        Ok(Self {
            node_text: node.to_string(),
            tenant: TenantId::default(),
            shim,
            record: Arc::clone(&ports.record),
            broker: Arc::clone(&ports.broker),
            writer,
            record_link: RecordLink::new(),
            versions: Versions::new(Arc::clone(&ports.record)),
            cache: Cache::new(config.cache_dir.clone(), fetch_timeout),
            scratch,
            coordination: Arc::clone(&ports.coordination),
            slots: Slots::new(config.slots),
            quick: Slots::apart(QUICK_MAX),
            waiting: WaitingRoom::new(config.waiting_max),
            fencing: Fencing::new(
                Arc::clone(&ports.coordination),
                Arc::clone(&ports.record),
                config.fence_generation.into(),
            ),
            standing: watch::Sender::new(Standing::configured(&config)),
            since: Timestamp::now(),
            leaving: CancellationToken::new(),
            leases: Leases::new(Arc::clone(&ports.record), node.clone(), config.lease()),
            tasks: TaskTracker::new(),
            shutdown,
            node,
            config,
        })
    }

    /// Is the coordination away, as far as is known?
    pub(crate) fn is_uncoordinated(&self) -> bool {
        *self.coordination.link().borrow() == Link::Down
    }

    /// What the node says of itself.
    pub(crate) fn info(&self) -> NodeInfo {
        let standing = self.standing.borrow().clone();
        NodeInfo {
            labels: self.config.labels.as_map().clone(),
            id: self.node.clone(),
            address: std::fs::read_to_string("/proc/sys/kernel/hostname")
                .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned()),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slots: standing.slots.into(),
            queues: self.config.queues.clone(),
            draining: standing.drain.is_some() || self.leaving.is_cancelled() || self.shutdown.is_draining(),
            since: self.since,
        }
    }
}

/// Runs a worker until `shutdown` and its drain are through. The ports stay open: they are their owner's to close.
///
/// If the future is dropped its scripts are killed, and what it held is rescued by a monitor.
///
/// # Errors
/// The configuration cannot be, the broker's topology cannot be consumed from or was closed, or another worker uses the
/// node's name. What was running has been finished or given back even then.
pub async fn run(config: Config, ports: Ports, shutdown: Shutdown) -> anyhow::Result<()> {
    metrics::describe();
    let (writer, writer_task) = Writer::new(Arc::clone(&ports.record), WriterConfig::default());
    let worker = Arc::new(Worker::new(config, &ports, writer, shutdown.clone())?);
    let mut writing = JoinSet::new();
    writing.spawn(writer_task.run());

    let settings = settings::first(&worker, &*ports.coordination).await;
    let prefetch = worker.standing.borrow().prefetch();
    let source = DeliverySource::Queues(worker.config.queues.clone());
    let deliveries = ports.broker.consume(source, prefetch).await.context("consume requests")?;
    let controls = ports.broker.controls().await.context("listen to broadcasts")?;

    let leave = CancellationToken::new();
    let mut background = JoinSet::new();
    background.spawn(settings::follow(Arc::clone(&worker), settings));
    background.spawn(heed(Arc::clone(&worker), controls));
    background.spawn(renew(Arc::clone(&worker)));
    background.spawn(compare_fences(Arc::clone(&worker)));
    let mut membership = JoinSet::new();
    let coordination = Arc::clone(&ports.coordination);
    membership.spawn(announce(Arc::clone(&worker), coordination, leave.clone()));
    info!(node = %worker.node, slots = worker.slots.count(), "taking deliveries");

    let mut consumer = Consumer::new(Arc::clone(&worker), deliveries, prefetch);
    let ended = tokio::select! {
        () = shutdown.draining() => Ok(()),
        ended = consumer.run() => ended,
        Some(ended) = membership.join_next() => match ended {
            Ok(Ok(())) => Err(anyhow!("the announcement ended")),
            Ok(Err(error)) => Err(error).context("announce this node"),
            Err(error) => Err(error).context("announce this node"),
        },
        Some(Err(error)) = background.join_next() => Err(error).context("keep leases"),
    };
    consumer.close().await;
    // One that is ended by an error is not waited for as long as a drain.
    let patience = if ended.is_ok() { worker.config.drain_ms_max } else { 0 };
    drain(&worker, &shutdown, Duration::from_millis(patience)).await;
    worker.leaving.cancel();
    leave.cancel();
    while membership.join_next().await.is_some() {}
    background.shutdown().await;
    drop(worker);
    // It ends with its last writer; what nobody waits for any more is not worth a hang.
    let _ = tokio::time::timeout(Duration::from_secs(5), writing.join_next()).await;
    info!("drained");
    ended
}

async fn renew(worker: Arc<Worker>) {
    worker.leases.renew_every(worker.config.renew_every()).await;
}

async fn compare_fences(worker: Arc<Worker>) {
    worker.fencing.keep_watch().await;
}

/// Does what is broadcast. A broadcast may get lost; each renewal brings the same.
async fn heed(worker: Arc<Worker>, mut controls: mpsc::Receiver<Control>) {
    while let Some(Control::Cancel(execute_id)) = controls.recv().await {
        worker.leases.stop(execute_id, Stop::Cancel);
    }
    // The broker is closed: the consumer says so.
    std::future::pending().await
}
