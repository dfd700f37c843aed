use std::collections::BTreeSet;
use std::time::Duration;

use domain::limits::FAILURES_MAX;
use domain::{ErrorClass, ExecuteId, QueueName, State, VersionSelector};
use futures::future::join_all;
use jiff::Timestamp;
use store::{Dispatch, NewExecution, Settlement};

use super::env::{LEASE, address};
use super::{Env, claim_of, claimed, direct, new_execution, node};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ids(taken: &[Dispatch]) -> Vec<ExecuteId> {
    taken.iter().map(|dispatch| dispatch.request.execute_id).collect()
}

async fn overtaken(env: &Env, empty: &[QueueName]) -> Vec<ExecuteId> {
    ids(&env.record.take_overtaken(empty, 10).await.unwrap())
}

pub async fn what_nobody_published_is_taken_at_growing_distances(env: Env) {
    let new = env.recorded().await;
    for distance in [5, 5, 30, 120, 300, 300] {
        env.pass(seconds(distance - 2)).await;
        assert_eq!(env.record.take_undispatched(10).await.unwrap(), [], "before {distance} s");
        env.pass(seconds(2)).await;
        let taken = env.record.take_undispatched(10).await.unwrap();
        assert_eq!(ids(&taken), [new.execute_id], "after {distance} s");
        assert_eq!(env.row(new.execute_id).await.state, State::Queued);
    }
}

pub async fn what_was_dispatched_is_not_taken_as_undispatched(env: Env) {
    let (dispatched, left) = (env.recorded().await, env.recorded().await);
    let (running, _) = env.running().await;
    let ids_marked = [dispatched.execute_id, running.execute_id, ExecuteId::new(1)];
    env.record.mark_dispatched(&ids_marked).await.unwrap();
    env.pass(seconds(6)).await;
    assert_eq!(ids(&env.record.take_undispatched(10).await.unwrap()), [left.execute_id]);
}

pub async fn a_dispatch_says_what_the_row_says(env: Env) {
    let new = NewExecution {
        deadline: Some(Timestamp::from_second(Timestamp::now().as_second() + 600).unwrap()),
        traceparent: Some("00-a-b-01".to_owned()),
        queue: "slow".parse().unwrap(),
        ..new_execution()
    };
    env.accept(&new).await;
    env.pass(seconds(6)).await;
    let taken = env.record.take_undispatched(10).await.unwrap();
    let mut expected = claim_of(&new).request;
    expected.reply_address = None;
    // The fixture's clock moved it along.
    expected.deadline = new.deadline.map(|at| at - seconds(6));
    assert_eq!(expected.version, VersionSelector::Number(new.version));
    assert_eq!(taken, [Dispatch { request: expected }]);
}

/// One execution that was dispatched, and one dispatched after it whose claim is over a minute old.
async fn one_overtaken(env: &Env) -> NewExecution {
    let (lost, later) = (env.recorded().await, env.recorded().await);
    env.record.mark_dispatched(&[lost.execute_id]).await.unwrap();
    env.pass(seconds(1)).await;
    env.record.mark_dispatched(&[later.execute_id]).await.unwrap();
    env.pass(seconds(1)).await;
    claimed(env.claim(&claim_of(&later)).await);
    lost
}

pub async fn what_was_overtaken_in_its_queue_is_taken_again(env: Env) {
    let lost = one_overtaken(&env).await;
    let younger = env.recorded().await;
    env.record.mark_dispatched(&[younger.execute_id]).await.unwrap();
    let elsewhere = NewExecution { queue: "slow".parse().unwrap(), ..new_execution() };
    env.accept(&elsewhere).await;
    env.record.mark_dispatched(&[elsewhere.execute_id]).await.unwrap();
    env.pass(seconds(50)).await;
    assert_eq!(overtaken(&env, &[]).await, []);
    env.pass(seconds(30)).await;
    assert_eq!(overtaken(&env, &[]).await, [lost.execute_id]);
    assert_eq!(overtaken(&env, &[]).await, [], "it was just taken");
    env.pass(seconds(70)).await;
    assert_eq!(overtaken(&env, &[]).await, [lost.execute_id], "nobody published it");
    env.record.mark_dispatched(&[lost.execute_id]).await.unwrap();
    env.pass(seconds(120)).await;
    assert_eq!(overtaken(&env, &[]).await, [], "it is the last in its queue now");
}

pub async fn what_was_dispatched_to_an_empty_queue_is_taken_again(env: Env) {
    let lost = env.recorded().await;
    env.record.mark_dispatched(&[lost.execute_id]).await.unwrap();
    let empty = [QueueName::default()];
    env.pass(seconds(8)).await;
    assert_eq!(overtaken(&env, &empty).await, []);
    env.pass(seconds(3)).await;
    assert_eq!(overtaken(&env, &["slow".parse().unwrap()]).await, []);
    assert_eq!(overtaken(&env, &empty).await, [lost.execute_id]);
    env.record.mark_dispatched(&[lost.execute_id]).await.unwrap();
    env.pass(seconds(45)).await;
    assert_eq!(overtaken(&env, &empty).await, [], "again only after a minute");
    env.pass(seconds(16)).await;
    assert_eq!(overtaken(&env, &empty).await, [lost.execute_id]);
}

pub async fn what_is_due_is_queued_and_taken_once(env: Env) {
    let (due, claim) = env.running().await;
    env.settle(&due, &claim, Settlement::YIELDED).await;
    let (later, claim) = env.running().await;
    env.settle(&later, &claim, Settlement::Retried(seconds(60))).await;
    let taken = env.record.take_due(10).await.unwrap();
    assert_eq!(ids(&taken), [due.execute_id]);
    assert!(taken[0].request.recorded);
    assert_eq!(env.row(due.execute_id).await.state, State::Queued);
    assert_eq!(env.record.take_due(10).await.unwrap(), []);
    env.pass(seconds(6)).await;
    let taken = env.record.take_undispatched(10).await.unwrap();
    assert_eq!(ids(&taken), [due.execute_id], "whoever took it died before it published");
}

pub async fn a_lost_lease_is_rescued_after_it_ran_out_and_the_third_time_is_death(env: Env) {
    let new = env.recorded().await;
    for n in 1..=FAILURES_MAX {
        let claim = env.run_again(&new).await;
        assert_eq!((claim.attempt, claim.failures), (n, n - 1));
        env.pass(LEASE - seconds(5)).await;
        assert_eq!(env.record.rescue(None, Duration::ZERO, seconds(8), 10).await.unwrap(), []);
        env.pass(seconds(6)).await;
        let rescued = env.record.rescue(None, Duration::ZERO, seconds(8), 10).await.unwrap();
        assert_eq!(rescued.len(), 1);
        assert_eq!((rescued[0].execute_id, rescued[0].attempt), (new.execute_id, n));
        assert_eq!(rescued[0].node, node("one"));
        let row = env.row(new.execute_id).await;
        assert_eq!(row.timeline.last().map(|event| event.event.as_str()), Some("rescued"));
        assert_eq!(row.failures, n);
        match &rescued[0].conclusion {
            None => {
                assert!(n < FAILURES_MAX);
                assert_eq!(row.state, State::Delayed);
                // 0 s, then 1 s.
                assert_eq!(env.record.take_due(10).await.unwrap().len(), usize::from(n == 1));
                env.pass(seconds(1)).await;
            }
            Some(conclusion) => {
                assert_eq!(n, FAILURES_MAX);
                assert_eq!(conclusion.reply_addresses, [address("gateway", "1")]);
                let failure = conclusion.ending.as_ref().and_then(|ending| ending.failure()).unwrap();
                assert_eq!((row.state, failure.class), (State::Dead, ErrorClass::NodeLost));
                assert_eq!(env.ending(new.execute_id).await, conclusion.ending);
            }
        }
    }
}

pub async fn who_only_waited_for_a_lock_spends_no_failure_when_its_node_is_lost(env: Env) {
    let new = env.recorded().await;
    for n in 1..=5 {
        let claim = env.run_again(&new).await;
        assert_eq!((claim.attempt, claim.failures), (n, 0));
        assert_eq!(claim.waited.is_zero(), n == 1, "{claim:?}");
        let id = new.execute_id;
        assert!(env.record.note_waiting(id, n, true).await.unwrap());
        assert!(env.record.note_waiting(id, n, true).await.unwrap(), "repeating is harmless");
        assert!(
            !env.record.note_waiting(id, n - 1, false).await.unwrap(),
            "an attempt that is over says nothing"
        );
        env.pass(Duration::from_secs(91)).await;
        let rescued = env.record.rescue(None, Duration::ZERO, seconds(8), 10).await.unwrap();
        assert_eq!((rescued.len(), &rescued[0].conclusion), (1, &None));
    }
    let claim = env.run_again(&new).await;
    assert!(claim.waited >= Duration::from_secs(5 * 91), "{:?}", claim.waited);
    assert!(env.record.note_waiting(new.execute_id, claim.attempt, false).await.unwrap());
    env.pass(Duration::from_secs(91)).await;
    env.record.rescue(None, Duration::ZERO, seconds(8), 10).await.unwrap();
    let claim = env.run_again(&new).await;
    assert_eq!((claim.failures, claim.waited), (1, Duration::ZERO), "it had begun");
}

pub async fn a_node_that_is_gone_is_rescued_from_early_but_not_before_two_renewals_were_missed(env: Env) {
    let (new, _) = env.running().await;
    let (here, gone) = ([node("one")], [node("two")]);
    // (A server that has just been started counts from then.)
    let (lease, renewals) = (Duration::ZERO, seconds(2));
    env.pass(seconds(2)).await;
    assert_eq!(env.record.rescue(Some(&gone), lease, renewals, 10).await.unwrap(), []);
    env.pass(seconds(3)).await;
    assert_eq!(env.record.rescue(None, lease, renewals, 10).await.unwrap(), []);
    assert_eq!(env.record.rescue(Some(&here), lease, renewals, 10).await.unwrap(), []);
    let rescued = env.record.rescue(Some(&gone), lease, renewals, 10).await.unwrap();
    assert_eq!(rescued.iter().map(|r| r.execute_id).collect::<Vec<_>>(), [new.execute_id]);
    assert_eq!(env.record.renew(&node("one"), &[(new.execute_id, 1)], LEASE).await.unwrap(), []);
}

pub async fn a_rescued_execution_whose_cancel_was_asked_for_is_cancelled(env: Env) {
    let (new, _) = env.running().await;
    env.record.cancel(&new.tenant, new.execute_id).await.unwrap();
    env.pass(LEASE + seconds(1)).await;
    let rescued = env.record.rescue(None, Duration::ZERO, seconds(8), 10).await.unwrap();
    let ending = rescued[0].conclusion.as_ref().and_then(|conclusion| conclusion.ending.clone());
    assert_eq!(ending.map(|ending| ending.state()), Some(State::Cancelled));
}

pub async fn what_is_overdue_expires(env: Env) {
    let deadline = |left| Some(Timestamp::now() + seconds(left));
    let with = |left| NewExecution { deadline: deadline(left), ..new_execution() };
    let (queued, delayed, running, later) = (with(60), with(60), with(60), with(600));
    env.record.accept(&[queued.clone(), delayed.clone(), running.clone(), later.clone()]).await.unwrap();
    let claim = claimed(env.claim(&claim_of(&delayed)).await);
    env.settle(&delayed, &claim, Settlement::Retried(seconds(3600))).await;
    claimed(env.claim(&claim_of(&running)).await);
    assert_eq!(env.record.expire(10).await.unwrap(), []);
    env.pass(seconds(61)).await;
    let expired = env.record.expire(10).await.unwrap();
    let found: BTreeSet<_> = expired.iter().map(|conclusion| conclusion.execute_id).collect();
    assert_eq!(found, BTreeSet::from([queued.execute_id, delayed.execute_id]));
    for conclusion in &expired {
        assert_eq!(conclusion.ending.as_ref().map(|ending| ending.state()), Some(State::Expired));
        assert_eq!(conclusion.reply_addresses, [address("gateway", "1")]);
    }
    assert_eq!(env.row(running.execute_id).await.state, State::Running);
    assert_eq!(env.row(later.execute_id).await.state, State::Queued);
    assert_eq!(env.record.expire(10).await.unwrap(), []);
}

pub async fn many_sweepers_take_each_execution_once(env: Env) {
    let (all, leased): (Vec<_>, Vec<_>) =
        (0..40).map(|_| (new_execution(), direct(&new_execution()))).unzip();
    env.record.accept(&all).await.unwrap();
    env.record.claim(&leased).await.unwrap();
    env.pass(LEASE + seconds(1)).await;
    let sweeps = join_all((0..8).map(|_| async {
        let dispatched = env.record.take_undispatched(15).await.unwrap();
        let rescued = env.record.rescue(None, Duration::ZERO, seconds(8), 15).await.unwrap();
        (ids(&dispatched), rescued.into_iter().map(|r| r.execute_id).collect::<Vec<_>>())
    }));
    let (mut dispatched, mut rescued) = (Vec::new(), Vec::new());
    for (more_dispatched, more_rescued) in sweeps.await {
        assert!(more_dispatched.len() <= 15 && more_rescued.len() <= 15, "more than it asked for");
        dispatched.extend(more_dispatched);
        rescued.extend(more_rescued);
    }
    // What a sweep skipped because another held it, and what is beyond its limit, is left to the next one.
    dispatched.extend(ids(&env.record.take_undispatched(100).await.unwrap()));
    let rest = env.record.rescue(None, Duration::ZERO, seconds(8), 100).await.unwrap();
    rescued.extend(rest.into_iter().map(|r| r.execute_id));
    dispatched.sort_unstable();
    rescued.sort_unstable();
    let sorted = |mut ids: Vec<ExecuteId>| {
        ids.sort_unstable();
        ids
    };
    assert_eq!(dispatched, sorted(all.iter().map(|new| new.execute_id).collect()));
    assert_eq!(rescued, sorted(leased.iter().map(|claim| claim.request.execute_id).collect()));
}
