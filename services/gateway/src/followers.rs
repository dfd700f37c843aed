//! Who follows which log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{ExecuteId, State};
use store::LoggedLine;
use tokio::sync::mpsc;

use crate::waiters::Full;

/// The most lines one follower has not taken yet; the look-up leaves a slow reader alone until it has.
const LINES_MAX: usize = 1_000;

/// What a follower receives.
#[derive(Debug)]
pub(crate) enum Followed {
    /// The next line.
    Line(LoggedLine),
    /// The execution has ended and there are no further lines.
    End(State),
}

/// All followers at this gateway.
pub(crate) struct Followers {
    most: usize,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next_token: u64,
    followers: HashMap<u64, Follower>,
}

struct Follower {
    execute_id: ExecuteId,
    seen: i64,
    sender: mpsc::Sender<Followed>,
}

/// One reader's place. Dropping it gives the place up.
pub(crate) struct Following {
    inner: Arc<Mutex<Inner>>,
    token: u64,
    receiver: mpsc::Receiver<Followed>,
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Followers {
    pub fn new(most: usize) -> Self {
        Self { most, inner: Arc::default() }
    }

    /// Follows the log of `execute_id` after `seen`.
    pub fn follow(&self, execute_id: ExecuteId, seen: i64) -> Result<Following, Full> {
        // One more than the lines: the end always has room.
        let (sender, receiver) = mpsc::channel(LINES_MAX + 1);
        let mut inner = lock(&self.inner);
        if inner.followers.len() >= self.most {
            return Err(Full);
        }
        inner.next_token += 1;
        let token = inner.next_token;
        inner.followers.insert(token, Follower { execute_id, seen, sender });
        Ok(Following { inner: self.inner.clone(), token, receiver })
    }

    /// The places (execution, last line seen) that can take at least `lines` more, each once.
    pub fn places(&self, lines: usize) -> Vec<(ExecuteId, i64)> {
        let inner = lock(&self.inner);
        let roomy = inner.followers.values().filter(|follower| follower.sender.capacity() > lines);
        let mut places: Vec<_> = roomy.map(|follower| (follower.execute_id, follower.seen)).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Hands lines of one execution, in order, to those who have seen what comes before them.
    pub fn hand_out(&self, execute_id: ExecuteId, lines: &[LoggedLine]) {
        let mut inner = lock(&self.inner);
        for follower in inner.followers.values_mut().filter(|follower| follower.execute_id == execute_id) {
            for line in lines {
                let is_next = line.log_id == follower.seen + 1;
                if is_next
                    && follower.sender.capacity() > 1
                    && follower.sender.try_send(Followed::Line(line.clone())).is_ok()
                {
                    follower.seen = line.log_id;
                }
            }
        }
    }

    /// Tells those at `place` that it is the end.
    pub fn end(&self, (execute_id, seen): (ExecuteId, i64), state: State) {
        lock(&self.inner).followers.retain(|_, follower| {
            let at_end = follower.execute_id == execute_id && follower.seen == seen;
            !(at_end && follower.sender.try_send(Followed::End(state)).is_ok())
        });
    }

    /// How many follow.
    pub fn count(&self) -> usize {
        lock(&self.inner).followers.len()
    }
}

impl Following {
    /// The next line, or the end; `None` after the end.
    pub async fn next(&mut self) -> Option<Followed> {
        self.receiver.recv().await
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        lock(&self.inner).followers.remove(&self.token);
    }
}
