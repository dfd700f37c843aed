use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use domain::{Digest, ExecuteId, Level, LogLine, NodeId, Payload, TenantId, VersionNumber, VersionSelector};
use jiff::Timestamp;
use protocol::Request;
use serde_json::json;
use store::{Append, Appended, ClaimAnswer, ClaimRequest, NewExecution, Record, Writer, WriterConfig};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::database::{Database, Row, copy};
use super::{Place, lines};

/// Options of `loadtest logs write`.
#[derive(Debug, Clone, Args)]
pub struct Write {
    #[command(flatten)]
    place: Place,
    /// How many executions write at once
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    executions: u32,
    /// How many lines each hands over at once; a worker hands over up to 500
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    batch: u32,
    /// How many bytes the writer sends in one batch at most
    #[arg(long, default_value_t = WriterConfig::default().bytes_max)]
    batch_bytes: usize,
    /// For how long each round writes, in seconds
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// How many rounds, each with its COPY after it
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// A table like the log, with what a partition of it has.
const BARE: &str = "drop table if exists bare; create table bare (like log including all)";

pub async fn run(args: Write) -> anyhow::Result<bool> {
    let mut database = Database::new(&args.place.postgres).await?;
    let measured = measure(&args, &mut database).await;
    database.drop().await.context("drop the schema")?;
    measured
}

async fn measure(args: &Write, database: &mut Database) -> anyhow::Result<bool> {
    let record: Arc<dyn Record> = Arc::new(database.record().await?);
    let client = database.client().await?;
    let config = WriterConfig { bytes_max: args.batch_bytes, ..WriterConfig::default() };
    let (writer, task) = Writer::new(Arc::clone(&record), config);
    let mut writing = JoinSet::new();
    writing.spawn(task.run());
    let mut executions = begin(record.as_ref(), args.executions).await?;
    println!(
        "{} executions write batches of {} lines of {} characters; then the same rows by one COPY",
        args.executions, args.batch, args.place.chars
    );
    let (mut rounds, mut shares) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        let from = executions.clone();
        let wrote = offer(args, &writer, &mut executions).await?;
        client.batch_execute(BARE).await?;
        let rows = replay(args, &from, &executions);
        let began = Instant::now();
        let copied = copy(&client, "bare", rows).await?;
        let bare = copied as f64 / began.elapsed().as_secs_f64();
        let share = wrote.per_second() / bare;
        println!(
            "round {round}: {} lines, {:.0}/s by the writer, {bare:.0}/s by COPY: {:.0} %",
            wrote.lines,
            wrote.per_second(),
            100.0 * share
        );
        rounds.push(json!({"lines": wrote.lines, "writer_per_s": wrote.per_second(), "copy_per_s": bare, "share": share}));
        shares.push(share);
    }
    drop(writer);
    while let Some(ended) = writing.join_next().await {
        ended?;
    }
    let sizes = "select (select sum(pg_total_relation_size(partition)) from log_partition)::float8,
        pg_total_relation_size('bare')::float8";
    let row = client.query_one(sizes, &[]).await?;
    let all: i64 = client.query_one("select count(*) from log", &[]).await?.get(0);
    let last: i64 = client.query_one("select count(*) from bare", &[]).await?.get(0);
    let expected: i64 = executions.iter().map(|(_, last_log_id)| last_log_id).sum();
    let (by_writer, by_copy) =
        (row.get::<_, f64>(0) / all.max(1) as f64, row.get::<_, f64>(1) / last.max(1) as f64);
    shares.sort_by(f64::total_cmp);
    let share = shares[shares.len() / 2];
    println!("median share {:.0} %", 100.0 * share);
    println!(
        "{by_writer:.0} bytes per line on the disk, {by_copy:.0} by COPY; {all} lines there of {expected} written"
    );
    args.place.keep(&json!({
        "executions": args.executions, "batch": args.batch, "batch_bytes": args.batch_bytes, "chars": args.place.chars, "rounds": rounds,
        "share": share, "bytes_per_line": by_writer, "bytes_per_line_copy": by_copy, "lines": all, "written": expected,
    }))?;
    Ok(all == expected)
}

struct Wrote {
    lines: u64,
    took: Duration,
}

impl Wrote {
    fn per_second(&self) -> f64 {
        self.lines as f64 / self.took.as_secs_f64()
    }
}

/// Executions that run, and the last `log_id` of each.
pub type Executions = Vec<(ExecuteId, i64)>;

pub async fn begin(record: &dyn Record, count: u32) -> anyhow::Result<Executions> {
    let now = u64::try_from(Timestamp::now().as_millisecond())?;
    let input = Payload::new(Payload::JSON, &b"{}"[..]);
    let digest = Digest::of(&input.bytes);
    let node = NodeId::new("loadtest".parse()?, now, 1);
    let mut executions = Vec::new();
    for n in 0..u64::from(count) {
        let new = NewExecution {
            execute_id: ExecuteId::new(now - u64::from(count) + n),
            tenant: TenantId::default(),
            model: "logs".parse()?,
            version: VersionNumber(1),
            queue: domain::QueueName::default(),
            input: input.clone(),
            input_digest: digest,
            reply_address: None,
            deadline: None,
            traceparent: None,
            attributes: domain::Attributes::default(),
            idempotency_key: None,
        };
        let claim = ClaimRequest {
            claim_id: Uuid::now_v7(),
            node: node.clone(),
            lease: Duration::from_secs(3_600),
            tenant: new.tenant.clone(),
            request: Request {
                execute_id: new.execute_id,
                model: new.model.clone(),
                version: VersionSelector::Number(new.version),
                queue: new.queue.clone(),
                input: new.input.clone(),
                deadline: None,
                reply_address: None,
                traceparent: None,
                attributes: domain::Attributes::default(),
                recorded: true,
            },
            input_digest: digest,
            version: Some(new.version),
            redelivered: false,
            result: None,
        };
        executions.push((new.execute_id, 0));
        record.accept(&[new]).await?;
        match record.claim(&[claim]).await?.pop() {
            Some(ClaimAnswer::Claimed(_)) => {}
            other => bail!("not claimed but {other:?}"),
        }
    }
    Ok(executions)
}

/// Lets all executions write for the round's time, each one batch after the other.
async fn offer(args: &Write, writer: &Writer, executions: &mut Executions) -> anyhow::Result<Wrote> {
    let began = Instant::now();
    let until = began + Duration::from_secs(args.seconds);
    let (batch, chars) = (i64::from(args.batch), args.place.chars as usize);
    let mut tasks = JoinSet::new();
    for (place, &(execute_id, from)) in executions.iter().enumerate() {
        let writer = writer.clone();
        tasks.spawn(async move {
            let mut base = from;
            while Instant::now() < until {
                let lines = (base + 1..=base + batch).map(|log_id| line(place, log_id, chars)).collect();
                let append = Append { execute_id, attempt: 1, base, lines, fence: None };
                match writer.append(append).await? {
                    Appended::Stored { last_log_id } => base = last_log_id,
                    Appended::Stale => bail!("{execute_id} lost its lease"),
                }
            }
            Ok((place, base))
        });
    }
    let mut lines = 0;
    while let Some(ended) = tasks.join_next().await {
        let (place, last) = ended??;
        lines += u64::try_from(last - executions[place].1)?;
        executions[place].1 = last;
    }
    Ok(Wrote { lines, took: began.elapsed() })
}

pub fn line(place: usize, log_id: i64, chars: usize) -> LogLine {
    LogLine {
        level: Level::Info,
        at_unix_us: 1_700_000_000_000_000 + log_id,
        text: lines::text(place as u64, log_id.unsigned_abs(), chars),
        continues: false,
    }
}

/// The rows of a round, in about the order they were written in.
fn replay(args: &Write, from: &Executions, to: &Executions) -> impl Iterator<Item = Row> {
    let (batch, chars) = (i64::from(args.batch), args.place.chars as usize);
    let rounds = from.iter().zip(to).map(|(from, to)| (to.1 - from.1) / batch).max().unwrap_or(0);
    (0..rounds).flat_map(move |round| {
        from.iter().zip(to).enumerate().flat_map(move |(place, (&(execute_id, first), &(_, last)))| {
            let begin = first + round * batch;
            (begin + 1..=(begin + batch).min(last)).map(move |log_id| {
                let line = line(place, log_id, chars);
                let at = Timestamp::from_microsecond(line.at_unix_us).unwrap_or_default();
                Row { execute_id: execute_id.as_uuid(), log_id, at, line: line.text }
            })
        })
    })
}
