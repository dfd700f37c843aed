//! One load from beginning to end: the ceiling, the calls, the record, the ceiling again.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;

use crate::accounting::Accountant;
use crate::call::{Kind, Mode};
use crate::ceiling::{self, Ceiling, Shape};
use crate::cli::{Calls, MeasureCeiling, Output, RunScenario, Servers};
use crate::http::Version;
use crate::load::Pattern;
use crate::offer::{Caller, Offered, offer};
use crate::report::{Report, Run, write};
use crate::scenario::Scenario;
use crate::tally::Tally;
use crate::verify;

/// `loadtest http` and `loadtest amqp`.
///
/// # Errors
/// A server or the model is not there, or a report cannot be written.
pub async fn calls(args: Calls, mode: Mode) -> anyhow::Result<bool> {
    let input = match args.input.as_deref().map(|input| (input, input.strip_prefix('@'))) {
        None => None,
        Some((_, Some(file))) => {
            Some(Bytes::from(std::fs::read(file).with_context(|| format!("read {file}"))?))
        }
        Some((text, None)) => Some(Bytes::from(text.to_owned())),
    };
    let version = Version::of(args.http2);
    let kind = Kind {
        name: format!("{} {}", args.model, mode.label()),
        model: args.model,
        queue: args.queue,
        mode,
        weight: 1,
        batch: args.batch,
        input,
        lines: args.lines,
    };
    let (load, slos) = (args.pace.load(), args.output.slo.clone());
    let scenario = Scenario { name: kind.name.clone(), version, load, kinds: vec![kind], slos };
    offer_and_report(&scenario, &args.servers, &args.output).await
}

/// `loadtest run`.
///
/// # Errors
/// The scenario means nothing, a server or a model is not there, or a report cannot be written.
pub async fn scenario(args: &RunScenario) -> anyhow::Result<bool> {
    let mut scenario = Scenario::read(&args.scenario)?;
    scenario.slos.extend(args.output.slo.iter().cloned());
    offer_and_report(&scenario, &args.servers, &args.output).await
}

async fn offer_and_report(scenario: &Scenario, servers: &Servers, output: &Output) -> anyhow::Result<bool> {
    let shape = shape(scenario, output);
    let run = match shape {
        None => one(scenario, servers).await?,
        Some(shape) => {
            let before = ceiling::measure(servers, shape).await?;
            let mut run = one(scenario, servers).await?;
            run.compare_with(before.between(ceiling::measure(servers, shape).await?));
            run
        }
    };
    let mut run = run;
    run.judge(&scenario.slos);
    print!("{}", run.text());
    let report = Report::new(&output.title, vec![run]);
    report.write(output)?;
    Ok(report.is_good())
}

/// How the ceiling beside a scenario is measured, if it is.
pub fn shape(scenario: &Scenario, output: &Output) -> Option<Shape> {
    let (concurrency, payload) = (scenario.load.concurrency(), scenario.payload());
    (!output.no_ceiling).then_some(Shape { concurrency, payload, time: output.ceiling_time })
}

impl Run {
    /// Says what share of the ceiling it is.
    pub fn compare_with(&mut self, ceiling: Ceiling) {
        self.share = ceiling.first().map(|(_, pace)| self.figures.throughput_per_s / pace.per_s);
        self.ceiling = Some(ceiling);
    }
}

/// Offers the load and asks the record what became of it.
///
/// # Errors
/// A server or a model is not there.
pub async fn one(scenario: &Scenario, servers: &Servers) -> anyhow::Result<Run> {
    let caller = Arc::new(Caller::connect(servers, scenario).await?);
    let accountant = Accountant::new(servers, &servers.url).await;
    println!("{}: {}", scenario.name, scenario.describe());
    let Offered { mut tallies, series, accounting } = offer(scenario, &caller, accountant).await?;
    let until = Instant::now() + scenario.load.grace;
    for (tally, kind) in tallies.iter_mut().zip(&scenario.kinds) {
        tally.record = verify::verify(&caller.gateways, &tally.accepted, kind.lines, until).await;
    }
    if let Some(caller) = Arc::into_inner(caller) {
        caller.close().await;
    }
    let mut total = Tally::new(scenario.load.duration)?;
    for tally in &tallies {
        total.merge(tally)?;
    }
    let by_kind =
        scenario.kinds.iter().zip(&tallies).map(|(kind, tally)| (kind.name.clone(), tally.figures()));
    Ok(Run {
        name: scenario.name.clone(),
        load: scenario.describe(),
        offered_per_s: match scenario.load.pattern {
            Pattern::Rate(rate) => Some(rate),
            Pattern::Closed(_) | Pattern::Ramp(..) => None,
        },
        figures: total.figures(),
        kinds: if tallies.len() > 1 { by_kind.collect() } else { Vec::new() },
        stages: total.record.stages.report(),
        complaints: total.complaints.into_iter().collect(),
        seconds: series.into_seconds(),
        ceiling: None,
        share: None,
        accounting,
        slos: Vec::new(),
    })
}

/// `loadtest ceiling`.
///
/// # Errors
/// A server is not there.
pub async fn ceiling(args: &MeasureCeiling) -> anyhow::Result<bool> {
    let mut measured = Vec::new();
    for concurrency in args.concurrency.iter().copied() {
        println!("{concurrency} in flight, {} bytes", args.payload);
        let shape = Shape { concurrency, payload: args.payload, time: args.duration };
        let ceiling = ceiling::measure(&args.servers, shape).await?;
        print!("{}", ceiling.text(None));
        measured.push(serde_json::json!({ "concurrency": concurrency, "ceiling": ceiling }));
    }
    if let Some(file) = &args.json {
        write(file, &format!("{}\n", serde_json::to_string_pretty(&measured)?))?;
    }
    Ok(true)
}
