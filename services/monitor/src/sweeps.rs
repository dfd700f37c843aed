//! The sweeps: what stands still in the record.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bootstrap::{Ports, Shutdown, chain};
use broker::PublishError;
use coordination::Link;
use domain::{ExecuteId, NodeId, QueueName, TenantId};
use futures::future::join_all;
use store::{Dispatch, Rescued, StoreError};
use tokio::sync::{Mutex, Notify};
use tracing::{info, warn};

use crate::{Config, metrics, pause, reply};

/// How long the list of the models' queues is good.
const QUEUES_FOR: Duration = Duration::from_secs(30);

/// What a sweep looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// Accepted, and nobody is known to have published it.
    Undispatched,
    /// Published, and its message must be lost.
    Overtaken,
    /// Delayed, and its time has come.
    Due,
    /// Its lease is lost.
    Rescue,
    /// Not started, and its deadline has passed.
    Expire,
}

impl Sweep {
    pub const ALL: [Self; 5] = [Self::Undispatched, Self::Overtaken, Self::Due, Self::Rescue, Self::Expire];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Undispatched => "undispatched",
            Self::Overtaken => "overtaken",
            Self::Due => "due",
            Self::Rescue => "rescue",
            Self::Expire => "expire",
        }
    }

    /// Does it end in publications?
    const fn publishes(self) -> bool {
        match self {
            Self::Undispatched | Self::Overtaken | Self::Due => true,
            Self::Rescue | Self::Expire => false,
        }
    }
}

/// What all sweeps share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sweeps {
    config: Config,
    ports: Ports,
    started: Instant,
    /// Something became due.
    due: Arc<Notify>,
    /// A node is gone.
    gone: Arc<Notify>,
    queues: Arc<Mutex<Option<Listed>>>,
}

/// The models' queues.
struct Listed {
    at: Instant,
    queues: Arc<[QueueName]>,
}

/// What one look found.
struct Found {
    taken: usize,
    /// All that was to be published is.
    published: bool,
}

impl Sweeps {
    pub fn new(config: Config, ports: Ports, started: Instant) -> Self {
        Self { config, ports, started, due: Arc::default(), gone: Arc::default(), queues: Arc::default() }
    }

    /// Has lost leases looked for at once.
    pub fn rescue(&self) {
        self.gone.notify_one();
    }

    /// Looks, at once and then again and again, until the drain.
    pub async fn run(self, sweep: Sweep, shutdown: Shutdown) {
        let mut is_failing = false;
        let mut is_first = self.config.alone && sweep == Sweep::Rescue;
        while !shutdown.is_draining() {
            if sweep.publishes() && !self.ports.broker.is_ready() {
                // What is not taken is not lost sight of: it is there when the broker is.
                pause(self.config.pause() / 4, &shutdown).await;
                continue;
            }
            let began = Instant::now();
            let looked = if is_first { self.rescue_all().await } else { self.look(sweep).await };
            match looked {
                Ok(found) => {
                    metrics::swept(sweep.label(), began.elapsed(), found.taken);
                    if is_failing {
                        info!(sweep = sweep.label(), "the record answers again");
                    }
                    is_failing = false;
                    if found.taken >= self.config.sweep_rows_max as usize && found.published {
                        continue;
                    }
                    is_first = false;
                }
                Err(error) => {
                    metrics::sweep_failed(sweep.label());
                    if !is_failing {
                        warn!(sweep = sweep.label(), error = %chain(&error), "a sweep failed; it is repeated");
                    }
                    is_failing = true;
                }
            }
            tokio::select! {
                _ = pause(self.config.pause(), &shutdown) => {}
                () = self.due.notified(), if sweep == Sweep::Due => {}
                () = self.gone.notified(), if sweep == Sweep::Rescue => {}
            }
        }
    }

    async fn look(&self, sweep: Sweep) -> Result<Found, StoreError> {
        let (record, limit) = (&self.ports.record, self.config.sweep_rows_max);
        match sweep {
            Sweep::Undispatched => self.publish(record.take_undispatched(limit).await?).await,
            Sweep::Overtaken => {
                let empty = self.empty_queues().await?;
                let overtaken = record.take_overtaken(&empty, limit).await?;
                if !overtaken.is_empty() {
                    warn!(
                        count = overtaken.len(),
                        "messages were lost or overtaken; they are published again"
                    );
                }
                self.publish(overtaken).await
            }
            Sweep::Due => self.publish(record.take_due(limit).await?).await,
            Sweep::Rescue => {
                let present = self.present();
                let renew_every = self.config.renew_every();
                let rescued =
                    record.rescue(present.as_deref(), self.config.lease(), renew_every, limit).await?;
                Ok(self.rescued(&rescued))
            }
            Sweep::Expire => {
                let expired = record.expire(limit).await?;
                for conclusion in &expired {
                    info!(execute_id = %conclusion.execute_id, "expired: its deadline passed before it started");
                    reply(&self.ports, conclusion);
                }
                Ok(Found { taken: expired.len(), published: true })
            }
        }
    }

    /// Takes every lease that was not renewed since this process began: nobody else is there.
    async fn rescue_all(&self) -> Result<Found, StoreError> {
        let (record, limit) = (&self.ports.record, self.config.sweep_rows_max);
        let renew_every = self.started.elapsed() / 2;
        let rescued = record.rescue(Some(&[]), self.config.lease(), renew_every, limit).await?;
        Ok(self.rescued(&rescued))
    }

    fn rescued(&self, rescued: &[Rescued]) -> Found {
        for Rescued { execute_id, attempt, node, conclusion } in rescued {
            match conclusion {
                None => {
                    warn!(%execute_id, attempt, %node, "taken back from a lost lease");
                    self.due.notify_one();
                }
                Some(conclusion) => {
                    let state = conclusion.ending.as_ref().map_or("unknown", |ending| ending.state().label());
                    warn!(%execute_id, attempt, %node, state, "taken back from a lost lease for the last time");
                    reply(&self.ports, conclusion);
                }
            }
        }
        Found { taken: rescued.len(), published: true }
    }

    /// The nodes that are there; `None` if that is not known now.
    fn present(&self) -> Option<Vec<NodeId>> {
        // The link first: the view is at least as new as what it says.
        let link = *self.ports.coordination.link().borrow();
        match link {
            Link::Up => {
                let nodes = self.ports.coordination.nodes();
                let present = nodes.borrow().iter().map(|node| node.id.clone()).collect();
                Some(present)
            }
            Link::Down => None,
        }
    }

    /// The queues of known models that are there and in which no message waits.
    async fn empty_queues(&self) -> Result<Vec<QueueName>, StoreError> {
        let mut listed = self.queues.lock().await;
        let queues = match &*listed {
            Some(Listed { at, queues }) if at.elapsed() < QUEUES_FOR => Arc::clone(queues),
            Some(_) | None => {
                let versions = self.ports.record.list_versions(&TenantId::default(), None).await?;
                let queues: BTreeSet<_> = versions.into_iter().map(|row| row.manifest.queue).collect();
                let queues: Arc<[QueueName]> = queues.into_iter().collect();
                *listed = Some(Listed { at: Instant::now(), queues: Arc::clone(&queues) });
                queues
            }
        };
        drop(listed);
        let depths = queues.iter().map(|queue| self.ports.broker.depth(queue));
        let depths = join_all(depths).await;
        // A queue whose depth is not known is not taken for empty. Nor is one that nobody has made: what was published to it is among
        // the unroutable ones, and is looked for when somebody makes it.
        let is_empty = |depth: &Result<Option<u64>, _>| matches!(depth, Ok(Some(0)));
        let empty = queues.iter().zip(depths).filter(|(_, depth)| is_empty(depth));
        Ok(empty.map(|(queue, _)| queue.clone()).collect())
    }

    /// Publishes all at once, and notes those that were confirmed. The others are taken again later.
    async fn publish(&self, dispatches: Vec<Dispatch>) -> Result<Found, StoreError> {
        let taken = dispatches.len();
        let published = dispatches.iter().map(|Dispatch { request }| async {
            let published = self.ports.broker.publish(&request.queue, request.to_message()).await;
            published.map(|()| request.execute_id)
        });
        let (mut confirmed, mut failed): (Vec<ExecuteId>, Vec<PublishError>) = (Vec::new(), Vec::new());
        for outcome in join_all(published).await {
            match outcome {
                Ok(execute_id) => confirmed.push(execute_id),
                Err(error) => failed.push(error),
            }
        }
        metrics::published(confirmed.len(), failed.len());
        if let Some(error) = failed.first() {
            warn!(count = failed.len(), error = %chain(error), "not published; tried again later");
        }
        if !confirmed.is_empty() {
            self.ports.record.mark_dispatched(&confirmed).await?;
        }
        Ok(Found { taken, published: failed.is_empty() })
    }
}
