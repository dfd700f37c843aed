use std::fs::File;
use std::time::{Duration, SystemTime};

use protocol::cache::FetchAnswer;
use testkit::eventually;

use crate::env::{Env, LIMIT};

/// Pretends that a bundle was last used `ago`.
fn age(env: &Env, digest: domain::Digest, ago: Duration) {
    File::open(env.bundle_dir(digest)).unwrap().set_modified(SystemTime::now() - ago).unwrap();
}

#[tokio::test]
async fn what_was_not_used_for_longest_makes_room() {
    let mut env = Env::new().await;
    env.config.cache_bytes_max = 250_000;
    env.config.cache_keep_ms = 60_000;
    let sync = env.start().await;
    let [a, b, c] = [env.put(1, 100_000).await, env.put(2, 100_000).await, env.put(3, 100_000).await];
    assert_eq!(env.ask(a).await, FetchAnswer::Ready);
    assert_eq!(env.ask(b).await, FetchAnswer::Ready);
    age(&env, a, Duration::from_secs(200));
    age(&env, b, Duration::from_secs(100));
    // Asking again is a use.
    assert_eq!(env.ask(a).await, FetchAnswer::Ready);
    assert_eq!(env.ask(c).await, FetchAnswer::Ready);
    assert!(env.bundle_dir(a).exists() && !env.bundle_dir(b).exists() && env.bundle_dir(c).exists());
    // What was taken out is had again, and everything else was used just now: over the bound, for a while.
    assert_eq!(env.ask(b).await, FetchAnswer::Ready);
    assert!([a, b, c].iter().all(|digest| env.bundle_dir(*digest).exists()));
    sync.stop().await;
}

#[tokio::test]
async fn a_bundle_that_somebody_runs_from_stays() {
    let mut env = Env::new().await;
    env.config.cache_bytes_max = 250_000;
    env.config.cache_keep_ms = 1_000;
    let sync = env.start().await;
    let [a, b, c] = [env.put(1, 100_000).await, env.put(2, 100_000).await, env.put(3, 100_000).await];
    assert_eq!(env.ask(a).await, FetchAnswer::Ready);
    assert_eq!(env.ask(b).await, FetchAnswer::Ready);
    let used = File::open(env.bundle_dir(a)).unwrap();
    used.lock_shared().unwrap();
    age(&env, a, Duration::from_secs(200));
    age(&env, b, Duration::from_secs(100));
    assert_eq!(env.ask(c).await, FetchAnswer::Ready);
    assert!(env.bundle_dir(a).exists() && !env.bundle_dir(b).exists() && env.bundle_dir(c).exists());
    sync.stop().await;
}

#[tokio::test]
async fn a_restart_knows_what_is_there_and_clears_what_is_half_done() {
    let mut env = Env::new().await;
    env.config.cache_bytes_max = 150_000;
    env.config.cache_keep_ms = 1_000;
    let sync = env.start().await;
    let [a, b] = [env.put(1, 100_000).await, env.put(2, 100_000).await];
    assert_eq!(env.ask(a).await, FetchAnswer::Ready);
    sync.stop().await;
    let half = env.config.cache_dir.join("bundles/.unpacking-x/deep");
    std::fs::create_dir_all(&half).unwrap();
    age(&env, a, Duration::from_secs(200));
    let sync = env.start().await;
    assert!(!half.exists());
    assert_eq!(env.ask(b).await, FetchAnswer::Ready);
    assert!(!env.bundle_dir(a).exists() && env.bundle_dir(b).exists());
    sync.stop().await;
}

#[tokio::test]
async fn prefetching_takes_nothing_out_that_was_used_lately() {
    let mut env = Env::new().await;
    env.config.cache_bytes_max = 250_000;
    env.config.cache_keep_ms = 60_000;
    let sync = env.start().await;
    let mut digests = Vec::new();
    for n in 0..4 {
        digests.push(env.put(n, 100_000).await);
    }
    for digest in &digests[..2] {
        env.publish(*digest).await;
        eventually("it is there", LIMIT, async || env.bundle_dir(*digest).exists()).await;
    }
    // The cache is full now: a further version stays away until it is asked for.
    for digest in &digests[2..] {
        env.publish(*digest).await;
    }
    assert_eq!(env.ask(digests[3]).await, FetchAnswer::Ready);
    assert!(!env.bundle_dir(digests[2]).exists());
    sync.stop().await;
}

#[tokio::test]
async fn what_an_alias_points_at_makes_room_and_what_it_put_out_does_not_come_back() {
    let mut env = Env::new().await;
    env.config.cache_bytes_max = 250_000;
    env.config.cache_keep_ms = 60_000;
    let sync = env.start().await;
    let mut digests = Vec::new();
    for n in 0..3 {
        digests.push(env.put(n, 100_000).await);
        env.publish(digests[n]).await;
        eventually("it is there", LIMIT, async || env.bundle_dir(digests[n]).exists()).await;
        // `latest` moves to the next: the oldest has to go for the last.
        age(&env, digests[n], Duration::from_secs(200));
    }
    assert!(!env.bundle_dir(digests[0]).exists() && env.bundle_dir(digests[1]).exists());
    let connections = env.link.connections();
    sync.stop().await;
    let sync = env.start().await;
    assert_eq!(env.ask(digests[2]).await, FetchAnswer::Ready);
    sync.stop().await;
    assert_eq!(env.link.connections(), connections, "nothing was fetched again");
}

#[tokio::test]
async fn a_bundle_that_is_not_as_it_was_put_there_is_fetched_again() {
    let env = Env::new().await;
    let digest = env.put(1, 1_000).await;
    let sync = env.start().await;
    assert_eq!(env.ask(digest).await, FetchAnswer::Ready);
    sync.stop().await;
    let data = env.bundle_dir(digest).join("data");
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&data, b"short").unwrap();
    let sync = env.start().await;
    assert!(!env.bundle_dir(digest).exists());
    assert_eq!(env.ask(digest).await, FetchAnswer::Ready);
    assert_eq!(std::fs::read(&data).unwrap().len(), 1_000);
    sync.stop().await;
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_is_not_filled_with_what_nobody_asked_for() {
    let mut env = Env::new().await;
    env.config.disk_free_bytes_min = u64::MAX / 4;
    env.config.cache_keep_ms = 0;
    let sync = env.start().await;
    let [asked, published] = [env.put(1, 1_000).await, env.put(2, 1_000).await];
    env.publish(published).await;
    assert_eq!(env.ask(asked).await, FetchAnswer::Ready);
    assert_eq!(env.ask(published).await, FetchAnswer::Ready);
    // Above its bound the disk lets no bundle stay that nobody runs from, but for the one that just came.
    eventually("the other one is gone", LIMIT, async || !env.bundle_dir(asked).exists()).await;
    sync.stop().await;
}
