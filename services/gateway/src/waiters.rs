//! The oneshots: who waits for which execution.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::ExecuteId;
use protocol::Reply;
use tokio::sync::oneshot;

/// Everybody who waits at this gateway, by execution.
pub(crate) struct Waiters {
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: HashMap<ExecuteId, Vec<Waiter>>,
    count: usize,
    next_token: u64,
}

struct Waiter {
    token: u64,
    since: Instant,
    sender: oneshot::Sender<Arc<Reply>>,
}

/// One caller's place. Dropping it gives the place up.
pub(crate) struct Waiting {
    waiters: Arc<Waiters>,
    execute_id: ExecuteId,
    token: u64,
    receiver: oneshot::Receiver<Arc<Reply>>,
}

/// Too many callers wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Waiters {
    pub fn new(most: usize) -> Self {
        Self { most, inner: Mutex::default() }
    }

    /// Nothing that panics runs under the lock, so what a poisoned one guards is whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place: from here on no reply to `execute_id` is missed.
    pub fn register(self: &Arc<Self>, execute_id: ExecuteId) -> Result<Waiting, Full> {
        let mut inner = self.lock();
        if inner.count >= self.most {
            return Err(Full);
        }
        inner.count += 1;
        inner.next_token += 1;
        let token = inner.next_token;
        let (sender, receiver) = oneshot::channel();
        inner.waiting.entry(execute_id).or_default().push(Waiter { token, since: Instant::now(), sender });
        Ok(Waiting { waiters: self.clone(), execute_id, token, receiver })
    }

    /// Refuses who wants to wait while no place is free, before anything is done for them.
    pub fn admit(&self, wait: Duration) -> Result<(), Full> {
        if !wait.is_zero() && self.count() >= self.most { Err(Full) } else { Ok(()) }
    }

    /// Wakes everybody who waits for this execution; `false` if nobody does.
    pub fn wake(&self, reply: Reply) -> bool {
        let waiting = {
            let mut inner = self.lock();
            let waiting = inner.waiting.remove(&reply.execute_id).unwrap_or_default();
            inner.count -= waiting.len();
            waiting
        };
        let reply = Arc::new(reply);
        let woken = !waiting.is_empty();
        for waiter in waiting {
            // Who is gone needs no reply.
            drop(waiter.sender.send(reply.clone()));
        }
        woken
    }

    /// The executions somebody has waited for since at least `age`.
    pub fn waiting_since(&self, age: Duration) -> Vec<ExecuteId> {
        let now = Instant::now();
        let inner = self.lock();
        let old = |waiter: &Waiter| now.duration_since(waiter.since) >= age;
        inner.waiting.iter().filter(|(_, waiting)| waiting.iter().any(old)).map(|(id, _)| *id).collect()
    }

    /// How many callers wait.
    pub fn count(&self) -> usize {
        self.lock().count
    }

    fn leave(&self, execute_id: ExecuteId, token: u64) {
        let mut inner = self.lock();
        let Some(waiting) = inner.waiting.get_mut(&execute_id) else { return };
        let before = waiting.len();
        waiting.retain(|waiter| waiter.token != token);
        let left = before - waiting.len();
        if waiting.is_empty() {
            inner.waiting.remove(&execute_id);
        }
        inner.count -= left;
    }
}

impl Waiting {
    /// The reply; never ends if none comes.
    ///
    /// Dropping the future loses nothing.
    pub async fn reply(&mut self) -> Arc<Reply> {
        match (&mut self.receiver).await {
            Ok(reply) => reply,
            // The sender is dropped only by `wake` (which sends) and by leaving.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.leave(self.execute_id, self.token);
    }
}

#[cfg(test)]
mod tests {
    use domain::{Ending, Payload};

    use super::*;

    fn reply(execute_id: ExecuteId) -> Reply {
        let ending = Ending::Succeeded(Payload::new(Payload::JSON, &b"1"[..]));
        Reply { execute_id, attempt: 1, ending, run: Duration::ZERO }
    }

    #[tokio::test]
    async fn everybody_who_waits_is_woken_and_nobody_is_left() {
        let waiters = Arc::new(Waiters::new(3));
        let id = ExecuteId::new(1);
        let (mut first, mut second) = (waiters.register(id).unwrap(), waiters.register(id).unwrap());
        assert!(waiters.wake(reply(id)));
        assert_eq!(*first.reply().await, reply(id));
        assert_eq!(*second.reply().await, reply(id));
        assert_eq!(waiters.count(), 0);
        assert!(!waiters.wake(reply(id)));
    }

    #[test]
    fn a_place_is_given_up_with_the_caller_and_the_number_of_places_is_bounded() {
        let waiters = Arc::new(Waiters::new(2));
        let (id, other) = (ExecuteId::new(1), ExecuteId::new(2));
        let first = waiters.register(id).unwrap();
        let second = waiters.register(other).unwrap();
        assert_eq!(waiters.register(id).err(), Some(Full));
        drop(first);
        assert_eq!(waiters.waiting_since(Duration::ZERO), [other]);
        drop(second);
        assert_eq!(waiters.count(), 0);
        assert!(waiters.waiting_since(Duration::ZERO).is_empty());
    }
}
