use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{Digest, NodeName};
use protocol::BundleState;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How often at most it is told how far transfers have come.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A bundle on a node.
pub(crate) type Where = (Digest, NodeName);

/// What this process says of bundles, and what of it is still to be told. The newest state wins.
#[derive(Default)]
pub(crate) struct Notices {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    states: BTreeMap<Where, BundleState>,
    /// Changed since they were told.
    untold: BTreeSet<Where>,
    /// Something else than progress is among them.
    matters: bool,
}

impl Notices {
    /// Says it anew, or no more.
    pub(crate) fn set(&self, node: &NodeName, digest: Digest, state: Option<BundleState>) {
        let mut inner = self.lock();
        let place = (digest, node.clone());
        let is_fetching = |state: Option<&BundleState>| matches!(state, Some(BundleState::Fetching { .. }));
        let known = inner.states.get(&place);
        if known == state.as_ref() {
            return;
        }
        inner.matters |= !(is_fetching(known) && is_fetching(state.as_ref()));
        match state {
            Some(state) => drop(inner.states.insert(place.clone(), state)),
            None => drop(inner.states.remove(&place)),
        }
        inner.untold.insert(place);
        drop(inner);
        self.changed.notify_one();
    }

    /// Waits until something is to be told: what matters at once, progress a second after something was `told`.
    pub(crate) async fn changed(&self, told: Instant) {
        loop {
            let (any, matters) = {
                let inner = self.lock();
                (!inner.untold.is_empty(), inner.matters)
            };
            let next = told + PROGRESS_EVERY;
            if matters || (any && next <= Instant::now()) {
                return;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(next), if any => {}
            }
        }
    }

    /// What is to be told now.
    pub(crate) fn take(&self) -> Vec<(Where, Option<BundleState>)> {
        let mut inner = self.lock();
        inner.matters = false;
        let untold = std::mem::take(&mut inner.untold);
        untold.into_iter().map(|place| (place.clone(), inner.states.get(&place).cloned())).collect()
    }

    /// They could not be told.
    pub(crate) fn put_back(&self, untold: impl IntoIterator<Item = Where>) {
        let mut inner = self.lock();
        inner.untold.extend(untold);
        inner.matters |= !inner.untold.is_empty();
    }

    /// Nobody knows any of it any more.
    pub(crate) fn all_untold(&self) {
        let places: Vec<Where> = self.lock().states.keys().cloned().collect();
        self.put_back(places);
    }

    /// Is there nothing to say?
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().states.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FETCHING: BundleState = BundleState::Fetching { bytes: 1, bytes_total: 9 };

    #[tokio::test(start_paused = true)]
    async fn progress_is_told_once_a_second_and_what_matters_at_once() {
        let notices = Notices::default();
        let (node, digest) = ("one".parse().unwrap(), Digest::of(b"a"));
        let begun = Instant::now();
        notices.set(&node, digest, Some(FETCHING));
        notices.changed(begun).await;
        assert_eq!(notices.take().len(), 1);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for bytes in 2..5 {
            notices.set(&node, digest, Some(BundleState::Fetching { bytes, bytes_total: 9 }));
        }
        notices.changed(begun).await;
        assert_eq!(begun.elapsed(), PROGRESS_EVERY);
        let newest = BundleState::Fetching { bytes: 4, bytes_total: 9 };
        assert_eq!(notices.take(), [((digest, node.clone()), Some(newest))]);
        let told = Instant::now();
        notices.set(&node, digest, Some(BundleState::Ready { bytes: 9 }));
        notices.changed(told).await;
        assert_eq!(told.elapsed(), Duration::ZERO);
        // Said anew it is the same: there is nothing to tell.
        drop(notices.take());
        notices.set(&node, digest, Some(BundleState::Ready { bytes: 9 }));
        assert!(notices.take().is_empty());
        notices.all_untold();
        assert_eq!(notices.take().len(), 1);
    }
}
