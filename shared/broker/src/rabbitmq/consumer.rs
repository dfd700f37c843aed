use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::epoch::{CLOSE_LIMIT, Epoch, Settings};
use super::listener::Listener;
use super::subscription::{Stopped, Subscription};
use super::supervisor::Service;
use super::topology;
use crate::BrokerError;

/// Subscriptions that wait for the consuming connection.
const WAITING_MAX: usize = 64;
/// For a subscriber to end after its epoch: two steps of closing.
const GOODBYE_LIMIT: Duration = CLOSE_LIMIT.saturating_mul(2);

/// The consuming side of a process.
pub(super) struct Consumers {
    registrations: mpsc::Sender<Subscriber>,
    link: watch::Receiver<Option<Arc<Epoch>>>,
}

/// Who consumes; outlives connections.
pub(super) enum Subscriber {
    Work(Subscription),
    Listener(Listener),
}

impl Subscriber {
    async fn run(&mut self, epoch: &Epoch) -> Result<Stopped, BrokerError> {
        match self {
            Self::Work(subscription) => subscription.run(epoch).await,
            Self::Listener(listener) => listener.run(epoch).await,
        }
    }
}

impl Consumers {
    /// The consumers, and the service that gives them connections.
    pub(super) fn new(settings: &Arc<Settings>) -> (Self, ConsumeService) {
        let (registrations, receiver) = mpsc::channel(WAITING_MAX);
        let (sender, link) = watch::channel(None);
        let service = ConsumeService {
            settings: settings.clone(),
            registrations: receiver,
            link: sender,
            idle: Vec::new(),
            running: JoinSet::new(),
        };
        (Self { registrations, link }, service)
    }

    /// Begins to consume; waits for that only if there is a connection.
    pub(super) async fn register(
        &self,
        subscriber: Subscriber,
        mut started: oneshot::Receiver<Result<(), BrokerError>>,
    ) -> Result<(), BrokerError> {
        let mut link = self.link.clone();
        if self.registrations.send(subscriber).await.is_err() {
            // Closed: the stream ends at once.
            return Ok(());
        }
        tokio::select! {
            biased;
            started = &mut started => started.unwrap_or(Ok(())),
            _ = link.wait_for(Option::is_none) => Ok(()),
        }
    }
}

/// Opens the consuming connection and runs every subscriber on it.
pub(super) struct ConsumeService {
    settings: Arc<Settings>,
    registrations: mpsc::Receiver<Subscriber>,
    link: watch::Sender<Option<Arc<Epoch>>>,
    /// Those that wait for the next epoch.
    idle: Vec<Subscriber>,
    running: JoinSet<(Subscriber, Result<Stopped, BrokerError>)>,
}

#[async_trait]
impl Service for ConsumeService {
    const ROLE: &'static str = "consume";

    async fn begin(&mut self, epoch: &Arc<Epoch>) -> Result<(), BrokerError> {
        topology::declare(epoch, &topology::base(&self.settings.names)).await?;
        for subscriber in std::mem::take(&mut self.idle) {
            self.start(subscriber, epoch);
        }
        self.link.send_replace(Some(epoch.clone()));
        Ok(())
    }

    async fn serve(&mut self, epoch: &Arc<Epoch>, closed: &CancellationToken) -> Result<(), BrokerError> {
        let mut events = std::pin::pin!(epoch.events());
        loop {
            tokio::select! {
                () = closed.cancelled() => return Ok(()),
                Some(error) = events.next() => return Err(error),
                Some(subscriber) = self.registrations.recv() => self.start(subscriber, epoch),
                Some(stopped) = self.running.join_next() => {
                    let Ok((subscriber, outcome)) = stopped else {
                        return Err(BrokerError::Away("a consumer panicked"));
                    };
                    match outcome {
                        Ok(Stopped::Gone) => {}
                        Ok(Stopped::Over) => self.idle.push(subscriber),
                        Err(error) => {
                            self.idle.push(subscriber);
                            return Err(error);
                        }
                    }
                }
            }
        }
    }

    async fn end(&mut self, epoch: &Arc<Epoch>) {
        epoch.over().cancel();
        self.link.send_replace(None);
        while let Some(stopped) = self.running.join_next().await {
            match stopped {
                Ok((subscriber, Ok(Stopped::Over) | Err(_))) => self.idle.push(subscriber),
                Ok((_, Ok(Stopped::Gone))) | Err(_) => {}
            }
        }
    }
}

impl ConsumeService {
    fn start(&mut self, mut subscriber: Subscriber, epoch: &Arc<Epoch>) {
        let epoch = epoch.clone();
        self.running.spawn(async move {
            // Time to settle what is settled and to close the channel, and no more: the broker may be frozen.
            let hung = async {
                epoch.over().cancelled().await;
                sleep(GOODBYE_LIMIT).await;
            };
            let outcome = tokio::select! {
                outcome = subscriber.run(&epoch) => outcome,
                () = hung => Ok(Stopped::Over),
            };
            (subscriber, outcome)
        });
    }
}
