//! What the client crate and the servers do that their names don't say.

use std::time::Duration;

use coordination::Link;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::env::{Env, OnZooKeeper, is_up, leads, node, see, sees_nodes};

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
