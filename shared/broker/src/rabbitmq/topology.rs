use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind, Queue};

use super::epoch::{Epoch, ask, close_channel, reply_code};
use super::names::Names;
use crate::BrokerError;

/// A queue of a process that is gone is deleted after this time.
const PROCESS_QUEUE_EXPIRES_MS: u32 = 120_000;
/// Nobody waits for a reply that long; the row has the answer.
const PROCESS_QUEUE_TTL_MS: u32 = 60_000;
const PROCESS_QUEUE_LENGTH_MAX: u32 = 100_000;

const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;

/// Something that must exist, as it must be.
#[derive(Debug, Clone)]
pub(super) enum Thing {
    /// A durable exchange, with the exchange for what it cannot route.
    Exchange { name: String, kind: ExchangeKind, alternate: Option<String> },
    /// A durable quorum queue, bound to an exchange. Everything else about it is the operator's, by policy: an argument
    /// could never be changed again.
    Quorum { name: String, bound_to: Option<(String, String)> },
    /// The queue of one process. Classic, because it holds hints that need no copies; durable, because RabbitMQ 4.3
    /// refuses queues that are neither durable nor exclusive; not exclusive, because the broker would hold such a queue
    /// for our half-dead former connection (RESOURCE_LOCKED); and named by us, since a name that the server chose cannot be
    /// declared again after a reconnect. It disappears by itself when its process is gone.
    Process { name: String, bound_to: Option<(String, String)> },
}

/// What requests need, whoever sends or receives them. Needed first comes first.
pub(super) fn base(names: &Names) -> Vec<Thing> {
    let collect = |name: String| {
        [
            Thing::Exchange { name: name.clone(), kind: ExchangeKind::Fanout, alternate: None },
            Thing::Quorum { name: name.clone(), bound_to: Some((name, String::new())) },
        ]
    };
    let exchange = |name, kind, alternate| Thing::Exchange { name, kind, alternate };
    let mut things = Vec::from(collect(names.unroutable()));
    things.extend(collect(names.dead()));
    things.push(Thing::Quorum { name: names.rejected(), bound_to: None });
    things.push(exchange(names.execute(), ExchangeKind::Direct, Some(names.unroutable())));
    things.push(exchange(names.control(), ExchangeKind::Fanout, None));
    things
}

/// Makes the things that do not exist. A user who may not make them must find them made.
///
/// # Errors
/// [`BrokerError::Topology`] if one exists and is another.
pub(super) async fn declare(epoch: &Epoch, things: &[Thing]) -> Result<(), BrokerError> {
    let mut channel = epoch.channel().await?;
    for thing in things {
        if let Err(error) = make(&channel, thing).await {
            if reply_code(&error) == Some(PRECONDITION_FAILED) {
                return Err(inequivalent(&error));
            }
            if reply_code(&error) != Some(ACCESS_REFUSED) {
                return Err(error);
            }
            channel = epoch.channel().await?;
            find(&channel, thing).await.map_err(|found| missing(thing, found))?;
        }
    }
    close_channel(&channel).await;
    Ok(())
}

/// What RabbitMQ knows about a queue; `None` if there is none. The channel is closed then.
pub(super) async fn look_up(channel: &Channel, queue: &str) -> Result<Option<Queue>, BrokerError> {
    match declare_queue(channel, queue, true, FieldTable::default()).await {
        Ok(queue) => Ok(Some(queue)),
        Err(error) if reply_code(&error) == Some(NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn make(channel: &Channel, thing: &Thing) -> Result<(), BrokerError> {
    let mut arguments = FieldTable::default();
    let (name, bound_to) = match thing {
        Thing::Exchange { name, kind, alternate } => {
            if let Some(alternate) = alternate {
                arguments
                    .insert("alternate-exchange".into(), AMQPValue::LongString(alternate.as_str().into()));
            }
            return declare_exchange(channel, name, kind.clone(), false, arguments).await;
        }
        Thing::Quorum { name, bound_to } => {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            (name, bound_to)
        }
        Thing::Process { name, bound_to } => {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
            arguments.insert("x-expires".into(), AMQPValue::LongUInt(PROCESS_QUEUE_EXPIRES_MS));
            arguments.insert("x-message-ttl".into(), AMQPValue::LongUInt(PROCESS_QUEUE_TTL_MS));
            arguments.insert("x-max-length".into(), AMQPValue::LongUInt(PROCESS_QUEUE_LENGTH_MAX));
            arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
            (name, bound_to)
        }
    };
    declare_queue(channel, name, false, arguments).await?;
    let Some((exchange, key)) = bound_to else { return Ok(()) };
    let (queue, exchange, key) = (name.as_str().into(), exchange.as_str().into(), key.as_str().into());
    let bound = channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default());
    ask("bind a queue", bound).await
}

async fn find(channel: &Channel, thing: &Thing) -> Result<(), BrokerError> {
    let none = FieldTable::default();
    match thing {
        Thing::Exchange { name, kind, .. } => declare_exchange(channel, name, kind.clone(), true, none).await,
        Thing::Quorum { name, .. } | Thing::Process { name, .. } => {
            declare_queue(channel, name, true, none).await.map(drop)
        }
    }
}

async fn declare_exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    passive: bool,
    arguments: FieldTable,
) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    ask("declare an exchange", channel.exchange_declare(name.into(), kind, options, arguments)).await
}

async fn declare_queue(
    channel: &Channel,
    name: &str,
    passive: bool,
    arguments: FieldTable,
) -> Result<Queue, BrokerError> {
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    ask("declare a queue", channel.queue_declare(name.into(), options, arguments)).await
}

/// RabbitMQ's own words name the thing, what we asked for and what it is.
fn inequivalent(error: &BrokerError) -> BrokerError {
    let source = std::error::Error::source(error);
    BrokerError::Topology {
        what: source.map_or_else(|| error.to_string(), ToString::to_string),
        advice: "delete what is there once it is empty, or give Gantry another prefix",
    }
}

fn missing(thing: &Thing, error: BrokerError) -> BrokerError {
    if reply_code(&error) != Some(NOT_FOUND) {
        return error;
    }
    let (Thing::Exchange { name, .. } | Thing::Quorum { name, .. } | Thing::Process { name, .. }) = thing;
    BrokerError::Topology {
        what: format!("{name} does not exist, and this user may not make it"),
        advice: "let a user who may configure it start once, or make it as docs/operations-rabbitmq.md says",
    }
}
