use std::time::Duration;

use domain::{Ending, State};
use store::{Append, Appended, Claim, Fence, FenceTaken, Finish, Finished, NewExecution};

use super::env::new_execution;
use super::{Env, append, claim_of, claimed, fence, finish, lines, succeeded, text};

fn append_under(new: &NewExecution, claim: &Claim, fence: Option<Fence>, texts: &[&str]) -> Append {
    Append { fence, ..append(new, claim.attempt, claim.last_log_id, texts) }
}

fn finish_under(new: &NewExecution, claim: &Claim, fence: Fence) -> Finish {
    Finish { fence: Some(fence), tail: lines(&["last"]), ..finish(new, claim, succeeded("done")) }
}

pub async fn a_fence_is_taken_once_and_only_a_higher_one_replaces_it(env: Env) {
    assert_eq!(env.record.highest_fence().await.unwrap(), None);
    let ((one, first), (two, second)) = (env.running().await, env.running().await);
    assert_eq!(env.take_fence(&one, &first, &fence("k", 0, 5)).await, FenceTaken::Taken);
    let lower = env.take_fence(&two, &second, &fence("k", 0, 4)).await;
    assert_eq!(lower, FenceTaken::TooOld { generation: 0, number: 5 });
    assert_eq!(env.take_fence(&two, &second, &fence("k", 0, 6)).await, FenceTaken::Taken);
    let old = env.take_fence(&one, &first, &fence("k", 0, 5)).await;
    assert_eq!(old, FenceTaken::TooOld { generation: 0, number: 6 });
    assert_eq!(env.record.highest_fence().await.unwrap(), Some((0, 6)));
}

pub async fn a_repeated_fence_stands_and_the_same_number_of_another_attempt_does_not(env: Env) {
    let ((one, first), (two, second)) = (env.running().await, env.running().await);
    for _ in 0..2 {
        assert_eq!(env.take_fence(&one, &first, &fence("k", 0, 5)).await, FenceTaken::Taken);
    }
    let other = env.take_fence(&two, &second, &fence("k", 0, 5)).await;
    assert_eq!(other, FenceTaken::TooOld { generation: 0, number: 5 });
    env.settle(&one, &first, store::Settlement::YIELDED).await;
    let again = env.run_again(&one).await;
    let later = env.take_fence(&one, &again, &fence("k", 0, 5)).await;
    assert_eq!(later, FenceTaken::TooOld { generation: 0, number: 5 }, "the next attempt needs its own");
}

pub async fn a_fence_is_taken_only_for_an_attempt_that_runs(env: Env) {
    let (new, claim) = env.running().await;
    let next = Claim { attempt: claim.attempt + 1, ..claim.clone() };
    let refused = |taken| matches!(taken, FenceTaken::TooOld { .. });
    assert!(refused(env.take_fence(&new, &next, &fence("k", 0, 1)).await), "no such attempt");
    assert!(refused(env.take_fence(&new_execution(), &claim, &fence("k", 0, 1)).await), "no such execution");
    env.settle(&new, &claim, succeeded("done")).await;
    assert!(refused(env.take_fence(&new, &claim, &fence("k", 0, 1)).await), "it has ended");
    assert_eq!(env.record.highest_fence().await.unwrap(), None);
}

pub async fn a_raised_generation_is_higher_than_any_number(env: Env) {
    let ((one, first), (two, second)) = (env.running().await, env.running().await);
    assert_eq!(env.take_fence(&one, &first, &fence("k", 0, 900)).await, FenceTaken::Taken);
    assert_eq!(env.take_fence(&two, &second, &fence("k", 1, 2)).await, FenceTaken::Taken);
    let old = env.take_fence(&one, &first, &fence("k", 0, 901)).await;
    assert_eq!(old, FenceTaken::TooOld { generation: 1, number: 2 });
    assert_eq!(env.record.highest_fence().await.unwrap(), Some((1, 2)));
}

pub async fn keys_and_tenants_have_fences_of_their_own(env: Env) {
    let (one, first) = env.running().await;
    let mut two = new_execution();
    two.tenant = "other".parse().unwrap();
    env.accept(&two).await;
    let second = claimed(env.claim(&claim_of(&two)).await);
    assert_eq!(env.take_fence(&one, &first, &fence("k", 0, 9)).await, FenceTaken::Taken);
    assert_eq!(env.take_fence(&one, &first, &fence("l", 0, 2)).await, FenceTaken::Taken);
    assert_eq!(env.take_fence(&two, &second, &fence("k", 0, 1)).await, FenceTaken::Taken);
    let batch = [
        append_under(&one, &first, Some(fence("k", 0, 9)), &["x"]),
        append_under(&two, &second, Some(fence("k", 0, 1)), &["y"]),
    ];
    assert_eq!(env.record.append(&batch).await.unwrap(), [Appended::Stored { last_log_id: 1 }; 2]);
}

pub async fn a_stale_holder_writes_no_line_and_no_ending(env: Env) {
    let ((one, first), (two, second)) = (env.running().await, env.running().await);
    let (old, new) = (fence("k", 0, 5), fence("k", 0, 6));
    let never_taken = [append_under(&one, &first, Some(old.clone()), &["x"])];
    assert_eq!(env.record.append(&never_taken).await.unwrap(), [Appended::Stale]);
    env.take_fence(&one, &first, &old).await;
    env.take_fence(&two, &second, &new).await;
    let stale = [append_under(&one, &first, Some(old.clone()), &["x"])];
    assert_eq!(env.record.append(&stale).await.unwrap(), [Appended::Stale]);
    assert_eq!(env.finish(&finish_under(&one, &first, old)).await, Finished::Stale);
    assert_eq!(env.row(one.execute_id).await.state, State::Running);
    assert!(env.log(one.execute_id).await.is_empty());

    assert!(matches!(env.finish(&finish_under(&two, &second, new)).await, Finished::Stored(_)));
    assert_eq!(env.ending(two.execute_id).await, Some(Ending::Succeeded(text("done"))));
    // It gives back what it may not end: without a word of its own, its attempt is enough.
    env.settle(&one, &first, store::Settlement::YIELDED).await;
}

pub async fn a_batch_with_and_without_fences_answers_in_its_order(env: Env) {
    let (plain, stale, good) = (env.running().await, env.running().await, env.running().await);
    env.take_fence(&stale.0, &stale.1, &fence("k", 0, 1)).await;
    env.take_fence(&good.0, &good.1, &fence("k", 0, 2)).await;
    let batch = [
        append_under(&good.0, &good.1, Some(fence("k", 0, 2)), &["good"]),
        append_under(&stale.0, &stale.1, Some(fence("k", 0, 1)), &["stale"]),
        append_under(&plain.0, &plain.1, None, &["plain"]),
    ];
    let stored = Appended::Stored { last_log_id: 1 };
    assert_eq!(env.record.append(&batch).await.unwrap(), [stored, Appended::Stale, stored]);
    assert_eq!(env.record.append(&batch).await.unwrap(), [stored, Appended::Stale, stored], "its repeat");
    let mut batch = vec![
        finish(&plain.0, &plain.1, succeeded("plain")),
        finish_under(&stale.0, &stale.1, fence("k", 0, 1)),
        finish_under(&good.0, &good.1, fence("k", 0, 2)),
    ];
    (batch[0].base, batch[2].base) = (1, 1);
    let answers = env.record.finish(&batch).await.unwrap();
    let stored: Vec<_> = answers.iter().map(|answer| matches!(answer, Finished::Stored(_))).collect();
    assert_eq!(stored, [true, false, true]);
}

pub async fn a_settlement_that_was_stored_is_repeated_whatever_its_fence_is_now(env: Env) {
    let ((one, first), (two, second)) = (env.running().await, env.running().await);
    env.take_fence(&one, &first, &fence("k", 0, 1)).await;
    let ending = finish_under(&one, &first, fence("k", 0, 1));
    let stored = env.finish(&ending).await;
    assert!(matches!(stored, Finished::Stored(_)));
    env.take_fence(&two, &second, &fence("k", 0, 2)).await;
    assert_eq!(env.finish(&ending).await, stored);
}

pub async fn fences_of_long_ago_are_forgotten_except_for_the_highest(env: Env) {
    let ((one, first), (two, second)) = (env.running().await, env.running().await);
    env.take_fence(&one, &first, &fence("old", 0, 1)).await;
    env.take_fence(&one, &first, &fence("highest", 0, 9)).await;
    env.pass(Duration::from_secs(8 * 24 * 3600)).await;
    env.take_fence(&two, &second, &fence("young", 0, 3)).await;
    assert!(env.record.take_upkeep_fence(1).await.unwrap());
    assert!(env.record.upkeep(1, 1, Duration::from_secs(86_400)).await.unwrap());
    let taken = |key: &str, number: i64| {
        let (env, two, second, fence) = (&env, &two, &second, fence(key, 0, number));
        async move { env.take_fence(two, second, &fence).await }
    };
    assert_eq!(taken("old", 1).await, FenceTaken::Taken, "nobody has it any more");
    assert_eq!(taken("highest", 8).await, FenceTaken::TooOld { generation: 0, number: 9 });
    assert_eq!(taken("young", 2).await, FenceTaken::TooOld { generation: 0, number: 3 });
    assert_eq!(env.record.highest_fence().await.unwrap(), Some((0, 9)));
}
