//! What becomes of latency and goodput as the load comes near what can be done, and beyond.

use std::time::Duration;

use clap::Args;
use domain::ModelName;
use serde::{Deserialize, Serialize};

use crate::call::{Kind, Mode};
use crate::ceiling;
use crate::cli::{Output, Servers};
use crate::http::Version;
use crate::load::{Load, Pattern};
use crate::report::{Report, Run};
use crate::run::{one, shape};
use crate::scenario::Scenario;

/// Measures the capacity, then offers shares of it, by the clock and without sending again what is turned away
#[derive(Debug, Clone, Args)]
pub struct MeasureCurve {
    /// The model
    #[arg(long, default_value = "echo")]
    pub model: ModelName,
    /// Publish straight to RabbitMQ instead of calling over HTTP
    #[arg(long)]
    pub amqp: bool,
    /// Speak HTTP/2, 100 calls at once on each connection
    #[arg(long, conflicts_with = "amqp")]
    pub http2: bool,
    /// Calls per second taken as capacity [default: measured]
    #[arg(long, value_parser = crate::cli::rate)]
    pub capacity: Option<f64>,
    /// Callers by which the capacity is measured
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: u32,
    /// What is offered, in percent of the capacity
    #[arg(long, value_delimiter = ',', default_value = "10,50,80,120")]
    pub percent: Vec<u32>,
    /// For how long each is offered, in seconds
    #[arg(long, value_parser = crate::cli::seconds, default_value = "10")]
    pub duration: Duration,
    /// What comes before each, in seconds
    #[arg(long, value_parser = crate::cli::seconds, default_value = "2")]
    pub warmup: Duration,
    /// Against what
    #[command(flatten)]
    pub servers: Servers,
    /// What is written
    #[command(flatten)]
    pub output: Output,
}

/// A capacity, and what shares of it gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Calls per second.
    pub capacity_per_s: f64,
    /// In the order they were offered.
    pub points: Vec<Point>,
}

/// What an offered load gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Of the capacity.
    pub percent: u32,
    /// Calls per second.
    pub offered_per_s: f64,
    /// Of those, results within a second.
    pub goodput_per_s: f64,
    /// Turned away, as a share of all calls.
    pub shed: f64,
    /// The median latency of the successes.
    pub p50_us: u64,
    /// Their 99th percentile.
    pub p99_us: u64,
}

/// `loadtest curve`.
///
/// # Errors
/// A server or the model is not there, or a report cannot be written.
pub async fn run(args: &MeasureCurve) -> anyhow::Result<bool> {
    let mode = if args.amqp { Mode::Amqp } else { Mode::Sync };
    let closed = scenario(args, mode, Pattern::Closed(args.concurrency), "capacity".to_owned())?;
    let shape = shape(&closed, &args.output);
    let before = match shape {
        Some(shape) => Some(ceiling::measure(&args.servers, shape).await?),
        None => None,
    };
    let mut runs = Vec::new();
    let capacity_per_s = match args.capacity {
        Some(capacity) => capacity,
        None => {
            let run = one(&closed, &args.servers).await?;
            print!("{}", run.text());
            let capacity = run.figures.throughput_per_s;
            runs.push(run);
            capacity
        }
    };
    let mut curve = Curve { capacity_per_s, points: Vec::new() };
    for percent in args.percent.iter().copied() {
        let rate = capacity_per_s * f64::from(percent) / 100.0;
        let name = format!("{percent} % of capacity");
        let run = one(&scenario(args, mode, Pattern::Rate(rate.max(0.1)), name)?, &args.servers).await?;
        let point = Point::of(percent, rate, &run);
        println!("{}", point.text());
        curve.points.push(point);
        runs.push(run);
    }
    if let Some((shape, before)) = shape.zip(before) {
        let ceiling = before.between(ceiling::measure(&args.servers, shape).await?);
        runs.iter_mut().for_each(|run| run.compare_with(ceiling));
        println!("  the ceiling in this run\n{}", ceiling.text(Some(capacity_per_s)));
    }
    runs.iter_mut().for_each(|run| run.judge(&args.output.slo));
    println!("  capacity {capacity_per_s:.0}/s");
    curve.points.iter().for_each(|point| println!("{}", point.text()));
    let mut report = Report::new(&args.output.title, runs);
    report.curve = Some(curve);
    report.write(&args.output)?;
    Ok(report.is_good())
}

fn scenario(args: &MeasureCurve, mode: Mode, pattern: Pattern, name: String) -> anyhow::Result<Scenario> {
    let kind = Kind {
        name: format!("{} {}", args.model, mode.label()),
        model: args.model.clone(),
        queue: "default".parse()?,
        mode,
        weight: 1,
        batch: 1,
        input: None,
        lines: None,
    };
    let load = Load {
        pattern,
        duration: args.duration,
        warmup: args.warmup,
        grace: Duration::from_secs(60),
        retries: false,
    };
    let version = Version::of(args.http2);
    Ok(Scenario { name, version, load, kinds: vec![kind], slos: Vec::new() })
}

impl Point {
    fn of(percent: u32, offered_per_s: f64, run: &Run) -> Self {
        let figures = &run.figures;
        Self {
            percent,
            offered_per_s,
            goodput_per_s: figures.goodput_per_s,
            shed: figures.shed as f64 / figures.offered.max(1) as f64,
            p50_us: figures.latency.p50,
            p99_us: figures.latency.p99,
        }
    }

    fn text(&self) -> String {
        let Self { percent, offered_per_s, goodput_per_s, shed, p50_us, p99_us } = self;
        let (p50, p99, shed) = (*p50_us as f64 / 1e3, *p99_us as f64 / 1e3, shed * 100.0);
        format!(
            "  {percent:>4} %  offered {offered_per_s:>8.0}/s  goodput {goodput_per_s:>8.0}/s  shed {shed:>5.1} %  \
             p50 {p50:>8.2}  p99 {p99:>8.2} ms"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Figures;

    #[test]
    fn what_is_shed_is_a_share_of_all_calls() {
        let figures = Figures { offered: 200, shed: 50, goodput_per_s: 15.0, ..Figures::default() };
        let point = Point::of(120, 20.0, &Run { figures, ..Run::default() });
        assert!((point.shed - 0.25).abs() < 1e-9);
        assert!(
            point.text().contains("120 %  offered       20/s  goodput       15/s  shed  25.0 %"),
            "{}",
            point.text()
        );
        let idle = Point::of(10, 0.0, &Run::default());
        assert!(idle.shed.abs() < 1e-9);
    }
}
