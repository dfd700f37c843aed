use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use domain::{ExecuteId, TenantId};
use hdrhistogram::Histogram;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use store::{ExecutionFilter, LogDay, LogFilter, LogRetention, LogStatus, LogStep, Record};

use super::database::Database;
use super::days::{self, Shape};
use super::{Place, pause};

/// Options of `loadtest logs read`.
#[derive(Debug, Clone, Args)]
pub struct Read {
    #[command(flatten)]
    place: Place,
    /// How many lines in all
    #[arg(long, default_value_t = 100_000_000)]
    lines: u64,
    /// Of how many executions
    #[arg(long, default_value_t = 1_000_000)]
    executions: u64,
    /// Over how many days; the last two are live
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(3..=300))]
    days: u32,
    /// How many executions of sealed and of live days are read
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    reads: u32,
    /// How many executions write at once, each some lines at a time
    #[arg(long, default_value_t = 100)]
    interleaved: usize,
    /// How many connections make the lines
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    connections: u32,
    /// Do not have the system forget its file cache before the cold reads (it needs root)
    #[arg(long)]
    keep_caches: bool,
}

/// The fence of the upkeep: nobody else leads in a schema of our own.
const FENCE: i64 = 1;
/// How many lines each read asks for.
const PAGE: u32 = 100;

pub async fn run(args: Read) -> anyhow::Result<bool> {
    let mut database = Database::new(&args.place.postgres).await?;
    let measured = measure(&args, &mut database).await;
    database.drop().await.context("drop the schema")?;
    measured
}

async fn measure(args: &Read, database: &mut Database) -> anyhow::Result<bool> {
    let record: Arc<dyn Record> = Arc::new(database.record().await?);
    record.take_upkeep_fence(FENCE).await?;
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let first = today.checked_sub(i64::from(args.days - 1).days())?;
    let made = make(args, database, record.as_ref(), first, today).await?;
    let client = database.client().await?;
    client.batch_execute("analyze execution").await?;

    let parts = store::postgres::log_status(&database.config, args.reads.min(200)).await?;
    for part in &parts {
        print_part(part);
    }
    let mut reads = Vec::new();
    for (what, ids) in [("sealed", &made.sealed), ("live", &made.live)] {
        reads.push(read(args, record.as_ref(), what, ids).await?);
    }
    let lists = list(record.as_ref(), &made.live).await?;
    let oldest = (Timestamp::now() - first.checked_add(1.days())?.to_zoned(TimeZone::UTC)?.timestamp())
        .total(jiff::Unit::Second)?;
    // Older than this is the first day only.
    let keep = LogRetention { age_max: Some(Duration::from_secs_f64(oldest - 3_600.0)), bytes_max: None };
    let dropped = pause::drop_a_day(Arc::clone(&record), &made.live, FENCE, keep).await?;
    args.place.keep(&json!({
        "lines": args.lines, "executions": args.executions, "days": args.days, "chars": args.place.chars,
        "made": made.figures, "parts": parts, "reads": reads, "lists": lists, "drop": dropped,
    }))?;
    Ok(true)
}

fn print_part(part: &LogStatus) {
    let Some(cost) = part.reads else { return };
    println!(
        "{} {}: {} lines, {:.1} bytes each, correlation {:.5}; {:.0} lines in {:.2} pages, {:.2} is least ({:.2})",
        part.day.map_or_else(String::new, |day| day.to_string()),
        if part.sealed_at.is_some() { "sealed" } else { "live" },
        part.lines,
        part.bytes_per_line().unwrap_or(0.0),
        part.correlation.unwrap_or(0.0),
        cost.lines,
        cost.pages,
        cost.pages_min,
        cost.pages / cost.pages_min
    );
}

/// What was made.
struct Made {
    sealed: Vec<ExecuteId>,
    live: Vec<ExecuteId>,
    figures: Value,
}

/// Makes day after day, and lets the record seal each that is over.
async fn make(
    args: &Read,
    database: &mut Database,
    record: &dyn Record,
    first: Date,
    today: Date,
) -> anyhow::Result<Made> {
    let client = database.client().await?;
    let days = i32::try_from(args.days)?;
    client.query_one("select make_log_partitions($1, $2)", &[&first, &days]).await?;
    let each = args.executions / u64::from(args.days);
    let shape = Shape {
        executions: each,
        lines_each: (args.lines / args.executions.max(1)).max(1),
        interleaved: args.interleaved,
        chars: args.place.chars as usize,
    };
    let mut made = Made { sealed: Vec::new(), live: Vec::new(), figures: Value::Null };
    let mut figures = Vec::new();
    for n in 0..args.days {
        let day = first.checked_add(i64::from(n).days())?;
        let mut clients = Vec::new();
        for _ in 0..args.connections {
            clients.push(database.client().await?);
        }
        let began = Instant::now();
        let ids = days::make(clients, day, day == today, &shape).await?;
        let generated = began.elapsed();
        let is_over = i64::from(n) + 2 < i64::from(args.days);
        let mut sealing = Duration::ZERO;
        if is_over {
            let began = Instant::now();
            let step = record.seal_log(FENCE).await?;
            if !matches!(&step, LogStep::Done(LogDay { day: sealed, .. }) if *sealed == day) {
                bail!("{day} was not sealed but {step:?}");
            }
            sealing = began.elapsed();
        }
        let lines = ids.len() as u64 * shape.lines_each;
        println!(
            "{day}: {lines} lines made in {:.1} s, sealed in {:.1} s",
            generated.as_secs_f64(),
            sealing.as_secs_f64()
        );
        figures.push(json!({
            "day": day, "lines": lines, "made_s": generated.as_secs_f64(), "sealed_s": sealing.as_secs_f64(),
        }));
        if is_over { made.sealed.extend(ids) } else { made.live.extend(ids) }
    }
    made.figures = Value::from(figures);
    Ok(made)
}

/// Reads some executions for the first time and again.
async fn read(args: &Read, record: &dyn Record, what: &str, ids: &[ExecuteId]) -> anyhow::Result<Value> {
    let mut figures = json!({"of": what});
    let sample: Vec<_> = (0..args.reads).map(|_| ids[rand::random_range(0..ids.len())]).collect();
    if !args.keep_caches
        && let Err(error) = forget_caches()
    {
        println!("the file cache stays: {error:#}");
    }
    for pass in ["cold", "warm"] {
        let mut took_us = Histogram::<u64>::new(3)?;
        for id in &sample {
            let began = Instant::now();
            let lines = record.list_log(*id, &LogFilter::after(0, PAGE)).await?;
            if lines.lines.is_empty() {
                bail!("{id} has no lines");
            }
            took_us.record(u64::try_from(began.elapsed().as_micros())?)?;
        }
        let (p50, p99) = (took_us.value_at_quantile(0.5), took_us.value_at_quantile(0.99));
        println!("{what}, {pass}: {} reads of {PAGE} lines, p50 {p50} us, p99 {p99} us", sample.len());
        figures[pass] = json!({"reads": sample.len(), "p50_us": p50, "p99_us": p99});
    }
    Ok(figures)
}

/// Has the system forget what it has read of files.
fn forget_caches() -> anyhow::Result<()> {
    std::process::Command::new("sync").status().context("sync")?;
    std::fs::write("/proc/sys/vm/drop_caches", "1").context("write /proc/sys/vm/drop_caches")
}

/// Lists pages of executions.
async fn list(record: &dyn Record, ids: &[ExecuteId]) -> anyhow::Result<Value> {
    let mut figures = Vec::new();
    for (what, model) in [("all", None), ("of one model", Some(days::MODEL.parse()?))] {
        let mut took_us = Histogram::<u64>::new(3)?;
        for _ in 0..200 {
            let filter = ExecutionFilter {
                model: model.clone(),
                before: Some(ids[rand::random_range(0..ids.len())]),
                limit: 100,
                ..ExecutionFilter::default()
            };
            let began = Instant::now();
            record.list_executions(&TenantId::default(), &filter).await?;
            took_us.record(u64::try_from(began.elapsed().as_micros())?)?;
        }
        let (p50, p99) = (took_us.value_at_quantile(0.5), took_us.value_at_quantile(0.99));
        println!("a page of 100 executions, {what}: p50 {p50} us, p99 {p99} us");
        figures.push(json!({"what": what, "p50_us": p50, "p99_us": p99}));
    }
    Ok(Value::from(figures))
}
