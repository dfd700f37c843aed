//! A reply queue of one's own, read with the bare driver as any producer would: one message for each reply. (Gantry's own
//! processes get several in one.)

use anyhow::Context;
use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Connection, Consumer};
use protocol::{HeaderValue, RawMessage};

use crate::ceiling::amqp::{connect, consume};

/// The queue, for as long as its connection lives.
pub struct Replies {
    /// Gone with it, and the queue too.
    _connection: Connection,
    consumer: Consumer,
}

impl Replies {
    /// Connects and makes the queue.
    ///
    /// # Errors
    /// The broker is away, or has a queue of that name for another connection.
    pub async fn open(url: &str, queue: &str) -> anyhow::Result<Self> {
        let connection = connect(url).await?;
        let channel = connection.create_channel().await?;
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .context("make a reply queue")?;
        let consumer = consume(&channel, &queue.into(), true).await?;
        Ok(Self { _connection: connection, consumer })
    }

    /// The next reply; `None` once the connection is lost.
    pub async fn next(&mut self) -> Option<RawMessage> {
        self.consumer.next().await?.ok().map(read)
    }
}

/// What the contract says of a reply.
fn read(delivery: Delivery) -> RawMessage {
    let text = |property: &Option<ShortString>| property.as_ref().map(ToString::to_string);
    let value = |value: &AMQPValue| match (value.as_long_string(), value.as_long_long_int()) {
        (Some(text), _) => std::str::from_utf8(text.as_bytes())
            .map_or(HeaderValue::Other, |text| HeaderValue::Text(text.to_owned())),
        (None, Some(number)) => HeaderValue::Integer(number),
        (None, None) => HeaderValue::Other,
    };
    let properties = &delivery.properties;
    let headers = properties.headers().iter().flat_map(|table| table.inner());
    RawMessage {
        message_id: text(properties.message_id()),
        content_type: text(properties.content_type()),
        correlation_id: text(properties.correlation_id()),
        headers: headers.map(|(name, it)| (name.to_string(), value(it))).collect(),
        body: delivery.data.into(),
        ..RawMessage::default()
    }
}
