use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use domain::Digest;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::part::Part;
use crate::{FetchError, Meter, PutError};

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

    pub(crate) async fn fetch(
        &self,
        digest: Digest,
        destination: &Path,
        meter: &Meter,
    ) -> Result<(), FetchError> {
        let mut stored = match tokio::fs::File::open(self.directory.join(digest.to_string())).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FetchError::Missing(digest)),
            other => other.map_err(|error| FetchError::Unavailable(error.into()))?,
        };
        let mut part = Part::open(destination).await.map_err(FetchError::of_destination)?;
        let fetched = copy(digest, &mut stored, &mut part, meter).await;
        part.leave(fetched).await
    }

    pub(crate) async fn ping(&self) -> Result<(), FetchError> {
        tokio::fs::create_dir_all(&self.directory)
            .await
            .map_err(|error| FetchError::Unavailable(error.into()))
    }
}

/// Copies what `part` lacks; once more from the start if the part from before turns out to be of something else.
async fn copy(
    digest: Digest,
    stored: &mut tokio::fs::File,
    part: &mut Part,
    meter: &Meter,
) -> Result<(), FetchError> {
    let away = |error: io::Error| FetchError::Unavailable(error.into());
    let bytes_total = stored.metadata().await.map_err(away)?.len();
    loop {
        let resumed = part.length() > 0;
        meter.is_at(part.length(), bytes_total);
        stored.seek(io::SeekFrom::Start(part.length())).await.map_err(away)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = stored.read(&mut buffer).await.map_err(away)?;
            if read == 0 {
                break;
            }
            match part.append(&buffer[..read]).await {
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => break,
                other => other.map_err(FetchError::of_destination)?,
            }
            meter.came(read as u64).await;
        }
        if part.is(digest) {
            return Ok(());
        }
        meter.restarts();
        if !resumed {
            return Err(FetchError::Corrupt(digest));
        }
        part.restart().await.map_err(FetchError::of_destination)?;
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
