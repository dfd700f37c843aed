use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::metrics;

/// The places under the active-count cap, which may change while it is in use. Cheap to clone.
///
/// A slot is only ever taken while fewer than the cap are: a lower cap takes nothing away, but the next slot is given out
/// only when enough of those taken came free. Whoever waits is served in the order of arrival.
#[derive(Clone)]
pub(crate) struct Slots {
    shared: Arc<Mutex<Counts>>,
    /// They are those of the node, which its metrics show.
    are_the_nodes: bool,
}

/// Between two steps this holds: nobody waits while fewer are taken than the cap.
struct Counts {
    cap: usize,
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Slot>>,
}

/// One place under the cap; free again when it is dropped, whatever became of its execution.
pub(crate) struct Slot {
    /// `None` once it is given back.
    slots: Option<Slots>,
}

impl Slots {
    pub(crate) fn new(count: u16) -> Self {
        metrics::slots(count);
        Self { are_the_nodes: true, ..Self::apart(count) }
    }

    /// Places for what needs none of the node's.
    pub(crate) fn apart(count: u16) -> Self {
        let counts = Counts { cap: count.into(), taken: 0, waiting: VecDeque::new() };
        Self { shared: Arc::new(Mutex::new(counts)), are_the_nodes: false }
    }

    /// Waits for a free slot and takes it. Dropping the future takes none.
    pub(crate) async fn take(&self) -> Slot {
        loop {
            let waiting = {
                let mut counts = self.counts();
                if counts.taken < counts.cap {
                    return self.given(&mut counts);
                }
                let (sender, waiting) = oneshot::channel();
                counts.waiting.retain(|other| !other.is_closed());
                counts.waiting.push_back(sender);
                waiting
            };
            // The sender is only ever dropped with a slot sent.
            if let Ok(slot) = waiting.await {
                return slot;
            }
        }
    }

    /// Takes a slot if one is free.
    pub(crate) fn try_take(&self) -> Option<Slot> {
        let mut counts = self.counts();
        (counts.taken < counts.cap).then(|| self.given(&mut counts))
    }

    /// Changes the cap. What is taken stays taken.
    pub(crate) fn resize(&self, count: u16) {
        metrics::slots(count);
        let mut counts = self.counts();
        counts.cap = count.into();
        self.serve(&mut counts);
    }

    /// How many are free now.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        let counts = self.counts();
        counts.cap.saturating_sub(counts.taken)
    }

    /// The cap.
    pub(crate) fn count(&self) -> usize {
        self.counts().cap
    }

    fn given(&self, counts: &mut Counts) -> Slot {
        counts.taken += 1;
        if self.are_the_nodes {
            metrics::slot_taken();
        }
        Slot { slots: Some(self.clone()) }
    }

    /// Gives what is free to those who wait.
    fn serve(&self, counts: &mut Counts) {
        while counts.taken < counts.cap {
            let Some(first) = counts.waiting.pop_front() else { return };
            // One who no longer waits: it is as free as before, and must not be freed by its drop, which would lock.
            if let Err(mut unwanted) = first.send(self.given(counts)) {
                unwanted.slots = None;
                self.freed(counts);
            }
        }
    }

    fn freed(&self, counts: &mut Counts) {
        counts.taken -= 1;
        if self.are_the_nodes {
            metrics::slot_freed();
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Is it one of the node's?
    pub(crate) fn is_the_nodes(&self) -> bool {
        self.slots.as_ref().is_some_and(|slots| slots.are_the_nodes)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(slots) = self.slots.take() else { return };
        let mut counts = slots.counts();
        slots.freed(&mut counts);
        slots.serve(&mut counts);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::future::BoxFuture;

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

    #[tokio::test]
    async fn a_lower_cap_is_reached_by_what_comes_free_and_a_higher_one_serves_who_waits() {
        let slots = Slots::new(4);
        let mut taken: Vec<_> = (0..4).map(|_| slots.try_take().unwrap()).collect();
        slots.resize(2);
        for _ in 0..2 {
            taken.pop();
            assert!(slots.try_take().is_none(), "{} are taken of 2", taken.len());
        }
        let mut first = Box::pin(slots.take());
        let mut second = Box::pin(slots.take());
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        slots.resize(3);
        assert!((&mut second).now_or_never().is_none(), "the order of arrival");
        assert!(first.now_or_never().is_some());
        assert!((&mut second).now_or_never().is_some(), "the first one's came free");
    }

    /// Random steps of all kinds; after each of them the cap holds, and at the end nothing has leaked.
    #[tokio::test]
    async fn random_resizes_takes_drops_and_cancelled_waits_never_pass_the_cap_and_leak_nothing() {
        for round in 0..50 {
            let mut cap = 4_u16;
            let slots = Slots::new(cap);
            let mut held: Vec<Slot> = Vec::new();
            let mut waiting: Vec<BoxFuture<'_, Slot>> = Vec::new();
            for step in 0..400 {
                let before = held.len();
                match rand::random_range(0..6) {
                    0 => {
                        cap = rand::random_range(1..=16);
                        slots.resize(cap);
                    }
                    1 => held.extend(slots.try_take()),
                    2 => {
                        let mut wait = slots.take().boxed();
                        match (&mut wait).now_or_never() {
                            Some(slot) => held.push(slot),
                            None => waiting.push(wait),
                        }
                    }
                    3 if !held.is_empty() => {
                        let at = rand::random_range(0..held.len());
                        drop(held.swap_remove(at));
                    }
                    4 if !waiting.is_empty() => {
                        // It may have been given its slot already.
                        let at = rand::random_range(0..waiting.len());
                        drop(waiting.swap_remove(at));
                    }
                    _ => {
                        let mut still = Vec::new();
                        for mut wait in std::mem::take(&mut waiting) {
                            match (&mut wait).now_or_never() {
                                Some(slot) => held.push(slot),
                                None => still.push(wait),
                            }
                        }
                        waiting = still;
                    }
                }
                let grew = held.len() > before;
                let counts = slots.counts();
                assert!(counts.taken >= held.len(), "round {round}, step {step}");
                assert!(!grew || held.len() <= 16, "round {round}, step {step}");
                let nobody_waits = counts.waiting.iter().all(oneshot::Sender::is_closed);
                assert!(counts.taken >= counts.cap || nobody_waits, "round {round}, step {step}");
                drop(counts);
                if held.len() > usize::from(cap) {
                    assert!(slots.try_take().is_none(), "round {round}, step {step}");
                }
            }
            drop(waiting);
            drop(held);
            assert_eq!((slots.free(), slots.counts().taken), (usize::from(cap), 0), "round {round}");
        }
    }
}
