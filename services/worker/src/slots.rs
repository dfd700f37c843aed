use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics;

/// The places under the active-count cap. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
}

/// One place under the cap; free again when it is dropped, whatever became of its execution.
pub(crate) struct Slot {
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    pub(crate) fn new(count: u16) -> Self {
        metrics::slots(count);
        Self { free: Arc::new(Semaphore::new(count.into())) }
    }

    /// Waits for a free slot and takes it. Dropping the future takes none.
    pub(crate) async fn take(&self) -> Slot {
        match Arc::clone(&self.free).acquire_owned().await {
            Ok(permit) => Slot::new(permit),
            Err(_) => unreachable!("the semaphore is never closed"),
        }
    }

    /// Takes a slot if one is free.
    pub(crate) fn try_take(&self) -> Option<Slot> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(Slot::new)
    }

    /// How many are free now.
    pub(crate) fn free(&self) -> usize {
        self.free.available_permits()
    }
}

impl Slot {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        metrics::slot_taken();
        Self { _permit: permit }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        metrics::slot_freed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slot_comes_free_even_if_its_task_panics() {
        let slots = Slots::new(1);
        let slot = slots.take().await;
        assert!(slots.try_take().is_none());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let _slot = slot;
            panic!("as a bug would");
        });
        assert!(tasks.join_next().await.unwrap().is_err());
        assert_eq!(slots.free(), 1);
    }
}
