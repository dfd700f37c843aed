use std::time::Duration;

use domain::limits::FAILURES_MAX;
use domain::{Ending, ErrorClass, Failure, State};
use jiff::Timestamp;
use protocol::http::TimelineEvent;
use store::{ClaimAnswer, Conclusion, Finished, Settlement};

use super::env::address;
use super::{Env, append, claim_of, failed, finish, lines, node, succeeded, text};

pub async fn an_ending_is_stored_with_its_last_lines_and_everybody_who_waits(env: Env) {
    let (new, claim) = env.running().await;
    env.record.append(&[append(&new, 1, 0, &["first"])]).await.unwrap();
    let mut last = finish(&new, &claim, succeeded("done"));
    last.base = 1;
    last.tail = lines(&["second", "third"]);
    let stored = env.finish(&last).await;
    let expected = Conclusion {
        execute_id: new.execute_id,
        attempt: 1,
        ending: Some(Ending::Succeeded(text("done"))),
        reply_addresses: vec![address("gateway", "1")],
    };
    assert_eq!(stored, Finished::Stored(Box::new(expected)));
    assert_eq!(env.log(new.execute_id).await.len(), 3);
    assert_eq!(env.ending(new.execute_id).await, Some(Ending::Succeeded(text("done"))));
    let row = env.row(new.execute_id).await;
    assert_eq!((row.state, row.attempt, row.log_lines), (State::Succeeded, 1, 3));
    assert_eq!(row.node, Some(node("one").to_string()), "who held it last");
    assert!(row.finished_at.unwrap() >= row.claimed_at.unwrap());
}

pub async fn a_repeated_finish_says_the_same(env: Env) {
    let (new, claim) = env.running().await;
    let mut ending = finish(&new, &claim, succeeded("done"));
    ending.tail = lines(&["last"]);
    let first = env.finish(&ending).await;
    assert_eq!(env.finish(&ending).await, first);
    assert_eq!(env.log(new.execute_id).await.len(), 1);

    let (new, claim) = env.running().await;
    let settled = finish(&new, &claim, Settlement::Retried(Duration::from_secs(60)));
    let first = env.finish(&settled).await;
    assert_eq!(env.finish(&settled).await, first);
    env.pass(Duration::from_secs(61)).await;
    assert_eq!(env.run_again(&new).await.retries, 1, "the repeat was counted too");
}

pub async fn the_finish_guard_refuses_a_stale_attempt(env: Env) {
    let (new, first) = env.running().await;
    env.pass(Duration::from_secs(40)).await;
    env.record.rescue(None, Duration::ZERO, Duration::ZERO, 10).await.unwrap();
    let second = env.run_again(&new).await;
    let mut late = finish(&new, &first, succeeded("late"));
    late.tail = lines(&["late"]);
    assert_eq!(env.finish(&late).await, Finished::Stale);
    assert_eq!(env.log(new.execute_id).await, []);
    assert_eq!(env.row(new.execute_id).await.state, State::Running);
    env.settle(&new, &second, succeeded("done")).await;
    assert_eq!(env.finish(&late).await, Finished::Stale);
    assert_eq!(env.ending(new.execute_id).await, Some(Ending::Succeeded(text("done"))));
}

pub async fn the_finish_guard_refuses_what_another_ending_settled(env: Env) {
    let (new, claim) = env.running().await;
    env.record.cancel(&new.tenant, new.execute_id).await.unwrap();
    env.pass(Duration::from_secs(40)).await;
    // The rescue carries the cancel out: same attempt, but not settled by it.
    let rescued = env.record.rescue(None, Duration::ZERO, Duration::ZERO, 10).await.unwrap();
    assert_eq!(rescued.len(), 1);
    let mut late = finish(&new, &claim, succeeded("late"));
    late.tail = lines(&["late"]);
    assert_eq!(env.finish(&late).await, Finished::Stale);
    assert_eq!(env.row(new.execute_id).await.state, State::Cancelled);
    assert_eq!(env.log(new.execute_id).await, []);
    let unknown = super::new_execution();
    assert_eq!(env.finish(&finish(&unknown, &claim, failed("x"))).await, Finished::Stale);
}

pub async fn the_finish_guard_refuses_a_base_it_does_not_know(env: Env) {
    let (new, claim) = env.running().await;
    env.record.append(&[append(&new, 1, 0, &["a", "b"])]).await.unwrap();
    let mut wrong = finish(&new, &claim, succeeded("done"));
    wrong.tail = lines(&["c"]);
    for base in [0, 1, 3] {
        wrong.base = base;
        assert_eq!(env.finish(&wrong).await, Finished::Stale, "base {base}");
    }
    wrong.base = 2;
    assert!(matches!(env.finish(&wrong).await, Finished::Stored(_)));
    assert_eq!(env.log(new.execute_id).await.len(), 3);
}

pub async fn a_failure_keeps_its_class_words_exit_code_and_signal(env: Env) {
    let exited = Failure { exit_code: Some(3), ..Failure::new(ErrorClass::Script, "exit code 3") };
    let killed = Failure { signal: Some(9), ..Failure::new(ErrorClass::Timeout, "ran longer than 1 s") };
    for ending in [Ending::Failed(exited), Ending::TimedOut(killed)] {
        let (new, claim) = env.running().await;
        let conclusion = env.settle(&new, &claim, Settlement::Ended(ending.clone())).await;
        assert_eq!(conclusion.ending, Some(ending.clone()));
        assert_eq!(env.ending(new.execute_id).await, Some(ending.clone()));
        let row = env.row(new.execute_id).await;
        let failure = ending.failure().unwrap();
        assert_eq!((row.state, row.error_class), (ending.state(), Some(failure.class)));
        assert_eq!(row.error.as_deref(), Some(failure.message.as_str()));
        assert_eq!((row.exit_code, row.signal), (failure.exit_code, failure.signal));
    }
}

pub async fn a_yield_spends_nothing_and_is_due_at_once(env: Env) {
    let (new, claim) = env.running().await;
    assert_eq!(env.settle(&new, &claim, Settlement::YIELDED).await.ending, None);
    assert_eq!(env.row(new.execute_id).await.state, State::Delayed);
    assert_eq!(env.claim(&claim_of(&new)).await, ClaimAnswer::NotNow);
    let claim = env.run_again(&new).await;
    assert_eq!((claim.attempt, claim.retries, claim.failures), (2, 0, 0));
}

pub async fn a_yield_while_waiting_counts_on_and_any_other_settlement_ends_that(env: Env) {
    let (new, first) = env.running().await;
    assert_eq!(first.waited, Duration::ZERO);
    let waiting = Settlement::Yielded { delay: Duration::from_secs(1), is_waiting: true };
    env.pass(Duration::from_secs(10)).await;
    env.settle(&new, &first, waiting.clone()).await;
    env.pass(Duration::from_secs(5)).await;
    let second = env.run_again(&new).await;
    assert!((15..17).contains(&second.waited.as_secs()), "since the first claim: {:?}", second.waited);
    env.settle(&new, &second, waiting).await;
    env.pass(Duration::from_secs(5)).await;
    let third = env.run_again(&new).await;
    assert!((20..22).contains(&third.waited.as_secs()), "{:?}", third.waited);
    env.settle(&new, &third, Settlement::YIELDED).await;
    assert_eq!(env.run_again(&new).await.waited, Duration::ZERO, "it had stopped waiting");
}

pub async fn a_retry_waits_and_counts(env: Env) {
    let (new, claim) = env.running().await;
    env.settle(&new, &claim, Settlement::Retried(Duration::from_secs(60))).await;
    let row = env.row(new.execute_id).await;
    assert_eq!(row.state, State::Delayed);
    let wait = row.not_before.unwrap().duration_since(claim.claimed_at);
    assert!((60..90).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(env.record.take_due(10).await.unwrap(), []);
    env.pass(Duration::from_secs(91)).await;
    let claim = env.run_again(&new).await;
    assert_eq!((claim.attempt, claim.retries, claim.failures), (2, 1, 0));
}

pub async fn our_own_failures_count_and_the_last_is_death(env: Env) {
    let new = env.recorded().await;
    for n in 1..=FAILURES_MAX {
        let claim = env.run_again(&new).await;
        assert_eq!((claim.attempt, claim.failures), (n, n - 1));
        let settlement = Settlement::Failed {
            delay: Duration::ZERO,
            class: ErrorClass::Artifact,
            message: "the bundle is away".to_owned(),
        };
        let ending = env.settle(&new, &claim, settlement).await.ending;
        let dead = Ending::Dead(Failure::new(ErrorClass::Artifact, "the bundle is away"));
        assert_eq!(ending, (n == FAILURES_MAX).then_some(dead), "failure {n}");
    }
    assert_eq!(env.row(new.execute_id).await.failures, FAILURES_MAX);
}

pub async fn a_cancel_turns_a_settlement_that_is_no_ending_into_cancelled(env: Env) {
    let failed = Settlement::Failed {
        delay: Duration::ZERO,
        class: ErrorClass::Sandbox,
        message: "no sandbox".to_owned(),
    };
    for settlement in [Settlement::YIELDED, Settlement::Retried(Duration::ZERO), failed] {
        let (new, claim) = env.running().await;
        env.record.cancel(&new.tenant, new.execute_id).await.unwrap();
        let ending = env.settle(&new, &claim, settlement).await.ending;
        assert_eq!(ending.as_ref().map(Ending::state), Some(State::Cancelled));
        assert_eq!(env.ending(new.execute_id).await, ending);
    }
    let (new, claim) = env.running().await;
    env.record.cancel(&new.tenant, new.execute_id).await.unwrap();
    let ending = env.settle(&new, &claim, succeeded("in time")).await.ending;
    assert_eq!(ending, Some(Ending::Succeeded(text("in time"))), "the result came first");
}

pub async fn the_timeline_keeps_what_happened_in_each_attempt(env: Env) {
    let (new, claim) = env.running().await;
    let event = |attempt, event: &str, at| TimelineEvent {
        attempt,
        event: event.to_owned(),
        at,
        node: node("one").to_string(),
    };
    let at: Timestamp = "2026-11-22T10:00:00.000001Z".parse().unwrap();
    let mut first = finish(&new, &claim, Settlement::YIELDED);
    first.timeline = vec![event(1, "fetching", at), event(1, "yielded", at)];
    env.finish(&first).await;
    let second = env.run_again(&new).await;
    let mut last = finish(&new, &second, succeeded("done"));
    last.timeline = vec![event(2, "succeeded", at)];
    env.finish(&last).await;
    assert_eq!(
        env.row(new.execute_id).await.timeline,
        [
            event(1, "claimed", claim.claimed_at),
            event(1, "fetching", at),
            event(1, "yielded", at),
            event(2, "claimed", second.claimed_at),
            event(2, "succeeded", at),
        ]
    );
}

pub async fn a_batch_of_settlements_answers_in_its_order(env: Env) {
    let (one, two, three) = (env.running().await, env.running().await, env.running().await);
    let mut stale = finish(&two.0, &two.1, succeeded("two"));
    stale.attempt = 2;
    let mut with_lines = finish(&three.0, &three.1, failed("three"));
    with_lines.tail = lines(&["x", "y"]);
    let mut first = finish(&one.0, &one.1, succeeded("one"));
    first.tail = lines(&["z"]);
    let answers = env.record.finish(&[with_lines, stale, first]).await.unwrap();
    let ended = |answer: &Finished| match answer {
        Finished::Stored(conclusion) => {
            Some((conclusion.execute_id, conclusion.ending.as_ref().map(Ending::state)))
        }
        Finished::Stale => None,
    };
    assert_eq!(
        answers.iter().map(ended).collect::<Vec<_>>(),
        [
            Some((three.0.execute_id, Some(State::Failed))),
            None,
            Some((one.0.execute_id, Some(State::Succeeded))),
        ]
    );
    assert_eq!(env.log(three.0.execute_id).await.len(), 2);
    assert_eq!(env.log(one.0.execute_id).await, [(1, "z".to_owned())]);
    assert_eq!(env.record.finish(&[]).await.unwrap(), []);
}
