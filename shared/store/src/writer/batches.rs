//! The mechanism: a queue of rows, written batch by batch.

use std::collections::{HashSet, VecDeque};
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::WriterConfig;
use crate::error::Source;
use crate::{Recovery, StoreError, metrics};

/// The bound of the first wait before a repeat; it doubles with each further one.
const WAIT_FIRST: Duration = Duration::from_millis(20);
/// The bound of every wait.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// One row of a batch.
pub(super) trait Row: Send + Sync + 'static {
    /// What its caller gets.
    type Answer: Send + 'static;
    /// The name of the kind, in metrics and errors.
    const KIND: &'static str;

    /// What no two rows of a batch may share.
    fn keys(&self) -> [Option<u128>; 2];
    /// Roughly how large it is.
    fn bytes(&self) -> usize;
}

/// Writes a batch, answered in its order. One that failed may be written in part: to write it again, or parts of it, is
/// harmless and gives every row its answer.
pub(super) trait Write<R: Row>: Sync {
    fn write(&self, rows: &[R]) -> impl Future<Output = Result<Vec<R::Answer>, StoreError>> + Send;
}

/// Whoever waits for a row.
struct Caller<A> {
    answer: oneshot::Sender<Result<A, StoreError>>,
    /// After this time it is not repeated.
    give_up: Option<Instant>,
}

impl<A> Caller<A> {
    fn is_late(&self, now: Instant) -> bool {
        self.give_up.is_some_and(|at| at <= now)
    }

    fn tell(self, answer: Result<A, StoreError>) {
        // Who is gone does not want it.
        drop(self.answer.send(answer));
    }
}

struct Item<R: Row> {
    row: R,
    caller: Caller<R::Answer>,
}

/// The end rows are handed over at.
pub(super) struct Sender<R: Row>(mpsc::Sender<Item<R>>);

impl<R: Row> Clone for Sender<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Row> Sender<R> {
    /// Hands a row over. Its answer comes by the receiver; if that is dropped before the row's batch is under way, the
    /// row is not written.
    pub fn send(
        &self,
        row: R,
        give_up: Option<Instant>,
    ) -> Result<oneshot::Receiver<Result<R::Answer, StoreError>>, StoreError> {
        let (answer, answered) = oneshot::channel();
        match self.0.try_send(Item { row, caller: Caller { answer, give_up } }) {
            Ok(()) => Ok(answered),
            Err(TrySendError::Full(_)) => Err(StoreError::Overloaded("too many rows wait")),
            Err(TrySendError::Closed(_)) => Err(StoreError::Overloaded("its task has ended")),
        }
    }
}

/// The end batches come out of.
pub(super) struct Batches<R: Row> {
    arriving: mpsc::Receiver<Item<R>>,
    /// Arrived, in order: what the batch before had no place for.
    waiting: VecDeque<Item<R>>,
    rows_max: usize,
    bytes_max: usize,
}

pub(super) fn channel<R: Row>(config: &WriterConfig) -> (Sender<R>, Batches<R>) {
    let (sender, arriving) = mpsc::channel(config.waiting_max.max(1));
    let (rows_max, bytes_max) = (config.rows_max.max(1), config.bytes_max);
    (Sender(sender), Batches { arriving, waiting: VecDeque::new(), rows_max, bytes_max })
}

impl<R: Row> Batches<R> {
    /// Writes until every sender is dropped and all rows are settled.
    pub async fn run(mut self, record: &impl Write<R>) {
        while self.arrived().await {
            let batch = self.take();
            if !batch.rows.is_empty() {
                settle(record, batch).await;
            }
        }
    }

    /// Waits for at least one row; `false` if there will be none.
    async fn arrived(&mut self) -> bool {
        if self.waiting.is_empty() {
            match self.arriving.recv().await {
                Some(item) => self.waiting.push_back(item),
                None => return false,
            }
        }
        // Twice a batch, so that rows which keep each other out do not keep the others out.
        while self.waiting.len() < 2 * self.rows_max {
            let Ok(item) = self.arriving.try_recv() else { break };
            self.waiting.push_back(item);
        }
        true
    }

    /// The next batch, out of what waits, each key once and in order. Who is gone or late is left out.
    fn take(&mut self) -> Batch<R> {
        let now = Instant::now();
        let mut batch = Batch { rows: Vec::new(), callers: Vec::new() };
        let (mut held, mut bytes) = (HashSet::new(), 0);
        let mut left = VecDeque::new();
        while let Some(item) = self.waiting.pop_front() {
            if item.caller.answer.is_closed() {
                continue;
            }
            if item.caller.is_late(now) {
                item.caller.tell(Err(StoreError::Overloaded("its batch did not come in time")));
                continue;
            }
            let keys = item.row.keys();
            // What stays keeps its keys: a later row of the same execution must not overtake it.
            let is_free = keys.iter().flatten().filter(|key| !held.insert(**key)).count() == 0;
            let is_first = batch.rows.is_empty();
            if is_free && (is_first || bytes + item.row.bytes() <= self.bytes_max) {
                bytes += item.row.bytes();
                batch.push(item);
            } else {
                left.push_back(item);
            }
            if batch.rows.len() >= self.rows_max {
                break;
            }
        }
        left.append(&mut self.waiting);
        self.waiting = left;
        batch
    }
}

struct Batch<R: Row> {
    rows: Vec<R>,
    callers: Vec<Caller<R::Answer>>,
}

impl<R: Row> Batch<R> {
    fn push(&mut self, item: Item<R>) {
        self.rows.push(item.row);
        self.callers.push(item.caller);
    }

    /// Drops the rows that nobody waits for any more or that took too long.
    fn give_up(self, error: &StoreError) -> Self {
        let now = Instant::now();
        let mut kept = Self { rows: Vec::new(), callers: Vec::new() };
        for (row, caller) in self.rows.into_iter().zip(self.callers) {
            if caller.is_late(now) {
                caller.tell(Err(copy(error)));
            } else if !caller.answer.is_closed() {
                kept.push(Item { row, caller });
            }
        }
        kept
    }

    fn split(mut self) -> [Self; 2] {
        let half = self.rows.len() / 2;
        let rest = Self { rows: self.rows.split_off(half), callers: self.callers.split_off(half) };
        [rest, self]
    }

    fn tell_all(self, error: &StoreError) {
        for caller in self.callers {
            caller.tell(Err(copy(error)));
        }
    }
}

/// Writes a batch until every caller has an answer or is gone.
async fn settle<R: Row>(record: &impl Write<R>, batch: Batch<R>) {
    // The parts of a split batch, the first one last.
    let mut parts = vec![batch];
    let mut repeats = 0;
    while let Some(part) = parts.pop() {
        metrics::batch(R::KIND, part.rows.len());
        let began = Instant::now();
        let written = record.write(&part.rows).await;
        metrics::batch_took(R::KIND, began.elapsed());
        let error = match written {
            Ok(answers) if answers.len() == part.rows.len() => {
                repeats = 0;
                for (caller, answer) in part.callers.into_iter().zip(answers) {
                    caller.tell(Ok(answer));
                }
                continue;
            }
            Ok(answers) => {
                let what = format!("{} answers to {} rows", answers.len(), part.rows.len());
                part.tell_all(&StoreError::Corrupt { table: R::KIND, what });
                continue;
            }
            Err(error) => error,
        };
        metrics::batch_failed(R::KIND, error.recovery());
        match error.recovery() {
            Recovery::Permanent if part.rows.len() > 1 => parts.extend(part.split()),
            Recovery::Permanent => part.tell_all(&error),
            Recovery::Repeat | Recovery::Unknown => {
                let part = part.give_up(&error);
                if !part.rows.is_empty() {
                    parts.push(part);
                    sleep(wait(repeats)).await;
                    repeats += 1;
                }
            }
        }
    }
}

/// Full jitter: any time up to a bound that doubles.
fn wait(repeats: u32) -> Duration {
    let bound = WAIT_FIRST.saturating_mul(1_u32.checked_shl(repeats).unwrap_or(u32::MAX)).min(WAIT_MAX);
    bound.mul_f64(rand::random())
}

/// The same error for another caller; what caused it is kept as text.
fn copy(error: &StoreError) -> StoreError {
    match error {
        StoreError::Connect(source) => StoreError::Connect(chain(source.as_ref())),
        StoreError::Statement { statement, recovery, source } => {
            StoreError::Statement { statement, recovery: *recovery, source: chain(source.as_ref()) }
        }
        StoreError::Timeout { statement, limit_ms } => StoreError::Timeout { statement, limit_ms: *limit_ms },
        StoreError::Schema { found, needed, advice } => {
            StoreError::Schema { found: *found, needed: *needed, advice }
        }
        StoreError::Corrupt { table, what } => StoreError::Corrupt { table, what: what.clone() },
        StoreError::Overloaded(what) => StoreError::Overloaded(what),
    }
}

fn chain(error: &(dyn Error + 'static)) -> Source {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.into()
}

#[cfg(test)]
mod tests;
