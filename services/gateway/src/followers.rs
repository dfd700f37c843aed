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
    count: usize,
    next_token: u64,
    by_execution: HashMap<ExecuteId, Vec<Follower>>,
}

struct Follower {
    token: u64,
    seen: i64,
    sender: mpsc::Sender<Followed>,
}

/// One reader's place. Dropping it gives the place up.
pub(crate) struct Following {
    inner: Arc<Mutex<Inner>>,
    execute_id: ExecuteId,
    token: u64,
    receiver: mpsc::Receiver<Followed>,
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Keeps those followers of one execution that `keep` says.
    fn retain(&mut self, execute_id: ExecuteId, keep: impl FnMut(&mut Follower) -> bool) {
        let Some(followers) = self.by_execution.get_mut(&execute_id) else { return };
        let before = followers.len();
        followers.retain_mut(keep);
        self.count -= before - followers.len();
        if followers.is_empty() {
            self.by_execution.remove(&execute_id);
        }
    }
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
        if inner.count >= self.most {
            return Err(Full);
        }
        inner.count += 1;
        inner.next_token += 1;
        let token = inner.next_token;
        inner.by_execution.entry(execute_id).or_default().push(Follower { token, seen, sender });
        Ok(Following { inner: self.inner.clone(), execute_id, token, receiver })
    }

    /// The places (execution, last line seen) that can take at least `lines` more, each once.
    pub fn places(&self, lines: usize) -> Vec<(ExecuteId, i64)> {
        let inner = lock(&self.inner);
        let mut places = Vec::new();
        for (execute_id, followers) in &inner.by_execution {
            let roomy = followers.iter().filter(|follower| follower.sender.capacity() > lines);
            places.extend(roomy.map(|follower| (*execute_id, follower.seen)));
        }
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Hands lines of one execution, in order, to those who have seen what comes before them.
    pub fn hand_out(&self, execute_id: ExecuteId, lines: &[LoggedLine]) {
        let mut inner = lock(&self.inner);
        for follower in inner.by_execution.get_mut(&execute_id).into_iter().flatten() {
            for line in lines {
                let is_next = line.log_id == follower.seen + 1 && follower.sender.capacity() > 1;
                if is_next && follower.sender.try_send(Followed::Line(line.clone())).is_ok() {
                    follower.seen = line.log_id;
                }
            }
        }
    }

    /// Tells those at `place` that it is the end.
    pub fn end(&self, (execute_id, seen): (ExecuteId, i64), state: State) {
        lock(&self.inner).retain(execute_id, |follower| {
            !(follower.seen == seen && follower.sender.try_send(Followed::End(state)).is_ok())
        });
    }

    /// How many follow.
    pub fn count(&self) -> usize {
        lock(&self.inner).count
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
        lock(&self.inner).retain(self.execute_id, |follower| follower.token != self.token);
    }
}
