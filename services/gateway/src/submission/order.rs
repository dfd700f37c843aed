//! An execution on its way into the record and to the broker, in one order or the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker::PublishError;
use domain::{ExecuteId, VersionSelector};
use protocol::{ProblemCode, Reply, ReplyAddress, Request};
use store::{Acceptance, NewExecution, Recovery, StoreError};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, sleep};

use super::{Submission, wait};
use crate::gateway::Gateway;
use crate::metrics;
use crate::problem::Refusal;
use crate::waiters::Waiting;

/// What was published first is recorded when it was not answered for so long.
const RECORD_AFTER: Duration = Duration::from_millis(500);
/// The pause before the record is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The row, the message, and what goes along with them.
pub(super) struct Order {
    request: Request,
    new: NewExecution,
    /// The input's share of memory, kept until both are done.
    room: OwnedSemaphorePermit,
    /// How many microseconds the confirm took; 0 while there is none.
    published_us: Arc<AtomicU64>,
}

/// What came first of what was published first.
pub(super) enum Sooner {
    /// It ended.
    Reply(Arc<Reply>),
    /// It was recorded, or found so.
    Recorded(Acceptance),
}

/// May the message be at the broker?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Publication {
    Confirmed,
    Unknown,
    Failed,
}

impl Order {
    /// Boxed: a future that it is moved into keeps room for it to its end, and callers are many who wait for long.
    pub(super) fn new(gateway: &Gateway, execute_id: ExecuteId, submission: Submission) -> Box<Self> {
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
        Box::new(Self { request, new, room: submission.room, published_us: Arc::default() })
    }

    /// Whoever holds a connection open until the answer, and could not find the execution again without it, is promised
    /// nothing before that: the claim can make the row.
    pub(super) const fn may_be_published_first(&self) -> bool {
        self.request.reply_address.is_some() && self.new.idempotency_key.is_none()
    }

    /// Where the microseconds until the confirm will be.
    pub(super) fn published_us(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.published_us)
    }

    /// Records and, if the row is new, publishes, in a task of its own. Returns once the row is written.
    pub(super) async fn record_first(self: Box<Self>, gateway: &Gateway) -> Result<Acceptance, Refusal> {
        let execute_id = self.new.execute_id;
        let (accepted, acceptance) = oneshot::channel();
        let worker = gateway.clone();
        gateway.tasks.spawn(async move {
            let acceptance = worker.writer.accept(self.new).await;
            let is_new = matches!(acceptance, Ok(Acceptance::Recorded));
            // The caller may have gone; what it asked for has not.
            drop(accepted.send(acceptance));
            if is_new {
                metrics::accepted();
                publish(&worker, &self.request, &self.published_us).await;
            }
            drop(self.room);
        });
        match acceptance.await {
            Ok(Ok(acceptance)) => Ok(acceptance),
            Ok(Err(error)) => Err(not_recorded(execute_id, error, Publication::Failed)),
            Err(_) => Err(broken_off()),
        }
    }

    /// Publishes, in a task of its own, and records only what is not answered soon, what nobody may have published, and
    /// what the caller's wait ends for: a message like a queue producer's, whose row the claim makes.
    ///
    /// Whoever drops the future leaves an execution that is published and recorded all the same.
    pub(super) async fn publish_first(
        mut self: Box<Self>,
        gateway: &Gateway,
        waiting: &mut Waiting,
        give_up: Instant,
    ) -> Result<Sooner, Refusal> {
        let execute_id = self.new.execute_id;
        self.request.recorded = false;
        let (answered, is_answered) = oneshot::channel();
        let (accepted, mut acceptance) = oneshot::channel();
        gateway.tasks.spawn(self.publish_and_record(gateway.clone(), is_answered, accepted));
        let acceptance = tokio::select! {
            biased;
            reply = wait(gateway, waiting, give_up) => match reply {
                Some(reply) => {
                    // It may have been recorded meanwhile.
                    let _ = answered.send(());
                    return Ok(Sooner::Reply(reply));
                }
                None => {
                    drop(answered);
                    acceptance.await
                }
            },
            acceptance = &mut acceptance => acceptance,
        };
        match acceptance {
            Ok(Ok(acceptance)) => Ok(Sooner::Recorded(acceptance)),
            Ok(Err((error, publication))) => Err(not_recorded(execute_id, error, publication)),
            Err(_) => Err(broken_off()),
        }
    }

    async fn publish_and_record(
        self: Box<Self>,
        gateway: Gateway,
        mut is_answered: oneshot::Receiver<()>,
        accepted: oneshot::Sender<Result<Acceptance, (StoreError, Publication)>>,
    ) {
        let publication = publish(&gateway, &self.request, &self.published_us).await;
        // Once the caller has gone, or its wait has ended, nobody will say that it is answered.
        let mut is_awaited = true;
        let mut pause = if publication == Publication::Confirmed { RECORD_AFTER } else { Duration::ZERO };
        let acceptance = loop {
            tokio::select! {
                biased;
                answered = &mut is_answered, if is_awaited => match answered {
                    Ok(()) => return metrics::accepted(),
                    Err(_) => is_awaited = false,
                },
                () = sleep(pause) => {}
            }
            match gateway.writer.accept(self.new.clone()).await {
                Ok(acceptance) => break Ok(acceptance),
                // It may end before the record is asked again: its worker asks it too.
                Err(_) if is_awaited && publication != Publication::Failed => pause = AGAIN_AFTER,
                Err(error) => break Err((error, publication)),
            }
        };
        if acceptance.is_ok() {
            metrics::accepted();
        }
        drop(accepted.send(acceptance));
        drop(self.room);
    }
}

/// What the caller is told when the record did not say that the row is written.
fn not_recorded(execute_id: ExecuteId, error: StoreError, publication: Publication) -> Refusal {
    metrics::refused();
    let is_unknown = publication != Publication::Failed || error.recovery() == Recovery::Unknown;
    let refusal = Refusal::from(error);
    if is_unknown { refusal.about_unknown(execute_id) } else { refusal }
}

fn broken_off() -> Refusal {
    Refusal::new(ProblemCode::Internal, "the submission was broken off; nothing is known of it")
}

async fn publish(gateway: &Gateway, request: &Request, published_us: &AtomicU64) -> Publication {
    let (execute_id, begin) = (request.execute_id, Instant::now());
    gateway.dispatched.publishing(execute_id);
    match gateway.ports.broker.publish(&request.queue, request.to_message()).await {
        Ok(()) => {
            let us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
            published_us.store(us.max(1), Ordering::Relaxed);
            gateway.dispatched.confirmed(execute_id);
            Publication::Confirmed
        }
        Err(error) => {
            gateway.dispatched.forget(execute_id);
            metrics::publication_failed();
            tracing::debug!(%execute_id, error = bootstrap::chain(&error), "a publication was not confirmed; once it is recorded, a sweeper publishes");
            match error {
                PublishError::Unknown { .. } => Publication::Unknown,
                PublishError::Refused | PublishError::Away(_) => Publication::Failed,
            }
        }
    }
}
