use std::sync::Arc;

use bootstrap::{Ports, Shutdown};
use domain::TenantId;
use protocol::NodeInfo;
use store::{Writer, WriterConfig, WriterTask};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::dispatched::Dispatched;
use crate::followers::Followers;
use crate::versions::Versions;
use crate::waiters::Waiters;

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
    pub nodes: watch::Receiver<Arc<[NodeInfo]>>,
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
            nodes: ports.coordination.nodes(),
            tenant: TenantId::default(),
            tasks: TaskTracker::new(),
            config,
            ports,
            shutdown,
            writer,
        };
        (Self(Arc::new(shared)), task)
    }

    /// Waits for what was begun for callers. Each of these tasks is bounded by the writer's and the broker's limits.
    pub async fn finish_tasks(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl std::ops::Deref for Gateway {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
