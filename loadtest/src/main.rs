//! Offers load to Gantry and says what became of every call: how many, how fast, and whether a promise was broken.

mod amqp;
mod call;
mod cli;
mod handover;
mod http;
mod locks;
mod logs;
mod report;
mod verify;

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use domain::ExecuteId;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use amqp::Producer;
use call::{Call, Outcome};
use cli::{Amqp, Cli, Plan, Transport};
use http::Gateways;
use report::Tally;

/// The most calls that are open at once in an open loop; those beyond start late, and their latency counts from when they
/// were due.
const OPEN_MAX: usize = 50_000;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result =
        runtime.context("start the runtime").and_then(|runtime| runtime.block_on(run(cli.transport)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs the load, prints the figures, and says whether every promise was kept.
async fn run(transport: Transport) -> anyhow::Result<bool> {
    match transport {
        Transport::Http(plan) => call(plan, None).await,
        Transport::Amqp(args) => call(args.plan.clone(), Some(args)).await,
        Transport::Locks(args) => locks::run(args).await,
        Transport::Logs(args) => logs::run(args).await,
        Transport::Handover(args) => handover::run(args).await,
    }
}

/// Calls a model as planned, over HTTP, or straight over RabbitMQ where `amqp` says so.
async fn call(plan: Plan, amqp: Option<Amqp>) -> anyhow::Result<bool> {
    let over = if amqp.is_some() { "amqp" } else { "http" };
    let gateways = Arc::new(Gateways::new(&plan.url)?);
    gateways.check_model(&plan.model).await?;
    println!("{over}, model {}: {}", plan.model, describe(&plan));
    let mut tally = match amqp {
        None => {
            let run = ExecuteId::new(jiff::Timestamp::now().as_millisecond().try_into()?).to_string();
            let (gateways, model) = (gateways.clone(), plan.model.clone());
            offer(&plan, move |call| {
                let (gateways, model, run) = (gateways.clone(), model.clone(), run.clone());
                async move { gateways.call(&model, &run, call).await }
            })
            .await?
        }
        Some(args) => {
            let producer = Arc::new(Producer::connect(&args).await?);
            let (shared, gateways, model) = (producer.clone(), gateways.clone(), plan.model.clone());
            let tally = offer(&plan, move |call| {
                let (producer, gateways, model) = (shared.clone(), gateways.clone(), model.clone());
                async move { producer.call(&model, &gateways, call).await }
            })
            .await?;
            if let Some(producer) = Arc::into_inner(producer) {
                producer.close().await;
            }
            tally
        }
    };
    tally.record = verify::verify(&gateways, &tally.ids, plan.lines, Instant::now() + plan.grace).await;
    print!("{}", tally.text(plan.lines));
    if let Some(file) = &plan.json {
        let json = format!("{:#}\n", tally.json());
        if file.as_os_str() == "-" {
            print!("{json}");
        } else {
            std::fs::write(file, json).with_context(|| format!("write {}", file.display()))?;
        }
    }
    Ok(tally.is_clean())
}

fn describe(plan: &Plan) -> String {
    let how = match (plan.rate, plan.concurrency) {
        (Some(rate), _) => format!("{rate} calls/s (open loop)"),
        (None, Some(callers @ 2..)) => format!("{callers} callers (closed loop)"),
        (None, _) => "1 caller (closed loop)".to_owned(),
    };
    format!("{how} for {} s after {} s of warm-up", plan.duration.as_secs_f64(), plan.warmup.as_secs_f64())
}

/// Makes all calls and waits until each is resolved or the grace is over.
async fn offer<F, C>(plan: &Plan, call: F) -> anyhow::Result<Tally>
where
    F: Fn(Call) -> C,
    C: Future<Output = Outcome> + Send + 'static,
{
    let start = Instant::now();
    let measured = start + plan.warmup;
    let end = measured + plan.duration;
    let new_call = calls(plan, end + plan.grace)?;
    let mut tally = Tally::new()?;
    tally.measured_for(plan.duration);
    let mut add = |ended: Ended| {
        let Ended { due, outcome, at } = ended;
        tally.add(outcome, (due >= measured && due < end).then(|| at - due));
    };
    let mut open = JoinSet::new();
    let mut number = 0;
    let mut make = |open: &mut JoinSet<Ended>, due: Instant| {
        let made = call(new_call(number));
        number += 1;
        open.spawn(async move { Ended { due, outcome: made.await, at: Instant::now() } });
    };
    if let Some(rate) = plan.rate {
        let arrivals = (0_u64..).map(|n| start + Duration::from_secs_f64(n as f64 / rate));
        for due in arrivals.take_while(|due| *due < end) {
            while open.len() >= OPEN_MAX || Instant::now() < due {
                tokio::select! {
                    () = sleep_until(due.into()), if open.len() < OPEN_MAX => {}
                    Some(ended) = open.join_next() => add(ended?),
                }
            }
            make(&mut open, due);
        }
    } else {
        for _ in 0..plan.concurrency.unwrap_or(1) {
            make(&mut open, Instant::now());
        }
    }
    while let Some(ended) = open.join_next().await {
        add(ended?);
        if plan.rate.is_none() && Instant::now() < end {
            make(&mut open, Instant::now());
        }
    }
    Ok(tally)
}

/// A call and when it was due and resolved.
struct Ended {
    due: Instant,
    outcome: Outcome,
    at: Instant,
}

/// How the call of each number looks.
fn calls(plan: &Plan, until: Instant) -> anyhow::Result<impl Fn(u64) -> Call + use<>> {
    let fixed = match plan.input.as_deref().map(|input| (input, input.strip_prefix('@'))) {
        None => None,
        Some((_, Some(file))) => {
            Some(Bytes::from(std::fs::read(file).with_context(|| format!("read {file}"))?))
        }
        Some((text, None)) => Some(Bytes::from(text.to_owned())),
    };
    let is_echo = plan.model.as_str() == "echo";
    Ok(move |number| Call {
        number,
        input: fixed.clone().unwrap_or_else(|| format!("{{\"n\": {number}}}").into()),
        is_echo,
        until,
    })
}
