use std::time::Duration;

use domain::limits::REPLY_ADDRESSES_MAX;
use domain::{Digest, Ending, ErrorClass, ExecuteId, Payload, State, VersionNumber};
use futures::future::join_all;
use jiff::Timestamp;
use store::{AlreadyEnded, ClaimAnswer, ClaimRequest, NewExecution, Settlement};
use uuid::Uuid;

use super::env::address;
use super::{Env, claim_of, claimed, direct, new_execution, node, requeue_of, succeeded, text};

fn again(claim: &ClaimRequest) -> ClaimRequest {
    ClaimRequest { claim_id: Uuid::now_v7(), ..claim.clone() }
}

fn from(mut claim: ClaimRequest, reply_to: &str, correlation_id: &str) -> ClaimRequest {
    claim.request.reply_address = Some(address(reply_to, correlation_id));
    claim
}

pub async fn a_claim_begins_the_next_attempt_and_its_repeat_is_the_same_claim(env: Env) {
    let deadline = Timestamp::now() + Duration::from_secs(60);
    let new = NewExecution { deadline: Some(deadline), ..new_execution() };
    env.accept(&new).await;
    let request = claim_of(&new);
    let first = claimed(env.claim(&request).await);
    assert_eq!((first.attempt, first.last_log_id), (1, 0));
    assert_eq!(first.version, Some(new.version));
    assert_eq!((first.retries, first.failures), (0, 0));
    let left = first.deadline_in.unwrap();
    assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(30), "{left:?}");

    let endless = new_execution();
    env.accept(&endless).await;
    assert_eq!(claimed(env.claim(&claim_of(&endless)).await).deadline_in, None);

    let repeat = claimed(env.claim(&request).await);
    assert_eq!((repeat.attempt, repeat.claimed_at), (1, first.claimed_at));
    let row = env.row(new.execute_id).await;
    assert_eq!((row.state, row.attempt), (State::Running, 1));
    assert_eq!(row.node, Some(request.node.to_string()));
    assert_eq!(row.claimed_at, Some(first.claimed_at));
}

pub async fn of_many_claims_exactly_one_wins(env: Env) {
    let executions: Vec<_> = (0..50).map(|_| new_execution()).collect();
    env.record.accept(&executions).await.unwrap();
    let claimer = |name: usize| {
        let name = node(&format!("n{name}"));
        let chunk: Vec<_> =
            executions.iter().map(|new| ClaimRequest { node: name.clone(), ..claim_of(new) }).collect();
        let record = &env.record;
        async move { record.claim(&chunk).await.unwrap() }
    };
    let answers = join_all((0..16).map(claimer)).await;
    let mut wins = vec![0; executions.len()];
    for answer in answers {
        for (win, answer) in wins.iter_mut().zip(answer) {
            match answer {
                ClaimAnswer::Claimed(claim) => {
                    assert_eq!(claim.attempt, 1);
                    *win += 1;
                }
                ClaimAnswer::NotNow => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(wins, vec![1; executions.len()]);
}

pub async fn a_direct_message_makes_its_row_and_a_recorded_one_does_not(env: Env) {
    let new = NewExecution { traceparent: Some("00-a-b-01".to_owned()), ..new_execution() };
    assert_eq!(env.claim(&claim_of(&new)).await, ClaimAnswer::Unrecorded);
    let request = direct(&new);
    let claim = claimed(env.claim(&request).await);
    assert_eq!((claim.attempt, claim.version), (1, Some(new.version)));
    let repeat = claimed(env.claim(&request).await);
    assert_eq!(repeat.attempt, 1);

    assert_eq!(env.record.find_input(&new.tenant, new.execute_id).await.unwrap(), Some(new.input.clone()));
    let row = env.row(new.execute_id).await;
    assert_eq!((row.state, row.model, row.queue.as_str()), (State::Running, new.model.clone(), "default"));
    let conclusion = env.settle(&new, &claim, succeeded("done")).await;
    assert_eq!(conclusion.reply_addresses, [address("gateway", "1")]);
}

pub async fn a_message_under_a_live_lease_starts_nothing_and_leaves_its_reply_address(env: Env) {
    let new = new_execution();
    let claim = claimed(env.claim(&direct(&new)).await);
    for other in ["two", "three"] {
        let claim = ClaimRequest { node: node(other), ..from(direct(&new), "producer", other) };
        assert_eq!(env.claim(&claim).await, ClaimAnswer::NotNow);
    }
    // Two messages with one address are two replies.
    let same = from(direct(&new), "producer", "two");
    assert_eq!(env.claim(&same).await, ClaimAnswer::NotNow);
    // A claim whose answer was lost is still one message.
    assert_eq!(env.claim(&same).await, ClaimAnswer::NotNow);
    assert_eq!(env.row(new.execute_id).await.attempt, 1);

    let conclusion = env.settle(&new, &claim, Settlement::Retried(Duration::from_secs(60))).await;
    assert_eq!(conclusion.ending, None);
    let waiting = from(direct(&new), "producer", "four");
    assert_eq!(env.claim(&waiting).await, ClaimAnswer::NotNow, "it waits for its not_before");
    env.pass(Duration::from_secs(61)).await;
    let claim = env.run_again(&new).await;
    let conclusion = env.settle(&new, &claim, succeeded("done")).await;
    let ids: Vec<_> = conclusion.reply_addresses.iter().map(|a| a.correlation_id.as_str()).collect();
    assert_eq!(ids, ["1", "two", "three", "two", "four"]);
}

pub async fn a_redelivery_and_our_own_dispatch_leave_no_second_address(env: Env) {
    let (new, claim) = env.running().await;
    assert_eq!(env.claim(&claim_of(&new)).await, ClaimAnswer::NotNow);
    let redelivered = ClaimRequest { redelivered: true, ..direct(&new) };
    assert_eq!(env.claim(&redelivered).await, ClaimAnswer::NotNow);
    let conclusion = env.settle(&new, &claim, succeeded("done")).await;
    assert_eq!(conclusion.reply_addresses, [address("gateway", "1")]);
}

pub async fn the_reply_addresses_of_one_execution_are_bounded(env: Env) {
    let new = new_execution();
    let claim = claimed(env.claim(&direct(&new)).await);
    for n in 0..REPLY_ADDRESSES_MAX + 3 {
        let answer = env.claim(&from(direct(&new), "producer", &n.to_string())).await;
        assert_eq!(answer, ClaimAnswer::NotNow);
    }
    let conclusion = env.settle(&new, &claim, succeeded("done")).await;
    assert_eq!(conclusion.reply_addresses.len(), REPLY_ADDRESSES_MAX);
}

pub async fn what_has_ended_is_answered_with_its_ending(env: Env) {
    let (new, claim) = env.running().await;
    env.settle(&new, &claim, succeeded("done")).await;
    let ended = AlreadyEnded { attempt: 1, ending: Ending::Succeeded(text("done")) };
    for request in [claim_of(&new), direct(&new)] {
        assert_eq!(env.claim(&request).await, ClaimAnswer::Ended(ended.clone()));
    }
    let (new, claim) = env.running().await;
    env.settle(&new, &claim, super::failed("exit code 1")).await;
    match env.claim(&claim_of(&new)).await {
        ClaimAnswer::Ended(AlreadyEnded { attempt: 1, ending: Ending::Failed(failure) }) => {
            assert_eq!((failure.class, failure.message.as_str()), (ErrorClass::Script, "exit code 1"));
        }
        other => panic!("{other:?}"),
    }
}

pub async fn another_model_or_input_under_a_known_id_is_refused(env: Env) {
    let new = env.recorded().await;
    let input = Payload::new(Payload::JSON, &b"[]"[..]);
    let mut other = direct(&new);
    other.input_digest = Digest::of(&input.bytes);
    other.request.input = input;
    assert_eq!(env.claim(&other).await, ClaimAnswer::IdReused);
    let stranger = ClaimRequest { tenant: "stranger".parse().unwrap(), ..direct(&new) };
    assert_eq!(env.claim(&stranger).await, ClaimAnswer::IdReused);
    let mut other = direct(&new);
    other.request.model = "another".parse().unwrap();
    assert_eq!(env.claim(&other).await, ClaimAnswer::IdReused);
    assert_eq!(env.row(new.execute_id).await.state, State::Queued);
}

pub async fn an_id_outside_the_window_is_refused(env: Env) {
    for execute_id in [ExecuteId::new(1_600_000_000_000), ExecuteId::new(2_051_222_400_000)] {
        let new = NewExecution { execute_id, ..new_execution() };
        assert_eq!(env.claim(&direct(&new)).await, ClaimAnswer::OutsideWindow);
        assert!(env.record.find_execution(&new.tenant, execute_id).await.unwrap().is_none());
    }
}

pub async fn a_passed_deadline_ends_it_at_the_claim(env: Env) {
    let deadline = Some(Timestamp::now() - Duration::from_secs(1));
    let recorded = NewExecution { deadline, ..new_execution() };
    env.accept(&recorded).await;
    let made = NewExecution { deadline, ..new_execution() };
    for request in [claim_of(&recorded), direct(&made)] {
        match env.claim(&request).await {
            ClaimAnswer::Ended(AlreadyEnded { attempt: 0, ending: Ending::Expired(failure) }) => {
                assert_eq!(failure.class, ErrorClass::Deadline);
            }
            other => panic!("{other:?}"),
        }
        let row = env.row(request.request.execute_id).await;
        assert_eq!((row.state, row.attempt), (State::Expired, 0));
        assert!(row.finished_at.is_some());
    }
}

pub async fn a_claim_of_an_unknown_version_makes_a_row_without_one(env: Env) {
    let new = new_execution();
    let request = ClaimRequest { version: None, ..direct(&new) };
    assert_eq!(claimed(env.claim(&request).await).version, None);
    assert_eq!(env.row(new.execute_id).await.version, None);
}

/// A claim of what has run already, and came to `result`.
fn run_before(claim: ClaimRequest, result: &'static str) -> ClaimRequest {
    ClaimRequest { result: Some(text(result)), ..claim }
}

pub async fn what_has_run_already_ends_at_its_claim_recorded_before_or_not(env: Env) {
    let recorded = env.recorded().await;
    let made = new_execution();
    for (new, claim) in [(&recorded, claim_of(&recorded)), (&made, direct(&made))] {
        let claim = run_before(claim, "done");
        let stored = ClaimAnswer::Succeeded { attempt: 1, reply_addresses: vec![address("gateway", "1")] };
        assert_eq!(env.claim(&claim).await, stored);
        assert_eq!(env.claim(&claim).await, stored, "its answer was lost");
        let row = env.row(new.execute_id).await;
        assert_eq!((row.state, row.attempt, row.log_lines), (State::Succeeded, 1, 0));
        assert_eq!(row.node, Some(claim.node.to_string()));
        assert!(row.finished_at.unwrap() >= row.claimed_at.unwrap());
        let events: Vec<_> = row.timeline.iter().map(|event| (event.attempt, event.event.as_str())).collect();
        assert_eq!(events, [(1, "claimed"), (1, "succeeded")]);
        assert_eq!(env.ending(new.execute_id).await, Some(Ending::Succeeded(text("done"))));
        // Somebody else's comes too late, with a result or without.
        let ended = AlreadyEnded { attempt: 1, ending: Ending::Succeeded(text("done")) };
        for late in [run_before(again(&claim), "late"), again(&direct(new))] {
            assert_eq!(env.claim(&late).await, ClaimAnswer::Ended(ended.clone()));
        }
    }
}

pub async fn what_has_run_already_ends_as_the_record_says_if_it_says_anything(env: Env) {
    let cancelled = env.recorded().await;
    env.record.cancel(&cancelled.tenant, cancelled.execute_id).await.unwrap();
    let passed = Some(Timestamp::now() - Duration::from_secs(1));
    let expired = NewExecution { deadline: passed, ..new_execution() };
    env.accept(&expired).await;
    let made = NewExecution { deadline: passed, ..new_execution() };
    let claims = [
        (claim_of(&cancelled), State::Cancelled),
        (claim_of(&expired), State::Expired),
        (direct(&made), State::Expired),
    ];
    for (claim, state) in claims {
        match env.claim(&run_before(claim.clone(), "done")).await {
            ClaimAnswer::Ended(AlreadyEnded { attempt: 0, ending }) => assert_eq!(ending.state(), state),
            other => panic!("{other:?}"),
        }
        let row = env.row(claim.request.execute_id).await;
        assert_eq!((row.state, row.attempt, row.claimed_at), (state, 0, None));
    }

    let (running, _) = env.running().await;
    assert_eq!(env.claim(&run_before(again(&claim_of(&running)), "done")).await, ClaimAnswer::NotNow);
    let unrecorded = run_before(claim_of(&new_execution()), "done");
    assert_eq!(env.claim(&unrecorded).await, ClaimAnswer::Unrecorded);
    let outside = NewExecution { execute_id: ExecuteId::new(1_600_000_000_000), ..new_execution() };
    assert_eq!(env.claim(&run_before(direct(&outside), "done")).await, ClaimAnswer::OutsideWindow);
}

pub async fn what_ran_in_another_version_than_its_row_names_is_claimed(env: Env) {
    let new = env.recorded().await;
    let other = ClaimRequest { version: Some(VersionNumber(new.version.0 + 1)), ..claim_of(&new) };
    let claim = claimed(env.claim(&run_before(other, "another's")).await);
    assert_eq!((claim.attempt, claim.version), (1, Some(new.version)));
    env.settle(&new, &claim, Settlement::Retried(Duration::ZERO)).await;
    env.pass(Duration::from_secs(1)).await;
    env.record.take_due(10).await.unwrap();
    match env.claim(&run_before(again(&claim_of(&new)), "done")).await {
        ClaimAnswer::Succeeded { attempt: 2, .. } => {}
        other => panic!("{other:?}"),
    }
}

pub async fn a_chunk_is_claimed_in_its_order_whatever_its_parts_are(env: Env) {
    let (running, _) = env.running().await;
    let (ended, claim) = env.running().await;
    env.settle(&ended, &claim, succeeded("done")).await;
    let (queued, unrecorded, made) = (env.recorded().await, new_execution(), new_execution());
    let requeued = new_execution();
    env.record.requeue(&[requeue_of(&direct(&requeued))], Duration::ZERO).await.unwrap();
    let chunk = [
        claim_of(&ended),
        direct(&made),
        again(&claim_of(&running)),
        claim_of(&queued),
        claim_of(&unrecorded),
        direct(&requeued),
        run_before(direct(&new_execution()), "done"),
    ];
    let answers = env.record.claim(&chunk).await.unwrap();
    let label = |answer: &ClaimAnswer| match answer {
        ClaimAnswer::Claimed(_) => "claimed",
        ClaimAnswer::Succeeded { .. } => "succeeded",
        ClaimAnswer::Ended(_) => "ended",
        ClaimAnswer::NotNow => "not now",
        ClaimAnswer::Unrecorded => "unrecorded",
        ClaimAnswer::IdReused => "reused",
        ClaimAnswer::OutsideWindow => "outside",
    };
    assert_eq!(
        answers.iter().map(label).collect::<Vec<_>>(),
        ["ended", "claimed", "not now", "claimed", "unrecorded", "claimed", "succeeded"]
    );
    assert_eq!(env.record.claim(&[]).await.unwrap(), []);
}
