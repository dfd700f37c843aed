//! What accept, claim and finish cost per execution, by how many share a statement:
//!
//! `cargo run --release -p store --example hot_writes -- postgres://user:password@host:port/database [executions per row]`
//!
//! or with a directory instead of the URL, for SQLite. One statement is in flight at a time.

#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing to say")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{
    Attributes, Digest, Ending, ExecuteId, NodeId, Payload, QueueName, TenantId, VersionNumber,
    VersionSelector,
};
use jiff::Timestamp;
use protocol::http::TimelineEvent;
use protocol::{ReplyAddress, Request};
use store::postgres::{Postgres, PostgresConfig};
use store::sqlite::{Sqlite, SqliteConfig};
use store::{Acceptance, ClaimAnswer, ClaimRequest, Finish, Finished, NewExecution, Record, Settlement};
use uuid::Uuid;

const BATCHES: [usize; 5] = [1, 8, 32, 128, 512];

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().expect("the database's URL, or a directory for SQLite");
    let executions = arguments.next().map_or(8_192, |text| text.parse().unwrap());
    let only = arguments.next().map(|text| text.parse::<usize>().unwrap());
    let record = open(&place).await;
    println!("microseconds per execution; the second claim makes the rows");
    println!("batch | accept | claim  | claim  | finish");
    for batch in BATCHES.into_iter().filter(|batch| only.is_none_or(|only| *batch == only)) {
        let rounds = executions / batch;
        let mut spent = [Duration::ZERO; 4];
        for _ in 0..rounds {
            let took = round(&*record, batch).await;
            spent.iter_mut().zip(took).for_each(|(all, one)| *all += one);
        }
        let us = spent.map(|spent| spent.as_secs_f64() * 1e6 / (rounds * batch) as f64);
        println!("{batch:5} | {:6.1} | {:6.1} | {:6.1} | {:6.1}", us[0], us[1], us[2], us[3]);
    }
}

async fn open(place: &str) -> Arc<dyn Record> {
    if place.starts_with("postgres://") {
        let config = PostgresConfig { url: place.to_owned(), pool_max: 4, ca_file: None, schema: None };
        store::postgres::migrate(&config).await.unwrap();
        Arc::new(Postgres::connect(&config).await.unwrap())
    } else {
        Arc::new(Sqlite::open(&SqliteConfig { path: Path::new(place).join("hot_writes.db") }).unwrap())
    }
}

/// Takes a batch through its life and claims another that is new, and says how long each of the four statements took.
async fn round(record: &dyn Record, batch: usize) -> [Duration; 4] {
    let recorded: Vec<_> = (0..batch).map(|_| new_execution()).collect();
    let new: Vec<_> = (0..batch).map(|_| new_execution()).collect();
    let claims: Vec<_> = recorded.iter().map(|execution| claim(execution, true)).collect();
    let new_claims: Vec<_> = new.iter().map(|execution| claim(execution, false)).collect();
    let finishes: Vec<_> = new.iter().map(finish).collect();
    let mut spent = [Duration::ZERO; 4];
    let mut begin = Instant::now();
    let mut lap = |place: usize| {
        spent[place] = begin.elapsed();
        begin = Instant::now();
    };
    let accepted = record.accept(&recorded).await.unwrap();
    lap(0);
    let claimed = record.claim(&claims).await.unwrap();
    lap(1);
    let new_claimed = record.claim(&new_claims).await.unwrap();
    lap(2);
    let finished = record.finish(&finishes).await.unwrap();
    lap(3);
    assert!(accepted.iter().all(|answer| *answer == Acceptance::Recorded));
    assert!(claimed.iter().chain(&new_claimed).all(|answer| matches!(answer, ClaimAnswer::Claimed(_))));
    assert!(finished.iter().all(|answer| matches!(answer, Finished::Stored(_))));
    spent
}

fn new_execution() -> NewExecution {
    let input = Payload::new(Payload::JSON, &b"{\"n\": 123456}"[..]);
    let execute_id = ExecuteId::new(Timestamp::now().as_millisecond().unsigned_abs());
    NewExecution {
        execute_id,
        tenant: TenantId::default(),
        model: "echo".parse().unwrap(),
        version: VersionNumber(3),
        queue: QueueName::default(),
        input_digest: Digest::of(&input.bytes),
        input,
        reply_address: Some(ReplyAddress {
            reply_to: "gantry.reply.gateway-1.01a2b3c4d5e6f708".to_owned(),
            correlation_id: execute_id.to_string(),
        }),
        deadline: None,
        traceparent: None,
        attributes: Attributes::default(),
        idempotency_key: None,
    }
}

fn node() -> NodeId {
    NodeId::new("worker-1".parse().unwrap(), 1_700_000_000_000, 7)
}

fn claim(new: &NewExecution, recorded: bool) -> ClaimRequest {
    ClaimRequest {
        claim_id: Uuid::now_v7(),
        node: node(),
        lease: Duration::from_secs(30),
        tenant: new.tenant.clone(),
        request: Request {
            execute_id: new.execute_id,
            model: new.model.clone(),
            version: VersionSelector::Number(new.version),
            queue: new.queue.clone(),
            input: new.input.clone(),
            deadline: None,
            reply_address: new.reply_address.clone(),
            traceparent: None,
            attributes: Attributes::default(),
            recorded,
        },
        input_digest: new.input_digest,
        version: Some(new.version),
        redelivered: false,
        result: None,
    }
}

fn finish(new: &NewExecution) -> Finish {
    let event = |event: &str| TimelineEvent {
        attempt: 1,
        event: event.to_owned(),
        at: Timestamp::now(),
        node: node().to_string(),
    };
    Finish {
        fence: None,
        execute_id: new.execute_id,
        attempt: 1,
        base: 0,
        tail: Vec::new(),
        settlement: Settlement::Ended(Ending::Succeeded(new.input.clone())),
        timeline: ["executing", "storing", "succeeded"].map(event).into(),
    }
}
