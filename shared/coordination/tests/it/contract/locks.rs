//! Locks and limits: one at a time (or so many), in the order of arrival, and nothing left behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coordination::{Contender, Coordination, Grant, Lost, Place, Refused, Validity};
use domain::{ExecuteId, TenantId};
use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::env::{
    Env, LIMIT, OnPostgres, OnRecord, OnZooKeeper, contender, enter, is_up, limit, lock, see, settled,
};

contract! {
    who_comes_first_has_it_first_and_fences_grow,
    one_release_wakes_one,
    a_waiter_that_goes_leaves_nothing_and_frees_nobody,
    a_waiter_dropped_at_any_instant_leaves_nothing,
    a_grant_that_is_dropped_is_released,
    more_than_may_wait_are_refused,
    everybody_sees_who_has_it_and_who_waits,
    keys_and_tenants_have_nothing_to_do_with_each_other,
    a_limit_lets_so_many_in_and_no_more,
    limits_are_listed_while_somebody_wants_them,
    a_fence_is_higher_than_the_floor_was,
    a_right_is_certain_for_longer_than_its_heartbeats_take,
    who_closes_gives_up_what_it_had,
}

async fn granted(place: Place) -> Grant {
    timeout(LIMIT, place.granted()).await.expect("it is granted in time").unwrap()
}

/// As they are in a queue.
fn ids(of: &[Option<Contender>]) -> Vec<ExecuteId> {
    of.iter().map(|contender| contender.as_ref().unwrap().execute_id).collect()
}

async fn processes(env: &dyn Env, n: usize) -> Vec<Arc<dyn Coordination>> {
    let processes: Vec<_> = (0..n).map(|_| env.process()).collect();
    for process in &processes {
        is_up(process).await;
    }
    processes
}

async fn close(processes: Vec<Arc<dyn Coordination>>) {
    join_all(processes.iter().map(|process| process.close())).await;
}

async fn who_comes_first_has_it_first_and_fences_grow(env: &dyn Env) {
    let processes = processes(env, 3).await;
    let what = lock("account:7");
    let mut places = Vec::new();
    for n in 0..9 {
        places.push(enter(&processes[n % 3], &what).await);
    }
    let mut waiting: JoinSet<(usize, Grant)> = JoinSet::new();
    for (n, place) in places.into_iter().enumerate() {
        waiting.spawn(async move { (n, granted(place).await) });
    }
    let mut last = 0;
    for expected in 0..9 {
        let (n, grant) = waiting.join_next().await.unwrap().unwrap();
        assert_eq!(n, expected);
        assert!(grant.fence() > last, "{} after {last}", grant.fence());
        assert!(grant.validity().borrow().is_valid());
        last = grant.fence();
        grant.release().await;
    }
    settled(&processes[0], &what).await;
    close(processes).await;
}

async fn one_release_wakes_one(env: &dyn Env) {
    let processes = processes(env, 2).await;
    let what = lock("account:7");
    let first = granted(enter(&processes[0], &what).await).await;
    let grants = Arc::new(AtomicU32::new(0));
    let mut waiting: JoinSet<Grant> = JoinSet::new();
    for n in 0..6 {
        let (place, grants) = (enter(&processes[n % 2], &what).await, Arc::clone(&grants));
        waiting.spawn(async move {
            let grant = granted(place).await;
            grants.fetch_add(1, Ordering::SeqCst);
            grant
        });
    }
    first.release().await;
    for n in 1..=6 {
        let grant = waiting.join_next().await.unwrap().unwrap();
        // The others had as much time as this one, and a look at the servers.
        let queue = processes[1].queue(&TenantId::default(), &what).await.unwrap();
        assert_eq!((queue.holders.len(), queue.waiters.len()), (1, 6 - n as usize));
        assert_eq!(grants.load(Ordering::SeqCst), n);
        grant.release().await;
    }
    close(processes).await;
}

async fn a_waiter_that_goes_leaves_nothing_and_frees_nobody(env: &dyn Env) {
    let processes = processes(env, 2).await;
    let what = lock("account:7");
    let held = granted(enter(&processes[0], &what).await).await;
    let [gone, stays] = [enter(&processes[1], &what).await, enter(&processes[1], &what).await];
    see(&mut stays.position(), "one waits before it", |position| *position == 1).await;
    // While it waits, and before.
    assert!(timeout(Duration::from_millis(100), gone.granted()).await.is_err());
    drop(enter(&processes[0], &what).await);
    see(&mut stays.position(), "it is the next", |position| *position == 0).await;
    testkit::eventually("who went is not in the queue", LIMIT, async || {
        let queue = processes[0].queue(&TenantId::default(), &what).await.unwrap();
        (queue.holders.len(), queue.waiters.len()) == (1, 1)
    })
    .await;
    assert!(held.validity().borrow().is_valid());
    let mut granted_to_next = Box::pin(stays.granted());
    assert!(timeout(Duration::from_millis(300), &mut granted_to_next).await.is_err(), "it is held");
    held.release().await;
    timeout(LIMIT, granted_to_next).await.unwrap().unwrap().release().await;
    settled(&processes[0], &what).await;
    close(processes).await;
}

async fn a_waiter_dropped_at_any_instant_leaves_nothing(env: &dyn Env) {
    let processes = processes(env, 2).await;
    let what = lock("account:7");
    let held = granted(enter(&processes[0], &what).await).await;
    for n in 0..100_u64 {
        let process = &processes[usize::from(n % 2 == 0)];
        let wait = async {
            let place = process.enter(&what, &contender(), 1_000).await.unwrap();
            place.granted().await.map(drop)
        };
        let ended = timeout(Duration::from_micros(n * 97 % 5_000), wait).await;
        assert!(ended.is_err(), "it is held");
    }
    assert!(held.validity().borrow().is_valid());
    held.release().await;
    settled(&processes[0], &what).await;
    close(processes).await;
}

async fn a_grant_that_is_dropped_is_released(env: &dyn Env) {
    let processes = processes(env, 2).await;
    let what = lock("account:7");
    let held = granted(enter(&processes[0], &what).await).await;
    let next = enter(&processes[1], &what).await;
    drop(held);
    let next = granted(next).await;
    // So is a place that was granted and not asked for.
    let unasked = enter(&processes[0], &what).await;
    let last = enter(&processes[1], &what).await;
    next.release().await;
    drop(unasked);
    granted(last).await.release().await;
    settled(&processes[0], &what).await;
    close(processes).await;
}

async fn more_than_may_wait_are_refused(env: &dyn Env) {
    let processes = processes(env, 1).await;
    let process = &processes[0];
    for what in [lock("account:7"), limit("gpu", 1)] {
        let held = granted(enter(process, &what).await).await;
        let mut waiting = Vec::new();
        // Beside who has it: three wait, each having seen at most two wait.
        for _ in 0..3 {
            waiting.push(process.enter(&what, &contender(), 2).await.unwrap());
        }
        for _ in 0..3 {
            match process.enter(&what, &contender(), 2).await.err() {
                Some(Refused::Full(waiting)) => assert_eq!(waiting, 3),
                other => panic!("{other:?}"),
            }
        }
        let queue = process.queue(&TenantId::default(), &what).await.unwrap();
        assert_eq!((queue.holders.len(), queue.waiters.len()), (1, 3), "who was refused left nothing");
        drop(waiting);
        held.release().await;
        settled(process, &what).await;
    }
    close(processes).await;
}

async fn everybody_sees_who_has_it_and_who_waits(env: &dyn Env) {
    let processes = processes(env, 2).await;
    for (what, max) in [(lock("account:7"), 1), (limit("gpu", 2), 2)] {
        let contenders: Vec<Contender> = (0..5).map(|_| contender()).collect();
        let mut places = Vec::new();
        for (n, contender) in contenders.iter().enumerate() {
            places.push(processes[n % 2].enter(&what, contender, 10).await.unwrap());
        }
        let waiting = places.split_off(max);
        let held = join_all(places.into_iter().map(granted)).await;
        for process in &processes {
            testkit::eventually("it shows all", LIMIT, async || {
                let queue = process.queue(&TenantId::default(), &what).await.unwrap();
                let all: Vec<_> = queue.holders.iter().chain(&queue.waiters).cloned().collect();
                queue.holders.len() == max && all == contenders.iter().cloned().map(Some).collect::<Vec<_>>()
            })
            .await;
        }
        for (at, place) in waiting.iter().enumerate() {
            see(&mut place.position(), "its position", |position| *position as usize == at).await;
        }
        drop(waiting);
        join_all(held.into_iter().map(Grant::release)).await;
        settled(&processes[0], &what).await;
    }
    close(processes).await;
}

async fn keys_and_tenants_have_nothing_to_do_with_each_other(env: &dyn Env) {
    let processes = processes(env, 1).await;
    let process = &processes[0];
    let elsewhere = Contender { tenant: "other".parse().unwrap(), ..contender() };
    let mut held = vec![
        granted(enter(process, &lock("account:7")).await).await,
        granted(enter(process, &lock("account:8")).await).await,
        granted(enter(process, &limit("account:7", 1)).await).await,
    ];
    for what in [lock("account:7"), limit("account:7", 1)] {
        held.push(granted(process.enter(&what, &elsewhere, 0).await.unwrap()).await);
        let queue = process.queue(&elsewhere.tenant, &what).await.unwrap();
        assert_eq!(ids(&queue.holders), [elsewhere.execute_id]);
        let queue = process.queue(&TenantId::default(), &what).await.unwrap();
        assert_ne!(ids(&queue.holders), [elsewhere.execute_id]);
    }
    join_all(held.into_iter().map(Grant::release)).await;
    close(processes).await;
}

async fn a_limit_lets_so_many_in_and_no_more(env: &dyn Env) {
    let processes = processes(env, 4).await;
    let what = limit("gpu", 3);
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut running: JoinSet<i64> = JoinSet::new();
    for n in 0..20 {
        let place = enter(&processes[n % 4], &what).await;
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        running.spawn(async move {
            let grant = granted(place).await;
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(30)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            let fence = grant.fence();
            grant.release().await;
            fence
        });
    }
    let fences: BTreeSet<i64> = running.join_all().await.into_iter().collect();
    assert_eq!(fences.len(), 20);
    assert_eq!(most.load(Ordering::SeqCst), 3);
    settled(&processes[0], &what).await;
    close(processes).await;
}

async fn limits_are_listed_while_somebody_wants_them(env: &dyn Env) {
    let processes = processes(env, 2).await;
    let names = async |tenant: &TenantId| {
        let names = processes[1].limits(tenant).await.unwrap();
        names.into_iter().map(String::from).collect::<Vec<_>>()
    };
    let mine = TenantId::default();
    assert!(names(&mine).await.is_empty());
    let gpu = granted(enter(&processes[0], &limit("gpu", 1)).await).await;
    let waiting = enter(&processes[1], &limit("gpu", 1)).await;
    let api = granted(enter(&processes[1], &limit("api/é", 1)).await).await;
    let elsewhere = Contender { tenant: "other".parse().unwrap(), ..contender() };
    let other = granted(processes[0].enter(&limit("theirs", 1), &elsewhere, 0).await.unwrap()).await;
    let locked = granted(enter(&processes[0], &lock("account:7")).await).await;
    assert_eq!(names(&mine).await, ["api/é", "gpu"]);
    assert_eq!(names(&elsewhere.tenant).await, ["theirs"]);
    for grant in [api, other, locked, gpu] {
        grant.release().await;
    }
    granted(waiting).await.release().await;
    testkit::eventually("nobody wants any", LIMIT, async || names(&mine).await.is_empty()).await;
    close(processes).await;
}

async fn a_fence_is_higher_than_the_floor_was(env: &dyn Env) {
    let processes = processes(env, 2).await;
    let mut last = 0;
    for n in 0..4 {
        let floor = processes[n % 2].fence_floor().await.unwrap();
        let grant = granted(enter(&processes[(n + 1) % 2], &lock("account:7")).await).await;
        assert!(grant.fence() > floor, "{} after the floor {floor}", grant.fence());
        let floor = processes[n % 2].fence_floor().await.unwrap();
        assert!(floor >= grant.fence() && grant.fence() > last, "{last}, {}, {floor}", grant.fence());
        last = grant.fence();
        grant.release().await;
    }
    close(processes).await;
}

async fn a_right_is_certain_for_longer_than_its_heartbeats_take(env: &dyn Env) {
    let processes = processes(env, 1).await;
    let held = granted(enter(&processes[0], &lock("account:7")).await).await;
    let mut validity = held.validity();
    let mut last = *validity.borrow_and_update();
    let until = tokio::time::Instant::now() + env.lease() * 2;
    let mut grown = 0;
    while tokio::time::Instant::now() < until {
        timeout(env.lease(), validity.changed()).await.unwrap().unwrap();
        let now = *validity.borrow_and_update();
        assert!(last.is_valid(), "the heartbeat came before the right ran out");
        match (last, now) {
            (Validity::Until { stop_at: before, .. }, Validity::Until { stop_at, kill_at }) => {
                assert!(stop_at > before && kill_at > stop_at);
            }
            other => panic!("{other:?}"),
        }
        (last, grown) = (now, grown + 1);
    }
    assert!(grown > 3, "{grown} heartbeats");
    held.release().await;
    assert_eq!(*validity.borrow(), Validity::Lost);
    close(processes).await;
}

async fn who_closes_gives_up_what_it_had(env: &dyn Env) {
    let processes = processes(env, 2).await;
    let what = lock("account:7");
    let held = granted(enter(&processes[0], &what).await).await;
    let waits = enter(&processes[0], &what).await;
    let next = enter(&processes[1], &what).await;
    let closed = tokio::time::Instant::now();
    processes[0].close().await;
    assert_eq!(*held.validity().borrow(), Validity::Lost);
    assert_eq!(timeout(LIMIT, waits.granted()).await.unwrap().err(), Some(Lost));
    granted(next).await.release().await;
    assert!(closed.elapsed() < env.lease(), "it ran out instead");
    assert!(matches!(processes[0].enter(&what, &contender(), 0).await.err(), Some(Refused::Failed(_))));
    settled(&processes[1], &what).await;
    close(processes).await;
}
