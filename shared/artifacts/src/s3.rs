//! S3: `rust-s3` signs, and an HTTP client of our own carries.
//!
//! The crate's own transport has one deadline for a whole body, repeats by a setting that is global to the process,
//! knows no certificates but the system's, and does not show the headers of an object it streams. So it only signs the
//! addresses (query parameters, AWS Signature Version 4), which every S3-compatible server understands; headers such as
//! `Range` need no signature.

mod fetch;
mod request;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::s3::creds::Credentials;
use ::s3::{Bucket, Region};
use bytes::Bytes;
use domain::Digest;

use crate::error::Source;
use crate::{FetchError, PutError};
use request::{Failure, object_timeout, pause, refusal};

/// How often an operation is tried in all before the store counts as away.
const TRIES: u32 = 5;

/// Where bundles are kept in an S3-compatible object store. The bucket must exist; it is addressed by path.
#[derive(Clone)]
pub struct S3Config {
    /// As `https://s3.example.org` or `http://127.0.0.1:9000`.
    pub endpoint: String,
    /// The region that signatures name.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
    /// What the keys of all objects begin with; the digest follows.
    pub prefix: String,
    /// PEM certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, region, bucket, prefix, ca_file, access_key: _, secret_key: _ } = self;
        write!(f, "S3Config({endpoint} {region} {bucket}/{prefix} ca_file={ca_file:?})")
    }
}

/// What is wrong with a [`S3Config`].
#[derive(Debug, thiserror::Error)]
pub enum S3ConfigError {
    /// The endpoint is no `http://` or `https://` address.
    #[error("{0:?} is no endpoint: it begins with http:// or https:// and has no path")]
    Endpoint(String),
    /// The certificates cannot be used.
    #[error("use the certificates of {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Source,
    },
    /// The keys or the HTTP client cannot be set up.
    #[error("set up the S3 client")]
    Client(#[source] Source),
}

/// An S3-compatible object store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    bucket: Box<Bucket>,
    prefix: String,
    http: reqwest::Client,
}

impl Store {
    pub(crate) fn new(config: &S3Config) -> Result<Self, S3ConfigError> {
        let endpoint = config.endpoint.trim_end_matches('/');
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        if !host.is_some_and(|host| !host.is_empty() && !host.contains('/')) {
            return Err(S3ConfigError::Endpoint(config.endpoint.clone()));
        }
        let client = |error: ::s3::error::S3Error| S3ConfigError::Client(error.into());
        let credentials =
            Credentials::new(Some(&config.access_key), Some(&config.secret_key), None, None, None)
                .map_err(|error| S3ConfigError::Client(error.into()))?;
        let region = Region::Custom { region: config.region.clone(), endpoint: endpoint.to_owned() };
        let bucket = Bucket::new(&config.bucket, region, credentials).map_err(client)?.with_path_style();
        let http = http_client(config.ca_file.as_deref())?;
        Ok(Self { shared: Arc::new(Shared { bucket, prefix: config.prefix.clone(), http }) })
    }

    pub(crate) async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), PutError> {
        if Digest::of(&bytes) != digest {
            return Err(PutError::Corrupt(digest));
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match self.put_once(digest, bytes.clone()).await {
                Ok(()) => return Ok(()),
                Err(Failure::Passing(_)) if tries < TRIES => pause(tries).await,
                Err(failure) => return Err(PutError::Unavailable(failure.into_source())),
            }
        }
    }

    async fn put_once(&self, digest: Digest, bytes: Bytes) -> Result<(), Failure> {
        let address = self.shared.bucket.presign_put(self.key(digest), SIGNED_S, None, None).await;
        let address = address.map_err(|error| Failure::Lasting(error.into()))?;
        let timeout = object_timeout(bytes.len() as u64);
        let answer = self.shared.http.put(address).timeout(timeout).body(bytes).send().await?;
        if answer.status().is_success() { Ok(()) } else { Err(refusal(answer).await) }
    }

    /// Asks for an object that is never there: only a server that is up, holds the bucket and takes the keys says so.
    pub(crate) async fn ping(&self) -> Result<(), FetchError> {
        let away = |failure: Failure| FetchError::Unavailable(failure.into_source());
        let key = format!("{}is-anybody-there", self.shared.prefix);
        let address = self.shared.bucket.presign_get(key, SIGNED_S, None).await;
        let address = address.map_err(|error| away(Failure::Lasting(error.into())))?;
        let answer = self
            .shared
            .http
            .get(address)
            .timeout(PING_TIMEOUT)
            .send()
            .await
            .map_err(|error| away(error.into()))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let refusal = refusal(answer).await;
        if matches!(refusal, Failure::Missing) { Ok(()) } else { Err(away(refusal)) }
    }

    fn key(&self, digest: Digest) -> String {
        format!("{}{digest}", self.shared.prefix)
    }
}

/// How long a signed address is good for, in seconds; the server's clock may be a little off.
const SIGNED_S: u32 = 600;
const PING_TIMEOUT: Duration = Duration::from_secs(5);

fn http_client(ca_file: Option<&Path>) -> Result<reqwest::Client, S3ConfigError> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(5))
        // The endpoint is the operator's word; nobody else sends us elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(path) = ca_file {
        let unusable = |source: Source| S3ConfigError::CaFile { path: path.to_owned(), source };
        let pem = std::fs::read(path).map_err(|error| unusable(error.into()))?;
        let certificates =
            reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.into()))?;
        if certificates.is_empty() {
            return Err(unusable("it holds no certificate".into()));
        }
        builder = builder.tls_built_in_root_certs(false);
        for certificate in certificates {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(|error| S3ConfigError::Client(error.into()))
}
