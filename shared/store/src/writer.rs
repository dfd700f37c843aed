//! Group commit: many callers, few statements.

mod batches;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use domain::{Ending, ExecuteId, LogLine};
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::batches::{Batches, Row, Sender, Write};
use crate::{
    Acceptance, Append, Appended, ClaimAnswer, ClaimRequest, Finish, Finished, NewExecution, Record,
    Settlement, StoreError,
};

/// How long an acceptance is repeated while the database is away: somebody waits for it.
const ACCEPT_BUDGET: Duration = Duration::from_secs(3);
/// How long a claim is repeated: its delivery waits meanwhile.
const CLAIM_BUDGET: Duration = Duration::from_secs(10);
/// The most bytes in a batch of log lines: a larger one is no faster, and whoever has one line waits longer for it.
const APPEND_BYTES_MAX: usize = 2 << 20;
/// What a row costs beside its payload, in bytes.
const ROW_BYTES: usize = 512;

/// The bounds of a [`Writer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterConfig {
    /// The most rows in a batch.
    pub rows_max: usize,
    /// The most bytes in a batch (a row that is larger alone is a batch of its own).
    pub bytes_max: usize,
    /// The most rows of one kind that wait for their batch; one more is refused.
    pub waiting_max: usize,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self { rows_max: 256, bytes_max: 8 << 20, waiting_max: 20_000 }
    }
}

/// The four hot writes of the record, one row each to its caller and batched across executions to the database.
///
/// Per kind one batch is in flight; what arrives meanwhile forms the next one, so a lone caller waits for nobody and a
/// crowd shares statements. A batch holds each execution (and each idempotency key) once; rows of one execution and kind
/// are written in the order they were handed over. **Between kinds there is no order**: await an append before you hand
/// over the finish of the same attempt.
///
/// A batch that may succeed later is repeated, with growing waits; one that cannot is split until only the row at fault
/// gets the error.
///
/// Dropping the future of a call takes its row out unless its batch is under way; then it is written, but not repeated.
#[derive(Clone)]
pub struct Writer {
    accept: Sender<NewExecution>,
    claim: Sender<ClaimRequest>,
    append: Sender<Append>,
    finish: Sender<Finish>,
}

/// The other end of a [`Writer`]: whoever owns it runs it and joins it.
pub struct WriterTask {
    record: Written,
    accept: Batches<NewExecution>,
    claim: Batches<ClaimRequest>,
    append: Batches<Append>,
    finish: Batches<Finish>,
}

impl WriterTask {
    /// Writes until every [`Writer`] is dropped and all they handed over is settled.
    pub async fn run(self) {
        let record = &self.record;
        tokio::join!(
            self.accept.run(record),
            self.claim.run(record),
            self.append.run(record),
            self.finish.run(record),
        );
    }
}

impl Writer {
    /// A writer on `record`, and the task that does its work.
    #[must_use]
    pub fn new(record: Arc<dyn Record>, config: WriterConfig) -> (Self, WriterTask) {
        let (accept, accepts) = batches::channel(&config);
        let (claim, claims) = batches::channel(&config);
        let appending = WriterConfig { bytes_max: config.bytes_max.min(APPEND_BYTES_MAX), ..config.clone() };
        let (append, appends) = batches::channel(&appending);
        let (finish, finishes) = batches::channel(&config);
        let record = Written(record);
        let task = WriterTask { record, accept: accepts, claim: claims, append: appends, finish: finishes };
        (Self { accept, claim, append, finish }, task)
    }

    /// [`Record::accept`] of one execution; gives up 3 s after the call, or when the attempt then under way failed.
    ///
    /// # Errors
    /// [`StoreError`]; on [`crate::Recovery::Unknown`] it may be recorded. [`StoreError::Overloaded`] if too many wait.
    pub async fn accept(&self, new: NewExecution) -> Result<Acceptance, StoreError> {
        answer(self.accept.send(new, Some(Instant::now() + ACCEPT_BUDGET))?).await
    }

    /// [`Record::claim`] of a chunk, answered in its order; gives up 10 s after the call, or when the attempt then under
    /// way failed. A chunk may hold an execution more than once.
    ///
    /// In place of an answer there is a [`StoreError`]; on [`crate::Recovery::Unknown`] that execution may be claimed.
    pub async fn claim(&self, chunk: Vec<ClaimRequest>) -> Vec<Result<ClaimAnswer, StoreError>> {
        let give_up = Instant::now() + CLAIM_BUDGET;
        let waiting: Vec<_> = chunk.into_iter().map(|claim| self.claim.send(claim, Some(give_up))).collect();
        let mut answers = Vec::with_capacity(waiting.len());
        for sent in waiting {
            answers.push(match sent {
                Ok(waiting) => answer(waiting).await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// [`Record::append`] of one execution's lines; repeated for as long as the caller waits. Only the caller knows how
    /// long its lease is good for.
    ///
    /// # Errors
    /// [`StoreError`] that a repeat cannot cure, or [`StoreError::Overloaded`] if too many wait.
    pub async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        answer(self.append.send(append, None)?).await
    }

    /// [`Record::finish`] of one attempt; repeated for as long as the caller waits. Only the caller knows how long its
    /// lease is good for.
    ///
    /// # Errors
    /// [`StoreError`] that a repeat cannot cure, or [`StoreError::Overloaded`] if too many wait.
    pub async fn finish(&self, finish: Finish) -> Result<Finished, StoreError> {
        answer(self.finish.send(finish, None)?).await
    }
}

async fn answer<A>(waiting: oneshot::Receiver<Result<A, StoreError>>) -> Result<A, StoreError> {
    waiting.await.unwrap_or(Err(StoreError::Overloaded("its task has ended")))
}

fn id_key(id: ExecuteId) -> u128 {
    id.as_uuid().as_u128()
}

fn lines_bytes(lines: &[LogLine]) -> usize {
    lines.iter().map(|line| line.text.len() + 64).sum()
}

impl Row for NewExecution {
    type Answer = Acceptance;
    const KIND: &'static str = "accept";

    fn keys(&self) -> [Option<u128>; 2] {
        // Two keys of one hash keep each other out of a batch, no more.
        let hash = self.idempotency_key.as_ref().map(|key| {
            let mut hasher = DefaultHasher::new();
            (self.tenant.as_str(), self.model.as_str(), key).hash(&mut hasher);
            u128::from(hasher.finish())
        });
        [Some(id_key(self.execute_id)), hash]
    }

    fn bytes(&self) -> usize {
        ROW_BYTES + self.input.bytes.len()
    }
}

impl Row for ClaimRequest {
    type Answer = ClaimAnswer;
    const KIND: &'static str = "claim";

    fn keys(&self) -> [Option<u128>; 2] {
        [Some(id_key(self.request.execute_id)), None]
    }

    fn bytes(&self) -> usize {
        let input = if self.request.recorded { 0 } else { self.request.input.bytes.len() };
        ROW_BYTES + input + self.result.as_ref().map_or(0, |result| result.bytes.len())
    }
}

impl Row for Append {
    type Answer = Appended;
    const KIND: &'static str = "append";

    fn keys(&self) -> [Option<u128>; 2] {
        [Some(id_key(self.execute_id)), None]
    }

    fn bytes(&self) -> usize {
        lines_bytes(&self.lines)
    }
}

impl Row for Finish {
    type Answer = Finished;
    const KIND: &'static str = "finish";

    fn keys(&self) -> [Option<u128>; 2] {
        [Some(id_key(self.execute_id)), None]
    }

    fn bytes(&self) -> usize {
        let result = match &self.settlement {
            Settlement::Ended(Ending::Succeeded(payload)) => payload.bytes.len(),
            Settlement::Ended(_) | Settlement::Yielded { .. } | Settlement::Retried(_) => 0,
            Settlement::Failed { message, .. } => message.len(),
        };
        ROW_BYTES + lines_bytes(&self.tail) + result
    }
}

/// What the batches are written to.
struct Written(Arc<dyn Record>);

impl Write<NewExecution> for Written {
    async fn write(&self, rows: &[NewExecution]) -> Result<Vec<Acceptance>, StoreError> {
        self.0.accept(rows).await
    }
}

impl Write<ClaimRequest> for Written {
    async fn write(&self, rows: &[ClaimRequest]) -> Result<Vec<ClaimAnswer>, StoreError> {
        self.0.claim(rows).await
    }
}

impl Write<Append> for Written {
    async fn write(&self, rows: &[Append]) -> Result<Vec<Appended>, StoreError> {
        self.0.append(rows).await
    }
}

impl Write<Finish> for Written {
    async fn write(&self, rows: &[Finish]) -> Result<Vec<Finished>, StoreError> {
        self.0.finish(rows).await
    }
}
