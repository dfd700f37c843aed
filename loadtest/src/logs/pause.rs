//! The drop of a day while others read and write: how long it took, and how long they were held up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use domain::ExecuteId;
use serde_json::{Value, json};
use store::{Append, Appended, LogFilter, LogRetention, LogStep, Record, Writer, WriterConfig};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::write::{begin, line};

/// How many read and how many write.
const READERS: usize = 4;
const WRITERS: u32 = 20;
/// How long they do before, so that it is known how long their calls take without it.
const BEFORE: Duration = Duration::from_secs(5);
/// And after.
const AFTER: Duration = Duration::from_secs(1);
/// How many lines a writer hands over at once.
const LINES: i64 = 20;

/// Drops the one day that `keep` does not.
///
/// # Errors
/// The record fails, or no day was dropped.
pub async fn drop_a_day(
    record: Arc<dyn Record>,
    ids: &[ExecuteId],
    fence: i64,
    keep: LogRetention,
) -> anyhow::Result<Value> {
    let (phase, watching) = watch::channel(Phase::Before);
    let (writer, task) = Writer::new(Arc::clone(&record), WriterConfig::default());
    let mut aside = JoinSet::new();
    aside.spawn(task.run());
    let mut tasks = JoinSet::new();
    for _ in 0..READERS {
        tasks.spawn(read(Arc::clone(&record), ids.to_vec(), watching.clone()));
    }
    for (place, (execute_id, _)) in begin(record.as_ref(), WRITERS).await?.into_iter().enumerate() {
        tasks.spawn(write(writer.clone(), place, execute_id, watching.clone()));
    }
    drop(writer);
    sleep(BEFORE).await;
    phase.send_replace(Phase::Dropping);
    let began = Instant::now();
    let LogStep::Done(day) = record.drop_log(fence, keep).await? else { bail!("no day was dropped") };
    let took = began.elapsed();
    sleep(AFTER).await;
    phase.send_replace(Phase::Ended);
    let mut longest = Longest::default();
    while let Some(ended) = tasks.join_next().await {
        longest.join(&ended??);
    }
    while let Some(ended) = aside.join_next().await {
        ended?;
    }
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    println!(
        "dropped {} ({} lines, {} bytes) in {:.0} ms; the longest read {:.0} ms (before: {:.0} ms), the longest write \
         {:.0} ms (before: {:.0} ms)",
        day.day,
        day.lines,
        day.bytes,
        ms(took),
        ms(longest.read[1]),
        ms(longest.read[0]),
        ms(longest.write[1]),
        ms(longest.write[0])
    );
    Ok(json!({
        "day": day.day, "lines": day.lines, "bytes": day.bytes, "took_ms": ms(took), "readers": READERS, "writers": WRITERS,
        "longest_read_ms": ms(longest.read[1]), "longest_read_before_ms": ms(longest.read[0]),
        "longest_write_ms": ms(longest.write[1]), "longest_write_before_ms": ms(longest.write[0]),
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Before,
    Dropping,
    Ended,
}

/// The longest calls before and while the day was dropped.
#[derive(Debug, Default)]
struct Longest {
    read: [Duration; 2],
    write: [Duration; 2],
}

impl Longest {
    fn join(&mut self, other: &Self) {
        for place in 0..2 {
            self.read[place] = self.read[place].max(other.read[place]);
            self.write[place] = self.write[place].max(other.write[place]);
        }
    }
}

async fn read(
    record: Arc<dyn Record>,
    ids: Vec<ExecuteId>,
    phase: watch::Receiver<Phase>,
) -> anyhow::Result<Longest> {
    let mut longest = Longest::default();
    loop {
        let began = Instant::now();
        record.list_log(ids[rand::random_range(0..ids.len())], &LogFilter::after(0, 100)).await?;
        let place = match *phase.borrow() {
            Phase::Before => 0,
            Phase::Dropping => 1,
            Phase::Ended => return Ok(longest),
        };
        longest.read[place] = longest.read[place].max(began.elapsed());
    }
}

async fn write(
    writer: Writer,
    place: usize,
    execute_id: ExecuteId,
    phase: watch::Receiver<Phase>,
) -> anyhow::Result<Longest> {
    let (mut longest, mut base) = (Longest::default(), 0);
    loop {
        let lines = (base + 1..=base + LINES).map(|log_id| line(place, log_id, 60)).collect();
        let began = Instant::now();
        match writer.append(Append { execute_id, attempt: 1, base, lines, fence: None }).await? {
            Appended::Stored { last_log_id } => base = last_log_id,
            Appended::Stale => bail!("{execute_id} lost its lease"),
        }
        let at = match *phase.borrow() {
            Phase::Before => 0,
            Phase::Dropping => 1,
            Phase::Ended => return Ok(longest),
        };
        longest.write[at] = longest.write[at].max(began.elapsed());
        sleep(Duration::from_millis(5)).await;
    }
}
