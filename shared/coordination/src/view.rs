use std::collections::BTreeMap;
use std::sync::Arc;

use domain::NodeName;
use metrics::gauge;
use protocol::{NodeInfo, NodeSettings};
use tokio::sync::watch;

use crate::metrics::{LINK_UP, NODES};
use crate::{BundleNotice, Link, VersionNotice};

/// What a process knows of the cluster, for everyone in it who watches.
pub(crate) struct View {
    pub(crate) nodes: watch::Sender<Arc<[NodeInfo]>>,
    pub(crate) versions: watch::Sender<Arc<[VersionNotice]>>,
    pub(crate) settings: watch::Sender<Arc<BTreeMap<NodeName, NodeSettings>>>,
    pub(crate) bundles: watch::Sender<Arc<[BundleNotice]>>,
    pub(crate) link: watch::Sender<Link>,
}

impl View {
    /// Of nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            nodes: watch::Sender::new(Arc::from([])),
            versions: watch::Sender::new(Arc::from([])),
            settings: watch::Sender::new(Arc::default()),
            bundles: watch::Sender::new(Arc::from([])),
            link: watch::Sender::new(Link::Down),
        }
    }

    /// Watchers wake only if something changed.
    pub(crate) fn set_nodes(&self, mut nodes: Vec<NodeInfo>) {
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        gauge!(NODES).set(nodes.len() as f64);
        replace(&self.nodes, nodes);
    }

    /// Watchers wake only if something changed.
    pub(crate) fn set_versions(&self, mut versions: Vec<VersionNotice>) {
        versions.sort_unstable();
        replace(&self.versions, versions);
    }

    /// Watchers wake only if something changed.
    pub(crate) fn set_settings(&self, settings: BTreeMap<NodeName, NodeSettings>) {
        self.settings.send_if_modified(|known| {
            let changed = **known != settings;
            if changed {
                *known = Arc::new(settings);
            }
            changed
        });
    }

    /// Watchers wake only if something changed.
    pub(crate) fn set_bundles(&self, mut bundles: Vec<BundleNotice>) {
        bundles.sort_unstable();
        replace(&self.bundles, bundles);
    }

    /// Watchers wake only if it changed. Returns whether it did.
    pub(crate) fn set_link(&self, link: Link) -> bool {
        gauge!(LINK_UP).set(if link == Link::Up { 1.0 } else { 0.0 });
        self.link.send_if_modified(|known| std::mem::replace(known, link) != link)
    }
}

fn replace<T: PartialEq>(sender: &watch::Sender<Arc<[T]>>, new: Vec<T>) {
    sender.send_if_modified(|known| {
        let changed = **known != *new;
        if changed {
            *known = new.into();
        }
        changed
    });
}
