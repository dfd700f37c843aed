//! Messages, streams and brokers for the tests.

use std::time::Duration;

use broker::rabbitmq::{RabbitMq, RabbitMqConfig};
use broker::{Broker, Deliveries, Delivery, DeliverySource};
use domain::QueueName;
use protocol::RawMessage;
use testkit::{fresh_name, servers};
use tokio::time::timeout;

/// For whatever must happen; the machine may be busy.
pub const SOON: Duration = Duration::from_secs(20);

pub fn queue(name: &str) -> QueueName {
    name.parse().unwrap()
}

/// A message that is told apart by its id.
pub fn message(id: impl ToString) -> RawMessage {
    RawMessage {
        message_id: Some(id.to_string()),
        content_type: Some("application/json".to_owned()),
        body: b"{}".as_slice().into(),
        ..RawMessage::default()
    }
}

pub fn id(delivery: &Delivery) -> &str {
    delivery.message.message_id.as_deref().unwrap()
}

pub async fn consume(broker: &dyn Broker, name: &str, prefetch: u16) -> Deliveries {
    broker.consume(DeliverySource::Queues(vec![queue(name)]), prefetch).await.unwrap()
}

pub async fn next(deliveries: &mut Deliveries) -> Delivery {
    timeout(SOON, deliveries.next()).await.expect("a delivery in time").expect("the stream goes on")
}

pub fn config(url: String, prefix: &str) -> RabbitMqConfig {
    RabbitMqConfig { url, prefix: prefix.to_owned(), ca_file: None }
}

/// A process of its own on the shared RabbitMQ.
pub async fn process(prefix: &str) -> RabbitMq {
    RabbitMq::connect(&config(servers().amqp(), prefix), &fresh_name("process")).await.unwrap()
}
