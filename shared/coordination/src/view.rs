use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    are_settings_read: AtomicBool,
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
            are_settings_read: AtomicBool::new(false),
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

    /// The settings, as a change that is to be seen if they were read before.
    pub(crate) fn watch_settings(&self) -> watch::Receiver<Arc<BTreeMap<NodeName, NodeSettings>>> {
        let mut settings = self.settings.subscribe();
        if self.are_settings_read.load(Ordering::Acquire) {
            settings.mark_changed();
        }
        settings
    }

    /// Watchers wake only if something changed, or if it is the first that is known.
    pub(crate) fn set_settings(&self, settings: BTreeMap<NodeName, NodeSettings>) {
        let is_first = !self.are_settings_read.swap(true, Ordering::AcqRel);
        self.settings.send_if_modified(|known| {
            let changed = is_first || **known != settings;
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
