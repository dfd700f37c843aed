use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Ports, Shutdown};
use coordination::{BundleNotice, Link};
use domain::{NodeName, TenantId};
use protocol::{NodeInfo, NodeSettings};
use store::{Writer, WriterConfig, WriterTask};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::dispatched::Dispatched;
use crate::export::EXPORTS_MAX;
use crate::followers::Followers;
use crate::health::Health;
use crate::versions::Versions;
use crate::waiters::Waiters;

/// How long what was begun for callers may take at the end of a drain.
const TASKS_MAX: Duration = Duration::from_secs(20);
/// The most memory the bodies of all requests under way take, in KiB.
const BODIES_KIB_MAX: usize = 256 << 10;
/// The most bundles inspected at once: each keeps a core busy.
const INSPECTIONS_MAX: usize = 2;

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gateway(Arc<Shared>);

pub(crate) struct Shared {
    pub config: Config,
    pub ports: Ports,
    pub shutdown: Shutdown,
    pub writer: Writer,
    pub waiters: Arc<Waiters>,
    pub followers: Followers,
    pub versions: Versions,
    pub dispatched: Dispatched,
    pub health: Health,
    /// Room for bodies, in KiB.
    pub bodies: Arc<Semaphore>,
    pub inspections: Semaphore,
    /// Room for exports.
    pub exports: Arc<Semaphore>,
    pub nodes: watch::Receiver<Arc<[NodeInfo]>>,
    /// What the nodes have of which bundle.
    pub bundles: watch::Receiver<Arc<[BundleNotice]>>,
    pub link: watch::Receiver<Link>,
    pub settings: watch::Receiver<Arc<BTreeMap<NodeName, NodeSettings>>>,
    /// Held by who changes what is asked of a node.
    pub changing_nodes: Mutex<()>,
    /// Whose everything is until there are tokens.
    pub tenant: TenantId,
    /// What must be finished although its caller may have hung up.
    pub tasks: TaskTracker,
}

impl Gateway {
    pub fn new(config: Config, ports: Ports, shutdown: Shutdown) -> (Self, WriterTask) {
        let (writer, task) = Writer::new(ports.record.clone(), WriterConfig::default());
        let shared = Shared {
            waiters: Arc::new(Waiters::new(config.waiters_max)),
            followers: Followers::new(config.waiters_max),
            versions: Versions::new(ports.record.clone()),
            dispatched: Dispatched::default(),
            health: Health::default(),
            bodies: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
            inspections: Semaphore::new(INSPECTIONS_MAX),
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
            nodes: ports.coordination.nodes(),
            bundles: ports.coordination.bundles(),
            link: ports.coordination.link(),
            settings: ports.coordination.settings(),
            changing_nodes: Mutex::default(),
            tenant: TenantId::default(),
            tasks: TaskTracker::new(),
            config,
            ports,
            shutdown,
            writer,
        };
        (Self(Arc::new(shared)), task)
    }

    /// Waits for what was begun for callers. (Submissions are bounded by the writer's and the broker's limits, pushes by
    /// the artifact store's.)
    pub async fn finish_tasks(&self) {
        self.tasks.close();
        if tokio::time::timeout(TASKS_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!(count = self.tasks.len(), "broke off what was begun for callers");
        }
    }
}

impl std::ops::Deref for Gateway {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
