//! What the port promises. Each test runs on the embedded broker and on RabbitMQ.

use std::collections::HashSet;
use std::sync::Arc;

use broker::embedded::Embedded;
use broker::{Broker, Control, DeliverySource, PublishError, Settled};
use domain::ExecuteId;
use futures::future::{join_all, try_join_all};
use protocol::{HeaderValue, RawMessage, ReplyAddress};
use testkit::{eventually, fresh_name};
use tokio::time::timeout;

use crate::support::{SOON, consume, id, message, next, process, queue};

/// Runs each of the named tests on both adapters.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::embedded_broker()).await;
            })*
        }

        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::rabbitmq_broker().await).await;
            })*
        }
    };
}

on_both! {
    a_confirmed_message_is_delivered_with_everything_it_says
    a_message_is_settled_once_and_never_comes_again
    what_was_not_settled_comes_again_when_its_consumer_goes_away
    a_requeued_message_comes_again
    at_most_prefetch_deliveries_are_unsettled
    a_settlement_after_its_consumer_is_gone_is_lost
    a_message_for_a_queue_nobody_made_is_unroutable
    a_rejected_message_is_confirmed_and_is_no_work
    a_reply_reaches_its_process_and_no_other
    replies_that_are_sent_together_come_in_order_each_to_its_own
    every_listener_hears_a_broadcast
    depth_counts_what_waits_and_not_what_is_delivered
    a_paused_consumer_gets_nothing_and_keeps_what_it_has
    a_changed_prefetch_bounds_what_is_delivered_from_then_on
    two_thousand_concurrent_publications_are_confirmed_and_delivered_once
    one_consumer_serves_several_queues
    chunks_hold_what_is_ready_and_no_more_than_asked
    once_closed_streams_end_and_nothing_is_taken
}

fn embedded_broker() -> Arc<dyn Broker> {
    Arc::new(Embedded::new())
}

async fn rabbitmq_broker() -> Arc<dyn Broker> {
    Arc::new(process(&fresh_name("contract")).await)
}

async fn a_confirmed_message_is_delivered_with_everything_it_says(broker: Arc<dyn Broker>) {
    let mut deliveries = consume(&*broker, "work", 10).await;
    let mut sent = message("1");
    sent.reply_to = Some("somewhere".to_owned());
    sent.correlation_id = Some("c-1".to_owned());
    sent.headers.insert("number".to_owned(), HeaderValue::Integer(1));
    sent.headers.insert("text".to_owned(), HeaderValue::Text("ü".to_owned()));
    sent.headers.insert("flag".to_owned(), HeaderValue::Bool(true));
    broker.publish(&queue("work"), sent.clone()).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.message, sent);
    assert_eq!(delivery.queue, queue("work"));
    assert!(!delivery.redelivered);
    assert_eq!(delivery.ack().await, Settled::Sent);
    broker.close().await;
}

async fn a_message_is_settled_once_and_never_comes_again(broker: Arc<dyn Broker>) {
    let mut deliveries = consume(&*broker, "work", 10).await;
    for number in 0..30 {
        broker.publish(&queue("work"), message(number)).await.unwrap();
    }
    // In another order than they came, so that acknowledging several at once has gaps to respect.
    let mut held = Vec::new();
    for number in 0..30 {
        held.push(next(&mut deliveries).await);
        if number % 7 == 6 {
            for delivery in held.drain(..).rev() {
                assert_eq!(delivery.ack().await, Settled::Sent);
            }
        }
    }
    let unsettled: HashSet<String> = held.iter().map(|delivery| id(delivery).to_owned()).collect();
    eventually("the acknowledgements are heard", SOON, async || {
        broker.publish(&queue("work"), message("last")).await.unwrap();
        let delivery = next(&mut deliveries).await;
        let last = id(&delivery) == "last";
        assert_eq!(delivery.ack().await, Settled::Sent);
        last
    })
    .await;
    drop(deliveries);
    let mut again = consume(&*broker, "work", 10).await;
    let mut came = HashSet::new();
    while came.len() < unsettled.len() {
        let delivery = next(&mut again).await;
        assert!(delivery.redelivered);
        came.insert(id(&delivery).to_owned());
        assert_eq!(delivery.ack().await, Settled::Sent);
    }
    assert_eq!(came, unsettled);
    broker.publish(&queue("work"), message("barrier")).await.unwrap();
    assert_eq!(id(&next(&mut again).await), "barrier");
    broker.close().await;
}

async fn what_was_not_settled_comes_again_when_its_consumer_goes_away(broker: Arc<dyn Broker>) {
    let mut first = consume(&*broker, "work", 10).await;
    for number in 0..3 {
        broker.publish(&queue("work"), message(number)).await.unwrap();
    }
    let settled = next(&mut first).await;
    assert_eq!(id(&settled), "0");
    assert_eq!(settled.ack().await, Settled::Sent);
    let held = next(&mut first).await;
    assert_eq!(id(&held), "1");
    // One is held, one was never taken; a delivery that is dropped unsettled stays with its consumer.
    drop(held);
    drop(first);
    let mut second = consume(&*broker, "work", 10).await;
    let mut came = HashSet::new();
    for _ in 0..2 {
        let delivery = next(&mut second).await;
        assert!(delivery.redelivered);
        came.insert(id(&delivery).to_owned());
        assert_eq!(delivery.ack().await, Settled::Sent);
    }
    assert_eq!(came, HashSet::from(["1".to_owned(), "2".to_owned()]));
    broker.close().await;
}

async fn a_requeued_message_comes_again(broker: Arc<dyn Broker>) {
    let mut deliveries = consume(&*broker, "work", 1).await;
    broker.publish(&queue("work"), message("1")).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.requeue().await, Settled::Sent);
    let delivery = next(&mut deliveries).await;
    assert_eq!((id(&delivery), delivery.redelivered), ("1", true));
    assert_eq!(delivery.ack().await, Settled::Sent);
    broker.close().await;
}

async fn at_most_prefetch_deliveries_are_unsettled(broker: Arc<dyn Broker>) {
    let mut few = consume(&*broker, "work", 3).await;
    for number in 0..10 {
        broker.publish(&queue("work"), message(number)).await.unwrap();
    }
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut few).await);
    }
    // The other seven go to whoever has room: had the first consumer taken a fourth, this one would miss it.
    let mut many = consume(&*broker, "work", 100).await;
    for _ in 0..7 {
        assert_eq!(next(&mut many).await.ack().await, Settled::Sent);
    }
    assert_eq!(held.pop().unwrap().ack().await, Settled::Sent);
    drop(many);
    broker.publish(&queue("work"), message("room")).await.unwrap();
    assert_eq!(id(&next(&mut few).await), "room");
    broker.close().await;
}

async fn a_settlement_after_its_consumer_is_gone_is_lost(broker: Arc<dyn Broker>) {
    let mut deliveries = consume(&*broker, "work", 10).await;
    broker.publish(&queue("work"), message("1")).await.unwrap();
    let held = next(&mut deliveries).await;
    drop(deliveries);
    let mut second = consume(&*broker, "work", 10).await;
    let again = next(&mut second).await;
    assert!(again.redelivered);
    assert_eq!(held.ack().await, Settled::Lost);
    assert_eq!(again.ack().await, Settled::Sent);
    broker.close().await;
}

async fn a_message_for_a_queue_nobody_made_is_unroutable(broker: Arc<dyn Broker>) {
    let mut unroutable = broker.consume(DeliverySource::Unroutable, 10).await.unwrap();
    broker.publish(&queue("nobody"), message("1")).await.unwrap();
    let delivery = next(&mut unroutable).await;
    assert_eq!((id(&delivery), &delivery.queue), ("1", &queue("nobody")));
    assert_eq!(delivery.ack().await, Settled::Sent);
    // Once made, a queue stays, with or without a consumer.
    drop(consume(&*broker, "nobody", 1).await);
    broker.publish(&queue("nobody"), message("2")).await.unwrap();
    let mut deliveries = consume(&*broker, "nobody", 1).await;
    assert_eq!(id(&next(&mut deliveries).await), "2");
    broker.close().await;
}

async fn a_rejected_message_is_confirmed_and_is_no_work(broker: Arc<dyn Broker>) {
    // Where it lies, with its reason, is each adapter's own: see their tests.
    let mut deliveries = consume(&*broker, "work", 10).await;
    broker.reject(&queue("work"), message("bad"), "parse", "the body is no JSON").await.unwrap();
    broker.publish(&queue("work"), message("good")).await.unwrap();
    assert_eq!(id(&next(&mut deliveries).await), "good");
    broker.close().await;
}

async fn a_reply_reaches_its_process_and_no_other(broker: Arc<dyn Broker>) {
    let mut replies = broker.replies().await.unwrap();
    let address = |reply_to: &str, correlation_id: &str| ReplyAddress {
        reply_to: reply_to.to_owned(),
        correlation_id: correlation_id.to_owned(),
    };
    broker.reply(&address("nobody.listens.here", "lost"), message("0"));
    broker.reply(&address(broker.reply_queue(), "mine"), message("1"));
    let reply = timeout(SOON, replies.recv()).await.unwrap().unwrap();
    assert_eq!(reply.correlation_id.as_deref(), Some("mine"));
    assert_eq!(reply.message_id.as_deref(), Some("1"));
    broker.close().await;
}

async fn replies_that_are_sent_together_come_in_order_each_to_its_own(broker: Arc<dyn Broker>) {
    let mut replies = broker.replies().await.unwrap();
    let to = |reply_to: &str, n: u32| {
        let address = ReplyAddress { reply_to: reply_to.to_owned(), correlation_id: format!("c{n}") };
        (address, message(n))
    };
    let mut batch: Vec<_> = (0..500).map(|n| to(broker.reply_queue(), n)).collect();
    batch.insert(250, to("nobody.listens.here", 1_000));
    let sent: Vec<_> = batch.iter().filter(|(a, _)| a.reply_to == broker.reply_queue()).cloned().collect();
    broker.reply_all(batch);
    for (address, message) in sent {
        let reply = timeout(SOON, replies.recv()).await.unwrap().unwrap();
        assert_eq!(reply, RawMessage { correlation_id: Some(address.correlation_id), ..message });
    }
    broker.reply_all(Vec::new());
    broker.close().await;
}

async fn every_listener_hears_a_broadcast(broker: Arc<dyn Broker>) {
    let mut controls = broker.controls().await.unwrap();
    let cancel = Control::Cancel(ExecuteId::new(1_700_000_000_000));
    broker.broadcast(cancel.clone());
    assert_eq!(timeout(SOON, controls.recv()).await.unwrap(), Some(cancel));
    broker.close().await;
}

async fn depth_counts_what_waits_and_not_what_is_delivered(broker: Arc<dyn Broker>) {
    assert_eq!(broker.depth(&queue("none")).await.unwrap(), None);
    let mut deliveries = consume(&*broker, "work", 2).await;
    for number in 0..5 {
        broker.publish(&queue("work"), message(number)).await.unwrap();
    }
    let held = [next(&mut deliveries).await, next(&mut deliveries).await];
    eventually("three wait", SOON, async || broker.depth(&queue("work")).await.unwrap() == Some(3)).await;
    drop(deliveries);
    eventually("all wait", SOON, async || broker.depth(&queue("work")).await.unwrap() == Some(5)).await;
    drop(held);
    broker.close().await;
}

async fn a_paused_consumer_gets_nothing_and_keeps_what_it_has(broker: Arc<dyn Broker>) {
    let mut deliveries = consume(&*broker, "work", 2).await;
    for number in 0..4 {
        broker.publish(&queue("work"), message(number)).await.unwrap();
    }
    let first = next(&mut deliveries).await;
    // The second is delivered as well before the pause.
    eventually("two are delivered", SOON, async || broker.depth(&queue("work")).await.unwrap() == Some(2))
        .await;
    deliveries.pause().await;
    let second = next(&mut deliveries).await;
    assert_eq!((id(&first), id(&second)), ("0", "1"));
    assert_eq!(first.ack().await, Settled::Sent);
    assert_eq!(second.ack().await, Settled::Sent);
    // Somebody else gets the rest: the paused one does not, although it has room.
    let mut other = consume(&*broker, "work", 1).await;
    let third = next(&mut other).await;
    assert_eq!(id(&third), "2");
    assert_eq!(broker.depth(&queue("work")).await.unwrap(), Some(1));
    assert!(timeout(std::time::Duration::from_millis(100), deliveries.next()).await.is_err());
    deliveries.resume().await;
    let fourth = next(&mut deliveries).await;
    assert_eq!(id(&fourth), "3");
    assert_eq!(third.ack().await, Settled::Sent);
    assert_eq!(fourth.ack().await, Settled::Sent);
    // And again.
    deliveries.pause().await;
    drop(other);
    broker.publish(&queue("work"), message("4")).await.unwrap();
    // The other one may get it before it is gone.
    eventually("it waits", SOON, async || broker.depth(&queue("work")).await.unwrap() == Some(1)).await;
    deliveries.resume().await;
    assert_eq!(id(&next(&mut deliveries).await), "4");
    broker.close().await;
}

async fn a_changed_prefetch_bounds_what_is_delivered_from_then_on(broker: Arc<dyn Broker>) {
    let mut deliveries = consume(&*broker, "work", 2).await;
    for number in 0..12 {
        broker.publish(&queue("work"), message(number)).await.unwrap();
    }
    let waits = async |count| {
        eventually("the rest waits", SOON, async || {
            broker.depth(&queue("work")).await.unwrap() == Some(count)
        })
        .await;
    };
    waits(10).await;
    for _ in 0..2 {
        assert_eq!(next(&mut deliveries).await.ack().await, Settled::Sent);
    }
    waits(8).await;
    deliveries.set_prefetch(6).await;
    // What was received before it may or may not count.
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(next(&mut deliveries).await);
    }
    deliveries.set_prefetch(1).await;
    for delivery in held {
        assert_eq!(delivery.ack().await, Settled::Sent);
    }
    let mut came = 8;
    while came < 12 {
        let chunk = timeout(SOON, deliveries.next_chunk(64)).await.expect("deliveries in time");
        came += chunk.len();
        for delivery in chunk {
            assert_eq!(delivery.ack().await, Settled::Sent);
        }
    }
    for number in 12..14 {
        broker.publish(&queue("work"), message(number)).await.unwrap();
    }
    let first = next(&mut deliveries).await;
    waits(1).await;
    assert!(
        timeout(std::time::Duration::from_millis(100), deliveries.next()).await.is_err(),
        "1 is held of 1"
    );
    assert_eq!(first.ack().await, Settled::Sent);
    assert_eq!(id(&next(&mut deliveries).await), "13");
    broker.close().await;
}

async fn two_thousand_concurrent_publications_are_confirmed_and_delivered_once(broker: Arc<dyn Broker>) {
    let mut deliveries = consume(&*broker, "work", 256).await;
    let work = queue("work");
    let publications = (0..2_000).map(|number| broker.publish(&work, message(number)));
    let taking = async {
        let mut came = HashSet::new();
        while came.len() < 2_000 {
            let chunk = timeout(SOON, deliveries.next_chunk(64)).await.expect("deliveries in time");
            for delivery in chunk {
                assert!(came.insert(id(&delivery).to_owned()), "{} came twice", id(&delivery));
                assert_eq!(delivery.ack().await, Settled::Sent);
            }
        }
    };
    let (confirmed, ()) = futures::join!(try_join_all(publications), taking);
    assert_eq!(confirmed.unwrap().len(), 2_000);
    eventually("the queue is empty", SOON, async || broker.depth(&work).await.unwrap() == Some(0)).await;
    broker.close().await;
}

async fn one_consumer_serves_several_queues(broker: Arc<dyn Broker>) {
    let names = ["a", "b.c", "d_e-1"];
    let source = DeliverySource::Queues(names.into_iter().map(queue).collect());
    let mut deliveries = broker.consume(source, 10).await.unwrap();
    let names_again = names.map(queue);
    let publications = names_again.iter().map(|name| broker.publish(name, message(name)));
    join_all(publications).await.into_iter().for_each(Result::unwrap);
    let mut came = HashSet::new();
    for _ in names {
        let delivery = next(&mut deliveries).await;
        assert_eq!(id(&delivery), delivery.queue.as_str());
        came.insert(delivery.queue.to_string());
        assert_eq!(delivery.ack().await, Settled::Sent);
    }
    assert_eq!(came.len(), names.len());
    broker.close().await;
}

async fn chunks_hold_what_is_ready_and_no_more_than_asked(broker: Arc<dyn Broker>) {
    let mut deliveries = consume(&*broker, "work", 10).await;
    for number in 0..5 {
        broker.publish(&queue("work"), message(number)).await.unwrap();
    }
    eventually("all are delivered", SOON, async || broker.depth(&queue("work")).await.unwrap() == Some(0))
        .await;
    let mut taken = 0;
    while taken < 5 {
        let chunk = timeout(SOON, deliveries.next_chunk(2)).await.unwrap();
        assert!((1..=2).contains(&chunk.len()));
        taken += chunk.len();
    }
    broker.close().await;
}

async fn once_closed_streams_end_and_nothing_is_taken(broker: Arc<dyn Broker>) {
    let mut deliveries = consume(&*broker, "work", 10).await;
    let mut replies = broker.replies().await.unwrap();
    let mut controls = broker.controls().await.unwrap();
    assert!(broker.is_ready());
    broker.publish(&queue("work"), message("1")).await.unwrap();
    let held = next(&mut deliveries).await;
    broker.close().await;
    assert!(!broker.is_ready());
    assert!(timeout(SOON, deliveries.next()).await.unwrap().is_none());
    assert!(timeout(SOON, replies.recv()).await.unwrap().is_none());
    assert!(timeout(SOON, controls.recv()).await.unwrap().is_none());
    assert_eq!(held.ack().await, Settled::Lost);
    let late = broker.publish(&queue("work"), message("2")).await;
    assert!(matches!(late, Err(PublishError::Away(_))), "{late:?}");
    let mut none = consume(&*broker, "work", 10).await;
    assert!(timeout(SOON, none.next()).await.unwrap().is_none());
    // And again, which does nothing.
    broker.close().await;
}
