use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow};
use http_body_util::BodyExt;
use hyper::service::{Service, service_fn};
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
    serve_counted(listener, root, access_key, secret_key, Arc::default()).await
}

/// What was read from the server.
#[derive(Debug, Default)]
struct Reads {
    under_way: AtomicU64,
    most_at_once: AtomicU64,
    bytes: AtomicU64,
}

/// One answer under way.
struct Reading(Arc<Reads>);

impl Reading {
    fn begin(reads: &Arc<Reads>) -> Self {
        let now = reads.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        reads.most_at_once.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(reads))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve_counted(
    listener: TcpListener,
    root: &Path,
    access_key: &str,
    secret_key: &str,
    reads: Arc<Reads>,
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
                let (http, service, reads) = (Arc::clone(&http), service.clone(), Arc::clone(&reads));
                connections.spawn(async move {
                    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                        let reading = (request.method() == hyper::Method::GET).then(|| Reading::begin(&reads));
                        let answer = Service::call(&service, request);
                        async move {
                            // It goes on until the last byte is handed over, or nobody takes it any more.
                            Ok::<_, s3s::HttpError>(answer.await?.map(|body| {
                                body.map_frame(move |frame| {
                                    if let (Some(reading), Some(data)) = (&reading, frame.data_ref()) {
                                        reading.0.bytes.fetch_add(data.len() as u64, Ordering::SeqCst);
                                    }
                                    frame
                                })
                            }))
                        }
                    });
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
    reads: Arc<Reads>,
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
        let reads = Arc::new(Reads::default());
        let counting = Arc::clone(&reads);
        tasks.spawn(async move {
            serve_counted(listener, &directory, &keys.access_key, &keys.secret_key, counting).await
        });
        Self { access, root, reads, _tasks: tasks }
    }

    /// How many objects were being read at once at most.
    #[must_use]
    pub fn reads_at_once_most(&self) -> u64 {
        self.reads.most_at_once.load(Ordering::SeqCst)
    }

    /// How many bytes were read from it in all.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.reads.bytes.load(Ordering::SeqCst)
    }

    /// The directory of the bucket: an object is the file named by its key.
    #[must_use]
    pub fn bucket_directory(&self) -> std::path::PathBuf {
        self.root.path().join(&self.access.bucket)
    }
}
