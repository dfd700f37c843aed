//! One submission: the row, the message, the wait.

use std::sync::Arc;
use std::time::Duration;

use domain::{Ending, ExecuteId, ModelName, Payload, VersionSelector};
use jiff::Timestamp;
use protocol::{ProblemCode, Reply, ReplyAddress, Request};
use store::{Acceptance, NewExecution, VersionRow};
use tokio::sync::oneshot;
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
    /// How long the caller waits, from now on.
    pub wait: Duration,
}

/// What a caller gets.
pub(crate) struct Submitted {
    pub execute_id: ExecuteId,
    /// Its idempotency key was known.
    pub replayed: bool,
    /// How it ended, if that came in time.
    pub reply: Option<Arc<Reply>>,
    /// How long recording took.
    pub record: Duration,
    /// How long the wait after that took.
    pub waited: Duration,
}

/// Submits and waits. A caller that goes away leaves an execution that is recorded and published all the same.
pub(crate) async fn submit(gateway: &Gateway, submission: Submission) -> Result<Submitted, Refusal> {
    let begin = Instant::now();
    let give_up = begin + submission.wait;
    let is_waiting = !submission.wait.is_zero();
    let execute_id = ExecuteId::new(now_ms());
    // Before anything is sent: from here on no reply can come too early.
    let mut waiting = if is_waiting { Some(gateway.waiters.register(execute_id)?) } else { None };
    let acceptance = record_and_publish(gateway, execute_id, submission).await?;
    let record = begin.elapsed();
    let (execute_id, replayed) = match acceptance {
        Acceptance::Recorded => (execute_id, false),
        Acceptance::Attached { execute_id, .. } => {
            waiting = if is_waiting { Some(gateway.waiters.register(execute_id)?) } else { None };
            (execute_id, true)
        }
        Acceptance::KeyReused => {
            let detail = "this Idempotency-Key was used in the last 24 hours with another input";
            return Err(Refusal::new(ProblemCode::IdempotencyKeyReused, detail));
        }
        Acceptance::IdReused | Acceptance::OutsideWindow => {
            tracing::error!(%execute_id, ?acceptance, "the record refuses a new id: compare this machine's clock with its");
            return Err(Refusal::new(
                ProblemCode::Unavailable,
                "this gateway's clock is wrong; nothing was accepted",
            ));
        }
    };
    let reply = match waiting {
        Some(waiting) => wait(gateway, execute_id, waiting, give_up).await?,
        None => None,
    };
    Ok(Submitted { execute_id, replayed, reply, record, waited: begin.elapsed() - record })
}

/// Waits for the execution to end until `give_up` (or the end of a drain), then looks at its row once.
pub(crate) async fn wait(
    gateway: &Gateway,
    execute_id: ExecuteId,
    mut waiting: Waiting,
    give_up: Instant,
) -> Result<Option<Arc<Reply>>, Refusal> {
    let drained = async {
        gateway.shutdown.draining().await;
        // A little before the connections are cut.
        let patience = Duration::from_millis(gateway.config.drain_ms_max).mul_f32(0.9);
        tokio::select! {
            () = tokio::time::sleep(patience) => {}
            () = gateway.shutdown.stopping() => {}
        }
    };
    tokio::select! {
        reply = waiting.reply() => return Ok(Some(reply)),
        () = tokio::time::sleep_until(give_up) => {}
        () = drained => {}
    }
    find_reply(gateway, execute_id).await
}

/// How the execution ended, as its row says; `None` if it has not. A record that is away has not said so either: the
/// caller has its handle.
pub(crate) async fn find_reply(
    gateway: &Gateway,
    execute_id: ExecuteId,
) -> Result<Option<Arc<Reply>>, Refusal> {
    match gateway.ports.record.find_ending(&gateway.tenant, execute_id).await {
        Ok(found) => Ok(found.map(|(attempt, ending): (i32, Ending)| {
            Arc::new(Reply { execute_id, attempt, ending, run: Duration::ZERO })
        })),
        Err(error) => {
            tracing::warn!(%execute_id, error = bootstrap::chain(&error), "cannot read the row at the end of a wait");
            Ok(None)
        }
    }
}

/// Records and, if the row is new, publishes, in a task of its own. Returns once the row is written.
async fn record_and_publish(
    gateway: &Gateway,
    execute_id: ExecuteId,
    submission: Submission,
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
        idempotency_key: submission.idempotency_key,
    };
    let (accepted, acceptance) = oneshot::channel();
    let worker = gateway.clone();
    gateway.tasks.spawn(async move {
        let acceptance = worker.writer.accept(new).await;
        let is_new = matches!(acceptance, Ok(Acceptance::Recorded));
        // The caller may have gone; what it asked for has not.
        drop(accepted.send(acceptance));
        if is_new {
            metrics::accepted();
            publish(&worker, request).await;
        }
    });
    match acceptance.await {
        Ok(acceptance) => Ok(acceptance.inspect_err(|_| metrics::refused())?),
        Err(_) => {
            Err(Refusal::new(ProblemCode::Internal, "the submission was broken off; nothing is known of it"))
        }
    }
}

async fn publish(gateway: &Gateway, request: Request) {
    let execute_id = request.execute_id;
    match gateway.ports.broker.publish(&request.queue, request.to_message()).await {
        Ok(()) => gateway.dispatched.confirmed(execute_id),
        Err(error) => {
            metrics::publication_failed();
            tracing::debug!(%execute_id, %error, "accepted and not published; a sweeper will");
        }
    }
}

/// Milliseconds after 1970 by this machine's clock.
fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
