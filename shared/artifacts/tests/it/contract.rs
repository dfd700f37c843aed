//! What [`artifacts::Artifacts`] promises, on both adapters.

use std::path::PathBuf;

use artifacts::{Artifacts, DirectoryConfig, FetchError, Meter, PutError, S3Config};
use bytes::Bytes;
use domain::Digest;
use domain::limits::BUNDLE_BYTES_MAX;
use tempfile::TempDir;
use testkit::S3Server;

/// An adapter over a store of its own, and a place to fetch to.
struct Env {
    artifacts: Artifacts,
    /// Where the store keeps the bundle of a digest, to spoil it.
    objects: PathBuf,
    place: TempDir,
    _server: Option<S3Server>,
}

impl Env {
    fn directory() -> Self {
        let place = tempfile::tempdir().unwrap();
        let objects = place.path().join("objects");
        let artifacts = Artifacts::directory(&DirectoryConfig { path: objects.clone() });
        Self { artifacts, objects, place, _server: None }
    }

    async fn s3() -> Self {
        let server = S3Server::start().await;
        let artifacts = Artifacts::s3(&config(&server, &server.access.endpoint)).unwrap();
        let objects = server.bucket_directory().join("bundles");
        Self { artifacts, objects, place: tempfile::tempdir().unwrap(), _server: Some(server) }
    }

    async fn both() -> [Self; 2] {
        [Self::directory(), Self::s3().await]
    }

    fn destination(&self) -> PathBuf {
        self.place.path().join("fetched")
    }

    fn object(&self, digest: Digest) -> PathBuf {
        self.objects.join(digest.to_string())
    }
}

pub fn config(server: &S3Server, endpoint: &str) -> S3Config {
    S3Config {
        endpoint: endpoint.to_owned(),
        region: "us-east-1".to_owned(),
        bucket: server.access.bucket.clone(),
        access_key: server.access.access_key.clone(),
        secret_key: server.access.secret_key.clone(),
        prefix: "bundles/".to_owned(),
        ca_file: None,
    }
}

/// `length` bytes that do not repeat, and their digest.
pub fn bundle(length: usize) -> (Digest, Bytes) {
    let bytes: Bytes =
        (0..length as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    (Digest::of(&bytes), bytes)
}

#[tokio::test]
async fn what_was_put_is_fetched() {
    for env in Env::both().await {
        env.artifacts.ping().await.unwrap();
        for length in [0, 1, 3 << 20] {
            let (digest, bytes) = bundle(length);
            env.artifacts.put(digest, bytes.clone()).await.unwrap();
            let destination = env.place.path().join(digest.to_string());
            env.artifacts.fetch(digest, &destination, &Meter::default()).await.unwrap();
            assert_eq!(std::fs::read(destination).unwrap(), bytes);
        }
        env.artifacts.ping().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_there_is_missing_and_leaves_no_file() {
    for env in Env::both().await {
        env.artifacts.ping().await.unwrap();
        let (digest, _) = bundle(10);
        let error = env.artifacts.fetch(digest, &env.destination(), &Meter::default()).await.unwrap_err();
        assert!(matches!(error, FetchError::Missing(missing) if missing == digest), "{error:?}");
        assert!(!env.destination().exists());
    }
}

#[tokio::test]
async fn bytes_with_another_digest_are_not_stored() {
    for env in Env::both().await {
        let (digest, _) = bundle(10);
        let error = env.artifacts.put(digest, Bytes::from_static(b"other")).await.unwrap_err();
        assert!(matches!(error, PutError::Corrupt(wrong) if wrong == digest), "{error:?}");
        let error = env.artifacts.fetch(digest, &env.destination(), &Meter::default()).await.unwrap_err();
        assert!(matches!(error, FetchError::Missing(_)), "{error:?}");
    }
}

#[tokio::test]
async fn putting_again_is_harmless_and_heals() {
    for env in Env::both().await {
        let (digest, bytes) = bundle(100_000);
        env.artifacts.put(digest, bytes.clone()).await.unwrap();
        std::fs::write(env.object(digest), b"spoilt").unwrap();
        env.artifacts.put(digest, bytes.clone()).await.unwrap();
        env.artifacts.fetch(digest, &env.destination(), &Meter::default()).await.unwrap();
        assert_eq!(std::fs::read(env.destination()).unwrap(), bytes);
    }
}

#[tokio::test]
async fn bytes_that_changed_in_the_store_are_refused_and_leave_no_file() {
    let (digest, bytes) = bundle(100_000);
    let mut flipped = bytes.to_vec();
    flipped[50_000] ^= 1;
    for spoilt in
        [&flipped[..], &bytes[..99_999], b"", &[&bytes[..], b"x"].concat(), &vec![0; BUNDLE_BYTES_MAX + 1]]
    {
        for env in Env::both().await {
            env.artifacts.put(digest, bytes.clone()).await.unwrap();
            std::fs::write(env.object(digest), spoilt).unwrap();
            let error = env.artifacts.fetch(digest, &env.destination(), &Meter::default()).await.unwrap_err();
            assert!(matches!(error, FetchError::Corrupt(wrong) if wrong == digest), "{error:?}");
            assert!(!env.destination().exists());
        }
    }
}

#[tokio::test]
async fn a_part_is_resumed_and_a_wrong_one_is_not_trusted() {
    let (digest, bytes) = bundle(100_000);
    let mut wrong = bytes[..60_000].to_vec();
    wrong[10] ^= 1;
    for part in [&bytes[..1], &bytes[..60_000], &bytes[..], &wrong, &[&bytes[..], b"more"].concat()] {
        for env in Env::both().await {
            env.artifacts.put(digest, bytes.clone()).await.unwrap();
            std::fs::write(env.destination(), part).unwrap();
            env.artifacts.fetch(digest, &env.destination(), &Meter::default()).await.unwrap();
            assert_eq!(std::fs::read(env.destination()).unwrap(), bytes);
        }
    }
}

#[tokio::test]
async fn who_fetches_while_it_is_put_sees_all_or_nothing() {
    for env in Env::both().await {
        let (digest, bytes) = bundle(4 << 20);
        let put = async {
            for _ in 0..5 {
                env.artifacts.put(digest, bytes.clone()).await.unwrap();
            }
        };
        let fetch = async {
            for n in 0..10 {
                let destination = env.place.path().join(n.to_string());
                match env.artifacts.fetch(digest, &destination, &Meter::default()).await {
                    Ok(()) => assert_eq!(std::fs::read(destination).unwrap(), bytes),
                    Err(error) => assert!(matches!(error, FetchError::Missing(_)), "{error:?}"),
                }
            }
        };
        tokio::join!(put, fetch);
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_away() {
    let place = tempfile::tempdir().unwrap();
    let in_the_way = place.path().join("file");
    std::fs::write(&in_the_way, b"").unwrap();
    let artifacts = Artifacts::directory(&DirectoryConfig { path: in_the_way.join("objects") });
    assert!(matches!(artifacts.ping().await, Err(FetchError::Unavailable(_))));
    let (digest, bytes) = bundle(10);
    assert!(matches!(artifacts.put(digest, bytes).await, Err(PutError::Unavailable(_))));
}
