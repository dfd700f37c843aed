use std::time::Duration;

use domain::TenantId;
use store::{Forgotten, LogRetention, LogStep};

use super::{Env, append, succeeded};

const DAY: Duration = Duration::from_secs(86_400);
const FENCE: i64 = 7;

fn older_than(days: u32) -> LogRetention {
    LogRetention { age_max: Some(DAY * days), bytes_max: None }
}

async fn drop_log(env: &Env, keep: LogRetention) -> Option<jiff::civil::Date> {
    match env.record.drop_log(FENCE, keep).await.unwrap() {
        LogStep::Done(day) => Some(day.day),
        LogStep::Nothing => None,
        LogStep::Stale => panic!("its fence is the highest"),
    }
}

fn day_of(id: domain::ExecuteId) -> jiff::civil::Date {
    let at = jiff::Timestamp::from_millisecond(id.unix_ms().try_into().unwrap()).unwrap();
    at.to_zoned(jiff::tz::TimeZone::UTC).date()
}

pub async fn a_day_of_the_log_goes_when_it_is_old_and_all_its_executions_have_ended(env: Env) {
    env.record.take_upkeep_fence(FENCE).await.unwrap();
    let (old, claim) = env.running_for_days(40).await;
    let (other, other_claim) = env.running_for_days(40).await;
    let (young, young_claim) = env.running_for_days(20).await;
    env.log_and_end(&old, &claim, &["a", "b"]).await;
    env.log_and_end(&young, &young_claim, &["y"]).await;
    assert_eq!(drop_log(&env, older_than(30)).await, None, "one of its executions runs");
    assert!(!env.record.is_log_dropped(old.execute_id).await.unwrap());
    assert_eq!(env.log(old.execute_id).await.len(), 2);

    // It can still be written.
    env.log_and_end(&other, &other_claim, &["c"]).await;
    assert_eq!(drop_log(&env, older_than(45)).await, None, "it is not that old");
    assert_eq!(drop_log(&env, older_than(30)).await, Some(day_of(old.execute_id)));
    assert_eq!(drop_log(&env, older_than(30)).await, None, "it is gone");
    for gone in [&old, &other] {
        assert!(env.record.is_log_dropped(gone.execute_id).await.unwrap());
        assert_eq!(env.log(gone.execute_id).await, []);
        assert!(env.row(gone.execute_id).await.log_lines > 0, "the execution is there");
    }
    assert!(!env.record.is_log_dropped(young.execute_id).await.unwrap());
    assert_eq!(env.log(young.execute_id).await.len(), 1);
}

pub async fn the_oldest_days_go_until_the_log_is_small_enough(env: Env) {
    env.record.take_upkeep_fence(FENCE).await.unwrap();
    let mut days = Vec::new();
    for ago in [5, 9, 7] {
        let (new, claim) = env.running_for_days(ago).await;
        env.log_and_end(&new, &claim, &["line"]).await;
        days.push(day_of(new.execute_id));
    }
    let most = |bytes| LogRetention { age_max: None, bytes_max: Some(bytes) };
    assert_eq!(drop_log(&env, most(1 << 40)).await, None);
    let gone = [drop_log(&env, most(1)).await, drop_log(&env, most(1)).await, drop_log(&env, most(1)).await];
    assert_eq!(gone, [Some(days[1]), Some(days[2]), Some(days[0])]);
    // On PostgreSQL a day without lines is one, too.
    while drop_log(&env, most(1)).await.is_some() {}
}

pub async fn what_may_still_be_written_stays_however_old_or_large_it_is(env: Env) {
    env.record.take_upkeep_fence(FENCE).await.unwrap();
    let (new, claim) = env.running().await;
    env.log_and_end(&new, &claim, &["line"]).await;
    let nothing = LogRetention { age_max: Some(Duration::ZERO), bytes_max: Some(0) };
    assert_eq!(drop_log(&env, nothing).await, None);
    assert_eq!(env.log(new.execute_id).await.len(), 1);
    assert_eq!(env.record.seal_log(FENCE).await.unwrap(), LogStep::Nothing);
}

pub async fn a_stale_fence_seals_drops_and_forgets_nothing(env: Env) {
    env.record.take_upkeep_fence(FENCE + 1).await.unwrap();
    let (new, claim) = env.running_for_days(40).await;
    env.log_and_end(&new, &claim, &["line"]).await;
    assert_eq!(env.record.drop_log(FENCE, older_than(30)).await.unwrap(), LogStep::Stale);
    assert!(matches!(env.record.seal_log(FENCE).await.unwrap(), LogStep::Stale | LogStep::Nothing));
    env.pass(DAY * 40).await;
    let forgotten = env.record.forget_executions(FENCE, DAY * 30, None, 10).await.unwrap();
    assert_eq!(forgotten, Forgotten::Stale);
    assert_eq!(env.log(new.execute_id).await.len(), 1);
    env.row(new.execute_id).await;
}

pub async fn executions_that_ended_long_ago_are_forgotten_some_at_a_time(env: Env) {
    env.record.take_upkeep_fence(FENCE).await.unwrap();
    let mut ended = Vec::new();
    for ago in [95, 94, 93] {
        let (new, claim) = env.running_for_days(ago).await;
        env.log_and_end(&new, &claim, &["line"]).await;
        ended.push(new);
    }
    let (open, open_claim) = env.running_for_days(96).await;
    let (young, young_claim) = env.running_for_days(80).await;
    env.log_and_end(&young, &young_claim, &["line"]).await;
    env.pass(DAY * 95).await;
    let (late, late_claim) = env.running_for_days(97).await;
    env.settle(&late, &late_claim, succeeded("just now")).await;

    let forget = async |after| match env.record.forget_executions(FENCE, DAY * 90, after, 2).await.unwrap() {
        Forgotten::Executions { count, last } => (count, last),
        Forgotten::Stale => panic!("its fence is the highest"),
    };
    assert_eq!(forget(None).await, (2, Some(ended[1].execute_id)), "the oldest first");
    assert_eq!(forget(Some(ended[1].execute_id)).await, (1, Some(ended[2].execute_id)));
    assert_eq!(forget(None).await, (0, None));
    for gone in &ended {
        let found = env.record.find_execution(&TenantId::default(), gone.execute_id).await.unwrap();
        assert_eq!(found, None);
        assert_eq!(env.record.find_input(&TenantId::default(), gone.execute_id).await.unwrap(), None);
    }
    // What has not ended, what ended just now, and what is dated later are there.
    for kept in [&open, &late, &young] {
        env.row(kept.execute_id).await;
    }
    let still = env.record.append(&[append(&open, open_claim.attempt, 0, &["still here"])]).await.unwrap();
    assert_eq!(still, [store::Appended::Stored { last_log_id: 1 }]);
}
