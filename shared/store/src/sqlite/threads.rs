//! The threads that own the connections, and the way to them.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::fail::Fail;
use crate::{Recovery, StoreError};

/// The longest a call takes, from its start to its answer.
const CALL_LIMIT: Duration = Duration::from_secs(6);
/// The most calls that wait for a thread.
const WAITING_MAX: usize = 1_024;

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// One thread that writes and a few that read, each with its own connection.
///
/// Dropping it lets the work under way end and joins the threads, so that the file is free afterwards.
pub(super) struct Threads {
    writer: Option<mpsc::Sender<Work>>,
    reader: Option<mpsc::Sender<Work>>,
    joins: Vec<JoinHandle<()>>,
    /// Held as long as the threads live.
    _lock: File,
}

impl Threads {
    /// Starts a thread for each connection.
    pub fn start(lock: File, writing: Connection, reading: Vec<Connection>) -> Result<Self, std::io::Error> {
        let (writer, writes) = mpsc::channel(WAITING_MAX);
        let (reader, reads) = mpsc::channel(WAITING_MAX);
        let (writes, reads) = (Arc::new(Mutex::new(writes)), Arc::new(Mutex::new(reads)));
        let mut threads = Self { writer: Some(writer), reader: Some(reader), joins: Vec::new(), _lock: lock };
        threads.join_later("sqlite-write", writing, writes)?;
        for connection in reading {
            threads.join_later("sqlite-read", connection, Arc::clone(&reads))?;
        }
        Ok(threads)
    }

    fn join_later(
        &mut self,
        name: &str,
        mut connection: Connection,
        work: Arc<Mutex<mpsc::Receiver<Work>>>,
    ) -> Result<(), std::io::Error> {
        let thread = std::thread::Builder::new().name(name.to_owned());
        self.joins.push(thread.spawn(move || {
            loop {
                let next = work.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                let Some(next) = next else { return };
                next(&mut connection);
            }
        })?);
        Ok(())
    }

    /// Runs `work` in one transaction, with the time it began; nothing of it is done if it fails.
    ///
    /// If the future is dropped before the work began it is not done, afterwards it is.
    pub async fn write<T: Send + 'static>(
        &self,
        statement: &'static str,
        work: impl FnOnce(&Connection, i64) -> Result<T, Fail> + Send + 'static,
    ) -> Result<T, StoreError> {
        call(self.writer.as_ref(), statement, |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            finish(transaction, work)
        })
        .await
    }

    /// Runs `work`, which only reads, on one snapshot.
    pub async fn read<T: Send + 'static>(
        &self,
        statement: &'static str,
        work: impl FnOnce(&Connection, i64) -> Result<T, Fail> + Send + 'static,
    ) -> Result<T, StoreError> {
        call(self.reader.as_ref(), statement, |connection| finish(connection.transaction()?, work)).await
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        (self.writer, self.reader) = (None, None);
        for join in self.joins.drain(..) {
            // It panicked: whoever waited for its answer was told.
            drop(join.join());
        }
    }
}

fn finish<T>(
    transaction: Transaction<'_>,
    work: impl FnOnce(&Connection, i64) -> Result<T, Fail>,
) -> Result<T, Fail> {
    let answer = work(&transaction, now_us())?;
    transaction.commit().map_err(Fail::Commit)?;
    Ok(answer)
}

async fn call<T: Send + 'static>(
    threads: Option<&mpsc::Sender<Work>>,
    statement: &'static str,
    work: impl FnOnce(&mut Connection) -> Result<T, Fail> + Send + 'static,
) -> Result<T, StoreError> {
    let deadline = Instant::now() + CALL_LIMIT;
    let threads = threads.ok_or(StoreError::Overloaded("the database is closed"))?;
    let place = match timeout_at(deadline, threads.reserve()).await {
        Ok(Ok(place)) => place,
        Ok(Err(_)) => return Err(StoreError::Connect("the database's thread has ended".into())),
        Err(_) => return Err(StoreError::Overloaded("too many calls wait for the database")),
    };
    let (answer, answered) = oneshot::channel();
    place.send(Box::new(move |connection: &mut Connection| {
        if !answer.is_closed() {
            // Whoever waited may have gone meanwhile; what was done stays.
            drop(answer.send(work(connection)));
        }
    }));
    match timeout_at(deadline, answered).await {
        Ok(Ok(answer)) => answer.map_err(|fail| fail.at(statement)),
        Ok(Err(_)) => Err(StoreError::Statement {
            statement,
            recovery: Recovery::Unknown,
            source: "the database's thread ended without an answer".into(),
        }),
        Err(_) => Err(StoreError::Timeout { statement, limit_ms: CALL_LIMIT.as_millis() as u64 }),
    }
}

/// The record's clock: microseconds after 1970.
pub(super) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
