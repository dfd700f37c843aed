//! The upkeep of the record: what one monitor does for all.

use std::time::{Duration, Instant};

use bootstrap::{Ports, Shutdown, chain};
use coordination::Lead;
use store::{Forgotten, LogDay, LogRetention, LogStep, StoreError};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::metrics;

/// What is led.
const UPKEEP: &str = "upkeep";
/// How often the leader does it.
const EVERY: Duration = Duration::from_secs(3_600);
/// When the leader tries again after a failure.
const AGAIN: Duration = Duration::from_secs(10);
/// For how many days ahead the log has its partitions.
const DAYS_AHEAD: u32 = 3;

/// After how long sealing, or forgetting, lets everything else have its turn.
const LONGEST: Duration = Duration::from_secs(1_200);
/// How many executions are forgotten at once.
const FORGET_ROWS: u32 = 500;
/// The pause between.
const FORGET_PAUSE: Duration = Duration::from_millis(50);

/// For how long things are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub node_events: Duration,
    pub logs: LogRetention,
    /// `None`: for ever.
    pub executions: Option<Duration>,
}

/// Stands for election, says in `leads` whether it does, and keeps the record in shape while it leads, until the drain.
pub(crate) async fn run(ports: Ports, keep: Keep, leads: watch::Sender<bool>, shutdown: Shutdown) {
    let holder = format!("monitor-{}-{:08x}", std::process::id(), rand::random::<u32>());
    let mut lead = ports.coordination.lead(UPKEEP, &holder);
    loop {
        let now = *lead.borrow_and_update();
        leads.send_replace(now != Lead::No);
        let next = match now {
            Lead::No => None,
            // What is cut short here is taken up by the next leader.
            Lead::Yes { fence } => tokio::select! {
                next = upkeep(&ports, fence, keep) => Some(next),
                () = shutdown.draining() => return,
            },
        };
        tokio::select! {
            () = shutdown.draining() => return,
            () = changed(&mut lead) => {}
            () = sleep(next.unwrap_or(EVERY)) => {}
        }
    }
}

/// Waits for a change of leader; for ever if there will be none.
async fn changed(lead: &mut watch::Receiver<Lead>) {
    if lead.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Does it once, and says when to do it again.
async fn upkeep(ports: &Ports, fence: i64, keep: Keep) -> Duration {
    match try_upkeep(ports, fence, keep).await {
        Ok(Step::Done) => {
            info!(fence, "the record was kept in shape");
            metrics::upkeep("done");
            EVERY
        }
        Ok(Step::More) => {
            info!(fence, "the record was kept in shape; there is more to seal or to forget");
            metrics::upkeep("done");
            Duration::ZERO
        }
        Ok(Step::Stale) => {
            info!(fence, "another monitor leads by now");
            metrics::upkeep("stale");
            AGAIN
        }
        Err(error) => {
            warn!(fence, error = %chain(&error), "the upkeep of the record failed; it is repeated");
            metrics::upkeep("failed");
            AGAIN
        }
    }
}

/// How far a part of the upkeep came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    /// Its time was over before all was done: everything else has its turn first.
    More,
    Stale,
}

async fn try_upkeep(ports: &Ports, fence: i64, keep: Keep) -> Result<Step, StoreError> {
    let record = &ports.record;
    if !record.take_upkeep_fence(fence).await?
        || !record.upkeep(fence, DAYS_AHEAD, keep.node_events).await?
        || !drop_logs(ports, fence, keep.logs).await?
    {
        return Ok(Step::Stale);
    }
    let parts = [forget_executions(ports, fence, keep.executions).await?, seal_logs(ports, fence).await?];
    let is = |step| parts.contains(&step);
    Ok(if is(Step::Stale) {
        Step::Stale
    } else if is(Step::More) {
        Step::More
    } else {
        Step::Done
    })
}

/// `false` if the fence is stale.
async fn drop_logs(ports: &Ports, fence: i64, keep: LogRetention) -> Result<bool, StoreError> {
    loop {
        match ports.record.drop_log(fence, keep).await? {
            LogStep::Stale => return Ok(false),
            LogStep::Nothing => return Ok(true),
            LogStep::Done(LogDay { day, lines, bytes }) => {
                info!(%day, lines, bytes, "dropped a day of the log");
                metrics::log_day("dropped");
            }
        }
    }
}

async fn seal_logs(ports: &Ports, fence: i64) -> Result<Step, StoreError> {
    let until = Instant::now() + LONGEST;
    while Instant::now() < until {
        let began = Instant::now();
        match ports.record.seal_log(fence).await? {
            LogStep::Stale => return Ok(Step::Stale),
            LogStep::Nothing => return Ok(Step::Done),
            LogStep::Done(LogDay { day, lines, bytes }) => {
                let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                info!(%day, lines, bytes, took_ms, "sealed a day of the log");
                metrics::log_day("sealed");
            }
        }
    }
    Ok(Step::More)
}

async fn forget_executions(ports: &Ports, fence: i64, age: Option<Duration>) -> Result<Step, StoreError> {
    let Some(age) = age else { return Ok(Step::Done) };
    let until = Instant::now() + LONGEST;
    let mut after = None;
    while Instant::now() < until {
        match ports.record.forget_executions(fence, age, after, FORGET_ROWS).await? {
            Forgotten::Stale => return Ok(Step::Stale),
            Forgotten::Executions { count, last } => {
                metrics::executions_forgotten(count);
                if count < FORGET_ROWS {
                    return Ok(Step::Done);
                }
                after = last;
            }
        }
        // Those who work go first.
        sleep(FORGET_PAUSE).await;
    }
    Ok(Step::More)
}
