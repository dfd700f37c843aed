use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use store::{
    Append, ClaimAnswer, ClaimRequest, Finished, LogFilter, NewExecution, Record, Recovery, Settlement,
    StoreError,
};

use crate::contract::{
    Env, Fixture, OnPostgres, append, claim_of, claimed, finish, new_execution, node, succeeded,
};

const LEASE: Duration = Duration::from_secs(30);

/// 200 recorded executions, and a record with a connection for each of 32 clients.
async fn crowd() -> (Arc<dyn Record>, Vec<NewExecution>, OnPostgres) {
    let fixture = OnPostgres::with_pool(32).await;
    let executions: Vec<_> = (0..200).map(|_| new_execution()).collect();
    fixture.record().accept(&executions).await.unwrap();
    (fixture.record(), executions, fixture)
}

fn claim_by(new: &NewExecution, name: usize) -> ClaimRequest {
    ClaimRequest { node: node(&format!("n{name}")), ..claim_of(new) }
}

#[tokio::test]
async fn thirty_two_claimers_on_two_hundred_executions_win_each_once() {
    let (record, executions, _fixture) = crowd().await;
    let claimers = (0..32).map(|name| {
        let (record, executions) = (&record, &executions);
        async move {
            let mut wins = vec![0; executions.len()];
            // Each begins elsewhere and takes chunks of another size.
            let places: Vec<usize> =
                (0..executions.len()).map(|n| (n + name * 7) % executions.len()).collect();
            for chunk in places.chunks(1 + name % 9) {
                let batch: Vec<_> = chunk.iter().map(|&place| claim_by(&executions[place], name)).collect();
                for (&place, answer) in chunk.iter().zip(record.claim(&batch).await.unwrap()) {
                    match answer {
                        ClaimAnswer::Claimed(claim) => {
                            assert_eq!(claim.attempt, 1);
                            wins[place] += 1;
                        }
                        ClaimAnswer::NotNow => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            wins
        }
    });
    let mut wins = vec![0; executions.len()];
    for won in join_all(claimers).await {
        for (sum, won) in wins.iter_mut().zip(won) {
            *sum += won;
        }
    }
    assert_eq!(wins, vec![1; executions.len()]);
}

#[tokio::test]
async fn copies_of_direct_messages_make_one_row_each() {
    let fixture = OnPostgres::with_pool(16).await;
    let record = fixture.record();
    let messages: Vec<_> = (0..20).map(|_| crate::contract::direct(&new_execution())).collect();
    let claimers = (0..16).map(|name| {
        let copy = |claim: &ClaimRequest| ClaimRequest {
            node: node(&format!("n{name}")),
            claim_id: uuid::Uuid::now_v7(),
            ..claim.clone()
        };
        let mut batch: Vec<_> = messages.iter().map(copy).collect();
        batch.rotate_left(name);
        let record = &record;
        async move { record.claim(&batch).await.unwrap() }
    });
    let answers = join_all(claimers).await;
    let won = answers.iter().flatten().filter(|answer| matches!(answer, ClaimAnswer::Claimed(_)));
    assert_eq!(won.count(), messages.len());
    let not_now = answers.iter().flatten().filter(|answer| **answer == ClaimAnswer::NotNow);
    assert_eq!(not_now.count(), 15 * messages.len());
}

#[tokio::test]
async fn copies_of_messages_that_ran_already_make_one_row_each() {
    let fixture = OnPostgres::with_pool(16).await;
    let record = fixture.record();
    let executions: Vec<_> = (0..20).map(|_| new_execution()).collect();
    record.accept(&executions[..10]).await.unwrap();
    let claimers = (0..16).map(|name| {
        // Half of the workers ran it before they claimed it, and half claim it to run it.
        let copy = |new: &NewExecution| {
            let claim = ClaimRequest { node: node(&format!("n{name}")), ..crate::contract::direct(new) };
            ClaimRequest { result: (name % 2 == 0).then(|| crate::contract::text("done")), ..claim }
        };
        let mut batch: Vec<_> = executions.iter().map(copy).collect();
        batch.rotate_left(name);
        let record = &record;
        async move {
            let answers = record.claim(&batch).await.unwrap();
            let won = |answer: &ClaimAnswer| {
                matches!(answer, ClaimAnswer::Claimed(_) | ClaimAnswer::Succeeded { .. })
            };
            let ids = batch.iter().map(|claim| claim.request.execute_id);
            ids.zip(answers).filter(|(_, answer)| won(answer)).map(|(id, _)| id).collect::<Vec<_>>()
        }
    });
    let mut won: Vec<_> = join_all(claimers).await.into_iter().flatten().collect();
    won.sort_unstable();
    let mut all: Vec<_> = executions.iter().map(|new| new.execute_id).collect();
    all.sort_unstable();
    assert_eq!(won, all);
}

#[tokio::test]
async fn overlapping_batches_of_every_kind_never_wait_in_a_circle() {
    let (record, executions, _fixture) = crowd().await;
    let claims: Vec<_> = executions.iter().map(|new| claim_by(new, 0)).collect();
    record.claim(&claims).await.unwrap();
    let held: Vec<_> = executions.iter().map(|new| (new.execute_id, 1)).collect();
    let client = |number: usize| {
        let (record, executions, mut held) = (&record, &executions, held.clone());
        async move {
            for round in 0..8 {
                // Every call names the same rows in another order.
                held.rotate_left((31 * number + round) % executions.len());
                held.reverse();
                match number % 4 {
                    0 => drop(record.renew(&node("n0"), &held, LEASE).await.unwrap()),
                    1 => {
                        let batch: Vec<Append> = held
                            .iter()
                            .map(|(id, _)| {
                                let new = executions.iter().find(|new| new.execute_id == *id).unwrap();
                                append(new, 1, i64::try_from(round).unwrap(), &["x"])
                            })
                            .collect();
                        record.append(&batch).await.unwrap();
                    }
                    2 => {
                        let ids: Vec<_> = held.iter().map(|(id, _)| *id).collect();
                        record.mark_dispatched(&ids).await.unwrap();
                    }
                    _ => {
                        let mut batch: Vec<_> = executions.iter().map(|new| claim_by(new, 9)).collect();
                        batch.rotate_left((17 * round + number) % executions.len());
                        record.claim(&batch).await.unwrap();
                    }
                }
            }
        }
    };
    join_all((0..12).map(client)).await;
}

#[tokio::test]
async fn a_log_stays_dense_while_attempts_take_over_from_each_other() {
    const LINES: i64 = 40;
    let fixture = OnPostgres::with_pool(8).await;
    let env = Env::new(fixture);
    let new = env.recorded().await;
    // Each attempt writes until it is told that it is stale; somebody takes over all the time.
    let taken_over = async {
        for _ in 0..15 {
            let claim = loop {
                env.record.take_due(10).await.unwrap();
                if let ClaimAnswer::Claimed(claim) = env.claim(&claim_of(&new)).await {
                    break claim;
                }
            };
            let (record, new) = (&env.record, &new);
            let writers = (0..2).map(|_| async move {
                let mut base = claim.last_log_id;
                while base < claim.last_log_id + LINES {
                    match record.append(&[append(new, claim.attempt, base, &["x", "y"])]).await.unwrap()[0] {
                        store::Appended::Stored { last_log_id } => base = last_log_id,
                        store::Appended::Stale => return,
                    }
                }
            });
            let yielding = async {
                let mut settle = finish(new, &claim, Settlement::YIELDED);
                loop {
                    settle.base = env.row(new.execute_id).await.log_lines;
                    if matches!(env.finish(&settle).await, Finished::Stored(_)) {
                        return;
                    }
                }
            };
            futures::join!(join_all(writers), yielding);
        }
    };
    taken_over.await;
    let lines = env.record.list_log(new.execute_id, &LogFilter::after(0, 1_000)).await.unwrap().lines;
    assert!(lines.windows(2).all(|pair| pair[1].log_id == pair[0].log_id + 1), "a gap or a repeat");
    assert!(lines.windows(2).all(|pair| pair[1].attempt >= pair[0].attempt), "a stale attempt wrote");
    assert_eq!(lines.first().map(|line| line.log_id), Some(1).filter(|_| !lines.is_empty()));
    assert_eq!(env.row(new.execute_id).await.log_lines, i64::try_from(lines.len()).unwrap());
}

#[tokio::test]
async fn a_row_that_is_held_too_long_is_worth_a_repeat() {
    let fixture = OnPostgres::new().await;
    let record = fixture.record();
    let new = new_execution();
    record.accept(std::slice::from_ref(&new)).await.unwrap();
    let claim = claimed(record.claim(&[claim_of(&new)]).await.unwrap().remove(0));
    fixture.client.batch_execute("begin; select from execution for update").await.unwrap();
    let error: StoreError = record.finish(&[finish(&new, &claim, succeeded("done"))]).await.unwrap_err();
    assert_eq!(error.recovery(), Recovery::Repeat, "{error:?}");
    fixture.client.batch_execute("rollback").await.unwrap();
    record.finish(&[finish(&new, &claim, succeeded("done"))]).await.unwrap();
}
