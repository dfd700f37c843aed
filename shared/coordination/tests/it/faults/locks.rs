//! Locks and limits while links are cut and servers die: lost at worst, never had by two.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coordination::zookeeper::{ZooKeeper, ZooKeeperConfig};
use coordination::{Boottime, Contended, Coordination, Grant, Lost, Validity};
use domain::TenantId;
use futures::future::join_all;
use testkit::{Ensemble, Fault, Proxy};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use zookeeper_client::Client;

use super::{ephemerals, linked, server};
use crate::env::{Env, LIMIT, OnZooKeeper, contender, enter, is_up, limit, lock, see, settled};

async fn granted(place: coordination::Place) -> Grant {
    timeout(LIMIT, place.granted()).await.expect("it is granted in time").unwrap()
}

/// How long before now the holder had to be dead; panics if it need not be yet.
fn margin(holder: &watch::Receiver<Validity>, until: Validity) -> Duration {
    let now = Boottime::now();
    let last = match *holder.borrow() {
        // What it knew last before it knew that it was lost.
        Validity::Lost => until,
        known => known,
    };
    let Validity::Until { stop_at, kill_at } = last else { panic!("it was never granted") };
    assert!(stop_at < now && kill_at < now, "two have it: {last:?} at {now:?}");
    now.since(kill_at)
}

/// Notes the last validity that was not [`Validity::Lost`], as long as the set lives.
fn note(of: &Grant) -> (watch::Receiver<Validity>, JoinSet<()>) {
    let mut from = of.validity();
    let (noted, seen) = watch::channel(*from.borrow());
    let mut task = JoinSet::new();
    task.spawn(async move {
        while from.changed().await.is_ok() {
            let now = *from.borrow_and_update();
            if now != Validity::Lost {
                noted.send_replace(now);
            }
        }
    });
    (seen, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_must_be_dead_before_the_next_has_it() {
    let (_server, env) = server().await;
    let mut margins = Vec::new();
    for what in [lock("account:7"), limit("gpu", 1), lock("account:8")] {
        let (link, holder) = linked(&env).await;
        let next = env.process();
        let held = granted(enter(&holder, &what).await).await;
        let place = enter(&next, &what).await;
        let (validity, (noted, _noting)) = (held.validity(), note(&held));
        sleep(Duration::from_millis(rand_ms(1_500))).await;
        link.set(Fault::Blackhole);
        let after = granted(place).await;
        margins.push(margin(&validity, *noted.borrow()));
        assert!(after.fence() > held.fence());
        link.set(Fault::Pass);
        link.cut();
        see(&mut held.validity(), "who is back knows that it is lost", |now| *now == Validity::Lost).await;
        // It frees nothing that is not its own.
        drop(held);
        sleep(Duration::from_millis(500)).await;
        assert!(after.validity().borrow().is_valid());
        let queue = next.queue(&TenantId::default(), &what).await.unwrap();
        assert_eq!((queue.holders.len(), queue.waiters.len()), (1, 0));
        after.release().await;
        settled(&next, &what).await;
        holder.close().await;
        next.close().await;
    }
    println!("dead before the next had it: {margins:?}");
}

fn rand_ms(below: u64) -> u64 {
    Boottime::now().nanoseconds() / 1_000 % below
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_keeps_its_place_while_the_link_blinks() {
    let (_server, env) = server().await;
    let (link, waiter) = linked(&env).await;
    let other = env.process();
    let what = lock("account:7");
    let held = granted(enter(&other, &what).await).await;
    let waits = enter(&waiter, &what).await;
    let behind = enter(&other, &what).await;
    let mut grants: JoinSet<(&str, Grant)> = JoinSet::new();
    grants.spawn(async move { ("the first", granted(waits).await) });
    grants.spawn(async move { ("behind it", granted(behind).await) });
    for _ in 0..3 {
        link.set(Fault::Reset);
        see(&mut waiter.link(), "it is cut off", |link| *link == coordination::Link::Down).await;
        sleep(Duration::from_millis(800)).await;
        link.set(Fault::Pass);
        is_up(&waiter).await;
    }
    // The predecessor goes while nobody can tell the waiter.
    link.set(Fault::Reset);
    held.release().await;
    sleep(Duration::from_millis(800)).await;
    assert!(grants.try_join_next().is_none(), "nobody overtakes the one that is cut off");
    link.set(Fault::Pass);
    for expected in ["the first", "behind it"] {
        let (who, grant) = grants.join_next().await.unwrap().unwrap();
        assert_eq!(who, expected);
        assert!(grants.try_join_next().is_none());
        grant.release().await;
    }
    settled(&other, &what).await;
    waiter.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_whose_session_is_over_is_told_so() {
    let (server, env) = server().await;
    let (link, waiter) = linked(&env).await;
    let other = env.process();
    let what = lock("account:7");
    let held = granted(enter(&other, &what).await).await;
    let waits = enter(&waiter, &what).await;
    link.set(Fault::Blackhole);
    assert_eq!(timeout(LIMIT, waits.granted()).await.unwrap().err(), Some(Lost));
    link.set(Fault::Pass);
    link.cut();
    is_up(&waiter).await;
    let again = enter(&waiter, &what).await;
    held.release().await;
    granted(again).await.release().await;
    settled(&other, &what).await;
    waiter.close().await;
    other.close().await;
    assert!(ephemerals(&server).await.is_empty());
}

/// M15: what was released while the link was silent is free as soon as it is back, long before the session would end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_releases_in_a_silent_link_are_repeated_until_they_are_done() {
    let (server, env) = server().await;
    let link = Proxy::start(&env.servers).await;
    let config = ZooKeeperConfig { servers: link.address().to_string(), session_ms: 18_000, ..env.config() };
    let worker: Arc<dyn Coordination> = Arc::new(ZooKeeper::connect(&config));
    let keys: Vec<Contended> = (0..200).map(|n| lock(&format!("account:{n}"))).collect();
    let held = join_all(keys.iter().map(async |what| granted(enter(&worker, what).await).await)).await;
    let before = ephemerals(&server).await;
    link.set(Fault::Blackhole);
    let released = tokio::time::Instant::now();
    // Half of them said so, the others were dropped.
    let (said, dropped): (Vec<_>, Vec<_>) = held.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    drop(dropped);
    join_all(said.into_iter().map(async |(_, grant)| grant.release().await)).await;
    tokio::time::sleep_until(released + Duration::from_secs(4)).await;
    link.set(Fault::Pass);
    link.cut();
    let left =
        async || ephemerals(&server).await.into_iter().filter(|(_, path)| path.contains("/locks/")).count();
    testkit::eventually("nothing is left", Duration::from_secs(6), async || left().await == 0).await;
    println!("all gone {:?} after they were released", released.elapsed());
    let owners = |of: &[(String, String)]| of.iter().map(|(owner, _)| owner.clone()).collect::<BTreeSet<_>>();
    assert_eq!(owners(&before), owners(&ephemerals(&server).await), "the session lives");
    worker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_had_of_a_limit_comes_free() {
    let (_server, env) = server().await;
    let (link, killed) = linked(&env).await;
    let others = env.process();
    let what = limit("gpu", 3);
    let mut held = vec![
        granted(enter(&killed, &what).await).await,
        granted(enter(&killed, &what).await).await,
        granted(enter(&others, &what).await).await,
    ];
    // It stands at the head of the queue as well.
    let head = enter(&killed, &what).await;
    let mut places = Vec::new();
    for _ in 0..4 {
        places.push(enter(&others, &what).await);
    }
    // As a process that is killed: nobody hears of it any more.
    link.set(Fault::Blackhole);
    let mut places = places.into_iter();
    for place in places.by_ref().take(2) {
        held.push(granted(place).await);
    }
    let mut third = Box::pin(places.next().unwrap().granted());
    assert!(timeout(Duration::from_millis(500), &mut third).await.is_err(), "three have it");
    held.remove(2).release().await;
    held.push(timeout(LIMIT, third).await.unwrap().unwrap());
    drop((head, places));
    join_all(held.into_iter().skip(2).map(Grant::release)).await;
    settled(&others, &what).await;
    drop(link);
    others.close().await;
    killed.close().await;
}

/// A thousand wait on one key; one release tells one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_waiters_one_is_told() {
    let (server, env) = server().await;
    let processes: Vec<Arc<dyn Coordination>> = (0..4)
        .map(|_| Arc::new(ZooKeeper::connect(&ZooKeeperConfig { session_ms: 20_000, ..env.config() })) as _)
        .collect();
    let what = lock("account:7");
    let mut held = granted(enter(&processes[0], &what).await).await;
    let mut places = std::collections::VecDeque::new();
    for n in 0..1_000 {
        places.push_back(enter(&processes[n % 4], &what).await);
    }
    let told = async || {
        let all = server.admin(&["mntr"]).await;
        let line = all.lines().find_map(|line| line.strip_prefix("zk_sum_node_deleted_watch_count")).unwrap();
        line.trim().parse::<f64>().unwrap()
    };
    // Each watches the one before it.
    testkit::eventually("all watch", LIMIT, async || {
        let last = places.back().unwrap().position();
        let at = *last.borrow();
        at == 999 && server.admin(&["wchs"]).await.contains("Total watches:10")
    })
    .await;
    let mut before = told().await;
    for _ in 0..20 {
        held.release().await;
        held = granted(places.pop_front().unwrap()).await;
        let now = told().await;
        assert!((now - before - 1.0).abs() < 0.1, "{} were told", now - before);
        before = now;
    }
    let began = tokio::time::Instant::now();
    drop(places);
    held.release().await;
    settled(&processes[0], &what).await;
    println!("980 waiters left in {:?}", began.elapsed());
    join_all(processes.iter().map(|process| process.close())).await;
}

/// On one server of an ensemble.
fn on(servers: &str, env: &OnZooKeeper) -> Arc<dyn Coordination> {
    Arc::new(ZooKeeper::connect(&ZooKeeperConfig { servers: servers.to_owned(), ..env.config() }))
}

/// A server that has lost the majority answers reads for some time more (8 s here). A heartbeat that only reads would
/// believe it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_minority_answers_keeps_no_lock() {
    let ensemble = Ensemble::start().await;
    let leader = ensemble.leader().await;
    for cut_off in [(leader + 1) % 3, leader] {
        let leads = cut_off == leader;
        let others: Vec<String> =
            (0..3).filter(|n| *n != cut_off).map(|n| ensemble.server(n).url()).collect();
        let env = OnZooKeeper::on(others.join(","));
        let (holder, next) = (on(&ensemble.server(cut_off).url(), &env), env.process());
        let reader = Client::connect(&ensemble.server(cut_off).url()).await.unwrap();
        let what = lock("account:7");
        let held = granted(enter(&holder, &what).await).await;
        let place = enter(&next, &what).await;
        let (validity, (noted, _noting)) = (held.validity(), note(&held));
        // Some heartbeats.
        sleep(Duration::from_millis(2_000 + rand_ms(500))).await;
        assert!(validity.borrow().is_valid());
        // A leader that is frozen comes back believing that it leads.
        if leads {
            ensemble.server(cut_off).pause().await;
        } else {
            ensemble.isolate(cut_off);
        }
        let cut = Boottime::now();
        let after = match place.granted().await {
            Ok(after) => after,
            // Before the others have a leader again, its session may be over as well.
            Err(Lost) => granted_again(&next, &what).await,
        };
        let margin = margin(&validity, *noted.borrow());
        let path = env.config().root;
        let read = timeout(Duration::from_secs(1), reader.check_stat(&path)).await;
        println!(
            "{}: granted {:?} after the cut, {margin:?} after the old one was dead; a read there: {read:?}",
            if leads { "leader" } else { "follower" },
            Boottime::now().since(cut)
        );
        assert!(leads || matches!(read, Ok(Ok(Some(_)))), "it knew before that it is cut off");
        ensemble.heal();
        ensemble.server(cut_off).resume().await;
        see(&mut held.validity(), "it is lost", |now| *now == Validity::Lost).await;
        assert!(after.fence() > held.fence());
        drop(held);
        after.release().await;
        is_up(&holder).await;
        settled(&next, &what).await;
        holder.close().await;
        next.close().await;
        ensemble.leader().await;
    }
}

async fn granted_again(process: &Arc<dyn Coordination>, what: &Contended) -> Grant {
    testkit::eventually_some("it is granted after all", LIMIT, async || {
        process.enter(what, &contender(), 10).await.ok()?.granted().await.ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_killed_locks_go_on_or_are_lost_but_are_never_doubled() {
    let ensemble = Ensemble::start().await;
    let env = OnZooKeeper::on(ensemble.url());
    let config = ZooKeeperConfig { session_ms: 10_000, ..env.config() };
    let processes: Vec<Arc<dyn Coordination>> =
        (0..3).map(|_| Arc::new(ZooKeeper::connect(&config)) as _).collect();
    let what = lock("account:7");
    for round in 0..3 {
        let held = granted(enter(&processes[round], &what).await).await;
        let next = &processes[(round + 1) % 3];
        let place = enter(next, &what).await;
        let (noted, _noting) = note(&held);
        let mut validity = held.validity();
        // Some heartbeats.
        sleep(Duration::from_secs(4)).await;
        let leader = ensemble.leader().await;
        ensemble.server(leader).kill().await;
        let killed = Boottime::now();
        // No heartbeat before the kill says as much.
        let goes_on = |now: &Validity| match now {
            Validity::Until { stop_at, .. } => *stop_at > killed.after(Duration::from_secs(5)),
            Validity::Lost => true,
        };
        let lapsed = async {
            let mut lapsed = false;
            loop {
                lapsed |= !held.validity().borrow().is_valid();
                if goes_on(&held.validity().borrow()) {
                    return lapsed;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        let lapsed = timeout(LIMIT, lapsed).await.unwrap();
        let end = see(&mut validity, "it goes on or is lost", goes_on).await;
        println!(
            "round {round}: {} {:?} after the leader was killed; past its stop point meanwhile: {lapsed}",
            if end == Validity::Lost { "lost" } else { "goes on" },
            Boottime::now().since(killed),
        );
        if end == Validity::Lost {
            let after = timeout(LIMIT, place.granted()).await.unwrap();
            if after.is_ok() {
                margin(&validity, *noted.borrow());
            }
        } else {
            // The session of who waits may have ended with the leader: then it enters again.
            let mut place = Box::pin(place.granted());
            let early = timeout(Duration::from_millis(200), &mut place).await;
            assert!(!matches!(early, Ok(Ok(_))), "two have it");
            held.release().await;
            let next_grant = match early {
                Ok(_) => None,
                Err(_) => timeout(LIMIT, place).await.unwrap().ok(),
            };
            match next_grant {
                Some(grant) => grant,
                None => granted_again(next, &what).await,
            }
            .release()
            .await;
        }
        ensemble.server(leader).start_again().await;
        settled(next, &what).await;
    }
    granted_again(&processes[0], &what).await.release().await;
    join_all(processes.iter().map(|process| process.close())).await;
}
