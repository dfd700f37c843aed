//! One chunk of deliveries: parse, claim in one statement, acknowledge together, run. Builtins run before they are claimed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bootstrap::chain;
use broker::{Delivery, Settled};
use domain::{Ending, Payload, Runtime, State, VersionSelector};
use futures::future::join_all;
use protocol::{HeaderValue, InvalidMessage, Reply, ReplyAddress, Request, header};
use store::{AlreadyEnded, ClaimAnswer, ClaimRequest, Conclusion, Recovery, Requeue, StoreError, VersionRow};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::Worker;
use crate::backoff::Backoff;
use crate::execution::{self, Execution};
use crate::metrics;
use crate::runtime::builtin;
use crate::settlement::Outcome;
use crate::slots::Slot;
use crate::timeline::Timeline;
use crate::waiting::{Needs, later};
use coordination::Boottime;

/// When a claim has failed for so long, the record is away: no further deliveries are taken until it answers.
const AWAY_AFTER: Duration = Duration::from_secs(10);

/// A delivery with its slot, on its way through the claim.
struct Pending {
    delivery: Delivery,
    slot: Slot,
    claim: ClaimRequest,
    /// When the claim was first sent: its lease may have begun then.
    sent_at: Option<Boottime>,
    /// When it was last sent: before the record reckoned what it answered.
    asked_at: Boottime,
}

/// Takes a chunk of deliveries, each with its slot, to their settlement, and runs what was claimed.
///
/// If the future is dropped, what was not acknowledged comes again.
pub(crate) async fn take_chunk(worker: Arc<Worker>, chunk: Vec<(Delivery, Slot)>) {
    let mut pending = Vec::with_capacity(chunk.len());
    for (delivery, slot) in chunk {
        match parse(&worker, &delivery) {
            Ok(claim) => {
                let asked_at = Boottime::now();
                pending.push(Pending { delivery, slot, claim, sent_at: None, asked_at });
            }
            Err(invalid) => {
                drop(slot);
                refuse_later(&worker, delivery, invalid.code(), invalid.to_string());
            }
        }
    }
    put_off(&worker, &mut pending).await;
    let began = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut away = None;
    while !pending.is_empty() {
        let answers = ask(&worker, &mut pending).await;
        let (answered, unanswered) = sort(pending, answers);
        let must_wait = unanswered.iter().any(|(_, error)| error.is_some());
        run(&worker, settle(&worker, answered).await);
        pending = Vec::with_capacity(unanswered.len());
        for (waiting, error) in unanswered {
            let is_hopeless = error.is_some_and(|error| error.recovery() == Recovery::Permanent);
            if worker.shutdown.is_draining() || (is_hopeless && began.elapsed() >= AWAY_AFTER) {
                // The broker counts how often it comes back, and buries it in the end.
                note(waiting.delivery.requeue().await);
            } else {
                pending.push(waiting);
            }
        }
        if must_wait && !pending.is_empty() {
            if began.elapsed() >= AWAY_AFTER {
                away.get_or_insert_with(|| worker.record_link.note_away());
            }
            tokio::select! {
                () = sleep(backoff.next()) => {}
                () = worker.shutdown.draining() => {}
            }
        }
    }
}

/// While the coordination is away, gives back through the record what would only wait for it.
///
/// What cannot be given back is claimed and gives itself back.
async fn put_off(worker: &Worker, pending: &mut Vec<Pending>) {
    let (mut kept, mut refused, mut batch) = (Vec::with_capacity(pending.len()), Vec::new(), Vec::new());
    for waiting in pending.drain(..) {
        let ClaimRequest { request, tenant, input_digest, .. } = &waiting.claim;
        let version = worker.versions.find(tenant, &request.model, &request.version).await.ok().flatten();
        match version {
            Some(version) if Needs::may_be_of(&version.manifest) && worker.is_uncoordinated() => {
                batch.push(Requeue {
                    tenant: tenant.clone(),
                    request: request.clone(),
                    input_digest: *input_digest,
                    version: Some(version.version),
                });
                refused.push(waiting);
            }
            Some(_) | None => kept.push(waiting),
        }
    }
    if !batch.is_empty() {
        match worker.record.requeue(&batch, later()).await {
            Ok(()) => {
                metrics::requeued(batch.len());
                join_all(refused.drain(..).map(|waiting| waiting.delivery.ack()))
                    .await
                    .into_iter()
                    .for_each(note);
            }
            Err(error) => warn!("exclusive executions are not given back: {}", chain(&error)),
        }
    }
    kept.append(&mut refused);
    *pending = kept;
}

/// The claim that a delivery asks for. Its version is looked up when it is sent.
pub(crate) fn parse(worker: &Worker, delivery: &Delivery) -> Result<ClaimRequest, InvalidMessage> {
    let request = Request::parse(delivery.message.clone(), delivery.queue.clone())?;
    Ok(ClaimRequest {
        claim_id: Uuid::now_v7(),
        node: worker.node.clone(),
        lease: worker.config.lease(),
        tenant: worker.tenant.clone(),
        input_digest: request.input_digest(),
        request,
        version: None,
        redelivered: delivery.redelivered,
        result: None,
    })
}

/// Sends all claims as one.
async fn ask(worker: &Worker, pending: &mut [Pending]) -> Vec<Result<ClaimAnswer, StoreError>> {
    let mut unknown = Vec::new();
    let mut claims = Vec::with_capacity(pending.len());
    for waiting in pending.iter_mut() {
        // What has run is claimed again as it was.
        if waiting.claim.result.is_some() {
            unknown.push(None);
            claims.push(waiting.claim.clone());
            continue;
        }
        let request = &waiting.claim.request;
        match worker.versions.find(&worker.tenant, &request.model, &request.version).await {
            Ok(version) => {
                waiting.claim.result =
                    version.as_ref().and_then(|version| run_at_once(version, &request.input));
                waiting.claim.version = version.map(|version| version.version);
                unknown.push(None);
                claims.push(waiting.claim.clone());
            }
            Err(error) => unknown.push(Some(error)),
        }
    }
    let now = Boottime::now();
    for (waiting, _) in pending.iter_mut().zip(&unknown).filter(|(_, error)| error.is_none()) {
        waiting.sent_at.get_or_insert(now);
        waiting.asked_at = now;
    }
    let sent_at = Instant::now();
    let answers = worker.writer.claim(claims).await;
    if answers.iter().any(Result::is_ok) {
        worker.record_link.note_claim(sent_at.elapsed());
    }
    let mut answers = answers.into_iter();
    let lacking = || Err(StoreError::Overloaded("a claim got no answer"));
    let answer = |error: Option<StoreError>| match error {
        Some(error) => Err(error),
        None => answers.next().unwrap_or_else(lacking),
    };
    unknown.into_iter().map(answer).collect()
}

/// Runs a builtin before its claim: nobody notices if it runs more than once. `None` for all else, and for one that
/// does not succeed: what becomes of that is its policy's to say.
fn run_at_once(version: &VersionRow, input: &Payload) -> Option<Payload> {
    let outcome =
        is_quick_version(version).then(|| builtin::run(version.manifest.builtin.as_deref(), input))?;
    let Outcome::Succeeded(result) = outcome else { return None };
    Some(result)
}

type Unanswered = Vec<(Pending, Option<StoreError>)>;

/// Tells those that have their answer from those that must be claimed again, with the error if there was one.
fn sort(
    pending: Vec<Pending>,
    answers: Vec<Result<ClaimAnswer, StoreError>>,
) -> (Vec<(Pending, ClaimAnswer)>, Unanswered) {
    let (mut answered, mut unanswered) = (Vec::with_capacity(pending.len()), Vec::new());
    let mut told = false;
    for (mut waiting, answer) in pending.into_iter().zip(answers) {
        match answer {
            Ok(ClaimAnswer::Unrecorded) => {
                metrics::claimed("unrecorded");
                waiting.claim.request.recorded = false;
                unanswered.push((waiting, None));
            }
            Ok(answer) => answered.push((waiting, answer)),
            Err(error) => {
                metrics::claim_failed();
                if !told {
                    told = true;
                    warn!("executions are not claimed: {}", chain(&error));
                }
                unanswered.push((waiting, Some(error)));
            }
        }
    }
    (answered, unanswered)
}

/// Acknowledges what was answered, together, and does what the answers say; returns what is to be run.
async fn settle(worker: &Arc<Worker>, answered: Vec<(Pending, ClaimAnswer)>) -> Vec<Execution> {
    let mut acks = Vec::with_capacity(answered.len());
    let mut claimed = Vec::with_capacity(answered.len());
    let mut replies = Vec::with_capacity(answered.len());
    for (waiting, answer) in answered {
        let Pending { delivery, slot, claim: ClaimRequest { request, result, .. }, sent_at, asked_at } =
            waiting;
        match answer {
            ClaimAnswer::Claimed(claim) => {
                metrics::claimed("claimed");
                acks.push(delivery.ack());
                let sent_at = sent_at.unwrap_or(asked_at);
                // How much was left was reckoned after it was asked: this is not later than the deadline.
                let deadline = claim.deadline_in.map(|left| asked_at.after(left));
                let held = worker.leases.hold(request.execute_id, claim.attempt, sent_at);
                let timeline = Timeline::new(claim.attempt, &worker.node_text, claim.claimed_at);
                let slot = Some(slot);
                claimed.push((Execution { request, claim, held, timeline, deadline, slot }, sent_at));
            }
            ClaimAnswer::Succeeded { attempt, reply_addresses } => {
                metrics::claimed("claimed");
                metrics::settled(State::Succeeded.label(), Duration::ZERO);
                acks.push(delivery.ack());
                let (execute_id, ending) = (request.execute_id, result.map(Ending::Succeeded));
                debug!(%execute_id, attempt, model = %request.model, "execution succeeded");
                let conclusion = Conclusion { execute_id, attempt, ending, reply_addresses };
                replies.extend(execution::replies(&conclusion, Duration::ZERO));
            }
            ClaimAnswer::Ended(ended) => {
                metrics::claimed("ended");
                acks.push(delivery.ack());
                replies.extend(execution::replies(&concluded(request, ended), Duration::ZERO));
            }
            // The second is sorted out before.
            ClaimAnswer::NotNow | ClaimAnswer::Unrecorded => {
                metrics::claimed("not_now");
                acks.push(delivery.ack());
            }
            ClaimAnswer::IdReused => {
                metrics::claimed("id_reused");
                let reason = "property message_id: this execute_id is known with another model or input";
                refuse_later(worker, delivery, "execute_id", reason.to_owned());
            }
            ClaimAnswer::OutsideWindow => {
                metrics::claimed("outside_window");
                let reason =
                    "property message_id: a new execute_id is dated at most 24 h ago and 5 min ahead";
                refuse_later(worker, delivery, "execute_id", reason.to_owned());
            }
        }
    }
    let (executions, sent): (Vec<_>, Vec<_>) = claimed.into_iter().unzip();
    worker.broker.reply_all(replies);
    join_all(acks).await.into_iter().for_each(note);
    // A claim that was answered late may have begun its lease when it was first sent: make sure of it.
    if sent.iter().any(|sent_at| Boottime::now().since(*sent_at) > worker.config.renew_every()) {
        let keys: Vec<_> = executions.iter().map(Execution::key).collect();
        worker.leases.renew(&keys).await;
    }
    executions
}

/// Is this known to ask for a builtin that needs neither a lock nor a limit? It runs in no time and starts no process. (An
/// alias may have moved since it was looked up: what its row names then decides, once it is claimed.)
pub(crate) fn is_quick(worker: &Worker, delivery: &Delivery) -> bool {
    let text = |name| match delivery.message.headers.get(name) {
        Some(HeaderValue::Text(text)) => Some(text.as_str()),
        Some(_) | None => None,
    };
    let Some(Ok(model)) = text(header::MODEL).map(str::parse) else { return false };
    let Ok(selector) = text(header::VERSION).map_or(Ok(VersionSelector::default()), str::parse) else {
        return false;
    };
    worker
        .versions
        .last_known(&worker.tenant, &model, &selector)
        .is_some_and(|version| is_quick_version(&version))
}

fn is_quick_version(version: &VersionRow) -> bool {
    version.manifest.runtime == Runtime::Builtin && !Needs::may_be_of(&version.manifest)
}

/// Runs each of what was claimed in a task of its own.
fn run(worker: &Arc<Worker>, executions: Vec<Execution>) {
    for mut execution in executions {
        let (model, version) = (&execution.request.model, execution.claim.version);
        let version = version.and_then(|number| worker.versions.known(&worker.tenant, model, number));
        let is_quick = version.is_some_and(|version| is_quick_version(&version));
        let worker = Arc::clone(worker);
        worker.tasks.clone().spawn(async move {
            // Its row names another version than its message: a process needs a slot of the node.
            if !is_quick && execution.slot.as_ref().is_some_and(|slot| !slot.is_the_nodes()) {
                execution.slot = Some(worker.waiting.slot(&worker).await);
            }
            execution.run(&worker).await;
        });
    }
}

/// What is to be replied to a message whose execution had ended before.
fn concluded(request: Request, ended: AlreadyEnded) -> Conclusion {
    Conclusion {
        execute_id: request.execute_id,
        attempt: ended.attempt,
        ending: Some(ended.ending),
        reply_addresses: request.reply_address.into_iter().collect(),
    }
}

pub(crate) fn note(settled: Settled) {
    match settled {
        Settled::Sent => {}
        Settled::Lost => metrics::ack_lost(),
    }
}

/// Rejects a message in a task of its own: nobody else waits for its confirm.
pub(crate) fn refuse_later(worker: &Arc<Worker>, delivery: Delivery, code: &'static str, reason: String) {
    let worker = Arc::clone(worker);
    worker.tasks.clone().spawn(async move { refuse(&worker, delivery, code, &reason).await });
}

/// Puts a message that can never be run into the rejected queue, tells its sender why, and acknowledges it. While the
/// broker is away it is tried again; when the worker drains it is left to come again.
async fn refuse(worker: &Worker, delivery: Delivery, code: &'static str, reason: &str) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    while let Err(error) = worker.broker.reject(&delivery.queue, delivery.message.clone(), code, reason).await
    {
        warn!(queue = %delivery.queue, "a message cannot be rejected yet: {}", chain(&error));
        tokio::select! {
            () = sleep(backoff.next()) => {}
            () = worker.shutdown.draining() => return,
        }
    }
    metrics::rejected(code);
    info!(queue = %delivery.queue, code, "a message was rejected: {reason}");
    let message = &delivery.message;
    if let Some(reply_to) = message.reply_to.clone().filter(|name| !name.is_empty()) {
        let id = message.message_id.clone();
        let correlation_id = message.correlation_id.clone().or_else(|| id.clone()).unwrap_or_default();
        let address = ReplyAddress { reply_to, correlation_id: correlation_id.clone() };
        worker.broker.reply(&address, Reply::rejection(id, correlation_id, reason));
    }
    note(delivery.ack().await);
}

/// How many chunks know that the record is away, and how long a claim takes while it is there.
pub(crate) struct RecordLink {
    away: watch::Sender<usize>,
    claim_us: AtomicU64,
}

/// Somebody knows that the record is away, until this is dropped.
pub(crate) struct Away {
    away: watch::Sender<usize>,
}

impl RecordLink {
    pub(crate) fn new() -> Self {
        Self { away: watch::Sender::new(0), claim_us: AtomicU64::new(0) }
    }

    fn note_claim(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mean = self.claim_us.load(Ordering::Relaxed);
        // What another chunk notes at the same time may be lost.
        self.claim_us.store(mean - mean / 8 + took / 8, Ordering::Relaxed);
    }

    /// How long a claim takes: a mean in which each new one counts an eighth.
    pub(crate) fn claim_takes(&self) -> Duration {
        Duration::from_micros(self.claim_us.load(Ordering::Relaxed))
    }

    fn note_away(&self) -> Away {
        self.away.send_modify(|count| *count += 1);
        Away { away: self.away.clone() }
    }

    /// Is it known to be away?
    pub(crate) fn is_away(&self) -> bool {
        *self.away.borrow() > 0
    }

    /// Waits until nobody knows it to be away.
    pub(crate) async fn is_back(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.away.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.away.send_modify(|count| *count -= 1);
    }
}
