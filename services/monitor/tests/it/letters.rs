use broker::Broker;
use bytes::Bytes;
use domain::{State, TenantId};
use protocol::{HeaderValue, RawMessage, Reply, ReplyAddress, Request, header};
use testkit::eventually;

use crate::env::{Env, LIMIT, config, delivered, new_id, next, request};

#[tokio::test]
async fn a_message_that_no_queue_took_is_recorded_and_published_once_its_queue_is_there() {
    let mut env = Env::new().await;
    env.push().await;
    env.start(config());
    let direct = Request { queue: "later".parse().unwrap(), ..request(new_id()) };
    env.broker.publish(&direct.queue, direct.to_message()).await.unwrap();
    let row = env.until(direct.execute_id, State::Queued).await;
    assert_eq!((row.queue.as_str(), row.version.map(|v| v.0)), ("later", Some(1)));
    let mut deliveries = env.consume("later").await;
    assert_eq!(delivered(&mut deliveries).await, direct.execute_id);
    env.end().await;
}

#[tokio::test]
async fn a_message_that_was_given_back_too_often_is_buried_and_its_sender_told() {
    let mut env = Env::new().await;
    env.start(config());
    let mut deliveries = env.consume("default").await;
    let direct = Request { reply_address: Some(env.address()), ..request(new_id()) };
    env.broker.publish(&direct.queue, direct.to_message()).await.unwrap();
    // The broker allows 20 returns.
    for _ in 0..21 {
        let _ = next(&mut deliveries).await.requeue().await;
    }
    let reply = env.reply().await;
    assert_eq!((reply.execute_id, reply.ending.state()), (direct.execute_id, State::Dead));
    assert_eq!(env.row(direct.execute_id).await.state, State::Dead);
    env.end().await;
}

#[tokio::test]
async fn a_poisonous_message_is_rejected_with_its_reason_and_stalls_nobody() {
    let mut env = Env::new().await;
    env.start(config());
    let nowhere = "nowhere".parse().unwrap();
    let good = Request { queue: "nowhere".parse().unwrap(), ..request(new_id()) };
    let broken = RawMessage {
        body: Bytes::from_static(b"{"),
        reply_to: Some(env.broker.reply_queue().to_owned()),
        correlation_id: Some("poison".to_owned()),
        ..good.to_message()
    };
    for _ in 0..3 {
        env.broker.publish(&nowhere, broken.clone()).await.unwrap();
    }
    env.broker.publish(&nowhere, RawMessage::default()).await.unwrap();
    env.broker.publish(&nowhere, good.to_message()).await.unwrap();
    env.until(good.execute_id, State::Queued).await;
    eventually("all bad ones are among the rejected", LIMIT, async || env.broker.rejected().len() == 4).await;
    let rejected = &env.broker.rejected()[0];
    assert_eq!(rejected.headers.get(header::REASON), Some(&HeaderValue::Text("parse".to_owned())));
    assert_eq!(rejected.body, broken.body);
    let reply = tokio::time::timeout(LIMIT, env.replies.recv()).await.unwrap().unwrap();
    assert_eq!(reply.correlation_id.as_deref(), Some("poison"));
    assert_eq!(reply.headers.get(header::STATE), Some(&HeaderValue::Text("rejected".to_owned())));
    env.end().await;
}

#[tokio::test]
async fn one_message_that_went_astray_many_times_is_one_execution() {
    let mut env = Env::new().await;
    let direct = Request { queue: "later".parse().unwrap(), ..request(new_id()) };
    for _ in 0..20 {
        env.broker.publish(&direct.queue, direct.to_message()).await.unwrap();
    }
    let other = Request { queue: "later".parse().unwrap(), ..request(new_id()) };
    env.broker.publish(&direct.queue, other.to_message()).await.unwrap();
    env.start(config());
    env.until(direct.execute_id, State::Queued).await;
    env.until(other.execute_id, State::Queued).await;
    env.end().await;
}

#[tokio::test]
async fn whoever_asks_astray_for_what_has_ended_gets_its_ending() {
    let mut env = Env::new().await;
    let id = env.yielded().await;
    env.record.cancel(&TenantId::default(), id).await.unwrap();
    let address = ReplyAddress { correlation_id: "another".to_owned(), ..env.address() };
    let late = Request { reply_address: Some(address), queue: "nowhere".parse().unwrap(), ..request(id) };
    env.broker.publish(&late.queue, late.to_message()).await.unwrap();
    env.start(config());
    let message = tokio::time::timeout(LIMIT, env.replies.recv()).await.unwrap().unwrap();
    assert_eq!(message.correlation_id.as_deref(), Some("another"));
    assert_eq!(Reply::parse(message).unwrap().ending.state(), State::Cancelled);
    env.end().await;
}
