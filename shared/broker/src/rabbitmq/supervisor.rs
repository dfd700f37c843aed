use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::epoch::{Epoch, Settings};
use crate::{BrokerError, metrics};

/// What is done on a connection; built anew on each.
#[async_trait]
pub(super) trait Service: Send {
    /// For logs, metrics and the connection's name.
    const ROLE: &'static str;

    /// Builds everything. May be dropped half-way; [`Service::end`] follows in any case.
    async fn begin(&mut self, epoch: &Arc<Epoch>) -> Result<(), BrokerError>;

    /// Works until `closed`, or until something is wrong: any sign of that is returned and ends the epoch.
    async fn serve(&mut self, epoch: &Arc<Epoch>, closed: &CancellationToken) -> Result<(), BrokerError>;

    /// Lets go of the epoch, in bounded time.
    async fn end(&mut self, epoch: &Arc<Epoch>);
}

/// What the supervisors of one process share.
#[derive(Clone, Default)]
pub(super) struct Common {
    /// Ends them.
    pub(super) closed: CancellationToken,
    /// Notified when one of them has a connection: then the other need not wait out its pause.
    back: Arc<Notify>,
}

/// Keeps `service` on a connection until closed: every end of a connection, however it shows, leads to a new one.
///
/// `first` hears how the first attempt went, so that a mistake in the topology is found at the start.
pub(super) async fn supervise<S: Service>(
    settings: Arc<Settings>,
    mut service: S,
    first: oneshot::Sender<Result<(), BrokerError>>,
    common: Common,
) {
    let Common { closed, back } = common;
    let mut first = Some(first);
    let mut backoff = Backoff::default();
    while !closed.is_cancelled() {
        let began = Instant::now();
        if let Err(error) = live(&settings, &mut service, &mut first, (&closed, &back)).await {
            let pause = backoff.after(began.elapsed());
            report(S::ROLE, &error, pause);
            tell(&mut first, Err(error));
            tokio::select! {
                () = closed.cancelled() => {}
                () = back.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// One epoch, from its opening to its end.
async fn live<S: Service>(
    settings: &Settings,
    service: &mut S,
    first: &mut Option<oneshot::Sender<Result<(), BrokerError>>>,
    (closed, back): (&CancellationToken, &Notify),
) -> Result<(), BrokerError> {
    let epoch = tokio::select! {
        () = closed.cancelled() => return Ok(()),
        epoch = Epoch::open(settings, S::ROLE) => Arc::new(epoch?),
    };
    let begun = tokio::select! {
        () = closed.cancelled() => Ok(()),
        begun = service.begin(&epoch) => begun,
    };
    let outcome = match begun {
        Ok(()) => {
            tracing::info!(connection = S::ROLE, "connected to RabbitMQ");
            metrics::connected(S::ROLE);
            back.notify_waiters();
            tell(first, Ok(()));
            service.serve(&epoch, closed).await
        }
        Err(error) => Err(error),
    };
    service.end(&epoch).await;
    epoch.close().await;
    outcome
}

fn tell(first: &mut Option<oneshot::Sender<Result<(), BrokerError>>>, outcome: Result<(), BrokerError>) {
    if let Some(first) = first.take() {
        // Nobody listens if connecting was given up.
        drop(first.send(outcome));
    }
}

fn report(role: &'static str, error: &BrokerError, pause: std::time::Duration) {
    let pause_ms = pause.as_millis() as u64;
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if matches!(error, BrokerError::Topology { .. }) {
        tracing::error!(connection = role, pause_ms, "RabbitMQ is not set up as it must be: {error}");
    } else {
        tracing::warn!(connection = role, pause_ms, cause, "lost RabbitMQ, connecting again: {error}");
    }
}
