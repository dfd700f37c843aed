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
async fn prefetching_takes_nothing_out() {
    let mut env = Env::new().await;
    env.config.cache_bytes_max = 150_000;
    env.config.cache_keep_ms = 0;
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
