//! RabbitMQ's and the driver's traps that need no fault, each under a name that says what must not happen.

use std::time::Duration;

use broker::rabbitmq::{RabbitMq, RabbitMqConfig};
use broker::{Broker, BrokerError, Control, DeliverySource, Settled};
use domain::ExecuteId;
use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use protocol::{HeaderValue, ReplyAddress, header};
use testkit::{eventually_some, fresh_name, servers};
use tokio::time::{Instant, timeout};

use crate::support::{SOON, config, consume, id, message, next, process, queue};

/// A channel of a client that knows nothing of Gantry.
async fn stranger() -> (Connection, Channel) {
    let connection = Connection::connect(&servers().amqp(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Publishes as a direct producer may, with any properties.
async fn publish_as_stranger(channel: &Channel, exchange: String, key: &str, properties: BasicProperties) {
    let (key, options) = (ShortString::from(key), BasicPublishOptions::default());
    channel.basic_publish(exchange.into(), key, options, b"{}", properties).await.unwrap().await.unwrap();
}

/// The first message of the rejected queue.
async fn take_rejected(channel: &Channel, prefix: &str) -> Delivery {
    let options = BasicGetOptions { no_ack: true };
    let taken = channel.basic_get(format!("{prefix}.rejected").into(), options).await.unwrap();
    taken.expect("confirmed is there").delivery
}

#[tokio::test]
async fn a_rejected_message_lies_in_the_rejected_queue_with_its_reason() {
    let prefix = fresh_name("rejected");
    let broker = process(&prefix).await;
    broker.reject(&queue("work"), message("bad"), "parse", "the body is no JSON").await.unwrap();
    let (_connection, channel) = stranger().await;
    let rejected = take_rejected(&channel, &prefix).await;
    assert_eq!(rejected.data, b"{}");
    let headers = rejected.properties.headers().clone().unwrap();
    let text = |name: &str| headers.inner().get(name).unwrap().as_long_string().unwrap().to_string();
    assert_eq!(text(header::REASON), "parse");
    assert_eq!(text(header::REASON_TEXT), "the body is no JSON");
    assert_eq!(text(header::QUEUE), "work");
    assert_eq!(rejected.properties.message_id().as_ref().unwrap().as_str(), "bad");
    broker.close().await;
}

#[tokio::test]
async fn a_message_with_headers_that_fill_a_frame_is_delivered_and_rejected_like_any_other() {
    let prefix = fresh_name("headers");
    let broker = process(&prefix).await;
    let mut deliveries = consume(&broker, "work", 10).await;
    let (_connection, channel) = stranger().await;
    let mut headers = FieldTable::default();
    headers.insert("small".into(), AMQPValue::Boolean(true));
    headers.insert("large".into(), AMQPValue::LongString("x".repeat(100 << 10).into()));
    let exchange = format!("{prefix}.execute");
    let properties = BasicProperties::default().with_message_id("large".into()).with_headers(headers);
    publish_as_stranger(&channel, exchange.clone(), "work", properties).await;
    let properties = BasicProperties::default().with_message_id("next".into());
    publish_as_stranger(&channel, exchange, "work", properties).await;

    let large = next(&mut deliveries).await;
    assert_eq!(id(&large), "large");
    let reason = "é".repeat(50_000);
    broker.reject(&large.queue, large.message.clone(), "model", &reason).await.unwrap();
    assert_eq!(large.ack().await, Settled::Sent);
    assert_eq!(id(&next(&mut deliveries).await), "next");
    let rejected = take_rejected(&channel, &prefix).await;
    let headers = rejected.properties.headers().clone().unwrap();
    assert_eq!(headers.inner().get("small"), Some(&AMQPValue::Boolean(true)));
    assert!(headers.inner().get("large").is_none());
    assert_eq!(headers.inner().get(header::DROPPED), Some(&AMQPValue::LongLongInt(1)));
    let text = headers.inner().get(header::REASON_TEXT).unwrap().as_long_string().unwrap().to_string();
    assert_eq!(text, "é".repeat(500));
    broker.close().await;
}

#[tokio::test]
async fn each_process_gets_its_own_replies_and_all_get_broadcasts() {
    let prefix = fresh_name("replies");
    let (one, two) = (process(&prefix).await, process(&prefix).await);
    assert_ne!(one.reply_queue(), two.reply_queue());
    let mut to_one = one.replies().await.unwrap();
    let mut to_two = two.replies().await.unwrap();
    let (mut one_hears, mut two_hears) = (one.controls().await.unwrap(), two.controls().await.unwrap());
    for (broker, to) in [(&one, &two), (&two, &one)] {
        let reply_to = to.reply_queue().to_owned();
        broker.reply(&ReplyAddress { reply_to, correlation_id: "c".to_owned() }, message(to.reply_queue()));
    }
    for (broker, replies) in [(&one, &mut to_one), (&two, &mut to_two)] {
        let reply = timeout(SOON, replies.recv()).await.unwrap().unwrap();
        assert_eq!(reply.message_id.as_deref(), Some(broker.reply_queue()));
        assert!(replies.try_recv().is_err());
    }
    let cancel = Control::Cancel(ExecuteId::new(1_700_000_000_000));
    one.broadcast(cancel.clone());
    for hears in [&mut one_hears, &mut two_hears] {
        assert_eq!(timeout(SOON, hears.recv()).await.unwrap().as_ref(), Some(&cancel));
    }
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn a_reply_to_a_queue_of_work_is_not_sent() {
    let prefix = fresh_name("forged");
    let broker = process(&prefix).await;
    let mut deliveries = consume(&broker, "work", 10).await;
    let reply_to = format!("{prefix}.queue.work");
    broker.reply(&ReplyAddress { reply_to, correlation_id: "c".to_owned() }, message("forged"));
    // What is sent goes out in order, so this barrier would come after it.
    let mut replies = broker.replies().await.unwrap();
    let reply_to = broker.reply_queue().to_owned();
    broker.reply(&ReplyAddress { reply_to, correlation_id: "c".to_owned() }, message("barrier"));
    assert!(timeout(SOON, replies.recv()).await.unwrap().is_some());
    broker.publish(&queue("work"), message("work")).await.unwrap();
    assert_eq!(id(&next(&mut deliveries).await), "work");
    broker.close().await;
}

#[tokio::test]
async fn a_queue_of_another_kind_under_our_name_is_an_error_in_words_and_harms_nobody_else() {
    let prefix = fresh_name("mismatch");
    let broker = process(&prefix).await;
    let mut deliveries = consume(&broker, "work", 10).await;
    let (_connection, channel) = stranger().await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let classic =
        |name: &str| channel.queue_declare(format!("{prefix}.{name}").into(), durable, FieldTable::default());
    classic("queue.other").await.unwrap();
    let other = broker.consume(DeliverySource::Queues(vec![queue("other")]), 1).await.map(drop);
    let Err(BrokerError::Topology { what, .. }) = other else { panic!("{other:?}") };
    for word in ["x-queue-type", "queue.other", "quorum", "current is none"] {
        assert!(what.contains(word), "{what}");
    }
    broker.publish(&queue("work"), message("1")).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert!(!delivery.redelivered);
    assert_eq!(delivery.ack().await, Settled::Sent);
    broker.close().await;

    let prefix = fresh_name("mismatch");
    let classic = channel.queue_declare(format!("{prefix}.rejected").into(), durable, FieldTable::default());
    classic.await.unwrap();
    let began = Instant::now();
    let refused = RabbitMq::connect(&config(servers().amqp(), &prefix), "process-1").await.map(drop);
    assert!(matches!(refused, Err(BrokerError::Topology { .. })), "{refused:?}");
    assert!(began.elapsed() < SOON);
}

#[tokio::test]
async fn questions_about_missing_queues_do_not_use_up_the_connections_channels() {
    // The test broker allows 128 channels per connection.
    let broker = process(&fresh_name("missing")).await;
    for _ in 0..300 {
        assert_eq!(broker.depth(&queue("none")).await.unwrap(), None);
    }
    for _ in 0..150 {
        drop(consume(&broker, "work", 1).await);
    }
    let mut deliveries = consume(&broker, "work", 1).await;
    broker.publish(&queue("work"), message("1")).await.unwrap();
    assert!(!next(&mut deliveries).await.redelivered);
    broker.close().await;
}

#[tokio::test]
async fn what_a_stranger_publishes_is_delivered_whatever_its_properties_are() {
    let prefix = fresh_name("stranger");
    let broker = process(&prefix).await;
    let mut deliveries = consume(&broker, "work", 10).await;
    let mut unroutable = broker.consume(DeliverySource::Unroutable, 10).await.unwrap();
    let (_connection, channel) = stranger().await;
    let mut headers = FieldTable::default();
    headers.insert("array".into(), AMQPValue::FieldArray(FieldArray::default()));
    headers.insert("small".into(), AMQPValue::ShortShortInt(-1));
    headers.insert("bytes".into(), AMQPValue::LongString(vec![0xff, 0xfe].into()));
    let properties = BasicProperties::default().with_headers(headers).with_priority(9);
    publish_as_stranger(&channel, format!("{prefix}.execute"), "work", properties).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.message.message_id, None);
    assert_eq!(delivery.message.headers["array"], HeaderValue::Other);
    assert_eq!(delivery.message.headers["small"], HeaderValue::Integer(-1));
    assert_eq!(delivery.message.headers["bytes"], HeaderValue::Other);
    assert_eq!(delivery.ack().await, Settled::Sent);
    // A routing key that cannot be a queue's name.
    let properties = BasicProperties::default().with_message_id("odd".into());
    publish_as_stranger(&channel, format!("{prefix}.execute"), "No Queue/../x", properties).await;
    let delivery = next(&mut unroutable).await;
    assert_eq!((id(&delivery), delivery.queue.as_str()), ("odd", "default"));
    broker.close().await;
}

#[tokio::test]
async fn the_broker_is_trusted_over_tls_only_if_its_authority_is() {
    let trusted = RabbitMqConfig {
        url: servers().amqps(),
        prefix: fresh_name("tls"),
        ca_file: Some(servers().amqp_ca()),
    };
    let broker = RabbitMq::connect(&trusted, "process-1").await.unwrap();
    let mut deliveries = consume(&broker, "work", 1).await;
    broker.publish(&queue("work"), message("1")).await.unwrap();
    assert_eq!(id(&next(&mut deliveries).await), "1");
    broker.close().await;

    let untrusted = RabbitMqConfig { ca_file: None, ..trusted };
    let broker = RabbitMq::connect(&untrusted, "process-2").await.unwrap();
    assert!(!broker.is_ready());
    broker.close().await;
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused() {
    let good = config(servers().amqp(), "gantry");
    let bad_url = RabbitMqConfig { url: "http://127.0.0.1".to_owned(), ..good.clone() };
    let bad_prefix = RabbitMqConfig { prefix: "a b".to_owned(), ..good.clone() };
    let bad_ca = RabbitMqConfig { ca_file: Some("/nowhere/ca.pem".into()), ..good };
    for (wrong, word) in [(bad_url, "scheme"), (bad_prefix, "prefix"), (bad_ca, "/nowhere/ca.pem")] {
        let Err(error) = RabbitMq::connect(&wrong, "process-1").await else { panic!("{word}") };
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(word), "{cause}");
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_no_error_and_answers_away() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let broker = RabbitMq::connect(&config(format!("amqp://{nobody}"), "gantry"), "process-1").await.unwrap();
    assert!(!broker.is_ready());
    let mut deliveries = consume(&broker, "work", 1).await;
    let published = broker.publish(&queue("work"), message("1")).await;
    assert!(matches!(published, Err(broker::PublishError::Away(_))), "{published:?}");
    assert!(broker.depth(&queue("work")).await.is_err());
    let reply_to = broker.reply_queue().to_owned();
    broker.reply(&ReplyAddress { reply_to, correlation_id: "c".to_owned() }, message("1"));
    timeout(Duration::from_secs(15), broker.close()).await.unwrap();
    assert!(deliveries.next().await.is_none());
}

#[tokio::test]
async fn dropping_the_broker_gives_back_what_was_not_settled() {
    let prefix = fresh_name("dropped");
    let broker = process(&prefix).await;
    let mut deliveries = consume(&broker, "work", 10).await;
    broker.publish(&queue("work"), message("1")).await.unwrap();
    let held = next(&mut deliveries).await;
    drop(broker);
    let other = process(&prefix).await;
    let mut again = consume(&other, "work", 10).await;
    assert!(next(&mut again).await.redelivered);
    let lost = eventually_some("the old stream ends", SOON, async || {
        timeout(Duration::from_millis(10), deliveries.next()).await.ok().map(|end| end.is_none())
    });
    assert!(lost.await);
    assert_eq!(held.ack().await, Settled::Lost);
    other.close().await;
}
