//! Makes the calls of a scenario and waits until each is resolved.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::ExecuteId;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::accounting::{Accountant, Accounting};
use crate::amqp::Producer;
use crate::call::{Call, Kind, Mode, Outcome};
use crate::cli::Servers;
use crate::http::Gateways;
use crate::live::View;
use crate::load::Pattern;
use crate::scenario::Scenario;
use crate::tally::{Ended, Series, Tally};

/// The most calls that are open at once in an open loop; those beyond start late, and their latency counts from when they
/// were due.
const OPEN_MAX: usize = 50_000;

/// What makes calls.
pub struct Caller {
    /// The gateways.
    pub gateways: Gateways,
    producer: Option<Producer>,
    /// What the idempotency keys begin with.
    run: String,
}

/// What became of the calls of a scenario.
pub struct Offered {
    /// By kind, in the scenario's order.
    pub tallies: Vec<Tally>,
    /// By second.
    pub series: Series,
    /// What the measured time cost.
    pub accounting: Accounting,
}

impl Caller {
    /// Connects to what the scenario's kinds need, and looks for their models.
    ///
    /// # Errors
    /// A server or a model is not there.
    pub async fn connect(servers: &Servers, scenario: &Scenario) -> anyhow::Result<Self> {
        let gateways = Gateways::new(&servers.url, scenario.version)?;
        for kind in &scenario.kinds {
            gateways.check_model(&kind.model).await?;
        }
        let is_direct = scenario.kinds.iter().any(|kind| kind.mode == Mode::Amqp);
        let producer = if is_direct { Some(Producer::connect(servers).await?) } else { None };
        let run = ExecuteId::new(Timestamp::now().as_millisecond().try_into()?).to_string();
        Ok(Self { gateways, producer, run })
    }

    async fn call(&self, kind: &Kind, call: Call) -> Outcome {
        match &self.producer {
            Some(producer) if kind.mode == Mode::Amqp => producer.call(kind, &self.gateways, call).await,
            _ => self.gateways.call(&kind.model, kind.mode, &self.run, call).await,
        }
    }

    /// Ends its connections.
    pub async fn close(self) {
        if let Some(producer) = self.producer {
            producer.close().await;
        }
    }
}

/// Makes all calls and waits until each is resolved or the grace is over.
///
/// # Errors
/// Never for what becomes of a call.
pub async fn offer(
    scenario: &Scenario,
    caller: &Arc<Caller>,
    accountant: Accountant,
) -> anyhow::Result<Offered> {
    let load = scenario.load;
    let start = Instant::now();
    let measured = start + load.warmup;
    let end = measured + load.duration;
    let mut open = Open {
        tasks: JoinSet::new(),
        caller: caller.clone(),
        kinds: scenario.kinds.iter().cloned().map(Arc::new).collect(),
        turns: scenario.turns(),
        next_turn: 0,
        next_number: 0,
        until: end + load.grace,
        retries: load.retries,
    };
    let mut counted = Counted::new(scenario.kinds.len(), measured..end)?;
    let mut view = View::new(start, end);
    let mut tick = interval(view.period());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut readings = JoinSet::new();
    readings.spawn(async move {
        sleep_until(measured.into()).await;
        let before = accountant.read().await;
        sleep_until(end.into()).await;
        (before, accountant.read().await)
    });
    if let Pattern::Closed(callers) = load.pattern {
        (0..callers).for_each(|_| open.make(start));
    }
    let mut arrivals = load.arrivals().map(|after| start + after).peekable();
    while arrivals.peek().is_some() || !open.tasks.is_empty() {
        let due = arrivals.peek().copied();
        let may_make = due.is_some() && open.tasks.len() < OPEN_MAX;
        tokio::select! {
            biased;
            _ = tick.tick() => view.show(&counted.series, open.tasks.len()),
            // (Timers are coarse: what is due now is not waited for.)
            () = sleep_until(due.unwrap_or(end).into()), if may_make && due > Some(Instant::now()) => {}
            () = std::future::ready(()), if may_make && due <= Some(Instant::now()) => {
                arrivals.next();
                open.make(due.unwrap_or(end));
                // Also when much is due: what has ended is noted.
                while let Some(ended) = open.tasks.try_join_next() {
                    counted.add(ended?);
                }
            }
            Some(ended) = open.tasks.join_next() => {
                let ended = ended?;
                let is_last_of_batch = ended.is_last_of_batch;
                counted.add(ended);
                if matches!(load.pattern, Pattern::Closed(_)) && is_last_of_batch && Instant::now() < end {
                    open.make(Instant::now());
                }
            }
        }
    }
    view.clear();
    let mut accounting = Accounting::default();
    while let Some(read) = readings.join_next().await {
        let (before, after) = read?;
        accounting = Accounting::between(&before, &after, counted.series.executions());
    }
    Ok(Offered { tallies: counted.tallies, series: counted.series, accounting })
}

/// The calls that are open, and how the next ones look.
struct Open {
    tasks: JoinSet<Ended>,
    caller: Arc<Caller>,
    kinds: Vec<Arc<Kind>>,
    turns: Vec<usize>,
    next_turn: usize,
    next_number: u64,
    until: Instant,
    retries: bool,
}

impl Open {
    /// Makes the next call, or batch of calls, that was due at `due`.
    fn make(&mut self, due: Instant) {
        let turn = self.turns.get(self.next_turn % self.turns.len().max(1)).copied().unwrap_or(0);
        self.next_turn += 1;
        let Some(kind) = self.kinds.get(turn).cloned() else { return };
        for place in 0..kind.batch {
            let (caller, kind) = (self.caller.clone(), kind.clone());
            let call = kind.call(self.next_number, self.until, self.retries);
            let is_last_of_batch = place + 1 == kind.batch;
            self.next_number += 1;
            self.tasks.spawn(async move {
                let sent_at = Timestamp::now();
                let outcome = caller.call(&kind, call).await;
                let (ended, ended_at) = (Instant::now(), Timestamp::now());
                Ended { kind: turn, due, sent_at, outcome, ended, ended_at, is_last_of_batch }
            });
        }
    }
}

/// What has ended, counted.
struct Counted {
    tallies: Vec<Tally>,
    series: Series,
    measured: std::ops::Range<Instant>,
}

impl Counted {
    fn new(kinds: usize, measured: std::ops::Range<Instant>) -> anyhow::Result<Self> {
        let length = measured.end - measured.start;
        let tallies = (0..kinds).map(|_| Tally::new(length)).collect::<Result<_, _>>()?;
        Ok(Self { tallies, series: Series::new(measured.clone())?, measured })
    }

    fn add(&mut self, ended: Ended) {
        self.series.add(&ended);
        let latency: Duration = ended.ended - ended.due;
        let latency = self.measured.contains(&ended.due).then_some(latency);
        let is_measured = self.measured.contains(&ended.ended);
        if let Some(tally) = self.tallies.get_mut(ended.kind) {
            tally.add(ended, latency, is_measured);
        }
    }
}
