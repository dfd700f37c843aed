//! S3 behind a link that fails: PITFALLS S1 to S4 of the driver's transport, which is why it only signs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use artifacts::{Artifacts, Bandwidth, FetchError, Meter, PutError, S3Config};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use testkit::{Fault, Proxy, S3Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use crate::contract::{bundle, config};

struct Env {
    artifacts: Artifacts,
    proxy: Proxy,
    server: S3Server,
    place: tempfile::TempDir,
}

async fn env() -> Env {
    let server = S3Server::start().await;
    let proxy = Proxy::start(&server.access.endpoint).await;
    let artifacts = Artifacts::s3(&config(&server, &proxy.url(&server.access.endpoint))).unwrap();
    Env { artifacts, proxy, server, place: tempfile::tempdir().unwrap() }
}

#[tokio::test]
async fn a_body_that_is_cut_again_and_again_is_resumed_where_it_broke() {
    let env = env().await;
    let (digest, bytes) = bundle(4 << 20);
    env.artifacts.put(digest, bytes.clone()).await.unwrap();
    // Each connection gives a little more than a third, so three of the five tries do if none begins anew.
    env.proxy.set_to_client(Fault::Truncate((4 << 20) / 3 + 10_000));
    let destination = env.place.path().join("it");
    env.artifacts.fetch(digest, &destination, &Meter::default()).await.unwrap();
    assert_eq!(std::fs::read(destination).unwrap(), bytes);
}

#[tokio::test]
async fn a_link_that_breaks_often_is_not_given_up_while_it_moves_on_and_no_byte_comes_twice() {
    let env = env().await;
    let (digest, bytes) = bundle(4 << 20);
    env.artifacts.put(digest, bytes.clone()).await.unwrap();
    env.proxy.set_to_client(Fault::Truncate(500_000));
    let destination = env.place.path().join("it");
    let meter = Meter::default();
    env.artifacts.fetch(digest, &destination, &meter).await.unwrap();
    assert_eq!(std::fs::read(destination).unwrap(), bytes);
    assert!(env.proxy.connections() > 8, "{} connections", env.proxy.connections());
    assert_eq!((meter.bytes(), meter.received(), meter.discarded()), (4 << 20, 4 << 20, 0));
}

#[tokio::test]
async fn a_transfer_keeps_to_its_bandwidth() {
    let env = env().await;
    let (digest, bytes) = bundle(1 << 20);
    env.artifacts.put(digest, bytes).await.unwrap();
    let meter = Meter::new(Arc::new(Bandwidth::new(1 << 20)));
    let began = Instant::now();
    env.artifacts.fetch(digest, &env.place.path().join("it"), &meter).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(740), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_byte_that_is_spoilt_on_the_way_is_noticed_and_fetched_again() {
    let env = env().await;
    let (digest, bytes) = bundle(1 << 20);
    env.artifacts.put(digest, bytes.clone()).await.unwrap();
    env.proxy.set_to_client(Fault::Corrupt(500_000));
    let destination = env.place.path().join("it");
    let meter = Meter::default();
    env.artifacts.fetch(digest, &destination, &meter).await.unwrap();
    assert_eq!(std::fs::read(destination).unwrap(), bytes);
    assert_eq!((meter.bytes(), meter.received(), meter.discarded()), (1 << 20, 2 << 20, 1 << 20));
}

#[tokio::test]
async fn a_server_that_goes_away_in_the_middle_leaves_a_part_that_is_resumed() {
    let env = env().await;
    let (digest, bytes) = bundle(4 << 20);
    env.artifacts.put(digest, bytes.clone()).await.unwrap();
    let destination = env.place.path().join("it");
    env.proxy.set_to_client(Fault::Rate(4 << 20));
    let meter = Meter::default();
    let fetch = env.artifacts.fetch(digest, &destination, &meter);
    let away = async {
        let half = || std::fs::metadata(&destination).is_ok_and(|file| file.len() > 1 << 20);
        testkit::eventually("a quarter has come", Duration::from_secs(20), async || half()).await;
        env.proxy.set(Fault::Reset);
    };
    let (error, ()) = tokio::join!(fetch, away);
    assert!(matches!(error, Err(FetchError::Unavailable(_))), "{error:?}");
    let error = env.artifacts.ping().await;
    assert!(matches!(error, Err(FetchError::Unavailable(_))), "{error:?}");
    let part = std::fs::read(&destination).unwrap();
    assert!(part.len() > 1 << 20 && part == bytes[..part.len()]);
    env.proxy.set(Fault::Pass);
    env.artifacts.fetch(digest, &destination, &Meter::default()).await.unwrap();
    assert_eq!(std::fs::read(destination).unwrap(), bytes);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_and_asked_again() {
    let env = env().await;
    let (digest, bytes) = bundle(4 << 20);
    env.artifacts.put(digest, bytes.clone()).await.unwrap();
    let destination = env.place.path().join("it");
    env.proxy.set_to_client(Fault::Rate(4 << 20));
    let meter = Meter::default();
    let fetch = env.artifacts.fetch(digest, &destination, &meter);
    let silence = async {
        let begun = || std::fs::metadata(&destination).is_ok_and(|file| file.len() > 0);
        testkit::eventually("some of it has come", Duration::from_secs(20), async || begun()).await;
        let connections = env.proxy.connections();
        env.proxy.set(Fault::Blackhole);
        tokio::time::sleep(Duration::from_millis(100)).await;
        env.proxy.set(Fault::Pass);
        testkit::eventually("it asks again", Duration::from_secs(40), async || {
            env.proxy.connections() > connections
        })
        .await;
    };
    let (fetched, ()) = tokio::join!(fetch, silence);
    fetched.unwrap();
    assert_eq!(std::fs::read(destination).unwrap(), bytes);
}

#[tokio::test]
async fn an_answer_to_a_put_that_is_lost_makes_no_difference() {
    let env = env().await;
    env.proxy.set_to_client(Fault::DropAnswers { probability: 0.4, seed: 7 });
    for length in 1..10 {
        let (digest, bytes) = bundle(length * 1000);
        env.artifacts.put(digest, bytes.clone()).await.unwrap();
        let stored = env.server.bucket_directory().join("bundles").join(digest.to_string());
        assert_eq!(std::fs::read(stored).unwrap(), bytes);
    }
    assert!(env.proxy.dropped_answers() > 0);
}

#[tokio::test]
async fn wrong_keys_and_a_missing_bucket_are_no_missing_bundle_and_are_not_tried_again() {
    let server = S3Server::start().await;
    let good = config(&server, &server.access.endpoint);
    let wrong_keys = S3Config { secret_key: "wrong".to_owned(), ..good.clone() };
    let page = "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code></Error>";
    let (answering, _tasks) = always("404 Not Found", page).await;
    let no_bucket = S3Config { endpoint: answering, ..good };
    let place = tempfile::tempdir().unwrap();
    for config in [wrong_keys, no_bucket] {
        let artifacts = Artifacts::s3(&config).unwrap();
        let (digest, bytes) = bundle(10);
        let put = artifacts.put(digest, bytes).await;
        assert!(matches!(put, Err(PutError::Unavailable(_))), "{config:?}: {put:?}");
        let fetch = artifacts.fetch(digest, &place.path().join("it"), &Meter::default()).await;
        assert!(matches!(fetch, Err(FetchError::Unavailable(_))), "{config:?}: {fetch:?}");
        let ping = artifacts.ping().await;
        assert!(matches!(ping, Err(FetchError::Unavailable(_))), "{config:?}: {ping:?}");
        let shown = format!("{put:?} {fetch:?} {ping:?} {config:?}");
        assert!(!shown.contains("X-Amz") && !shown.contains(&config.secret_key), "{shown}");
    }
}

/// A server that answers everything with `status` and `page`.
async fn always(status: &str, page: &str) -> (String, JoinSet<()>) {
    let answer =
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}", page.len());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 16 << 10];
            if stream.read(&mut request).await.is_ok() {
                drop(stream.write_all(answer.as_bytes()).await);
            }
        }
    });
    (endpoint, tasks)
}

/// B17.
#[tokio::test]
async fn an_error_page_with_status_200_and_a_server_in_trouble_are_told_apart() {
    let server = S3Server::start().await;
    let place = tempfile::tempdir().unwrap();
    let destination = place.path().join("it");
    let (digest, _) = bundle(10);
    let (page, _tasks) = always("200 OK", "<Error><Code>InternalError</Code></Error>").await;
    let artifacts = Artifacts::s3(&config(&server, &page)).unwrap();
    let fetched = artifacts.fetch(digest, &destination, &Meter::default()).await;
    assert!(matches!(fetched, Err(FetchError::Corrupt(_))), "{fetched:?}");
    assert!(!destination.exists());
    let (trouble, _tasks) = always("503 Slow Down", "<Error><Code>SlowDown</Code></Error>").await;
    let artifacts = Artifacts::s3(&config(&server, &trouble)).unwrap();
    let fetched = artifacts.fetch(digest, &destination, &Meter::default()).await;
    assert!(matches!(fetched, Err(FetchError::Unavailable(_))), "{fetched:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_away_within_bounds() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = S3Server::start().await;
    let artifacts = Artifacts::s3(&config(&server, &format!("http://{nobody}"))).unwrap();
    let (digest, bytes) = bundle(10);
    let began = Instant::now();
    assert!(matches!(artifacts.put(digest, bytes).await, Err(PutError::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn an_endpoint_that_is_no_address_is_refused_at_once() {
    for endpoint in ["", "localhost:9000", "ftp://x", "https://", "http://x/path"] {
        let config = S3Config {
            endpoint: endpoint.to_owned(),
            region: "us-east-1".to_owned(),
            bucket: "gantry".to_owned(),
            access_key: "a".to_owned(),
            secret_key: "b".to_owned(),
            prefix: String::new(),
            ca_file: None,
        };
        assert!(Artifacts::s3(&config).is_err(), "{endpoint}");
        let ca_file = Some("/nowhere/ca.pem".into());
        assert!(Artifacts::s3(&S3Config { endpoint: "https://x".to_owned(), ca_file, ..config }).is_err());
    }
}

/// Speaks TLS in front of `upstream`; returns its port and its certificate authority.
async fn tls_before(upstream: String, tasks: &mut JoinSet<()>) -> (u16, String) {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
            connections.spawn(async move {
                let Ok(mut secured) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(upstream).await.unwrap();
                drop(copy_bidirectional(&mut secured, &mut plain).await);
            });
        }
    });
    (port, authority.pem())
}

#[tokio::test]
async fn tls_is_spoken_with_the_certificates_of_a_file_and_with_no_others() {
    let server = S3Server::start().await;
    let mut tasks = JoinSet::new();
    let upstream = server.access.endpoint.trim_start_matches("http://").to_owned();
    let (port, authority) = tls_before(upstream, &mut tasks).await;
    let place = tempfile::tempdir().unwrap();
    let ca_file = place.path().join("ca.pem");
    std::fs::write(&ca_file, authority).unwrap();
    let known = S3Config { ca_file: Some(ca_file), ..config(&server, &format!("https://localhost:{port}")) };
    let (digest, bytes) = bundle(100_000);
    let artifacts = Artifacts::s3(&known).unwrap();
    artifacts.ping().await.unwrap();
    artifacts.put(digest, bytes).await.unwrap();
    artifacts.fetch(digest, &place.path().join("it"), &Meter::default()).await.unwrap();
    let unknown = Artifacts::s3(&S3Config { ca_file: None, ..known }).unwrap();
    assert!(matches!(unknown.ping().await, Err(FetchError::Unavailable(_))));
}
