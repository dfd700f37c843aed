use std::time::Duration;

use domain::{ErrorClass, QueueName, State};
use jiff::Timestamp;
use monitor::Config;
use store::{Acceptance, NewExecution, Settlement};
use testkit::eventually;

use crate::env::{Env, HOUR, LIMIT, config, delivered, info, new_execution, node};

#[tokio::test]
async fn what_nobody_published_is_published_and_noted() {
    let mut env = Env::new().await;
    let mut deliveries = env.consume("default").await;
    let new = new_execution();
    let id = env.undispatched("default").await;
    env.start(config());
    assert_eq!(delivered(&mut deliveries).await, id);
    let again = NewExecution { execute_id: id, ..new };
    eventually("the record knows that it was published", LIMIT, async || {
        // Before it is noted, repeating the acceptance says that it is recorded.
        let answer = env.record.accept(std::slice::from_ref(&again)).await.unwrap();
        answer == [Acceptance::Attached { execute_id: id, state: State::Queued }]
    })
    .await;
    env.end().await;
}

#[tokio::test]
async fn what_no_queue_takes_now_is_published_once_a_worker_serves_its_queue() {
    let mut env = Env::new().await;
    let mut others = env.consume("other").await;
    let id = env.undispatched("default").await;
    let other = env.undispatched("other").await;
    env.start(config());
    // Both are taken by one look.
    assert_eq!(delivered(&mut others).await, other);
    let mut deliveries = env.consume("default").await;
    assert_eq!(delivered(&mut deliveries).await, id);
    env.end().await;
}

#[tokio::test]
async fn a_message_lost_from_an_empty_queue_is_published_again() {
    let mut env = Env::new().await;
    let mut deliveries = env.consume("default").await;
    env.push().await;
    let id = env.accepted().await;
    env.record.mark_dispatched(&[id]).await.unwrap();
    env.start(config());
    // The record grants the message 10 s.
    assert_eq!(delivered(&mut deliveries).await, id);
    env.end().await;
}

#[tokio::test]
async fn what_waits_for_a_queue_that_nobody_has_made_is_not_taken_for_lost() {
    let mut env = Env::new().await;
    let mut deliveries = env.consume("default").await;
    env.push().await;
    env.push_served_by("patient", "later").await;
    let later: QueueName = "later".parse().unwrap();
    let waiting = env.accept(NewExecution { queue: later.clone(), ..new_execution() }).await;
    env.record.mark_dispatched(&[waiting]).await.unwrap();
    let lost = env.accepted().await;
    env.record.mark_dispatched(&[lost]).await.unwrap();
    env.start(config());
    assert_eq!(delivered(&mut deliveries).await, lost);
    // What had been taken by that look would not be taken again.
    let taken = env.record.take_overtaken(&[later], 10).await.unwrap();
    assert_eq!(taken.iter().map(|dispatch| dispatch.request.execute_id).collect::<Vec<_>>(), [waiting]);
    env.end().await;
}

#[tokio::test]
async fn what_is_due_is_published() {
    let mut env = Env::new().await;
    let mut deliveries = env.consume("default").await;
    let id = env.yielded().await;
    env.start(config());
    assert_eq!(delivered(&mut deliveries).await, id);
    assert_eq!(env.row(id).await.state, State::Queued);
    env.end().await;
}

#[tokio::test]
async fn a_backlog_larger_than_one_look_takes_is_worked_off_without_waiting() {
    let mut env = Env::new().await;
    let mut deliveries = env.consume("default").await;
    let mut ids = Vec::new();
    for _ in 0..25 {
        ids.push(env.yielded().await);
    }
    // With a wait after each look this would take days.
    env.start(Config { sweep_ms: 100_000_000, sweep_rows_max: 5, ..config() });
    for _ in 0..5 {
        for _ in 0..5 {
            let id = delivered(&mut deliveries).await;
            ids.retain(|left| *left != id);
        }
    }
    assert_eq!(ids, []);
    env.end().await;
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_back_and_the_execution_published() {
    let mut env = Env::new().await;
    let mut deliveries = env.consume("default").await;
    let id = env.accepted().await;
    env.claim(id, &node("gone"), Duration::from_millis(1)).await;
    env.start(Config { lease_ms: 1, ..config() });
    assert_eq!(delivered(&mut deliveries).await, id);
    assert_eq!(env.row(id).await.failures, 1);
    env.end().await;
}

#[tokio::test]
async fn a_node_that_is_gone_and_silent_loses_its_leases_early_and_one_that_is_there_does_not() {
    let mut env = Env::new().await;
    let mut deliveries = env.consume("default").await;
    let membership = env.ports.coordination.join(info("box")).await.unwrap();
    let id = env.accepted().await;
    env.claim(id, &node("box"), HOUR).await;
    env.start(Config { renew_ms: 1, ..config() });
    // Another node is not there: once its execution was taken back, the first one was looked at too.
    let other = env.accepted().await;
    env.claim(other, &node("gone"), HOUR).await;
    assert_eq!(delivered(&mut deliveries).await, other);
    assert_eq!(env.row(id).await.state, State::Running);
    membership.leave().await;
    assert_eq!(delivered(&mut deliveries).await, id);
    env.end().await;
}

#[tokio::test]
async fn who_is_alone_takes_every_lease_from_before_its_start_and_none_from_after() {
    let mut env = Env::new().await;
    let mut deliveries = env.consume("default").await;
    let before = env.accepted().await;
    env.claim(before, &node("killed"), HOUR).await;
    env.start(Config { alone: true, ..config() });
    assert_eq!(delivered(&mut deliveries).await, before);
    let after = env.accepted().await;
    env.claim(after, &node("new"), HOUR).await;
    // A few looks later.
    for _ in 0..3 {
        let barrier = env.yielded().await;
        assert_eq!(delivered(&mut deliveries).await, barrier);
    }
    assert_eq!((env.row(after).await.state, env.row(after).await.attempt), (State::Running, 1));
    env.end().await;
}

#[tokio::test]
async fn who_waits_for_an_execution_that_our_side_could_not_run_is_told() {
    let mut env = Env::new().await;
    let id = env.accepted().await;
    for attempt in 1..=2 {
        env.claim(id, &node("bad"), HOUR).await;
        let (class, message) = (ErrorClass::Sandbox, "no sandbox".to_owned());
        env.settle(id, attempt, Settlement::Failed { delay: Duration::ZERO, class, message }).await;
        assert_eq!(env.record.take_due(1).await.unwrap().len(), 1);
    }
    env.claim(id, &node("gone"), Duration::from_millis(1)).await;
    env.start(Config { lease_ms: 1, ..config() });
    let reply = env.reply().await;
    assert_eq!((reply.execute_id, reply.attempt, reply.ending.state()), (id, 3, State::Dead));
    assert_eq!(env.row(id).await.state, State::Dead);
    env.end().await;
}

#[tokio::test]
async fn what_is_overdue_expires_and_who_waits_is_told() {
    let mut env = Env::new().await;
    let deadline = Some(Timestamp::now() - Duration::from_millis(1));
    let new = NewExecution { deadline, reply_address: Some(env.address()), ..new_execution() };
    let id = env.accept(new).await;
    env.start(config());
    let reply = env.reply().await;
    assert_eq!((reply.execute_id, reply.ending.state()), (id, State::Expired));
    assert_eq!(env.row(id).await.state, State::Expired);
    env.end().await;
}
