use std::time::Duration;

use domain::{ExecuteId, State};
use jiff::Timestamp;
use store::NewExecution;

use super::{Env, new_execution, succeeded};

pub async fn a_row_reads_back_as_it_was_written(env: Env) {
    let deadline = Timestamp::from_second(Timestamp::now().as_second() + 600).unwrap();
    let new = NewExecution { deadline: Some(deadline), queue: "slow".parse().unwrap(), ..new_execution() };
    let before = Timestamp::now();
    env.accept(&new).await;
    let row = env.record.find_execution(&new.tenant, new.execute_id).await.unwrap().unwrap();
    assert_eq!(row.tenant, new.tenant);
    let execution = row.execution;
    assert_eq!((execution.execute_id, &execution.model), (new.execute_id, &new.model));
    assert_eq!((execution.version, execution.queue.as_str()), (Some(new.version), "slow"));
    assert_eq!((execution.state, execution.attempt, execution.failures), (State::Queued, 0, 0));
    assert_eq!((execution.deadline, execution.not_before), (Some(deadline), None));
    assert!(execution.accepted_at.duration_since(before).abs() < Duration::from_secs(60).try_into().unwrap());
    assert_eq!((execution.node, execution.claimed_at, execution.finished_at), (None, None, None));
    assert_eq!((execution.error_class, execution.error, execution.timeline.len()), (None, None, 0));
    assert_eq!(env.record.find_input(&new.tenant, new.execute_id).await.unwrap(), Some(new.input.clone()));

    let stranger = "stranger".parse().unwrap();
    assert_eq!(env.record.find_execution(&stranger, new.execute_id).await.unwrap(), None);
    assert_eq!(env.record.find_input(&stranger, new.execute_id).await.unwrap(), None);
    assert_eq!(env.record.find_ending(&new.tenant, new.execute_id).await.unwrap(), None);
}

pub async fn endings_are_looked_up_for_all_who_wait(env: Env) {
    let queued = env.recorded().await;
    let (running, _) = env.running().await;
    let (ended, claim) = env.running().await;
    let conclusion = env.settle(&ended, &claim, succeeded("done")).await;
    let asked = [queued.execute_id, ended.execute_id, ExecuteId::new(1), running.execute_id];
    assert_eq!(env.record.endings(&asked).await.unwrap(), std::slice::from_ref(&conclusion));
    assert_eq!(env.record.endings(&[]).await.unwrap(), []);
    let found = env.record.find_ending(&ended.tenant, ended.execute_id).await.unwrap();
    assert_eq!(found, conclusion.ending.map(|ending| (1, ending)));
    let stranger = "stranger".parse().unwrap();
    assert_eq!(env.record.find_ending(&stranger, ended.execute_id).await.unwrap(), None);
}

pub async fn the_record_answers_a_ping(env: Env) {
    env.record.ping().await.unwrap();
}
