use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bootstrap::Shutdown;
use protocol::cache::{FetchRequest, socket};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::transfers::Transfers;

/// Connections at once; who comes then waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 1_024;
const REQUEST_BYTES_MAX: u64 = 4 << 10;
/// How long a request may take to arrive, and an answer to be taken.
const LINE_LIMIT: Duration = Duration::from_secs(5);
/// How long those who wait get to hear that the sync stops.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Answers workers on the socket in the cache directory.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    transfers: Arc<Transfers>,
}

impl Server {
    /// Listens; a socket that an earlier life left is replaced. (That it is over is known from the lock on the cache.)
    pub(crate) fn bind(cache_dir: &Path, transfers: Arc<Transfers>) -> io::Result<Self> {
        let path = socket(cache_dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { listener: UnixListener::bind(&path)?, path, transfers })
    }

    /// Answers until the drain begins.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.draining() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let transfers = Arc::clone(&self.transfers);
                        connections.spawn(async move {
                            if let Err(error) = answer(stream, &transfers).await {
                                debug!(%error, "a request for a bundle was not answered");
                            }
                        });
                    }
                    Err(error) => {
                        // Most likely there are no file descriptors left: connections that end give some back.
                        warn!(%error, "cannot accept a connection of the worker");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(std::fs::remove_file(&self.path));
        drop(timeout(STOP_LIMIT, async { while connections.join_next().await.is_some() {} }).await);
    }
}

async fn answer(mut stream: UnixStream, transfers: &Transfers) -> io::Result<()> {
    let mut line = String::new();
    {
        let mut reader = BufReader::new((&mut stream).take(REQUEST_BYTES_MAX));
        timeout(LINE_LIMIT, reader.read_line(&mut line)).await??;
    }
    let request: FetchRequest = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            warn!(%error, "a request on the socket of the cache cannot be understood");
            return Ok(());
        }
    };
    let answer = transfers.fetch(request.fetch).await;
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    timeout(LINE_LIMIT, stream.write_all(&line)).await??;
    stream.shutdown().await
}
