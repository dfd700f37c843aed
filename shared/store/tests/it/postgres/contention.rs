//! Locks on the record under many clients at once.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use store::{Entered, NewContender, Record, Standing};
use uuid::Uuid;

use crate::contract::{Fixture, OnPostgres, contender};

const LEASE: Duration = Duration::from_secs(10);
const KEYS: [&str; 3] = ["a", "b", "c"];

/// What an observer sees of one lock.
#[derive(Default)]
struct Lock {
    held: AtomicBool,
    fences: Mutex<Vec<i64>>,
}

/// Many clients, each with places in several queues that it asks for together: one holder at a time, fences that grow, and
/// nobody waits in a circle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_thirty_two_clients_one_has_the_lock_at_a_time_and_fences_grow() {
    let fixture = OnPostgres::with_pool(16).await;
    let record = fixture.record();
    let locks: HashMap<&str, Lock> = KEYS.into_iter().map(|key| (key, Lock::default())).collect();
    let client = |number: usize| {
        let (record, locks) = (&record, &locks);
        async move {
            for round in 0..4 {
                // Two locks at once, in another order each time, as a process that runs two executions has them.
                let keys = [KEYS[(number + round) % 3], KEYS[(number + round + 1 + number % 2) % 3]];
                let mut open: HashMap<Uuid, &str> = HashMap::new();
                for key in keys {
                    let new = contender(key);
                    let Entered::Stands(standing) = record.enter(&new, 1_000, LEASE).await.unwrap() else {
                        panic!("the queue of {key} is full");
                    };
                    open.insert(new.ticket, key);
                    run(record.as_ref(), locks, &mut open, standing).await;
                }
                while !open.is_empty() {
                    let tickets: Vec<_> = open.keys().copied().collect();
                    let standings = record.stand(&tickets, LEASE).await.unwrap();
                    assert_eq!(standings.len(), tickets.len(), "nobody's lease ran out");
                    for standing in standings {
                        run(record.as_ref(), locks, &mut open, standing).await;
                    }
                }
            }
        }
    };
    join_all((0..32).map(client)).await;
    for lock in locks.values() {
        let fences = lock.fences.lock().unwrap();
        assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
    }
    let all: usize = locks.values().map(|lock| lock.fences.lock().unwrap().len()).sum();
    assert_eq!(all, 32 * 4 * 2);
}

/// Holds it for a moment if it is granted, and looks whether somebody else does.
async fn run(
    record: &dyn Record,
    locks: &HashMap<&str, Lock>,
    open: &mut HashMap<Uuid, &str>,
    standing: Standing,
) {
    let Some(fence) = standing.fence else { return };
    let Some(key) = open.remove(&standing.ticket) else { return };
    let lock = &locks[key];
    assert!(!lock.held.swap(true, Ordering::SeqCst), "two have {key}");
    lock.fences.lock().unwrap().push(fence);
    tokio::task::yield_now().await;
    lock.held.store(false, Ordering::SeqCst);
    record.leave(&[standing.ticket]).await.unwrap();
}

/// Places are granted in the order in which their entering was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_told_first_that_it_is_in_has_it_first() {
    let fixture = OnPostgres::with_pool(16).await;
    let record = fixture.record();
    let arrivals = AtomicUsize::new(0);
    let client = || async {
        let new = contender("k");
        // It began after every one whose number is smaller had its answer.
        let began = arrivals.load(Ordering::SeqCst);
        record.enter(&new, 1_000, LEASE).await.unwrap();
        (began, arrivals.fetch_add(1, Ordering::SeqCst), new.ticket)
    };
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.extend(join_all((0..16).map(|_| client())).await);
    }
    let mut order = Vec::new();
    while order.len() < clients.len() {
        let tickets: Vec<_> =
            clients.iter().map(|client| client.2).filter(|it| !order.contains(it)).collect();
        let standings = record.stand(&tickets, LEASE).await.unwrap();
        let has: Vec<_> = standings.iter().filter(|one| one.fence.is_some()).map(|one| one.ticket).collect();
        assert_eq!(has.len(), 1);
        record.leave(&has).await.unwrap();
        order.extend(has);
    }
    for (began, _, ticket) in &clients {
        for (_, answered, earlier) in clients.iter().filter(|other| other.1 < *began) {
            let place = |of: &Uuid| order.iter().position(|it| it == of);
            assert!(place(earlier) < place(ticket), "{answered} came before {began}");
        }
    }
}

/// Everybody's lease runs out at once, as after a database was frozen: those who ask and those who renew do not wait in a
/// circle, and one holder is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_all_ran_out_are_sorted_out_without_a_circle() {
    let fixture = OnPostgres::with_pool(16).await;
    let record = fixture.record();
    for _ in 0..10 {
        let clients: Vec<Vec<NewContender>> =
            (0..16).map(|n| (0..6).map(|m| contender(KEYS[(n + m) % 3])).collect()).collect();
        for client in &clients {
            for new in client {
                record.enter(new, 1_000, LEASE).await.unwrap();
            }
        }
        fixture.pass(Duration::from_secs(60)).await;
        let answers = join_all(clients.iter().map(|client| {
            let tickets: Vec<_> = client.iter().map(|new| new.ticket).collect();
            let record = &record;
            async move { record.stand(&tickets, LEASE).await.unwrap() }
        }))
        .await;
        let granted = answers.iter().flatten().filter(|standing| standing.fence.is_some()).count();
        assert!(granted <= KEYS.len(), "{granted} have {} locks", KEYS.len());
        for client in &clients {
            let tickets: Vec<_> = client.iter().map(|new| new.ticket).collect();
            record.leave(&tickets).await.unwrap();
        }
    }
}
