use protocol::cache::FetchAnswer;
use testkit::{Fault, eventually};
use tokio::task::JoinSet;

use crate::env::{Env, LIMIT};

#[tokio::test]
async fn a_version_that_appears_is_there_before_anyone_asks() {
    let env = Env::new().await;
    let early = env.put(1, 1_000).await;
    env.publish(early).await;
    let sync = env.start().await;
    eventually("the early bundle is there", LIMIT, async || env.bundle_dir(early).is_dir()).await;
    let late = env.put(2, 1_000).await;
    env.publish(late).await;
    eventually("the late bundle is there", LIMIT, async || env.bundle_dir(late).is_dir()).await;
    assert_eq!(std::fs::read(env.bundle_dir(late).join("number")).unwrap(), b"2");
    eventually("its part is gone", LIMIT, async || !env.part(late).exists()).await;
    sync.stop().await;
}

#[tokio::test]
async fn a_version_is_fetched_once_the_store_is_back() {
    let env = Env::new().await;
    env.link.set(Fault::Reset);
    let sync = env.start().await;
    let digest = env.put(1, 1_000).await;
    env.publish(digest).await;
    let answer = env.ask(digest).await;
    assert!(matches!(answer, FetchAnswer::Unavailable { .. }), "{answer:?}");
    env.link.set(Fault::Pass);
    eventually("the bundle is there", LIMIT, async || env.bundle_dir(digest).is_dir()).await;
    sync.stop().await;
}

#[tokio::test]
async fn all_who_ask_for_one_bundle_share_one_transfer() {
    let env = Env::new().await;
    let digest = env.put(1, 1 << 20).await;
    let sync = env.start().await;
    env.link.set_to_client(Fault::Rate(2 << 20));
    let asks: Vec<_> = (0..50).map(|_| env.ask(digest)).collect();
    let answers = futures::future::join_all(asks).await;
    assert!(answers.iter().all(|answer| *answer == FetchAnswer::Ready), "{answers:?}");
    assert_eq!(env.link.connections(), 1);
    assert_eq!(env.ask(digest).await, FetchAnswer::Ready);
    assert_eq!(env.link.connections(), 1);
    sync.stop().await;
}

#[tokio::test]
async fn the_eleventh_transfer_is_refused_and_comes_when_it_is_asked_for_again() {
    let env = Env::new().await;
    let mut digests = Vec::new();
    for n in 0..11 {
        digests.push(env.put(n, 10_000).await);
    }
    let sync = env.start().await;
    // An answer begins to come, and does not end.
    env.link.set_to_client(Fault::Rate(1));
    let eleventh = digests[10];
    let ten = futures::future::join_all(digests[..10].iter().map(|digest| env.ask(*digest)));
    let meanwhile = async {
        eventually("ten transfers are under way", LIMIT, async || env.link.connections() == 10).await;
        for _ in 0..3 {
            let answer = env.ask(eleventh).await;
            assert!(matches!(answer, FetchAnswer::Refused { retry_after_ms: 500..1500 }), "{answer:?}");
        }
        assert!(!env.bundle_dir(eleventh).exists());
        env.link.set_to_client(Fault::Pass);
    };
    let (answers, ()) = futures::future::join(ten, meanwhile).await;
    assert!(answers.iter().all(|answer| *answer == FetchAnswer::Ready), "{answers:?}");
    assert_eq!(env.ask(eleventh).await, FetchAnswer::Ready);
    sync.stop().await;
}

#[tokio::test]
async fn what_cannot_be_had_is_told_apart() {
    let env = Env::new().await;
    let sync = env.start().await;
    let spoilt = env.put(1, 1_000).await;
    std::fs::write(env.object(spoilt), b"something else").unwrap();
    let missing = env.put(2, 1_000).await;
    std::fs::remove_file(env.object(missing)).unwrap();
    let no_bundle = env.put_bytes(b"#!/bin/sh\nharm\n".to_vec()).await;
    assert_eq!(env.ask(missing).await, FetchAnswer::Missing);
    for digest in [spoilt, no_bundle] {
        let answer = env.ask(digest).await;
        assert!(matches!(answer, FetchAnswer::Corrupt { .. }), "{answer:?}");
    }
    for digest in [spoilt, missing, no_bundle] {
        assert!(!env.bundle_dir(digest).exists() && !env.part(digest).exists());
    }
    sync.stop().await;
}

#[tokio::test]
async fn a_transfer_that_was_cut_off_by_the_drain_is_resumed_by_the_next_life() {
    let env = Env::new().await;
    let digest = env.put(1, 4 << 20).await;
    let sync = env.start().await;
    env.link.set_to_client(Fault::Rate(1 << 20));
    let drain = async {
        let begun = || std::fs::metadata(env.part(digest)).is_ok_and(|part| part.len() > 100_000);
        eventually("a part is there", LIMIT, async || begun()).await;
        sync.stop().await;
    };
    let (answer, ()) = futures::future::join(env.ask(digest), drain).await;
    assert!(matches!(answer, FetchAnswer::Unavailable { .. }), "{answer:?}");
    let part = std::fs::metadata(env.part(digest)).unwrap().len();
    assert!(part > 100_000);
    // What is left fits; the whole would not.
    env.link.set_to_client(Fault::Truncate((4 << 20) - 50_000));
    let sync = env.start().await;
    let connections = env.link.connections();
    assert_eq!(env.ask(digest).await, FetchAnswer::Ready);
    assert_eq!(env.link.connections(), connections + 1);
    sync.stop().await;
}

#[tokio::test]
async fn a_socket_that_a_killed_life_left_is_replaced_and_a_second_sync_is_refused() {
    let env = Env::new().await;
    std::fs::create_dir_all(&env.config.cache_dir).unwrap();
    drop(std::os::unix::net::UnixListener::bind(protocol::cache::socket(&env.config.cache_dir)).unwrap());
    let sync = env.start().await;
    let error = env.start_another().await.unwrap_err();
    assert!(format!("{error:#}").contains("another sync"), "{error:#}");
    let digest = env.put(1, 10).await;
    assert_eq!(env.ask(digest).await, FetchAnswer::Ready);
    sync.stop().await;
    env.start().await.stop().await;
}

#[tokio::test]
async fn a_request_that_makes_no_sense_harms_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let env = Env::new().await;
    let sync = env.start().await;
    let mut clients = JoinSet::new();
    for bytes in [&b"\n"[..], b"{}\n", b"{\"fetch\":\"../../etc\"}\n", &[b'x'; 100_000], &[0xff; 10]] {
        let path = protocol::cache::socket(&env.config.cache_dir);
        clients.spawn(async move {
            let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
            drop(stream.write_all(bytes).await);
            drop(stream.shutdown().await);
            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer).await);
            assert!(answer.is_empty());
        });
    }
    clients.join_all().await;
    let digest = env.put(1, 10).await;
    assert_eq!(env.ask(digest).await, FetchAnswer::Ready);
    sync.stop().await;
}
