use domain::Digest;
use protocol::BundleState;
use protocol::cache::FetchAnswer;
use testkit::{Fault, eventually};

use crate::env::{Env, LIMIT};

impl Env {
    /// What is said of `digest`.
    pub fn said(&self, digest: Digest) -> Option<BundleState> {
        let bundles = self.ports.coordination.bundles().borrow().clone();
        bundles.iter().find(|it| it.digest == digest && it.node.as_str() == "here").map(|it| it.state.clone())
    }
}

#[tokio::test]
async fn a_node_says_what_it_has_what_is_on_its_way_and_what_failed() {
    let mut env = Env::new().await;
    env.config.cache_bytes_max = 3 << 20;
    env.config.cache_keep_ms = 0;
    let _watching = env.ports.coordination.bundles();
    let sync = env.start().await;
    let digest = env.put(1, 2 << 20).await;
    let packed = std::fs::metadata(env.object(digest)).unwrap().len();
    env.link.set(Fault::Reset);
    env.publish(digest).await;
    let failed = || matches!(env.said(digest), Some(BundleState::Failed { .. }));
    eventually("the failure is said", LIMIT, async || failed()).await;
    env.link.set(Fault::Pass);
    env.link.set_to_client(Fault::Rate(400_000));
    let fetching = || match env.said(digest) {
        Some(BundleState::Fetching { bytes, bytes_total }) => bytes > 0 && bytes_total == packed,
        _ => false,
    };
    eventually("it is said to be on its way", LIMIT, async || fetching()).await;
    env.link.set(Fault::Pass);
    let ready = Some(BundleState::Ready { bytes: packed });
    eventually("it is said to be there", LIMIT, async || env.said(digest) == ready).await;
    sync.stop().await;

    // A new life says so, too; and what goes is taken back.
    let sync = env.start().await;
    eventually("it is said again", LIMIT, async || env.said(digest) == ready).await;
    let other = env.put(2, 2 << 20).await;
    assert_eq!(env.ask(other).await, FetchAnswer::Ready);
    // What the life before said may be seen to go in between, so both are asked together.
    let is_gone = || env.said(digest).is_none() && !env.bundle_dir(digest).exists();
    eventually("it goes, and is taken back", LIMIT, async || is_gone()).await;
    sync.stop().await;
}
