use std::time::Duration;

use futures::StreamExt;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use protocol::RawMessage;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::epoch::{Epoch, ask, close_channel, failed};
use super::names::Names;
use super::subscription::Stopped;
use super::topology::{self, Thing};
use super::{batch, message};
use crate::{BrokerError, Control, metrics};

const WATCHDOG: Duration = Duration::from_secs(10);

/// Hears what is sent to this process: replies, or what is told to every worker. Nothing is acknowledged, because
/// everything here is a hint; what cannot be taken in time is dropped and counted.
pub(super) struct Listener {
    ear: Ear,
    names: Names,
    /// Hears how the first start went.
    ready: Option<oneshot::Sender<Result<(), BrokerError>>>,
}

/// Who listens to what.
pub(super) enum Ear {
    Replies(mpsc::Sender<RawMessage>),
    Controls(mpsc::Sender<Control>),
}

impl Listener {
    pub(super) fn new(ear: Ear, names: Names) -> (Self, oneshot::Receiver<Result<(), BrokerError>>) {
        let (ready, started) = oneshot::channel();
        (Self { ear, names, ready: Some(ready) }, started)
    }

    /// As [`super::subscription::Subscription::run`].
    pub(super) async fn run(&mut self, epoch: &Epoch) -> Result<Stopped, BrokerError> {
        match (self.start_and_listen(epoch).await, self.ready.take()) {
            (Err(error @ BrokerError::Topology { .. }), Some(ready)) => {
                drop(ready.send(Err(error)));
                Ok(Stopped::Gone)
            }
            (outcome, _) => outcome,
        }
    }

    async fn start_and_listen(&mut self, epoch: &Epoch) -> Result<Stopped, BrokerError> {
        let (name, bound_to) = match &self.ear {
            Ear::Replies(_) => (self.names.reply_queue(), None),
            Ear::Controls(_) => {
                (self.names.controls_of_this_process(), Some((self.names.control(), String::new())))
            }
        };
        topology::declare(epoch, &[Thing::Process { name: name.clone(), bound_to }]).await?;
        let channel = epoch.channel().await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consume = channel.basic_consume(name.as_str().into(), "".into(), options, FieldTable::default());
        let consumer = ask("consume", consume).await?;
        if let Some(ready) = self.ready.take() {
            drop(ready.send(Ok(())));
        }
        let mut consumer = std::pin::pin!(consumer);
        let mut watchdog = interval_at(Instant::now() + WATCHDOG, WATCHDOG);
        watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = epoch.over().cancelled() => return Ok(Stopped::Over),
                () = self.ear.gone() => {
                    close_channel(&channel).await;
                    return Ok(Stopped::Gone);
                }
                received = consumer.next() => match received {
                    Some(Ok(delivery)) => self.ear.hear(delivery),
                    Some(Err(error)) => return Err(failed("receive")(error)),
                    None => return Err(BrokerError::Away("the broker cancelled a consumer")),
                },
                _ = watchdog.tick() => {
                    let found = topology::look_up(&channel, &name).await?;
                    if found.is_none_or(|queue| queue.consumer_count() == 0) {
                        return Err(BrokerError::Away("the broker has forgotten a consumer"));
                    }
                }
            }
        }
    }
}

impl Ear {
    async fn gone(&self) {
        match self {
            Self::Replies(sink) => sink.closed().await,
            Self::Controls(sink) => sink.closed().await,
        }
    }

    fn hear(&self, delivery: lapin::message::Delivery) {
        match self {
            Self::Replies(sink) => {
                let hear = |reply| {
                    if sink.try_send(reply).is_err() {
                        metrics::replies_dropped("full", 1);
                    }
                };
                if batch::is_batch(&delivery.properties) {
                    for reply in batch::from_amqp(delivery.data) {
                        reply.map_or_else(|| metrics::replies_dropped("unreadable", 1), hear);
                    }
                } else {
                    hear(message::from_amqp(&delivery.properties, delivery.data));
                }
            }
            Self::Controls(sink) => {
                let control = message::control_from_amqp(&delivery.properties);
                if control.is_none_or(|control| sink.try_send(control).is_err()) {
                    metrics::control_dropped();
                }
            }
        }
    }
}
