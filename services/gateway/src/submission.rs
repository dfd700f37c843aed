//! One submission: the row, the message, the wait.

mod order;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::{Attributes, ExecuteId, ModelName, Payload, State};
use jiff::Timestamp;
use protocol::{ProblemCode, Reply};
use store::{Acceptance, StoreError, VersionRow};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use self::order::{Order, Sooner};
use crate::gateway::Gateway;
use crate::problem::Refusal;
use crate::waiters::Waiting;

/// What a caller wants.
pub(crate) struct Submission {
    pub model: ModelName,
    pub version: Arc<VersionRow>,
    pub input: Payload,
    pub idempotency_key: Option<String>,
    pub deadline: Option<Timestamp>,
    pub traceparent: Option<String>,
    pub attributes: Attributes,
    /// How long the caller waits, from now on.
    pub wait: Duration,
    /// The input's share of memory, kept until it is published.
    pub room: OwnedSemaphorePermit,
}

/// What a caller gets.
pub(crate) struct Submitted {
    pub execute_id: ExecuteId,
    /// Its idempotency key was known.
    pub replayed: bool,
    /// How it ended, if that came in time.
    pub reply: Option<Arc<Reply>>,
    /// Where it is in its life, as far as is known.
    pub state: State,
    pub timing: Timing,
}

/// How long the steps took.
pub(crate) struct Timing {
    /// `None` if the gateway did not write the row: it was answered before.
    pub record: Option<Duration>,
    /// `None` if there is no confirm yet.
    pub publish: Option<Duration>,
    /// From the record's answer on, or from the beginning.
    pub wait: Duration,
}

/// Submits and waits. A caller that goes away leaves an execution that is recorded and published all the same.
pub(crate) async fn submit(gateway: &Gateway, submission: Submission) -> Result<Submitted, Refusal> {
    let begin = Instant::now();
    let give_up = begin + submission.wait;
    let is_waiting = !submission.wait.is_zero();
    let own_id = ExecuteId::new(now_ms());
    // Before anything is sent: from here on no reply can come too early.
    let mut waiting = if is_waiting { Some(gateway.waiters.register(own_id)?) } else { None };
    let order = Order::new(gateway, own_id, submission);
    let published_us = order.published_us();
    let timing = |record: Option<Duration>| {
        let publish =
            Some(published_us.load(Ordering::Relaxed)).filter(|us| *us > 0).map(Duration::from_micros);
        Timing { record, publish, wait: begin.elapsed() - record.unwrap_or_default() }
    };
    let acceptance = match waiting.as_mut().filter(|_| order.may_be_published_first()) {
        None => order.record_first(gateway).await?,
        Some(waiting) => match order.publish_first(gateway, waiting, give_up).await? {
            Sooner::Recorded(acceptance) => acceptance,
            Sooner::Reply(reply) => {
                let state = reply.ending.state();
                let (reply, timing) = (Some(reply), timing(None));
                return Ok(Submitted { execute_id: own_id, replayed: false, reply, state, timing });
            }
        },
    };
    let record = begin.elapsed();
    let (execute_id, state) = match acceptance {
        Acceptance::Recorded => (own_id, State::Queued),
        Acceptance::Attached { execute_id, state } => (execute_id, state),
        Acceptance::KeyReused => {
            let detail = "this Idempotency-Key was used in the last 24 hours with another input";
            return Err(Refusal::new(ProblemCode::IdempotencyKeyReused, detail));
        }
        Acceptance::IdReused | Acceptance::OutsideWindow => {
            tracing::error!(execute_id = %own_id, ?acceptance, "the record refuses a new id: compare this machine's clock with its");
            return Err(Refusal::new(
                ProblemCode::Unavailable,
                "this gateway's clock is wrong; nothing was accepted",
            ));
        }
    };
    let replayed = execute_id != own_id;
    if replayed && is_waiting {
        waiting = Some(gateway.waiters.register(execute_id)?);
    }
    let (reply, state) = match waiting {
        // It had ended before: nobody has to be waited for.
        Some(_) if state.is_terminal() => look(gateway, execute_id, state).await,
        Some(mut waiting) => match wait(gateway, &mut waiting, give_up).await {
            Some(reply) => (Some(reply), state),
            None => look(gateway, execute_id, state).await,
        },
        None => (None, state),
    };
    let timing = timing(Some(record));
    Ok(Submitted { execute_id, replayed, reply, state, timing })
}

/// Waits for the reply until `give_up`, or the end of a drain; then the caller has its row or its handle.
pub(crate) async fn wait(gateway: &Gateway, waiting: &mut Waiting, give_up: Instant) -> Option<Arc<Reply>> {
    let drained = async {
        gateway.shutdown.draining().await;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(gateway.config.drain_ms_max)) => {}
            () = gateway.shutdown.stopping() => {}
        }
    };
    tokio::select! {
        biased;
        reply = waiting.reply() => Some(reply),
        () = tokio::time::sleep_until(give_up) => None,
        () = drained => None,
    }
}

/// How the execution ended, or where it is, as its row says once. A record that is away says nothing, and the caller has
/// its handle.
async fn look(gateway: &Gateway, execute_id: ExecuteId, state: State) -> (Option<Arc<Reply>>, State) {
    let looked = async {
        let record = &gateway.ports.record;
        let row = record.find_execution(&gateway.tenant, execute_id).await?;
        let state = row.map_or(state, |row| row.execution.state);
        let ended =
            if state.is_terminal() { record.find_ending(&gateway.tenant, execute_id).await? } else { None };
        let reply = ended.map(|(attempt, ending)| Reply { execute_id, attempt, ending, run: Duration::ZERO });
        Ok::<_, StoreError>((reply.map(Arc::new), state))
    };
    looked.await.unwrap_or_else(|error| {
        tracing::warn!(%execute_id, error = bootstrap::chain(&error), "cannot read the row at the end of a wait");
        (None, state)
    })
}

/// Milliseconds after 1970 by this machine's clock.
fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
