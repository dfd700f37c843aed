//! What the client crate and the servers do that their names don't say.

use std::time::Duration;

use coordination::zookeeper::{ZooKeeper, ZooKeeperConfig, ZooKeeperCredential};
use coordination::{Boottime, Contended, Coordination, Link};
use domain::TenantId;
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode, Error, LockOptions, LockPrefix};

use crate::env::{Env, OnZooKeeper, contender, enter, is_up, leads, limit, lock, node, see, sees_nodes};

/// Z10: without its `tokio` feature the client compiles, and panics at its first connect for want of a runtime.
#[tokio::test]
async fn the_client_crate_has_a_runtime() {
    let process = OnZooKeeper::new().process();
    is_up(&process).await;
    process.close().await;
    assert_eq!(*process.link().borrow(), Link::Down);
}

/// Z12: the sequence begins anew when its parent is gone, and a fence made of it would go back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fence_grows_though_the_sequence_begins_anew() {
    let env = OnZooKeeper::new();
    let client = Client::connect(&env.servers).await.unwrap();
    let directory = format!("{}/leader/upkeep", env.config().root);
    let mut last = 0;
    for _ in 0..3 {
        let process = env.process();
        let fence = leads(&mut process.lead("upkeep", "one"), "the only one").await;
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        process.close().await;
        let sequence = client.list_children(&directory).await.unwrap();
        assert!(sequence.is_empty(), "{sequence:?}");
        client.delete(&directory, None).await.unwrap();
    }
}

/// Whoever can write to the ensemble can write what is no announcement of ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_hides_nobody() {
    let env = OnZooKeeper::new();
    let process = env.process();
    let member = process.join(node("one", 1)).await.unwrap();
    sees_nodes(&process, &["one"]).await;
    let client = Client::connect(&env.servers).await.unwrap();
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let root = env.config().root;
    client.create(&format!("{root}/nodes/noise"), b"{\"id\":", &options).await.unwrap();
    client.mkdir(&format!("{root}/models/iris/x"), &options).await.unwrap();
    let other = env.process();
    let two = other.join(node("two", 1)).await.unwrap();
    sees_nodes(&process, &["one", "two"]).await;
    let notice = crate::env::notice("iris", 1);
    process.publish_version(&notice).await.unwrap();
    see(&mut other.versions(), "the version", |versions| **versions == [notice.clone()]).await;
    // Somebody deletes an announcement: the node makes it again at its next check, at the latest when it says something.
    client.delete(&format!("{root}/nodes/two"), None).await.unwrap();
    sees_nodes(&process, &["one"]).await;
    two.update(node("two", 1)).await.unwrap();
    sees_nodes(&process, &["one", "two"]).await;
    tokio::time::timeout(Duration::from_secs(10), async {
        two.leave().await;
        member.leave().await;
    })
    .await
    .unwrap();
    process.close().await;
    other.close().await;
}

/// The crate's own lock, on a directory of its own.
async fn crate_lock<'a>(
    client: &'a Client,
    directory: &str,
) -> Result<zookeeper_client::LockClient<'a>, zookeeper_client::Error> {
    let options = LockOptions::new(Acls::anyone_all())
        .with_ancestor_options(CreateMode::Persistent.with_acls(Acls::anyone_all()))
        .unwrap();
    client.lock(LockPrefix::new_curator(directory, "lock-").unwrap(), b"", options).await
}

fn micros(n: u64) -> Duration {
    // Spread over what making an entry takes.
    Duration::from_micros(n * 7_919 % 3_000)
}

/// M12, Z1: the crate deletes what a cancelled `lock()` made by its name alone, without the directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_crates_lock_leaks_when_it_is_cancelled() {
    let env = OnZooKeeper::new();
    let client = Client::connect(&env.servers).await.unwrap();
    let other = Client::connect(&env.servers).await.unwrap();
    let directory = format!("{}/theirs", env.config().root);
    let held = crate_lock(&other, &directory).await.unwrap();
    for n in 0..400 {
        drop(timeout(micros(n), crate_lock(&client, &directory)).await);
    }
    // Longer than any delete in the background takes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let left = client.list_children(&directory).await.unwrap().len() - 1;
    println!("the crate's lock left {left} of 400");
    assert!(left > 0, "the crate's lock leaks no more when it is cancelled: look at PITFALLS Z1 again");
    drop(held);
}

/// The same on ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_cancelled_waiters_leave_nothing() {
    let env = OnZooKeeper::new();
    let [one, two] = [env.process(), env.process()];
    is_up(&one).await;
    is_up(&two).await;
    let what = lock("account:7");
    let held = enter(&two, &what).await.granted().await.unwrap();
    for n in 0..1_000 {
        let wait = async { one.enter(&what, &contender(), 10_000).await.unwrap().granted().await.map(drop) };
        assert!(timeout(micros(n), wait).await.is_err(), "it is held");
    }
    assert!(held.validity().borrow().is_valid());
    testkit::eventually("who was cancelled is not in the queue", Duration::from_secs(10), async || {
        let queue = two.queue(&TenantId::default(), &what).await.unwrap();
        assert_eq!(queue.holders.len(), 1);
        queue.waiters.is_empty()
    })
    .await;
    held.release().await;
    enter(&one, &what).await.granted().await.unwrap().release().await;
    one.close().await;
    two.close().await;
}

/// M13, Z3: each clone of the crate's guard deletes the entry when it is dropped. (A [`coordination::Grant`] has no clone.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_crates_lock_is_released_by_a_clone() {
    let env = OnZooKeeper::new();
    let client = Client::connect(&env.servers).await.unwrap();
    let other = Client::connect(&env.servers).await.unwrap();
    let directory = format!("{}/theirs", env.config().root);
    let held = crate_lock(&client, &directory).await.unwrap().into_owned();
    drop(held.clone());
    let second = timeout(Duration::from_secs(5), crate_lock(&other, &directory)).await;
    assert!(
        second.is_ok(),
        "a clone of the crate's guard releases nothing any more: look at PITFALLS Z3 again"
    );
    drop(held);
}

/// M15, Z2: the crate tries once to delete the entry, and not again if a silent link gave no answer. (Ours:
/// `faults::locks::two_hundred_releases_in_a_silent_link_are_repeated_until_they_are_done`.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_crates_lock_stays_when_it_is_dropped_while_the_link_is_silent() {
    let env = OnZooKeeper::new();
    let link = testkit::Proxy::start(&env.servers).await;
    let connector = Client::connector().with_session_timeout(Duration::from_secs(8));
    let client = connector.connect(&link.address().to_string()).await.unwrap();
    let other = Client::connect(&env.servers).await.unwrap();
    let directory = format!("{}/theirs", env.config().root);
    let held = crate_lock(&client, &directory).await.unwrap();
    link.set(testkit::Fault::Blackhole);
    drop(held);
    tokio::time::sleep(Duration::from_millis(4_300)).await;
    link.set(testkit::Fault::Pass);
    link.cut();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let left = other.list_children(&directory).await.unwrap().len();
    assert!(!client.state().is_terminated(), "its session has ended");
    assert_eq!(left, 1, "the crate's lock is released after a silent link: look at PITFALLS Z2 again");
}

/// Z12 for locks: the parent is gone when nobody wants the lock for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_grow_though_the_parent_was_removed_and_made_again() {
    let env = OnZooKeeper::new();
    let client = Client::connect(&env.servers).await.unwrap();
    let process = env.process();
    let mut last = 0;
    for what in [lock("account:7"), limit("gpu", 1)] {
        for _ in 0..3 {
            let grant = enter(&process, &what).await.granted().await.unwrap();
            assert!(grant.fence() > last, "{} after {last}", grant.fence());
            last = grant.fence();
            grant.release().await;
            crate::env::settled(&process, &what).await;
            for kind in ["locks", "limits"] {
                remove_all(&client, &format!("{}/{kind}", env.config().root)).await;
            }
        }
    }
    process.close().await;
}

async fn remove_all(client: &Client, path: &str) {
    let mut found = vec![path.to_owned()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        at += 1;
        let names = client.list_children(&path).await.unwrap_or_default();
        found.extend(names.into_iter().map(|name| format!("{path}/{name}")));
    }
    for path in found.iter().rev() {
        drop(client.delete(path, None).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_whose_entry_somebody_deletes_is_lost() {
    let env = OnZooKeeper::new();
    let client = Client::connect(&env.servers).await.unwrap();
    let process = env.process();
    let what = lock("account:7");
    let held = enter(&process, &what).await.granted().await.unwrap();
    let waits = enter(&process, &what).await;
    remove_all(&client, &format!("{}/locks", env.config().root)).await;
    see(&mut held.validity(), "it is lost", |now| *now == coordination::Validity::Lost).await;
    // It may have had it for a moment, when the one before it was gone already.
    if let Ok(grant) = timeout(Duration::from_secs(10), waits.granted()).await.unwrap() {
        see(&mut grant.validity(), "it is lost", |now| *now == coordination::Validity::Lost).await;
    }
    enter(&process, &what).await.granted().await.unwrap().release().await;
    process.close().await;
}

/// What has a credential is closed to all who lack it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_credential_nobody_else_reads_or_deletes_anything() {
    let env = OnZooKeeper::new();
    let root = env.config().root;
    let open = env.process();
    // Made before there was a credential.
    is_up(&open).await;
    open.publish_version(&crate::env::notice("iris", 1)).await.unwrap();
    open.close().await;
    let credential = |password: &str| {
        let password = password.to_owned();
        Some(ZooKeeperCredential { user: "gantry".to_owned(), password })
    };
    let ours = ZooKeeperConfig { credential: credential("right"), ..env.config() };
    let process: std::sync::Arc<dyn Coordination> = std::sync::Arc::new(ZooKeeper::connect(&ours));
    let member = process.join(node("one", 1)).await.unwrap();
    let held = enter(&process, &lock("account:7")).await.granted().await.unwrap();
    let lease = enter(&process, &limit("gpu", 1)).await.granted().await.unwrap();
    leads(&mut process.lead("upkeep", "one"), "the only one").await;
    let us = Client::connector().with_auth("digest", b"gantry:right").connect(&env.servers).await.unwrap();
    let wrong = Client::connector().with_auth("digest", b"gantry:wrong").connect(&env.servers).await.unwrap();
    let nobody = Client::connect(&env.servers).await.unwrap();
    let mut paths = vec![root.clone()];
    let mut at = 0;
    while let Some(path) = paths.get(at).cloned() {
        at += 1;
        paths.extend(us.list_children(&path).await.unwrap().into_iter().map(|name| format!("{path}/{name}")));
    }
    assert!(paths.len() > 15, "{paths:?}");
    for path in &paths {
        for client in [&nobody, &wrong] {
            assert_eq!(client.get_data(path).await.err(), Some(Error::NoAuth), "{path}");
            assert_eq!(client.list_children(path).await.err(), Some(Error::NoAuth), "{path}");
            assert_eq!(client.set_data(path, b"", None).await.err(), Some(Error::NoAuth), "{path}");
            if *path != root {
                assert_eq!(client.delete(path, None).await.err(), Some(Error::NoAuth), "{path}");
            }
        }
    }
    // Who has another credential, or none, is told; it does not count as connected.
    for credential in [credential("wrong"), None] {
        let other = ZooKeeper::connect(&ZooKeeperConfig { credential, ..env.config() });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(*other.link().borrow(), Link::Down);
        other.close().await;
    }
    member.leave().await;
    held.release().await;
    lease.release().await;
    process.close().await;
}

/// Intervals in which somebody had the lock, by the clock of the machine.
type Intervals = Vec<(&'static str, u64, u64)>;

/// Runs kazoo in a process of its own; its lines come as they are said.
async fn kazoo(
    env: &OnZooKeeper,
    path: &str,
    times: u32,
    hold_ms: u32,
) -> (tokio::process::Child, tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStdout>>) {
    use tokio::io::AsyncBufReadExt;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/kazoo_contender.py");
    let mut child = tokio::process::Command::new("/usr/bin/python3")
        .args([script, &env.servers, path, &times.to_string(), &hold_ms.to_string()])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("run python3: compose/install installs it and kazoo");
    let lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

async fn said(
    lines: &mut tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStdout>>,
    what: &str,
) -> u64 {
    let line =
        timeout(crate::env::LIMIT, lines.next_line()).await.expect("kazoo says something in time").unwrap();
    let line = line.unwrap_or_else(|| panic!("kazoo ended instead of saying {what:?}: run compose/install"));
    let (word, at) = line.split_once(' ').unwrap();
    assert_eq!(word, what);
    at.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kazoo_stands_in_the_same_queue() {
    let env = OnZooKeeper::new();
    let [one, two] = [env.process(), env.process()];
    let what = lock("account:7");
    let Contended::Lock(key) = &what else { unreachable!() };
    let path = format!("{}/locks/{}", env.config().root, key.path_part(&TenantId::default()));
    let held = enter(&one, &what).await.granted().await.unwrap();
    let (_child, mut lines) = kazoo(&env, &path, 2, 300).await;
    said(&mut lines, "waits").await;
    testkit::eventually("kazoo waits", crate::env::LIMIT, async || {
        one.queue(&TenantId::default(), &what).await.unwrap().waiters == [None]
    })
    .await;
    let behind = enter(&two, &what).await;
    // One order: ours, kazoo's, ours, kazoo's.
    held.release().await;
    said(&mut lines, "has").await;
    let gave = said(&mut lines, "gives").await;
    let grant = timeout(crate::env::LIMIT, behind.granted()).await.unwrap().unwrap();
    assert!(Boottime::now().nanoseconds() > gave);
    said(&mut lines, "waits").await;
    let released = Boottime::now().nanoseconds();
    grant.release().await;
    assert!(said(&mut lines, "has").await > released);
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kazoo_and_gantry_never_have_it_together() {
    let env = OnZooKeeper::new();
    let process = env.process();
    let what = lock("account:7");
    let Contended::Lock(key) = &what else { unreachable!() };
    let path = format!("{}/locks/{}", env.config().root, key.path_part(&TenantId::default()));
    // Keeps the parent.
    let keeper = enter(&process, &what).await.granted().await.unwrap();
    let (_a, mut a) = kazoo(&env, &path, 40, 3).await;
    let (_b, mut b) = kazoo(&env, &path, 40, 3).await;
    let kazoos = async |name: &'static str, lines: &mut tokio::io::Lines<_>| {
        let mut had = Intervals::new();
        for _ in 0..40 {
            said(lines, "waits").await;
            had.push((name, said(lines, "has").await, said(lines, "gives").await));
        }
        had
    };
    let ours = async |name: &'static str| {
        let mut had = Intervals::new();
        for _ in 0..40 {
            let grant = enter(&process, &what).await.granted().await.unwrap();
            let from = Boottime::now().nanoseconds();
            tokio::time::sleep(Duration::from_millis(3)).await;
            had.push((name, from, Boottime::now().nanoseconds()));
            grant.release().await;
        }
        had
    };
    keeper.release().await;
    let (a, b, c, d) = tokio::join!(
        kazoos("kazoo a", &mut a),
        kazoos("kazoo b", &mut b),
        ours("gantry c"),
        ours("gantry d")
    );
    let mut all: Intervals = [a, b, c, d].concat();
    all.sort_by_key(|(_, from, _)| *from);
    assert_eq!(all.len(), 160);
    for pair in all.windows(2) {
        assert!(pair[0].2 <= pair[1].1, "two had it: {pair:?}");
    }
    process.close().await;
}
