use std::io;
use std::path::{Path, PathBuf};

use domain::Digest;
use domain::limits::BUNDLE_BYTES_MAX;
use sha2::{Digest as _, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::FetchError;

/// A bundle on its way into a file: what is there already, and its hash so far.
pub(crate) struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    length: u64,
}

impl Part {
    /// Opens the file `path`, made if it is new, and hashes what it holds from before.
    pub(crate) async fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).await?;
        let mut part = Self { path: path.to_owned(), file, hash: Sha256::new(), length: 0 };
        if part.file.metadata().await?.len() > BUNDLE_BYTES_MAX as u64 {
            part.restart().await?;
        }
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = part.file.read(&mut buffer).await?;
            if read == 0 {
                return Ok(part);
            }
            part.hash.update(&buffer[..read]);
            part.length += read as u64;
        }
    }

    /// How many bytes are there.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Do the bytes that are there make the whole bundle?
    pub(crate) fn is(&self, digest: Digest) -> bool {
        Digest::from_bytes(self.hash.clone().finalize().into()) == digest
    }

    /// Adds what comes next. Refuses to grow beyond what a bundle may be.
    pub(crate) async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length + bytes.len() as u64 > BUNDLE_BYTES_MAX as u64 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.file.write_all(bytes).await?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what is there.
    pub(crate) async fn restart(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.set_len(0).await?;
        self.file.rewind().await?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Ends the transfer: the file holds the bundle or, for the next try, a part of it; or there is none, if it is of no
    /// use. Whoever opens it sees all that was written.
    pub(crate) async fn leave(mut self, fetched: Result<(), FetchError>) -> Result<(), FetchError> {
        let fetched = match (fetched, self.file.flush().await) {
            (Ok(()) | Err(FetchError::Unavailable(_)), Err(error)) => Err(FetchError::of_destination(error)),
            (fetched, _) => fetched,
        };
        if matches!(fetched, Err(FetchError::Missing(_) | FetchError::Corrupt(_) | FetchError::NoSpace(_))) {
            tokio::fs::remove_file(&self.path).await.map_err(FetchError::of_destination)?;
        }
        fetched
    }
}
