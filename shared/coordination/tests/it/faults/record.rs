//! PostgreSQL going away under locks that are held on it. Each test owns its server; leases last 3 s if it does not say otherwise.

use std::sync::Arc;
use std::time::Duration;

use coordination::record::{RecordCoordination, RecordCoordinationConfig};
use coordination::{Boottime, Coordination, Grant, Place, Validity};
use domain::TenantId;
use store::Record;
use store::postgres::{Postgres, PostgresConfig, migrate};
use testkit::{Fault, Proxy, Server, ServerKind, fresh_name};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::env::{LIMIT, enter, is_up, lock, settled};

const LEASE: Duration = Duration::from_secs(3);

/// A server, and a schema in it.
async fn server() -> (Server, PostgresConfig) {
    let server = Server::start(ServerKind::Postgres).await;
    let schema = Some(fresh_name("faults"));
    let config = PostgresConfig { url: server.url(), pool_max: 4, ca_file: None, schema };
    migrate(&config).await.unwrap();
    (server, config)
}

/// A process with connections of its own.
async fn process(config: &PostgresConfig) -> Arc<dyn Coordination> {
    process_with(config, LEASE).await
}

async fn process_with(config: &PostgresConfig, lease: Duration) -> Arc<dyn Coordination> {
    let record: Arc<dyn Record> = Arc::new(Postgres::connect(config).await.unwrap());
    let config = RecordCoordinationConfig { lease_ms: lease.as_millis() as u64, poll_ms: 100 };
    let process: Arc<dyn Coordination> = Arc::new(RecordCoordination::new(record, &config));
    is_up(&process).await;
    process
}

async fn granted(place: Place) -> Grant {
    timeout(LIMIT, place.granted()).await.expect("it is granted in time").unwrap()
}

/// When the holder must be dead, as far as it knows now.
fn kill_at(validity: &watch::Receiver<Validity>) -> Boottime {
    match *validity.borrow() {
        Validity::Until { stop_at, kill_at } => {
            assert!(stop_at < kill_at);
            kill_at
        }
        Validity::Lost => Boottime::now(),
    }
}

/// The latest moment at which the holder believed that it may run, seen from outside.
async fn runs_until(mut validity: watch::Receiver<Validity>) -> Boottime {
    let mut last = kill_at(&validity);
    loop {
        tokio::select! {
            changed = validity.changed() => {
                if changed.is_err() {
                    return last;
                }
                last = kill_at(&validity);
                if *validity.borrow() == Validity::Lost {
                    return last;
                }
            }
            () = last.passed() => return last,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_has_stopped_before_another_has_the_lock() {
    let (_server, config) = server().await;
    let link = Proxy::start(&config.url).await;
    let cut_off = process(&PostgresConfig { url: link.url(&config.url), ..config.clone() }).await;
    let other = process(&config).await;
    let what = lock("account:7");
    for fault in [Fault::Blackhole, Fault::Reset] {
        let held = granted(enter(&cut_off, &what).await).await;
        let next = enter(&other, &what).await;
        // So that the lease is not as fresh as the grant.
        tokio::time::sleep(LEASE / 4).await;
        link.set(fault);
        let fence = held.fence();
        let (until, next) = tokio::join!(runs_until(held.validity()), async {
            let next = granted(next).await;
            (Boottime::now(), next)
        });
        let (since, next) = next;
        assert!(since > until, "{:?} early", until.since(since));
        assert!(next.fence() > fence);
        link.set(Fault::Pass);
        link.cut();
        let mut validity = held.validity();
        timeout(LIMIT, validity.wait_for(|now| *now == Validity::Lost)).await.unwrap().unwrap();
        drop(held);
        next.release().await;
        settled(&other, &what).await;
    }
    cut_off.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_database_gives_no_lock_away_before_its_holder_has_stopped() {
    let (server, config) = server().await;
    let [first, second] = [process(&config).await, process(&config).await];
    let what = lock("account:7");
    let held = granted(enter(&first, &what).await).await;
    let mut place = Box::pin(granted(enter(&second, &what).await));
    server.pause().await;
    let until = runs_until(held.validity()).await;
    assert!(!held.validity().borrow().is_valid(), "it knows that it may not go on");
    tokio::time::sleep(LEASE).await;
    server.resume().await;
    // Whoever asks first after the thaw: the holder keeps it, or the next one has it, or the next one is lost.
    let (mut lost, mut kept) = (held.validity(), held.validity());
    tokio::select! {
        next = &mut place => {
            assert!(Boottime::now() > until && next.fence() > held.fence());
            timeout(LIMIT, lost.wait_for(|now| *now == Validity::Lost)).await.unwrap().unwrap();
            next.release().await;
        }
        kept = timeout(LIMIT, kept.wait_for(|now| now.is_valid())) => {
            drop(kept.unwrap().unwrap());
            held.release().await;
        }
    }
    drop(place);
    settled(&first, &what).await;
    first.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_shorter_than_the_lease_keeps_holder_and_order() {
    let (server, config) = server().await;
    // A crash recovery takes its time on a busy machine.
    let lease = Duration::from_secs(30);
    let [first, second] = [process_with(&config, lease).await, process_with(&config, lease).await];
    let what = lock("account:7");
    let held = granted(enter(&first, &what).await).await;
    let [next, last] = [enter(&second, &what).await, enter(&first, &what).await];
    server.kill().await;
    server.start_again().await;
    let mut validity = held.validity();
    let before = *validity.borrow_and_update();
    timeout(LIMIT, validity.wait_for(|now| *now != before)).await.unwrap().unwrap();
    assert!(validity.borrow().is_valid(), "{before:?}, then {:?}", *validity.borrow());
    let queue = first.queue(&TenantId::default(), &what).await.unwrap();
    assert_eq!((queue.holders.len(), queue.waiters.len()), (1, 2));
    let fence = held.fence();
    held.release().await;
    let next = granted(next).await;
    assert!(next.fence() > fence);
    let fence = next.fence();
    next.release().await;
    let last = granted(last).await;
    assert!(last.fence() > fence);
    last.release().await;
    settled(&first, &what).await;
    first.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_while_the_database_is_away_is_out_of_the_queue_when_it_is_back() {
    let (server, config) = server().await;
    let [first, second] = [process(&config).await, process(&config).await];
    let what = lock("account:7");
    let held = granted(enter(&first, &what).await).await;
    let waits = enter(&first, &what).await;
    let next = enter(&second, &what).await;
    server.kill().await;
    drop(waits);
    let released = tokio::time::Instant::now();
    held.release().await;
    assert!(released.elapsed() < Duration::from_secs(5), "a release ends in bounded time");
    server.start_again().await;
    // If the server took longer than a lease the place may be lost.
    if let Ok(next) = timeout(LIMIT, next.granted()).await.unwrap() {
        next.release().await;
    }
    settled(&second, &what).await;
    first.close().await;
    second.close().await;
}
