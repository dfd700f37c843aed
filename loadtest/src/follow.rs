//! Many readers follow few logs while they are written: nothing missing, nothing twice, and how late it comes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use domain::{ExecuteId, ModelName};
use hdrhistogram::Histogram;
use http_body_util::BodyExt;
use jiff::Timestamp;
use protocol::http::LogRow;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::http::{Gateways, Version};

/// Longer latencies are not told from each other.
const LATENCY_US_MAX: u64 = 600_000_000;
/// How long a reader waits for the next event.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Follows the logs of running executions with many readers, and says whether and how late each line came
#[derive(Debug, Clone, Args)]
pub struct Follow {
    /// A model that logs while it runs
    #[arg(long, default_value = "ticker")]
    model: ModelName,
    /// Its input
    #[arg(long, default_value = r#"{"seconds": 20, "every_ms": 100}"#)]
    input: String,
    /// How many executions, which should all find a slot
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    executions: u32,
    /// How many readers in all
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    readers: u32,
    /// The gateways, separated by commas
    #[arg(long, env = "GANTRY_URL", value_delimiter = ',', default_value = "http://127.0.0.1:7070")]
    url: Vec<String>,
    /// Write the figures to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What readers saw.
#[derive(Debug)]
struct Seen {
    lines: u64,
    gaps: u64,
    repeats: u64,
    unfinished: u64,
    /// From the time a line was read from its script to its arrival here, in microseconds, of lines written while the reader was
    /// connected.
    late_us: Histogram<u64>,
    /// The same of the first lines of executions.
    first_us: Histogram<u64>,
}

impl Seen {
    fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        Ok(Self {
            lines: 0,
            gaps: 0,
            repeats: 0,
            unfinished: 0,
            late_us: histogram()?,
            first_us: histogram()?,
        })
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.lines += other.lines;
        self.gaps += other.gaps;
        self.repeats += other.repeats;
        self.unfinished += other.unfinished;
        self.late_us.add(&other.late_us)?;
        self.first_us.add(&other.first_us)?;
        Ok(())
    }

    fn is_clean(&self) -> bool {
        self.gaps + self.repeats + self.unfinished == 0
    }
}

/// Measures, prints, and says whether every reader saw every line once.
///
/// # Errors
/// An execution is not accepted, or a log cannot be followed.
pub async fn run(args: Follow) -> anyhow::Result<bool> {
    let gateways = std::sync::Arc::new(Gateways::new(&args.url, Version::Http1)?);
    gateways.check_model(&args.model).await?;
    let input = Bytes::from(args.input.clone());
    let mut reading = JoinSet::new();
    for execution in 0..args.executions {
        let id = gateways.submit(&args.model, input.clone()).await?;
        let share = (args.readers + args.executions - 1 - execution) / args.executions;
        for _ in 0..share {
            let gateways = gateways.clone();
            reading.spawn(async move { read(&gateways, id).await });
        }
    }
    let mut seen = Seen::new()?;
    while let Some(read) = reading.join_next().await {
        seen.add(&read??)?;
    }
    print(&args, &seen);
    if let Some(file) = &args.json {
        let quantiles = |all: &Histogram<u64>| json!({ "p50": all.value_at_quantile(0.5), "p95": all.value_at_quantile(0.95), "max": all.max() });
        let figures = json!({ "executions": args.executions, "readers": args.readers, "lines": seen.lines,
            "gaps": seen.gaps, "repeats": seen.repeats, "unfinished": seen.unfinished,
            "late_us": quantiles(&seen.late_us), "first_us": quantiles(&seen.first_us) });
        std::fs::write(file, format!("{figures:#}\n"))
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(seen.is_clean())
}

fn print(args: &Follow, seen: &Seen) {
    println!("{} readers of {} logs: {} lines", args.readers, args.executions, seen.lines);
    println!("  gaps {}, repeats {}, streams without an end {}", seen.gaps, seen.repeats, seen.unfinished);
    for (what, all) in [("all lines", &seen.late_us), ("first lines", &seen.first_us)] {
        let ms = |q| all.value_at_quantile(q) as f64 / 1_000.0;
        println!(
            "  {what:<12} from the script to the reader: p50 {:.0} ms   p95 {:.0} ms   p99 {:.0} ms   max {:.0} ms   (of {})",
            ms(0.5),
            ms(0.95),
            ms(0.99),
            all.max() as f64 / 1_000.0,
            all.len()
        );
    }
}

/// Reads one log to its end.
async fn read(gateways: &Gateways, id: ExecuteId) -> anyhow::Result<Seen> {
    let mut seen = Seen::new()?;
    let mut body = gateways.events(id).await?;
    let connected_at = Timestamp::now();
    let (mut text, mut last) = (Vec::new(), 0);
    loop {
        let Ok(Some(frame)) = timeout(SILENCE_MAX, body.frame()).await else {
            seen.unfinished += 1;
            return Ok(seen);
        };
        text.extend_from_slice(frame.context("read the stream")?.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let event = String::from_utf8(event).context("an event is no text")?;
            match field(&event, "event") {
                Some("log") => note(&mut seen, &event, &mut last, connected_at)?,
                Some("end") => return Ok(seen),
                // A sign of life.
                None => {}
                Some(other) => bail!("an event {other:?} in a log"),
            }
        }
    }
}

fn note(seen: &mut Seen, event: &str, last: &mut i64, connected_at: Timestamp) -> anyhow::Result<()> {
    let row: LogRow = serde_json::from_str(field(event, "data").context("an event without data")?)?;
    seen.lines += 1;
    match row.log_id - *last {
        1 => {}
        ..=0 => seen.repeats += 1,
        _ => seen.gaps += 1,
    }
    *last = row.log_id.max(*last);
    if row.at >= connected_at {
        let late = Timestamp::now().duration_since(row.at).as_micros();
        let late = u64::try_from(late).unwrap_or(1).clamp(1, LATENCY_US_MAX);
        seen.late_us.saturating_record(late);
        if row.log_id == 1 {
            seen.first_us.saturating_record(late);
        }
    }
    Ok(())
}

fn field<'a>(event: &'a str, name: &str) -> Option<&'a str> {
    event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(log_id: i64) -> String {
        format!(
            "event: log\nid: {log_id}\ndata: {{\"log_id\":{log_id},\"attempt\":1,\"level\":\"I\",\
             \"at\":\"2026-11-23T06:00:00Z\",\"line\":\"x\",\"continues\":false}}\n\n"
        )
    }

    #[test]
    fn a_gap_and_a_repeat_are_seen() {
        let (mut seen, mut last) = (Seen::new().unwrap(), 0);
        for log_id in [1, 2, 4, 4, 5, 3, 6] {
            note(&mut seen, &event(log_id), &mut last, Timestamp::UNIX_EPOCH).unwrap();
        }
        assert_eq!((seen.lines, seen.gaps, seen.repeats), (7, 1, 2));
        assert_eq!((seen.late_us.len(), seen.first_us.len()), (7, 1));
        assert!(!seen.is_clean());
    }
}
