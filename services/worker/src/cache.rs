use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use domain::Digest;
use protocol::cache::{FetchAnswer, FetchRequest, bundle_dir, socket};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::Backoff;
use crate::metrics;

/// The longest answer of a sync, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// The node's bundles, which its sync keeps.
pub(crate) struct Cache {
    dir: PathBuf,
    fetch_timeout: Duration,
}

/// A bundle is not there and did not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfetched {
    /// There is no such bundle, or what there is is none.
    #[error("bundle {digest} cannot be had: {reason}")]
    Never { digest: Digest, reason: String },
    /// It did not come in time.
    #[error("bundle {digest} did not come within {limit_ms} ms: {reason}")]
    TimedOut { digest: Digest, limit_ms: u128, reason: String },
}

/// A bundle in the cache. While this is held, the sync does not take it out.
pub(crate) struct Bundle {
    dir: PathBuf,
    _lock: File,
}

impl Bundle {
    /// Locks the directory against eviction and notes that it is used (see [`protocol::cache`]).
    fn hold(dir: PathBuf) -> io::Result<Self> {
        let lock = File::open(&dir)?;
        lock.try_lock_shared()?;
        // It may have been taken out between the two.
        if std::fs::metadata(&dir)?.ino() != lock.metadata()?.ino() {
            return Err(io::ErrorKind::NotFound.into());
        }
        lock.set_modified(SystemTime::now())?;
        Ok(Self { dir, _lock: lock })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Cache {
    pub(crate) const fn new(dir: PathBuf, fetch_timeout: Duration) -> Self {
        Self { dir, fetch_timeout }
    }

    /// Bundle `digest`, if it is in the cache already.
    pub(crate) async fn find(&self, digest: Digest) -> Option<Bundle> {
        let dir = bundle_dir(&self.dir, digest);
        tokio::task::spawn_blocking(|| Bundle::hold(dir).ok()).await.ok().flatten()
    }

    /// Has the sync fetch bundle `digest` into the cache, asking again while it is refused or the sync is away.
    ///
    /// # Errors
    /// [`Unfetched`] if it cannot be had at all, or not in time.
    pub(crate) async fn fetch(&self, digest: Digest) -> Result<Bundle, Unfetched> {
        let began = Instant::now();
        let until = began + self.fetch_timeout;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut last = String::from("its sync did not answer");
        loop {
            let Ok(answer) = timeout_at(until, self.ask(digest)).await else { break };
            let wait = match answer {
                Ok(FetchAnswer::Ready) => {
                    if let Some(bundle) = self.find(digest).await {
                        metrics::fetched(began.elapsed());
                        return Ok(bundle);
                    }
                    last = "it was taken out of the cache again at once".to_owned();
                    backoff.next()
                }
                Ok(FetchAnswer::Refused { retry_after_ms }) => {
                    last = "its sync is busy with other bundles".to_owned();
                    Duration::from_millis(retry_after_ms).max(backoff.next())
                }
                Ok(FetchAnswer::Missing) => {
                    let reason = "the artifact store has no such object".to_owned();
                    return Err(Unfetched::Never { digest, reason });
                }
                Ok(FetchAnswer::Corrupt { reason }) => return Err(Unfetched::Never { digest, reason }),
                Ok(FetchAnswer::Unavailable { reason }) => {
                    last = reason;
                    backoff.next()
                }
                Err(error) => {
                    last = format!("its sync cannot be asked: {error}");
                    backoff.next()
                }
            };
            if Instant::now() + wait >= until {
                break;
            }
            sleep(wait).await;
        }
        Err(Unfetched::TimedOut { digest, limit_ms: self.fetch_timeout.as_millis(), reason: last })
    }

    async fn ask(&self, digest: Digest) -> io::Result<FetchAnswer> {
        let mut stream = UnixStream::connect(socket(&self.dir)).await?;
        let mut line = serde_json::to_vec(&FetchRequest { fetch: digest })?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut answer).await?;
        Ok(serde_json::from_str(&answer)?)
    }
}
