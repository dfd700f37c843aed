//! The coordination, with a count of how often somebody entered a queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use coordination::{
    BundleNotice, Contended, Contender, Coordination, CoordinationError, Lead, Link, Membership, Place,
    Queue, Refused, VersionNotice,
};
use domain::{Digest, LimitName, NodeName, TenantId};
use protocol::{BundleState, NodeInfo, NodeSettings};
use tokio::sync::watch;

pub struct Counted {
    inner: Arc<dyn Coordination>,
    entered: AtomicUsize,
}

impl Counted {
    pub fn new(inner: Arc<dyn Coordination>) -> Self {
        Self { inner, entered: AtomicUsize::new(0) }
    }

    /// How often somebody entered the queue of a lock or a limit.
    pub fn calls(&self) -> usize {
        self.entered.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Coordination for Counted {
    async fn join(&self, info: NodeInfo) -> Result<Membership, CoordinationError> {
        self.inner.join(info).await
    }

    fn nodes(&self) -> watch::Receiver<Arc<[NodeInfo]>> {
        self.inner.nodes()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.inner.link()
    }

    async fn publish_version(&self, notice: &VersionNotice) -> Result<(), CoordinationError> {
        self.inner.publish_version(notice).await
    }

    fn versions(&self) -> watch::Receiver<Arc<[VersionNotice]>> {
        self.inner.versions()
    }

    async fn enter(
        &self,
        what: &Contended,
        contender: &Contender,
        waiters_max: u32,
    ) -> Result<Place, Refused> {
        self.entered.fetch_add(1, Ordering::SeqCst);
        self.inner.enter(what, contender, waiters_max).await
    }

    async fn queue(&self, tenant: &TenantId, what: &Contended) -> Result<Queue, CoordinationError> {
        self.inner.queue(tenant, what).await
    }

    async fn limits(&self, tenant: &TenantId) -> Result<Vec<LimitName>, CoordinationError> {
        self.inner.limits(tenant).await
    }

    async fn fence_floor(&self) -> Option<i64> {
        self.inner.fence_floor().await
    }

    fn settings(&self) -> watch::Receiver<Arc<BTreeMap<NodeName, NodeSettings>>> {
        self.inner.settings()
    }

    async fn set_node(&self, node: &NodeName, settings: &NodeSettings) -> Result<(), CoordinationError> {
        self.inner.set_node(node, settings).await
    }

    fn announce_bundle(&self, node: &NodeName, digest: Digest, state: Option<BundleState>) {
        self.inner.announce_bundle(node, digest, state);
    }

    fn bundles(&self) -> watch::Receiver<Arc<[BundleNotice]>> {
        self.inner.bundles()
    }

    fn lead(&self, what: &str, holder: &str) -> watch::Receiver<Lead> {
        self.inner.lead(what, holder)
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
