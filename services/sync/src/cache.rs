use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use artifacts::bundle;
use domain::Digest;
use metrics::{counter, gauge};
use protocol::cache::bundle_dir;
use tracing::{info, warn};

use crate::Config;
use crate::metrics::{CACHE_BYTES, EVICTED};

/// A part that nobody resumed for so long is not resumed any more.
const PART_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// What is being unpacked or taken out has such a name, which is no digest's.
const HIDDEN: u8 = b'.';

/// The directory of the cache: `bundles/<digest>/` complete and read-only, `parts/<digest>` on their way.
///
/// All of it blocks.
pub(crate) struct Cache {
    root: PathBuf,
    bytes_max: u64,
    keep: Duration,
    /// The size of each bundle, unpacked.
    sizes: Mutex<HashMap<Digest, u64>>,
    /// Held for life: one sync per cache.
    _lock: File,
}

impl Cache {
    /// Opens the cache, made if it is new, and clears away what an earlier life left half done.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        let root = config.cache_dir.clone();
        for directory in ["bundles", "parts"] {
            fs::create_dir_all(root.join(directory)).context("make its directories")?;
        }
        let lock = File::create(root.join("sync.lock")).context("open its lock")?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another sync uses it"),
            Err(TryLockError::Error(error)) => return Err(error).context("lock it"),
        }
        clear(&root).context("clear away what is half done")?;
        let cache = Self {
            bytes_max: config.cache_bytes_max,
            keep: Duration::from_millis(config.cache_keep_ms),
            sizes: Mutex::new(scan(&root)?),
            root,
            _lock: lock,
        };
        cache.gauge();
        Ok(cache)
    }

    /// Where the part of `digest` is.
    pub(crate) fn part(&self, digest: Digest) -> PathBuf {
        self.root.join("parts").join(digest.to_string())
    }

    /// Is it there? Then it counts as used now.
    pub(crate) fn has(&self, digest: Digest) -> bool {
        match File::open(bundle_dir(&self.root, digest)) {
            Ok(directory) => {
                if let Err(error) = directory.set_modified(SystemTime::now()) {
                    warn!(%digest, %error, "cannot note that a bundle is used");
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Is there room for another bundle without taking one out?
    pub(crate) fn has_room(&self) -> bool {
        self.bytes() < self.bytes_max
    }

    /// Unpacks the complete part of `digest` into its place, deletes the part and makes room.
    pub(crate) fn admit(&self, digest: Digest) -> Result<(), bundle::BundleError> {
        let part = self.part(digest);
        let place = bundle_dir(&self.root, digest);
        let unpacked = bundle::unpack(&part, &place);
        if !matches!(unpacked, Err(bundle::BundleError::Io { .. })) {
            // The same bytes will never be anything else; only what the machine could not do is tried again with them.
            if let Err(error) = fs::remove_file(&part) {
                warn!(%digest, %error, "cannot delete a part that is done with");
            }
        }
        unpacked?;
        let bytes = size_of(&place).unwrap_or(0);
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, bytes);
        self.make_room(digest);
        self.gauge();
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    fn gauge(&self) {
        gauge!(CACHE_BYTES).set(self.bytes() as f64);
    }

    /// Takes out what was not used for longest until the cache is within its bound. What is in use stays, so the bound
    /// may be passed for a while.
    fn make_room(&self, newest: Digest) {
        if self.bytes() <= self.bytes_max {
            return;
        }
        let known: Vec<Digest> =
            self.sizes.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        let mut by_age: Vec<(SystemTime, Digest)> = known
            .into_iter()
            .filter(|digest| *digest != newest)
            .map(|digest| {
                let used = fs::metadata(bundle_dir(&self.root, digest)).and_then(|it| it.modified());
                // What an operator took out has no age: it only has to be forgotten.
                (used.unwrap_or(SystemTime::UNIX_EPOCH), digest)
            })
            .collect();
        by_age.sort_unstable();
        for (used, digest) in by_age {
            if self.bytes() <= self.bytes_max {
                return;
            }
            if used.elapsed().is_ok_and(|age| age < self.keep) {
                break;
            }
            match self.evict(digest) {
                Ok(true) => {
                    self.sizes.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
                    counter!(EVICTED).increment(1);
                    info!(%digest, "took a bundle out of the cache");
                }
                Ok(false) => {}
                Err(error) => warn!(%digest, %error, "cannot take a bundle out of the cache"),
            }
        }
        if self.bytes() > self.bytes_max {
            warn!(
                bytes = self.bytes(),
                bytes_max = self.bytes_max,
                "everything in the cache is in use: over its bound"
            );
        }
    }

    /// Returns whether it is gone; not if somebody runs from it.
    fn evict(&self, digest: Digest) -> io::Result<bool> {
        let place = bundle_dir(&self.root, digest);
        let directory = match File::open(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            other => other?,
        };
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let aside = place.with_file_name(format!(".evicted-{digest}"));
        bundle::remove(&aside)?;
        fs::rename(&place, &aside)?;
        bundle::remove(&aside)?;
        Ok(true)
    }
}

/// Deletes what was being unpacked or taken out, and parts too old to be resumed.
fn clear(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root.join("bundles"))? {
        let entry = entry?;
        if is_hidden(&entry.file_name()) {
            bundle::remove(&entry.path())?;
        }
    }
    for entry in fs::read_dir(root.join("parts"))? {
        let entry = entry?;
        if entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > PART_AGE_MAX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&HIDDEN)
}

/// The bundles that are there. What has no digest's name is not ours and is left alone.
fn scan(root: &Path) -> io::Result<HashMap<Digest, u64>> {
    let mut sizes = HashMap::new();
    for entry in fs::read_dir(root.join("bundles"))? {
        let entry = entry?;
        if let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            sizes.insert(digest, size_of(&entry.path())?);
        }
    }
    Ok(sizes)
}

fn size_of(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
