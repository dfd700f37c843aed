use store::{Append, Appended, Settlement};

use super::{Env, append, fence, finish, succeeded};

pub async fn lines_are_numbered_without_gaps_over_batches_and_attempts(env: Env) {
    let (new, claim) = env.running().await;
    let stored = env.record.append(&[append(&new, 1, 0, &["a", "b"])]).await.unwrap();
    assert_eq!(stored, [Appended::Stored { last_log_id: 2 }]);
    let stored = env.record.append(&[append(&new, 1, 2, &["c"])]).await.unwrap();
    assert_eq!(stored, [Appended::Stored { last_log_id: 3 }]);
    let mut last = finish(&new, &claim, Settlement::YIELDED);
    last.base = 3;
    last.tail = super::lines(&["d"]);
    env.finish(&last).await;

    let claim = env.run_again(&new).await;
    assert_eq!((claim.attempt, claim.last_log_id), (2, 4));
    let stored = env.record.append(&[append(&new, 2, 4, &["e"])]).await.unwrap();
    assert_eq!(stored, [Appended::Stored { last_log_id: 5 }]);
    let log = env.log(new.execute_id).await;
    assert_eq!(
        log,
        ["a", "b", "c", "d", "e"].iter().zip(1..).map(|(l, n)| (n, l.to_string())).collect::<Vec<_>>()
    );
    assert_eq!(env.row(new.execute_id).await.log_lines, 5);
}

pub async fn a_repeated_batch_is_stored_once(env: Env) {
    let (new, _) = env.running().await;
    let batch = [append(&new, 1, 0, &["a", "b"])];
    for _ in 0..2 {
        assert_eq!(env.record.append(&batch).await.unwrap(), [Appended::Stored { last_log_id: 2 }]);
    }
    assert_eq!(env.log(new.execute_id).await.len(), 2);
}

pub async fn a_batch_with_another_base_is_stale(env: Env) {
    let (new, _) = env.running().await;
    env.record.append(&[append(&new, 1, 0, &["a", "b"])]).await.unwrap();
    for base in [0, 1, 3] {
        let answer = env.record.append(&[append(&new, 1, base, &["c"])]).await.unwrap();
        // Base 1 with one line looks like the repeat of a batch that is stored.
        let expected = if base == 1 { Appended::Stored { last_log_id: 2 } } else { Appended::Stale };
        assert_eq!(answer, [expected], "base {base}");
    }
    assert_eq!(env.log(new.execute_id).await.len(), 2);
}

pub async fn the_log_guard_refuses_a_stale_attempt(env: Env) {
    let (new, claim) = env.running().await;
    env.settle(&new, &claim, Settlement::YIELDED).await;
    let second = env.run_again(&new).await;
    let answer = env.record.append(&[append(&new, claim.attempt, 0, &["late"])]).await.unwrap();
    assert_eq!(answer, [Appended::Stale]);
    let answer = env.record.append(&[append(&new, second.attempt + 1, 0, &["early"])]).await.unwrap();
    assert_eq!(answer, [Appended::Stale]);
    assert_eq!(env.log(new.execute_id).await, []);
}

pub async fn the_log_guard_refuses_what_no_longer_runs(env: Env) {
    let (new, claim) = env.running().await;
    env.settle(&new, &claim, succeeded("done")).await;
    let answer = env.record.append(&[append(&new, claim.attempt, 0, &["late"])]).await.unwrap();
    assert_eq!(answer, [Appended::Stale]);
    let unknown = super::new_execution();
    assert_eq!(env.record.append(&[append(&unknown, 1, 0, &["x"])]).await.unwrap(), [Appended::Stale]);
    assert_eq!(env.log(new.execute_id).await, []);
}

pub async fn one_stale_batch_leaves_the_others_alone(env: Env) {
    let ((first, _), (second, _), (third, _)) =
        (env.running().await, env.running().await, env.running().await);
    let batch =
        [append(&third, 1, 0, &["x", "y"]), append(&first, 2, 0, &["stale"]), append(&second, 1, 0, &["z"])];
    let answers = env.record.append(&batch).await.unwrap();
    let stored = |last_log_id| Appended::Stored { last_log_id };
    assert_eq!(answers, [stored(2), Appended::Stale, stored(1)]);
    assert_eq!(env.log(first.execute_id).await, []);
    assert_eq!(env.log(third.execute_id).await, [(1, "x".to_owned()), (2, "y".to_owned())]);
}

pub async fn followers_get_what_they_have_not_seen(env: Env) {
    let ((first, _), (second, _), (quiet, _)) =
        (env.running().await, env.running().await, env.running().await);
    env.record.append(&[append(&first, 1, 0, &["a", "b", "c"])]).await.unwrap();
    env.record.append(&[append(&second, 1, 0, &["d", "e"])]).await.unwrap();
    let followers = [(first.execute_id, 1), (second.execute_id, 0), (quiet.execute_id, 0)];
    let followed = env.record.follow_logs(&followers, 10).await.unwrap();
    let of = |id| {
        let lines = followed.iter().filter(|(execute_id, _)| *execute_id == id);
        lines.map(|(_, line)| (line.log_id, line.line.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(of(first.execute_id), [(2, "b"), (3, "c")]);
    assert_eq!(of(second.execute_id), [(1, "d"), (2, "e")]);
    assert_eq!(followed.len(), 4);
    let followed = env.record.follow_logs(&[(first.execute_id, 0)], 2).await.unwrap();
    assert_eq!(followed.iter().map(|(_, line)| line.log_id).collect::<Vec<_>>(), [1, 2]);
}

pub async fn a_batch_of_thousands_of_lines_is_stored_like_a_small_one(env: Env) {
    let ((first, _), (stale, _), (second, _)) =
        (env.running().await, env.running().await, env.running().await);
    let texts: Vec<String> = (1..=1_800).map(|n| format!("line {n} \u{e9}\t\"")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let fenced = fence("k", 0, 1);
    let batch = [
        append(&first, 1, 0, &texts),
        append(&stale, 2, 0, &texts),
        Append { fence: Some(fenced.clone()), ..append(&second, 1, 0, &texts) },
    ];
    let stored = Appended::Stored { last_log_id: 1_800 };
    assert_eq!(env.record.append(&batch).await.unwrap(), [stored, Appended::Stale, Appended::Stale]);
    env.record.take_fence(&second.tenant, &fenced, second.execute_id, 1).await.unwrap();
    assert_eq!(env.record.append(&batch).await.unwrap(), [stored, Appended::Stale, stored], "again");
    assert_eq!(env.record.append(&batch).await.unwrap(), [stored, Appended::Stale, stored], "and again");
    assert_eq!(env.log(stale.execute_id).await, []);
    for new in [&first, &second] {
        let page = env.log(new.execute_id).await;
        let expected: Vec<_> = (1..=1_000).zip(texts.iter().map(|text| (*text).to_owned())).collect();
        assert_eq!(page, expected);
        assert_eq!(env.row(new.execute_id).await.log_lines, 1_800);
    }
    let mut late = append(&first, 1, 1_800, &texts);
    late.lines[7].text = "\0".to_owned();
    let refused = env.record.append(&[late, append(&second, 1, 1_800, &texts)]).await.unwrap_err();
    assert_eq!(refused.recovery(), store::Recovery::Permanent);
    assert_eq!(env.row(second.execute_id).await.log_lines, 1_800, "nothing of it is stored");
}
