use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::servers::S3Access;

/// Speaks the S3 protocol on `listener` over the directory `root`, whose directories are the buckets. Requests must be signed
/// with the given keys. Runs until dropped, which cuts all connections.
///
/// # Errors
/// If `root` is not a directory it can use. A failed connection is nobody's error.
pub async fn serve_s3(
    listener: TcpListener,
    root: &Path,
    access_key: &str,
    secret_key: &str,
) -> anyhow::Result<()> {
    let files =
        s3s_fs::FileSystem::new(root).map_err(|error| anyhow!("{error:?}")).context("open directory")?;
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(access_key, secret_key));
    let service = service.build();
    let http = Arc::new(Builder::new(TokioExecutor::new()));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("accept connection")?;
                let (http, service) = (Arc::clone(&http), service.clone());
                connections.spawn(async move {
                    // What a client does to its connection is its own business.
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The S3 server in this process, over a directory of its own, with one bucket.
#[derive(Debug)]
pub struct S3Server {
    /// How to reach it.
    pub access: S3Access,
    root: TempDir,
    /// Owns the server; aborted when dropped.
    _tasks: JoinSet<anyhow::Result<()>>,
}

impl S3Server {
    /// A new server on a port the kernel chose.
    ///
    /// # Panics
    /// If there is no directory or port for it.
    pub async fn start() -> Self {
        let root = tempfile::tempdir().expect("make a directory for objects");
        let access = S3Access {
            endpoint: String::new(),
            access_key: "gantry".to_owned(),
            secret_key: format!("{:032x}", rand::random::<u128>()),
            bucket: "gantry".to_owned(),
        };
        std::fs::create_dir(root.path().join(&access.bucket)).expect("make the bucket");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind loopback");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound address"));
        let access = S3Access { endpoint, ..access };
        let mut tasks = JoinSet::new();
        let (directory, keys) = (root.path().to_owned(), access.clone());
        tasks.spawn(async move { serve_s3(listener, &directory, &keys.access_key, &keys.secret_key).await });
        Self { access, root, _tasks: tasks }
    }

    /// The directory of the bucket: an object is the file named by its key.
    #[must_use]
    pub fn bucket_directory(&self) -> std::path::PathBuf {
        self.root.path().join(&self.access.bucket)
    }
}
