use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::TenantId;
use metrics::counter;
use store::{ContendedKind, Entered, NewContender, QueuedContender, Recovery};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;
use uuid::Uuid;

use super::tickets::{State, Ticket};
use super::{Shared, failed};
use crate::contention::{GrantInner, PlaceInner};
use crate::error::chain;
use crate::metrics::RELEASES_REPEATED;
use crate::{Boottime, Contended, Contender, CoordinationError, Lost, Place, Queue, Refused, Validity};

/// How long a release waits for its answer before it goes on in the background.
const RELEASE_LIMIT: Duration = Duration::from_secs(3);
const STEP: &str = "enter the queue of a lock or a limit";
/// Between two tries to enter.
const PAUSE: Duration = Duration::from_millis(200);

/// A row in a queue, taken out when this is dropped: the task of the tickets repeats that until it is answered.
struct Held {
    shared: Arc<Shared>,
    ticket: Arc<Ticket>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.tickets.leave_later(&self.ticket);
    }
}

pub(super) async fn enter(
    shared: &Arc<Shared>,
    what: &Contended,
    contender: &Contender,
    waiters_max: u32,
) -> Result<Place, Refused> {
    let (kind, name, running_max) = parts(what);
    let refused = |source: serde_json::Error| {
        Refused::Failed(CoordinationError::Refused { step: STEP, source: source.into() })
    };
    let new = NewContender {
        ticket: Uuid::now_v7(),
        tenant: contender.tenant.clone(),
        kind,
        name: name.to_owned(),
        running_max,
        contender: serde_json::to_value(contender).map_err(refused)?,
    };
    let (answer, answered) = oneshot::channel();
    let entering = Arc::clone(shared);
    // It goes on if this future is dropped, so that what it put there is taken out after it was put there, not before.
    shared.tasks.spawn(async move { drop(answer.send(try_enter(entering, new, waiters_max).await)) });
    answered.await.unwrap_or(Err(CLOSED))
}

const CLOSED: Refused = Refused::Failed(CoordinationError::Away("this process has closed it"));

async fn try_enter(shared: Arc<Shared>, new: NewContender, waiters_max: u32) -> Result<Place, Refused> {
    let ticket = Arc::new(Ticket::of(&new));
    let held = Held { shared: Arc::clone(&shared), ticket };
    let begun = Instant::now();
    let mut is_repeat = false;
    loop {
        if shared.closing.is_cancelled() {
            return Err(CLOSED);
        }
        let sent_at = Boottime::now();
        let entering = shared.record.enter(&new, waiters_max, shared.lease);
        let error = match timeout(shared.call_limit(), entering).await {
            Ok(Ok(Entered::Stands(standing))) => {
                held.ticket.stands(&standing, sent_at, shared.lease);
                shared.tickets.insert(&held.ticket);
                return Ok(Place { inner: Box::new(RecordPlace { held: Arc::new(held) }) });
            }
            Ok(Ok(Entered::Full(waiters))) => {
                if !is_repeat {
                    held.ticket.left();
                }
                return Err(Refused::Full(waiters));
            }
            Ok(Err(error)) if error.recovery() == Recovery::Permanent => {
                return Err(Refused::Failed(failed(STEP, error)));
            }
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        if begun.elapsed() > shared.lease {
            let source = error.map(Into::into);
            return Err(Refused::Failed(CoordinationError::Unknown { step: STEP, source }));
        }
        is_repeat = true;
        sleep(PAUSE.mul_f64(rand::random_range(0.5..1.0))).await;
    }
}

fn parts(what: &Contended) -> (ContendedKind, &str, u32) {
    match what {
        Contended::Lock(key) => (ContendedKind::Lock, key.as_str(), 1),
        Contended::Limit { name, max } => (ContendedKind::Limit, name.as_str(), (*max).max(1)),
    }
}

pub(super) async fn queue(
    shared: &Shared,
    tenant: &TenantId,
    what: &Contended,
) -> Result<Queue, CoordinationError> {
    let (kind, name, _) = parts(what);
    let listed = shared.record.list_contenders(tenant, kind, name).await;
    let listed = listed.map_err(|error| failed("read the queue of a lock or a limit", error))?;
    let (holders, waiters): (Vec<_>, Vec<_>) = listed.into_iter().partition(|one| one.fence.is_some());
    // What a newer program wrote may be more than this one reads.
    let contender = |one: QueuedContender| serde_json::from_value(one.contender).ok();
    Ok(Queue {
        holders: holders.into_iter().map(contender).collect(),
        waiters: waiters.into_iter().map(contender).collect(),
    })
}

struct RecordPlace {
    held: Arc<Held>,
}

#[async_trait]
impl PlaceInner for RecordPlace {
    fn position(&self) -> watch::Receiver<u32> {
        self.held.ticket.position.subscribe()
    }

    async fn granted(&mut self) -> Result<Arc<dyn GrantInner>, Lost> {
        let mut state = self.held.ticket.state.subscribe();
        // The sender is the ticket's own.
        let state = state.wait_for(|state| *state != State::Waits).await.map_or(State::Lost, |state| *state);
        match state {
            State::Has { fence } => Ok(Arc::new(RecordGrant { held: Arc::clone(&self.held), fence })),
            State::Waits | State::Lost => Err(Lost),
        }
    }
}

struct RecordGrant {
    held: Arc<Held>,
    fence: i64,
}

#[async_trait]
impl GrantInner for RecordGrant {
    fn fence(&self) -> i64 {
        self.fence
    }

    fn validity(&self) -> watch::Receiver<Validity> {
        self.held.ticket.validity.subscribe()
    }

    async fn release(&self) {
        let Held { shared, ticket } = &*self.held;
        shared.tickets.forget(ticket.id);
        ticket.lost();
        let begun = Instant::now();
        let mut is_repeat = false;
        while begun.elapsed() < RELEASE_LIMIT {
            if is_repeat {
                counter!(RELEASES_REPEATED).increment(1);
            }
            is_repeat = true;
            let left = RELEASE_LIMIT.saturating_sub(begun.elapsed()).min(shared.call_limit());
            match timeout(left, shared.record.leave(&[ticket.id])).await {
                Ok(Ok(())) => {
                    ticket.left();
                    // Whoever waits in this process has it at once.
                    shared.tickets.look();
                    return;
                }
                Ok(Err(error)) => warn!(error = %chain(&error), "cannot release a lock or a limit yet"),
                Err(_) => {}
            }
            sleep(PAUSE / 4).await;
        }
        warn!("a lock or a limit is not released yet; trying on");
    }
}
