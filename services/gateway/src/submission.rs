//! One submission: the row, the message, the wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{Attributes, ExecuteId, ModelName, Payload, State, VersionSelector};
use jiff::Timestamp;
use protocol::{ProblemCode, Reply, ReplyAddress, Request};
use store::{Acceptance, NewExecution, Recovery, StoreError, VersionRow};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::gateway::Gateway;
use crate::metrics;
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
    pub record: Duration,
    /// `None` if there is no confirm yet.
    pub publish: Option<Duration>,
    /// From the record's answer on.
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
    let published = Arc::new(AtomicU64::new(0));
    let acceptance = record_and_publish(gateway, own_id, submission, published.clone()).await?;
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
        Some(waiting) => match wait(gateway, waiting, give_up).await {
            Some(reply) => (Some(reply), state),
            None => look(gateway, execute_id, state).await,
        },
        None => (None, state),
    };
    let publish = Some(published.load(Ordering::Relaxed)).filter(|us| *us > 0).map(Duration::from_micros);
    let timing = Timing { record, publish, wait: begin.elapsed() - record };
    Ok(Submitted { execute_id, replayed, reply, state, timing })
}

/// Waits for the reply until `give_up`, or the end of a drain; then the caller has its row or its handle.
pub(crate) async fn wait(gateway: &Gateway, mut waiting: Waiting, give_up: Instant) -> Option<Arc<Reply>> {
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

/// Records and, if the row is new, publishes, in a task of its own. Returns once the row is written; `published` is how
/// many microseconds the confirm took, once it is there.
async fn record_and_publish(
    gateway: &Gateway,
    execute_id: ExecuteId,
    submission: Submission,
    published: Arc<AtomicU64>,
) -> Result<Acceptance, Refusal> {
    let reply_address = (!submission.wait.is_zero()).then(|| ReplyAddress {
        reply_to: gateway.ports.broker.reply_queue().to_owned(),
        correlation_id: execute_id.to_string(),
    });
    let request = Request {
        execute_id,
        model: submission.model,
        version: VersionSelector::Number(submission.version.version),
        queue: submission.version.manifest.queue.clone(),
        input: submission.input,
        deadline: submission.deadline,
        reply_address,
        traceparent: submission.traceparent,
        attributes: submission.attributes,
        recorded: true,
    };
    let new = NewExecution {
        execute_id,
        tenant: gateway.tenant.clone(),
        model: request.model.clone(),
        version: submission.version.version,
        queue: request.queue.clone(),
        input: request.input.clone(),
        input_digest: request.input_digest(),
        reply_address: request.reply_address.clone(),
        deadline: request.deadline,
        traceparent: request.traceparent.clone(),
        attributes: request.attributes.clone(),
        idempotency_key: submission.idempotency_key,
    };
    let (accepted, acceptance) = oneshot::channel();
    let (worker, room) = (gateway.clone(), submission.room);
    gateway.tasks.spawn(async move {
        let acceptance = worker.writer.accept(new).await;
        let is_new = matches!(acceptance, Ok(Acceptance::Recorded));
        // The caller may have gone; what it asked for has not.
        drop(accepted.send(acceptance));
        if is_new {
            metrics::accepted();
            publish(&worker, request, &published).await;
        }
        drop(room);
    });
    match acceptance.await {
        Ok(Ok(acceptance)) => Ok(acceptance),
        Ok(Err(error)) => Err(not_recorded(execute_id, error)),
        Err(_) => {
            Err(Refusal::new(ProblemCode::Internal, "the submission was broken off; nothing is known of it"))
        }
    }
}

/// What the caller is told when the record did not say that the row is written.
fn not_recorded(execute_id: ExecuteId, error: StoreError) -> Refusal {
    metrics::refused();
    let is_unknown = error.recovery() == Recovery::Unknown;
    let refusal = Refusal::from(error);
    if is_unknown { refusal.about_unknown(execute_id) } else { refusal }
}

async fn publish(gateway: &Gateway, request: Request, published: &AtomicU64) {
    let (execute_id, begin) = (request.execute_id, Instant::now());
    gateway.dispatched.publishing(execute_id);
    match gateway.ports.broker.publish(&request.queue, request.to_message()).await {
        Ok(()) => {
            let us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
            published.store(us.max(1), Ordering::Relaxed);
            gateway.dispatched.confirmed(execute_id);
        }
        Err(error) => {
            gateway.dispatched.forget(execute_id);
            metrics::publication_failed();
            tracing::debug!(%execute_id, error = bootstrap::chain(&error), "accepted and not published; a sweeper will");
        }
    }
}

/// Milliseconds after 1970 by this machine's clock.
fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
