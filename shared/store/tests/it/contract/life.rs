use std::time::Duration;

use domain::{Ending, ErrorClass, ExecuteId, State};
use protocol::ReplyAddress;
use store::{CancelAnswer, ClaimAnswer, NewExecution, Requeue, Settlement};

use super::env::{LEASE, address};
use super::{Env, claim_of, claimed, direct, new_execution, node, requeue_of, succeeded, text};

fn cancelled(answer: Option<CancelAnswer>) -> Vec<ReplyAddress> {
    match answer {
        Some(CancelAnswer::Cancelled(conclusion)) => {
            assert_eq!(conclusion.ending.map(|ending| ending.state()), Some(State::Cancelled));
            conclusion.reply_addresses
        }
        other => panic!("{other:?}"),
    }
}

pub async fn a_queued_execution_is_cancelled_at_once_and_never_runs(env: Env) {
    let new = env.recorded().await;
    let waiting = cancelled(env.record.cancel(&new.tenant, new.execute_id).await.unwrap());
    assert_eq!(waiting, [address("gateway", "1")]);
    match env.claim(&claim_of(&new)).await {
        ClaimAnswer::Ended(ended) => {
            assert_eq!(ended.ending.failure().map(|f| f.class), Some(ErrorClass::Cancelled));
        }
        other => panic!("{other:?}"),
    }
    let row = env.row(new.execute_id).await;
    assert_eq!((row.state, row.attempt, row.cancel_requested), (State::Cancelled, 0, true));
}

pub async fn a_running_execution_is_asked_and_its_renewal_says_so(env: Env) {
    let (new, claim) = env.running().await;
    let held = [(new.execute_id, claim.attempt)];
    let renewed = env.record.renew(&node("one"), &held, LEASE).await.unwrap();
    assert_eq!(renewed.iter().map(|r| r.cancel_requested).collect::<Vec<_>>(), [false]);
    for _ in 0..2 {
        let answer = env.record.cancel(&new.tenant, new.execute_id).await.unwrap();
        assert_eq!(answer, Some(CancelAnswer::Requested));
    }
    let renewed = env.record.renew(&node("one"), &held, LEASE).await.unwrap();
    assert_eq!(renewed.iter().map(|r| r.cancel_requested).collect::<Vec<_>>(), [true]);
    assert!(env.row(new.execute_id).await.cancel_requested);
}

pub async fn a_cancel_is_final_and_belongs_to_its_tenant(env: Env) {
    let new = new_execution();
    assert_eq!(env.record.cancel(&new.tenant, new.execute_id).await.unwrap(), None);
    env.accept(&new).await;
    let stranger = "stranger".parse().unwrap();
    assert_eq!(env.record.cancel(&stranger, new.execute_id).await.unwrap(), None);
    let claim = claimed(env.claim(&claim_of(&new)).await);
    let conclusion = env.settle(&new, &claim, succeeded("done")).await;
    let answer = env.record.cancel(&new.tenant, new.execute_id).await.unwrap();
    assert_eq!(answer, Some(CancelAnswer::AlreadyEnded(Box::new(conclusion))));
    assert_eq!(env.ending(new.execute_id).await, Some(Ending::Succeeded(text("done"))));
}

pub async fn a_delayed_execution_is_cancelled_at_once(env: Env) {
    let (new, claim) = env.running().await;
    env.settle(&new, &claim, Settlement::Retried(Duration::from_secs(60))).await;
    cancelled(env.record.cancel(&new.tenant, new.execute_id).await.unwrap());
    env.pass(Duration::from_secs(61)).await;
    assert_eq!(env.record.take_due(10).await.unwrap(), []);
    assert_eq!(env.row(new.execute_id).await.not_before, None);
}

pub async fn a_renewal_returns_only_what_is_still_held(env: Env) {
    let ((held, _), (ended, claim), (other, _)) =
        (env.running().await, env.running().await, env.running().await);
    env.settle(&ended, &claim, succeeded("done")).await;
    let asked = [(other.execute_id, 2), (held.execute_id, 1), (ended.execute_id, 1)];
    let renewed = env.record.renew(&node("one"), &asked, LEASE).await.unwrap();
    assert_eq!(renewed.iter().map(|r| (r.execute_id, r.attempt)).collect::<Vec<_>>(), [(held.execute_id, 1)]);
    let by_another = env.record.renew(&node("two"), &asked, LEASE).await.unwrap();
    assert_eq!(by_another, []);
    assert_eq!(env.record.renew(&node("one"), &[], LEASE).await.unwrap(), []);
}

pub async fn a_lease_that_ran_out_and_was_not_taken_is_renewed(env: Env) {
    let (new, _) = env.running().await;
    env.pass(2 * LEASE).await;
    let renewed = env.record.renew(&node("one"), &[(new.execute_id, 1)], LEASE).await.unwrap();
    assert_eq!(renewed.len(), 1);
    assert_eq!(env.record.rescue(None, Duration::ZERO, Duration::ZERO, 10).await.unwrap(), []);
}

pub async fn a_delivery_given_back_waits_for_its_dispatch(env: Env) {
    let (known, made) = (env.recorded().await, new_execution());
    env.record.mark_dispatched(&[known.execute_id]).await.unwrap();
    let batch = [requeue_of(&direct(&made)), requeue_of(&claim_of(&known))];
    for _ in 0..2 {
        env.record.requeue(&batch, Duration::from_secs(10)).await.unwrap();
    }
    assert_eq!(env.row(made.execute_id).await.state, State::Queued);
    env.pass(Duration::from_secs(8)).await;
    assert_eq!(env.record.take_undispatched(10).await.unwrap(), []);
    env.pass(Duration::from_secs(3)).await;
    let mut taken: Vec<_> = env.record.take_undispatched(10).await.unwrap();
    taken.sort_by_key(|dispatch| dispatch.request.execute_id != known.execute_id);
    let ids: Vec<_> = taken.iter().map(|dispatch| dispatch.request.execute_id).collect();
    assert_eq!(ids, [known.execute_id, made.execute_id]);
    assert_eq!(taken[1].request.input, made.input);

    let claim = claimed(env.claim(&claim_of(&known)).await);
    let conclusion = env.settle(&known, &claim, succeeded("done")).await;
    assert_eq!(conclusion.reply_addresses, [address("gateway", "1")]);
}

pub async fn a_delivery_given_back_under_a_lease_changes_only_its_reply_addresses(env: Env) {
    let new = new_execution();
    let claim = claimed(env.claim(&direct(&new)).await);
    let mut back = requeue_of(&direct(&new));
    back.request.reply_address = Some(address("producer", "2"));
    env.record.requeue(&[back], Duration::ZERO).await.unwrap();
    assert_eq!(env.row(new.execute_id).await.state, State::Running);
    assert_eq!(env.record.take_undispatched(10).await.unwrap(), []);
    let conclusion = env.settle(&new, &claim, succeeded("done")).await;
    assert_eq!(conclusion.reply_addresses, [address("gateway", "1"), address("producer", "2")]);
}

pub async fn a_dead_letter_ends_what_is_queued_and_nothing_else(env: Env) {
    let (queued, (running, _), unknown) = (env.recorded().await, env.running().await, new_execution());
    let letter = |new| -> Requeue { requeue_of(&direct(new)) };
    for new in [&queued, &unknown] {
        let conclusion = env.record.bury(&letter(new), "came back too often").await.unwrap().unwrap();
        assert_eq!(conclusion.reply_addresses, [address("gateway", "1")]);
        assert_eq!(env.ending(new.execute_id).await, conclusion.ending);
        match conclusion.ending {
            Some(Ending::Dead(failure)) => assert_eq!(failure.message, "came back too often"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(env.record.bury(&letter(&running), "x").await.unwrap(), None);
    assert_eq!(env.row(running.execute_id).await.state, State::Running);
}

pub async fn a_message_of_another_time_is_neither_run_nor_lost(env: Env) {
    let of = |unix_ms| NewExecution { execute_id: ExecuteId::new(unix_ms), ..new_execution() };
    let (returned, dead) = (of(1_600_000_000_000), of(2_051_222_400_000));
    env.record.requeue(&[requeue_of(&direct(&returned))], Duration::ZERO).await.unwrap();
    let ending = env.ending(returned.execute_id).await.unwrap();
    assert_eq!((ending.state(), ending.failure().unwrap().class), (State::Dead, ErrorClass::Input));
    assert_eq!(env.record.take_undispatched(10).await.unwrap(), []);
    assert_eq!(env.record.bury(&requeue_of(&direct(&dead)), "came back").await.unwrap(), None);
    assert!(env.record.find_execution(&dead.tenant, dead.execute_id).await.unwrap().is_none());
}
