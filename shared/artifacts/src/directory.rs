use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use domain::Digest;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::part::Part;
use crate::{FetchError, PutError};

/// Where bundles are kept on this machine.
#[derive(Debug, Clone)]
pub struct DirectoryConfig {
    /// The directory; made when it is first needed. Each bundle is the file named by its digest.
    pub path: PathBuf,
}

/// A directory of bundles.
#[derive(Debug, Clone)]
pub struct Store {
    directory: Arc<Path>,
}

impl Store {
    pub(crate) fn new(config: &DirectoryConfig) -> Self {
        Self { directory: config.path.as_path().into() }
    }

    pub(crate) async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), PutError> {
        let directory = Arc::clone(&self.directory);
        let put = move || {
            if Digest::of(&bytes) != digest {
                return Err(PutError::Corrupt(digest));
            }
            write(&directory, digest, &bytes).map_err(|error| PutError::Unavailable(error.into()))
        };
        tokio::task::spawn_blocking(put).await.map_err(|error| PutError::Unavailable(error.into()))?
    }

    pub(crate) async fn fetch(&self, digest: Digest, destination: &Path) -> Result<(), FetchError> {
        let away = |error: io::Error| FetchError::Unavailable(error.into());
        let mut stored = match tokio::fs::File::open(self.directory.join(digest.to_string())).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FetchError::Missing(digest)),
            other => other.map_err(away)?,
        };
        let mut part = Part::open(destination).await.map_err(away)?;
        loop {
            let resumed = part.length() > 0;
            match append_rest(&mut stored, &mut part).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {}
                Err(error) => return Err(away(error)),
            }
            if part.is(digest) {
                return part.flush().await.map_err(away);
            }
            if !resumed {
                part.discard().await.map_err(away)?;
                return Err(FetchError::Corrupt(digest));
            }
            // The part from before may be what is wrong.
            part.restart().await.map_err(away)?;
        }
    }

    pub(crate) async fn ping(&self) -> Result<(), FetchError> {
        tokio::fs::create_dir_all(&self.directory)
            .await
            .map_err(|error| FetchError::Unavailable(error.into()))
    }
}

async fn append_rest(stored: &mut tokio::fs::File, part: &mut Part) -> io::Result<()> {
    stored.seek(io::SeekFrom::Start(part.length())).await?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = stored.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        part.append(&buffer[..read]).await?;
    }
}

/// Written beside its place, flushed, and moved into it: a reader sees all of it or nothing.
fn write(directory: &Path, digest: Digest, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut file = tempfile::Builder::new().prefix(".writing-").tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(directory.join(digest.to_string()))?;
    File::open(directory)?.sync_all()
}
