//! What is special about the embedded broker: its bounds, and its end.

use broker::embedded::Embedded;
use broker::{Broker, DeliverySource, PublishError, Settled};
use protocol::{HeaderValue, ReplyAddress, header};

use crate::support::{consume, id, message, next, queue};

#[tokio::test]
async fn the_last_thousand_rejected_messages_are_kept_with_their_reasons() {
    let broker = Embedded::new();
    for number in 0..1_001 {
        broker.reject(&queue("work"), message(number), "parse", "no JSON").await.unwrap();
    }
    let rejected = broker.rejected();
    assert_eq!(rejected.len(), 1_000);
    let newest = rejected.last().unwrap();
    assert_eq!((rejected[0].message_id.as_deref(), newest.message_id.as_deref()), (Some("1"), Some("1000")));
    let text = |text: &str| HeaderValue::Text(text.to_owned());
    assert_eq!(newest.headers[header::QUEUE], text("work"));
    assert_eq!(newest.headers[header::REASON], text("parse"));
    assert_eq!(newest.headers[header::REASON_TEXT], text("no JSON"));
}

#[tokio::test]
async fn a_full_queue_refuses_and_takes_again_when_there_is_room() {
    let broker = Embedded::new();
    let work = queue("work");
    drop(consume(&broker, "work", 1).await);
    for number in 0..100_000 {
        broker.publish(&work, message(number)).await.unwrap();
    }
    assert!(matches!(broker.publish(&work, message("full")).await, Err(PublishError::Refused)));
    let mut deliveries = consume(&broker, "work", 1).await;
    assert_eq!(next(&mut deliveries).await.ack().await, Settled::Sent);
    broker.publish(&work, message("room")).await.unwrap();
}

#[tokio::test]
async fn a_message_given_back_more_than_twenty_times_is_dead() {
    let broker = Embedded::new();
    let mut dead = broker.consume(DeliverySource::Dead, 1).await.unwrap();
    let mut deliveries = consume(&broker, "work", 1).await;
    broker.publish(&queue("work"), message("1")).await.unwrap();
    for _ in 0..20 {
        assert_eq!(next(&mut deliveries).await.requeue().await, Settled::Sent);
    }
    // A consumer that goes away gives back as well.
    drop(next(&mut deliveries).await);
    drop(deliveries);
    let delivery = next(&mut dead).await;
    assert_eq!((id(&delivery), delivery.queue.as_str()), ("1", "work"));
}

#[tokio::test]
async fn what_comes_back_comes_first_and_in_order() {
    let broker = Embedded::new();
    let mut deliveries = consume(&broker, "work", 3).await;
    for number in 0..5 {
        broker.publish(&queue("work"), message(number)).await.unwrap();
    }
    assert_eq!(id(&next(&mut deliveries).await), "0");
    drop(deliveries);
    let mut again = consume(&broker, "work", 10).await;
    for (number, redelivered) in [("0", true), ("1", true), ("2", true), ("3", false), ("4", false)] {
        let delivery = next(&mut again).await;
        assert_eq!((id(&delivery), delivery.redelivered), (number, redelivered));
    }
}

#[tokio::test]
async fn two_consumers_take_turns_as_long_as_both_have_room() {
    let broker = Embedded::new();
    let (mut one, mut two) = (consume(&broker, "work", 10).await, consume(&broker, "work", 10).await);
    for number in 0..6 {
        broker.publish(&queue("work"), message(number)).await.unwrap();
    }
    for deliveries in [&mut one, &mut two] {
        assert_eq!(deliveries.next_chunk(10).await.len(), 3);
    }
}

#[tokio::test]
async fn streams_end_when_the_broker_is_dropped() {
    let broker = Embedded::new();
    let mut deliveries = consume(&broker, "work", 10).await;
    let mut replies = broker.replies().await.unwrap();
    broker.publish(&queue("work"), message("1")).await.unwrap();
    let reply_to = broker.reply_queue().to_owned();
    broker.reply(&ReplyAddress { reply_to, correlation_id: "c".to_owned() }, message("2"));
    let held = next(&mut deliveries).await;
    drop(broker);
    assert!(deliveries.next().await.is_none());
    assert!(replies.recv().await.is_some());
    assert!(replies.recv().await.is_none());
    assert_eq!(held.ack().await, Settled::Lost);
}
