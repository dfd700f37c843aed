use std::time::{Duration, Instant};

use domain::Digest;
use protocol::cache::FetchAnswer;
use testkit::{Fault, eventually};
use tokio::time::sleep;

use crate::env::{Env, LIMIT};

/// How many versions of how many bytes. (By hand: 50 of 20 MB.)
const VERSIONS: usize = 50;
const BYTES: usize = 1_000_000;
/// So that it lasts for a while: what the node may take.
const BYTES_PER_SECOND_MAX: u64 = 5_000_000;

/// What the link to the store does to its answers, one after the other, each for so long.
const FAULTS: [(&str, Fault, Duration); 5] = [
    ("slow, 1 KB/s", Fault::Rate(1_000), Duration::from_secs(3)),
    ("the server is killed", Fault::Reset, Duration::from_secs(2)),
    ("every connection is spoilt", Fault::Corrupt(200_000), Duration::from_secs(2)),
    ("every connection is cut", Fault::Truncate(300_000), Duration::from_secs(2)),
    ("spoilt late", Fault::Corrupt(900_000), Duration::from_secs(2)),
];

/// Of those that are in the cache, are all what they should be? Returns how many there are.
fn check(env: &Env, digests: &[Digest]) -> usize {
    let mut there = 0;
    for (n, digest) in digests.iter().enumerate() {
        let dir = env.bundle_dir(*digest);
        let Ok(data) = std::fs::read(dir.join("data")) else { continue };
        assert!(data == crate::env::data(n, BYTES), "bundle {n} is wrong in the cache");
        assert_eq!(std::fs::read_to_string(dir.join("number")).unwrap(), n.to_string());
        there += 1;
    }
    there
}

/// Asks as a worker does: again and again.
async fn insist(env: &Env, digest: Digest) -> (u32, u32) {
    let (mut refused, mut failed) = (0, 0);
    loop {
        match env.ask(digest).await {
            FetchAnswer::Ready => return (refused, failed),
            FetchAnswer::Refused { retry_after_ms } => {
                refused += 1;
                sleep(Duration::from_millis(retry_after_ms)).await;
            }
            FetchAnswer::Missing | FetchAnswer::Corrupt { .. } | FetchAnswer::Unavailable { .. } => {
                failed += 1;
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

#[tokio::test]
async fn fifty_versions_come_through_a_link_that_is_slow_cut_and_spoilt_and_none_is_wrong() {
    let mut env = Env::new().await;
    env.config.bandwidth_bytes_per_second_max = BYTES_PER_SECOND_MAX;
    let mut digests = Vec::new();
    for n in 0..VERSIONS {
        digests.push(env.put(n, BYTES).await);
        env.publish(digests[n]).await;
    }
    let packed: u64 = digests.iter().map(|it| std::fs::metadata(env.object(*it)).unwrap().len()).sum();
    let began = Instant::now();
    let sync = env.start().await;
    let asked = &digests[VERSIONS / 2..];
    let workers = futures::future::join_all(asked.iter().map(|digest| insist(&env, *digest)));
    let faults = async {
        for (what, fault, time) in FAULTS {
            if fault == Fault::Reset {
                env.link.set(fault)
            } else {
                env.link.set_to_client(fault)
            }
            sleep(time).await;
            env.link.set(Fault::Pass);
            eprintln!("{:>7.1?} {what}: {} of {VERSIONS} there", began.elapsed(), check(&env, &digests));
        }
    };
    let (answers, ()) = futures::future::join(workers, faults).await;
    let all = || digests.iter().all(|digest| env.bundle_dir(*digest).exists());
    eventually("all are there", 10 * LIMIT, async || all()).await;
    let took = began.elapsed();
    sync.stop().await;
    assert_eq!(check(&env, &digests), VERSIONS);
    let (refused, failed) = answers.iter().fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    let (most, read) = (env.server.reads_at_once_most(), env.server.bytes_read());
    eprintln!(
        "{took:.1?}: {VERSIONS} bundles, {packed} bytes; the store sent {read}; {most} reads at once at most; {} connections; \
         of those who asked {refused} times refused, {failed} times failed",
        env.link.connections(),
    );
    assert!(most <= 10, "{most} at once");
    assert!(refused > 0, "an eleventh was refused");
    let parts = std::fs::read_dir(env.config.cache_dir.join("parts")).unwrap().count();
    assert_eq!(parts, 0, "nothing half done is left");
}
