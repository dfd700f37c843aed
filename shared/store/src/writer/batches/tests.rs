use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::*;

/// A row of `key`; `bad` ones spoil their batch.
#[derive(Clone)]
struct Numbered {
    key: u128,
    number: u32,
    is_bad: bool,
    bytes: usize,
}

fn numbered(key: u128, number: u32) -> Numbered {
    Numbered { key, number, is_bad: false, bytes: 1 }
}

impl Row for Numbered {
    type Answer = u32;
    const KIND: &'static str = "test";

    fn keys(&self) -> [Option<u128>; 2] {
        [Some(self.key), None]
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Keys and numbers.
type WrittenBatch = Vec<(u128, u32)>;

/// Keeps what was written, batch by batch.
#[derive(Clone)]
struct Written {
    batches: Arc<Mutex<Vec<WrittenBatch>>>,
    /// One permit for each batch that may go on.
    gate: Arc<Semaphore>,
    /// The failures that come before anything else.
    failures: Arc<Mutex<Vec<Recovery>>>,
}

impl Written {
    fn new(permits: usize) -> Self {
        Self { batches: Arc::default(), gate: Arc::new(Semaphore::new(permits)), failures: Arc::default() }
    }

    fn sizes(&self) -> Vec<usize> {
        self.batches.lock().unwrap().iter().map(Vec::len).collect()
    }
}

fn failure(recovery: Recovery) -> StoreError {
    StoreError::Statement { statement: "test", recovery, source: "as told".into() }
}

impl Write<Numbered> for Written {
    async fn write(&self, rows: &[Numbered]) -> Result<Vec<u32>, StoreError> {
        self.gate.acquire().await.unwrap().forget();
        if let Some(recovery) = self.failures.lock().unwrap().pop() {
            return Err(failure(recovery));
        }
        if rows.iter().any(|row| row.is_bad) {
            return Err(failure(Recovery::Permanent));
        }
        self.batches.lock().unwrap().push(rows.iter().map(|row| (row.key, row.number)).collect());
        Ok(rows.iter().map(|row| row.number).collect())
    }
}

struct Env {
    sender: Sender<Numbered>,
    written: Written,
    task: JoinSet<()>,
}

impl Env {
    fn new(written: Written, config: &WriterConfig) -> Self {
        let (sender, batches) = channel(config);
        let mut task = JoinSet::new();
        let record = written.clone();
        task.spawn(async move { batches.run(&record).await });
        Self { sender, written, task }
    }

    fn send(&self, row: Numbered) -> oneshot::Receiver<Result<u32, StoreError>> {
        self.sender.send(row, None).unwrap()
    }

    /// Lets everything be written.
    async fn end(mut self) -> Written {
        drop(self.sender);
        self.written.gate.add_permits(1_000_000);
        self.task.join_next().await.unwrap().unwrap();
        self.written
    }
}

/// Waits until the first batch is under way.
async fn under_way(env: &Env) {
    while env.written.gate.available_permits() > 0 || env.sender.0.capacity() < env.sender.0.max_capacity() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_arrives_while_a_batch_is_under_way_is_the_next_batch() {
    let env = Env::new(Written::new(0), &WriterConfig::default());
    let first = env.send(numbered(0, 0));
    under_way(&env).await;
    let rest: Vec<_> = (1..100).map(|n| env.send(numbered(n.into(), n))).collect();
    let written = env.end().await;
    assert_eq!(written.sizes(), [1, 99]);
    assert_eq!(first.await.unwrap().unwrap(), 0);
    for (n, answer) in (1..).zip(rest) {
        assert_eq!(answer.await.unwrap().unwrap(), n);
    }
}

#[tokio::test]
async fn a_batch_holds_a_key_once_and_the_rows_of_a_key_keep_their_order() {
    let env = Env::new(Written::new(0), &WriterConfig { rows_max: 7, ..WriterConfig::default() });
    let random: Vec<u32> = (0..2_000_u32).map(|_| rand::random::<u32>() % 20).collect();
    let answers: Vec<_> =
        (0..).zip(&random).map(|(n, key)| env.send(numbered(u128::from(*key), n))).collect();
    let written = env.end().await;
    for (n, answer) in (0..).zip(answers) {
        assert_eq!(answer.await.unwrap().unwrap(), n);
    }
    let batches = written.batches.lock().unwrap();
    let mut last = HashMap::new();
    for batch in batches.iter() {
        assert!(batch.len() <= 7);
        let mut seen = HashSet::new();
        for (key, number) in batch {
            assert!(seen.insert(key), "twice in a batch");
            let before = last.insert(*key, *number);
            assert!(before < Some(*number), "{number} of key {key} was overtaken");
        }
    }
    assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 2_000);
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes_and_a_row_beyond_it_goes_alone() {
    let env = Env::new(Written::new(0), &WriterConfig { bytes_max: 10, ..WriterConfig::default() });
    let sized = |n: u32, bytes| Numbered { bytes, ..numbered(n.into(), n) };
    let first = env.send(sized(0, 1));
    under_way(&env).await;
    let rest: Vec<_> =
        [6, 6, 50, 4].into_iter().zip(1..).map(|(bytes, n)| env.send(sized(n, bytes))).collect();
    let written = env.end().await;
    first.await.unwrap().unwrap();
    join_all(rest).await.into_iter().for_each(|answer| assert!(answer.unwrap().is_ok()));
    let batches = written.batches.lock().unwrap();
    assert_eq!(*batches, [vec![(0, 0)], vec![(1, 1), (4, 4)], vec![(2, 2)], vec![(3, 3)]]);
}

#[tokio::test]
async fn only_the_row_at_fault_gets_the_error() {
    let env = Env::new(Written::new(0), &WriterConfig::default());
    let bad = [3, 64, 65];
    let answers: Vec<_> =
        (0..100).map(|n| env.send(Numbered { is_bad: bad.contains(&n), ..numbered(n.into(), n) })).collect();
    env.end().await;
    for (n, answer) in (0..).zip(answers) {
        let answer = answer.await.unwrap();
        assert_eq!(answer.is_err(), bad.contains(&n), "row {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_passes_is_not_seen_by_callers() {
    let written = Written::new(0);
    *written.failures.lock().unwrap() = vec![Recovery::Repeat, Recovery::Unknown, Recovery::Repeat];
    let env = Env::new(written, &WriterConfig::default());
    let answers: Vec<_> = (0..10).map(|n| env.send(numbered(n.into(), n))).collect();
    let written = env.end().await;
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(written.sizes().iter().sum::<usize>(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_row_is_given_up_when_its_time_has_come_and_the_others_go_on() {
    let written = Written::new(1_000_000);
    *written.failures.lock().unwrap() = vec![Recovery::Unknown; 30];
    let env = Env::new(written, &WriterConfig::default());
    let soon = Instant::now() + Duration::from_secs(3);
    let hurried = env.sender.send(numbered(1, 1), Some(soon)).unwrap();
    let patient = env.send(numbered(2, 2));
    let error = hurried.await.unwrap().unwrap_err();
    assert_eq!(error.recovery(), Recovery::Unknown);
    assert!(soon.elapsed() <= WAIT_MAX, "{:?}", soon.elapsed());
    assert_eq!(patient.await.unwrap().unwrap(), 2);
    env.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_nobody_waits_for_is_written_once_at_most() {
    let written = Written::new(0);
    *written.failures.lock().unwrap() = vec![Recovery::Unknown; 1];
    let env = Env::new(written, &WriterConfig::default());
    let (gone, stays) = (env.send(numbered(1, 1)), env.send(numbered(2, 2)));
    under_way(&env).await;
    let never_begun = env.send(numbered(3, 3));
    drop((gone, never_begun));
    let written = env.end().await;
    stays.await.unwrap().unwrap();
    assert_eq!(*written.batches.lock().unwrap(), [vec![(2, 2)]]);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_takes_again_later() {
    let env =
        Env::new(Written::new(0), &WriterConfig { waiting_max: 3, rows_max: 1, ..WriterConfig::default() });
    let first = env.send(numbered(0, 0));
    under_way(&env).await;
    let waiting: Vec<_> = (1..4).map(|n| env.send(numbered(n.into(), n))).collect();
    let refused = env.sender.send(numbered(9, 9), None).err().unwrap();
    assert!(matches!(refused, StoreError::Overloaded(_)), "{refused}");
    env.written.gate.add_permits(100);
    first.await.unwrap().unwrap();
    join_all(waiting).await.into_iter().for_each(|answer| assert!(answer.unwrap().is_ok()));
    assert_eq!(env.send(numbered(9, 9)).await.unwrap().unwrap(), 9);
    env.end().await;
}

#[test]
fn the_copy_of_an_error_names_what_caused_it() {
    let inner = std::io::Error::other("inner");
    let error = StoreError::Statement {
        statement: "test",
        recovery: Recovery::Permanent,
        source: Box::new(StoreError::Connect(inner.into())),
    };
    let copied = copy(&error);
    assert_eq!(copied.to_string(), error.to_string());
    assert_eq!(copied.source().unwrap().to_string(), "connect to the database: inner");
}
