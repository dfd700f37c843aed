use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use coordination::Coordination;
use domain::{Digest, NodeName};
use protocol::BundleState;

/// What this node says of its bundles where all can see it.
pub(crate) struct Notices {
    coordination: Arc<dyn Coordination>,
    /// `None`: it says nothing.
    node: Option<NodeName>,
    said: Mutex<HashMap<Digest, BundleState>>,
}

impl Notices {
    pub(crate) fn new(coordination: Arc<dyn Coordination>, node: Option<NodeName>) -> Self {
        Self { coordination, node, said: Mutex::default() }
    }

    /// Says `state`, unless that was the last thing said.
    pub(crate) fn say(&self, digest: Digest, state: BundleState) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(&digest) != Some(&state) {
            said.insert(digest, state.clone());
            self.announce(digest, Some(state));
        }
    }

    /// Takes back what was said.
    pub(crate) fn withdraw(&self, digest: Digest) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.remove(&digest).is_some() {
            self.announce(digest, None);
        }
    }

    /// Called with the lock held, so that two states of one bundle go out in their order.
    fn announce(&self, digest: Digest, state: Option<BundleState>) {
        if let Some(node) = &self.node {
            self.coordination.announce_bundle(node, digest, state);
        }
    }

    /// Takes back the failures of what nobody desires any more.
    pub(crate) fn forget_failures(&self, desired: &HashSet<Digest>) {
        let failed: Vec<_> = {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            let failed = |state: &BundleState| matches!(state, BundleState::Failed { .. });
            said.iter()
                .filter(|(it, state)| failed(state) && !desired.contains(it))
                .map(|(it, _)| *it)
                .collect()
        };
        for digest in failed {
            self.withdraw(digest);
        }
    }
}
