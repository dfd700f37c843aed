//! What an exclusive or limited execution holds beside its lease: its lock and its limits, each right for as long as its
//! own clock says.

use std::convert::Infallible;

use coordination::{Grant, Validity};
use futures::future::{join_all, select_all};
use store::Fence;
use tokio::sync::watch;

use crate::leases::{Stop, Watch};
use crate::shim::Lease;

/// The lock and the limits of one attempt. Dropped without [`Rights::release`] they are released in the background.
#[derive(Default)]
pub(crate) struct Rights {
    grants: Vec<Grant>,
    fence: Option<Fence>,
}

impl Rights {
    /// Adds one.
    pub(crate) fn add(&mut self, grant: Grant) {
        self.grants.push(grant);
    }

    /// Notes that the record has taken the fence of its lock.
    pub(crate) fn fenced(&mut self, fence: Fence) {
        self.fence = Some(fence);
    }

    /// What all that it writes goes under, if it has a lock.
    pub(crate) const fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }

    /// May an effect begin now, by all of them?
    pub(crate) fn are_valid(&self) -> bool {
        self.grants.iter().all(|grant| grant.validity().borrow().is_valid())
    }

    /// Waits until one of them is known to be lost.
    pub(crate) async fn lost(&self) {
        let mut validities = self.validities();
        while validities.is_empty() || lease(&mut validities).is_some() {
            changed(&mut validities).await;
        }
    }

    /// Tells `held` for how long all of them are certain, and that it must end when one is lost, until the future is
    /// dropped.
    pub(crate) async fn keep(&self, held: &Watch) -> Infallible {
        let mut validities = self.validities();
        loop {
            match lease(&mut validities) {
                Some(lease) => held.bound(lease),
                None => held.end(Stop::RightLost),
            }
            changed(&mut validities).await;
        }
    }

    /// Tells `held` for how long all of them are certain now.
    pub(crate) fn note(&self, held: &Watch) {
        if let Some(lease) = lease(&mut self.validities()) {
            held.bound(lease);
        }
    }

    /// Gives them to the next, all at once; in bounded time.
    pub(crate) async fn release(self) {
        join_all(self.grants.into_iter().map(Grant::release)).await;
    }

    fn validities(&self) -> Vec<watch::Receiver<Validity>> {
        self.grants.iter().map(Grant::validity).collect()
    }
}

/// The earliest of their ends; `None` if one of them is lost.
fn lease(validities: &mut [watch::Receiver<Validity>]) -> Option<Lease> {
    let mut earliest = None::<Lease>;
    for validity in validities {
        let Validity::Until { stop_at, kill_at } = *validity.borrow_and_update() else { return None };
        let one = Lease { stop_at, kill_at };
        earliest = Some(earliest.map_or(one, |earliest| earliest.min(one)));
    }
    earliest
}

/// Waits until one of them has changed.
async fn changed(validities: &mut [watch::Receiver<Validity>]) {
    if validities.is_empty() {
        return std::future::pending().await;
    }
    let each = validities.iter_mut().map(|validity| {
        Box::pin(async {
            if validity.changed().await.is_err() {
                // Its sender lives as long as the grant, and we hold that.
                std::future::pending().await
            }
        })
    });
    select_all(each).await;
}
