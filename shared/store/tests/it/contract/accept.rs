use std::time::Duration;

use domain::limits::{EXECUTE_ID_AGE_MAX, EXECUTE_ID_AHEAD_MAX, IDEMPOTENCY_KEY_LIFE};
use domain::{Digest, ExecuteId, Payload, State, TenantId};
use futures::future::join_all;
use jiff::Timestamp;
use store::{Acceptance, NewExecution, Recovery};

use super::{Env, claim_of, new_execution};

fn with_key(key: &str) -> NewExecution {
    NewExecution { idempotency_key: Some(key.to_owned()), ..new_execution() }
}

fn other_input(new: NewExecution) -> NewExecution {
    let input = Payload::new(Payload::JSON, &b"{\"n\": 2}"[..]);
    NewExecution { input_digest: Digest::of(&input.bytes), input, ..new }
}

fn dated(seconds_from_now: i64) -> NewExecution {
    let ms = Timestamp::now().as_millisecond() + seconds_from_now * 1_000;
    NewExecution { execute_id: ExecuteId::new(ms.try_into().unwrap()), ..new_execution() }
}

pub async fn an_execution_is_recorded_once_and_its_repeat_says_the_same(env: Env) {
    let new = with_key("k");
    for _ in 0..2 {
        assert_eq!(env.accept(&new).await, Acceptance::Recorded);
    }
    assert_eq!(env.row(new.execute_id).await.state, State::Queued);
    assert_eq!(env.record.list_executions(&new.tenant, &page()).await.unwrap().executions.len(), 1);
}

fn page() -> store::ExecutionFilter {
    store::ExecutionFilter { limit: 100, ..store::ExecutionFilter::default() }
}

pub async fn a_known_id_attaches_and_another_input_or_tenant_is_refused(env: Env) {
    let new = env.recorded().await;
    env.record.mark_dispatched(&[new.execute_id]).await.unwrap();
    let attached = |state| Acceptance::Attached { execute_id: new.execute_id, state };
    assert_eq!(env.accept(&new).await, attached(State::Queued));
    env.claim(&claim_of(&new)).await;
    assert_eq!(env.accept(&new).await, attached(State::Running));

    assert_eq!(env.accept(&other_input(new.clone())).await, Acceptance::IdReused);
    let stranger = NewExecution { tenant: "stranger".parse().unwrap(), ..new.clone() };
    assert_eq!(env.accept(&stranger).await, Acceptance::IdReused);
    assert_eq!(env.row(new.execute_id).await.attempt, 1);
}

pub async fn a_new_id_is_dated_within_the_window_and_a_known_one_need_not_be(env: Env) {
    let (age, ahead) =
        (EXECUTE_ID_AGE_MAX.as_secs().cast_signed(), EXECUTE_ID_AHEAD_MAX.as_secs().cast_signed());
    for (seconds, expected) in [
        (-age - 60, Acceptance::OutsideWindow),
        (-age + 60, Acceptance::Recorded),
        (ahead - 60, Acceptance::Recorded),
        (ahead + 60, Acceptance::OutsideWindow),
    ] {
        assert_eq!(env.accept(&dated(seconds)).await, expected, "{seconds} s from now");
    }
    let distant = NewExecution { execute_id: ExecuteId::new((1 << 48) - 1), ..new_execution() };
    assert_eq!(env.accept(&distant).await, Acceptance::OutsideWindow);
    let refused = NewExecution { execute_id: ExecuteId::new(0), ..with_key("k") };
    assert_eq!(env.accept(&refused).await, Acceptance::OutsideWindow);
    assert_eq!(env.accept(&with_key("k")).await, Acceptance::Recorded, "the refused one took its key along");
}

pub async fn a_key_is_one_execution_and_with_another_input_an_error(env: Env) {
    let first = with_key("k");
    assert_eq!(env.accept(&first).await, Acceptance::Recorded);
    let attached = |state| Acceptance::Attached { execute_id: first.execute_id, state };
    assert_eq!(env.accept(&with_key("k")).await, attached(State::Queued));
    env.claim(&claim_of(&first)).await;
    let second = with_key("k");
    assert_eq!(env.accept(&second).await, attached(State::Running));
    assert!(env.record.find_execution(&second.tenant, second.execute_id).await.unwrap().is_none());

    assert_eq!(env.accept(&other_input(with_key("k"))).await, Acceptance::KeyReused);
    assert_eq!(env.accept(&with_key("another")).await, Acceptance::Recorded);
}

pub async fn a_key_belongs_to_its_tenant_and_model_and_is_forgotten_after_a_day(env: Env) {
    let first = with_key("k");
    assert_eq!(env.accept(&first).await, Acceptance::Recorded);
    let other_model = NewExecution { model: "iris".parse().unwrap(), ..with_key("k") };
    assert_eq!(env.accept(&other_model).await, Acceptance::Recorded);
    let other_tenant = NewExecution { tenant: "stranger".parse().unwrap(), ..with_key("k") };
    assert_eq!(env.accept(&other_tenant).await, Acceptance::Recorded);

    env.pass(IDEMPOTENCY_KEY_LIFE - Duration::from_secs(60)).await;
    let attached = Acceptance::Attached { execute_id: first.execute_id, state: State::Queued };
    assert_eq!(env.accept(&with_key("k")).await, attached);
    env.pass(Duration::from_secs(61)).await;
    let later = other_input(with_key("k"));
    assert_eq!(env.accept(&later).await, Acceptance::Recorded);
    let attached = Acceptance::Attached { execute_id: later.execute_id, state: State::Queued };
    assert_eq!(env.accept(&other_input(with_key("k"))).await, attached);
}

pub async fn many_callers_at_once_with_one_key_are_one_execution(env: Env) {
    let callers: Vec<_> = (0..200).map(|_| with_key("k")).collect();
    let answers = join_all(callers.iter().map(|new| env.accept(new))).await;
    let mut recorded = Vec::new();
    let mut attached = Vec::new();
    for (new, answer) in callers.iter().zip(answers) {
        match answer {
            Acceptance::Recorded => recorded.push(new.execute_id),
            Acceptance::Attached { execute_id, .. } => attached.push(execute_id),
            Acceptance::KeyReused | Acceptance::IdReused | Acceptance::OutsideWindow => panic!("{answer:?}"),
        }
    }
    assert_eq!(recorded.len(), 1);
    assert_eq!(attached, vec![recorded[0]; 199]);
    let rows = env.record.list_executions(&TenantId::default(), &page()).await.unwrap().executions;
    assert_eq!(rows.len(), 1);
}

pub async fn a_batch_answers_in_its_order(env: Env) {
    let known = env.recorded().await;
    env.claim(&claim_of(&known)).await;
    let keyed = with_key("k");
    env.accept(&keyed).await;
    env.accept(&with_key("l")).await;
    let batch = [
        dated(-100_000),
        known.clone(),
        new_execution(),
        other_input(keyed.clone()),
        with_key("fresh"),
        other_input(with_key("l")),
        new_execution(),
    ];
    let attached = Acceptance::Attached { execute_id: known.execute_id, state: State::Running };
    assert_eq!(
        env.record.accept(&batch).await.unwrap(),
        [
            Acceptance::OutsideWindow,
            attached,
            Acceptance::Recorded,
            Acceptance::KeyReused,
            Acceptance::Recorded,
            Acceptance::KeyReused,
            Acceptance::Recorded,
        ]
    );
    assert_eq!(env.record.accept(&[]).await.unwrap(), []);
}

pub async fn a_row_that_cannot_be_stored_spoils_its_batch_for_good(env: Env) {
    let (good, new) = (env.running().await, new_execution());
    let (execution, claim) = &good;
    let mut batch = vec![super::append(execution, claim.attempt, 0, &["good"])];
    let (other, claim) = env.running().await;
    batch.push(super::append(&other, claim.attempt, 0, &["a NUL \0 in a line"]));
    let error = env.record.append(&batch).await.unwrap_err();
    assert_eq!(error.recovery(), Recovery::Permanent, "{error}");
    assert_eq!(env.log(execution.execute_id).await, [], "a failed batch wrote something");
    // Whoever splits it gets the good row stored.
    assert!(env.record.append(&batch[..1]).await.is_ok());
    assert_eq!(env.accept(&new).await, Acceptance::Recorded);
}
