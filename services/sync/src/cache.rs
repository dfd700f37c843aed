use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use artifacts::bundle;
use domain::Digest;
use metrics::{counter, gauge};
use protocol::cache::bundle_dir;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::Config;
use crate::metrics::{CACHE_BYTES, EVICTED};
use crate::plan::{Action, Cached, Desired, Limits, Observed, plan};

/// A part that nobody resumed for so long is not resumed any more.
const PART_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// What is being unpacked or taken out has such a name, which is no digest's.
const HIDDEN: u8 = b'.';

/// The directory of the cache: `bundles/<digest>/` complete and read-only, `sizes/<digest>` what it should hold,
/// `parts/<digest>` on their way.
///
/// All of it blocks.
pub(crate) struct Cache {
    root: PathBuf,
    limits: Limits,
    known: Mutex<Known>,
    /// One sweep at a time.
    sweeping: Mutex<()>,
    /// Held for life: one sync per cache.
    _lock: File,
}

#[derive(Default)]
struct Known {
    cached: HashMap<Digest, Sizes>,
    /// What the desired ones took that were taken out.
    gone: HashMap<Digest, u64>,
    pinned: HashSet<Digest>,
}

/// How large a bundle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sizes {
    /// As it comes from the artifact store.
    packed_bytes: u64,
    bytes: u64,
    files: u64,
}

/// What one pass did and wants done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// These are no longer there.
    pub(crate) gone: Vec<Digest>,
    /// These are to be fetched, in this order.
    pub(crate) fetch: Vec<Digest>,
}

impl Cache {
    /// Opens the cache, made if it is new, clears away what an earlier life left half done, and checks that what is there
    /// has the size it had.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        let root = config.cache_dir.clone();
        for directory in ["bundles", "parts", "sizes"] {
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
            limits: config.limits(),
            known: Mutex::default(),
            sweeping: Mutex::default(),
            root,
            _lock: lock,
        };
        cache.known().cached = cache.scan().context("look what is there")?;
        cache.gauge();
        Ok(cache)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the part of `digest` is.
    pub(crate) fn part(&self, digest: Digest) -> PathBuf {
        self.root.join("parts").join(digest.to_string())
    }

    fn sizes_file(&self, digest: Digest) -> PathBuf {
        self.root.join("sizes").join(digest.to_string())
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

    /// The bundles that are there, and how many bytes they were, packed.
    pub(crate) fn list(&self) -> Vec<(Digest, u64)> {
        self.known().cached.iter().map(|(digest, sizes)| (*digest, sizes.packed_bytes)).collect()
    }

    /// What `digest` takes in the cache, if it was ever there.
    pub(crate) fn size_of(&self, digest: Digest) -> Option<u64> {
        let known = self.known();
        known.cached.get(&digest).map(|it| it.bytes).or_else(|| known.gone.get(&digest).copied())
    }

    /// Takes up what is desired: the pinned ones are the last to go from now on.
    pub(crate) fn desire(&self, desired: &[Desired]) {
        let mut known = self.known();
        known.pinned = desired.iter().filter(|it| it.is_pinned).map(|it| it.digest).collect();
        let digests: HashSet<_> = desired.iter().map(|it| it.digest).collect();
        known.gone.retain(|digest, _| digests.contains(digest));
    }

    /// Unpacks the complete part of `digest` into its place, deletes the part and makes room. Returns what that took out.
    pub(crate) fn admit(&self, digest: Digest) -> Result<Swept, bundle::BundleError> {
        let part = self.part(digest);
        let packed_bytes = fs::metadata(&part).map_or(0, |part| part.len());
        let place = bundle_dir(&self.root, digest);
        let unpacked = bundle::unpack(&part, &place);
        if !matches!(&unpacked, Err(bundle::BundleError::Io { source, .. }) if !is_full(source)) {
            // The same bytes will never be anything else, and on a full disk they are in the way; what the machine could
            // not do otherwise is tried again with them.
            if let Err(error) = fs::remove_file(&part) {
                warn!(%digest, %error, "cannot delete a part that is done with");
            }
        }
        unpacked?;
        let (bytes, files) = measure(&place).unwrap_or_default();
        let sizes = Sizes { packed_bytes, bytes, files };
        let noted = serde_json::to_vec(&sizes).map_err(io::Error::from);
        if let Err(error) = noted.and_then(|text| fs::write(self.sizes_file(digest), text)) {
            warn!(%digest, %error, "cannot note the size of a bundle; it will not be checked at the next start");
        }
        self.known().cached.insert(digest, sizes);
        let swept = self.sweep(&[], &Observed::default(), HashSet::from([digest]));
        let bytes = self.bytes();
        if bytes > self.limits.cache_bytes_max {
            let bytes_max = self.limits.cache_bytes_max;
            warn!(bytes, bytes_max, "everything in the cache is in use: over its bound");
        }
        Ok(swept)
    }

    /// One pass, safe to repeat: takes out what the plan says, planning again around what is in use, and returns what
    /// the plan says to fetch. `under_way` is what the cache cannot see itself; those that are `held` stay.
    pub(crate) fn sweep(
        &self,
        desired: &[Desired],
        under_way: &Observed,
        mut held: HashSet<Digest>,
    ) -> Swept {
        let _one_at_a_time = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut swept = Swept::default();
        loop {
            let (observed, vanished) = self.observe(under_way, &held);
            swept.gone.extend(vanished);
            let mut is_refused = false;
            swept.fetch.clear();
            for action in plan(desired, &observed, &self.limits) {
                match action {
                    Action::Fetch(digest) => swept.fetch.push(digest),
                    Action::Evict(digest) if self.take_out(digest) => swept.gone.push(digest),
                    Action::Evict(digest) => is_refused = held.insert(digest),
                }
            }
            if !is_refused {
                self.gauge();
                return swept;
            }
        }
    }

    /// What there is, and what is no longer there although nobody here took it out.
    fn observe(&self, under_way: &Observed, held: &HashSet<Digest>) -> (Observed, Vec<Digest>) {
        let mut known = self.known();
        let Known { cached, gone: _, pinned } = &mut *known;
        let mut vanished = Vec::new();
        let mut observed = Observed { disk_free_bytes: self.disk_free_bytes(), ..under_way.clone() };
        for (digest, sizes) in cached.iter() {
            match fs::metadata(bundle_dir(&self.root, *digest)).and_then(|it| it.modified()) {
                Ok(used) => observed.cached.push(Cached {
                    digest: *digest,
                    bytes: sizes.bytes,
                    unused_for: used.elapsed().unwrap_or_default(),
                    is_pinned: pinned.contains(digest),
                    is_held: held.contains(digest),
                }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => vanished.push(*digest),
                Err(error) => warn!(%digest, %error, "cannot look at a bundle in the cache"),
            }
        }
        cached.retain(|digest, _| !vanished.contains(digest));
        (observed, vanished)
    }

    fn bytes(&self) -> u64 {
        self.known().cached.values().map(|sizes| sizes.bytes).sum()
    }

    fn gauge(&self) {
        gauge!(CACHE_BYTES).set(self.bytes() as f64);
    }

    fn disk_free_bytes(&self) -> u64 {
        match rustix::fs::statvfs(&self.root) {
            Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
            Err(error) => {
                warn!(%error, "cannot ask how full the disk of the cache is");
                u64::MAX
            }
        }
    }

    /// Takes a bundle out; `false` if somebody runs from it, or if that failed.
    fn take_out(&self, digest: Digest) -> bool {
        match self.evict(digest) {
            Ok(true) => {
                let mut known = self.known();
                if let Some(sizes) = known.cached.remove(&digest) {
                    known.gone.insert(digest, sizes.bytes);
                }
                counter!(EVICTED).increment(1);
                info!(%digest, "took a bundle out of the cache");
                true
            }
            Ok(false) => false,
            Err(error) => {
                warn!(%digest, %error, "cannot take a bundle out of the cache");
                false
            }
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
        drop(fs::remove_file(self.sizes_file(digest)));
        Ok(true)
    }

    /// The bundles that are there; one that is not as large as it was is taken out. What has no digest's name is not ours
    /// and is left alone.
    fn scan(&self) -> io::Result<HashMap<Digest, Sizes>> {
        let mut found = HashMap::new();
        for entry in fs::read_dir(self.root.join("bundles"))? {
            let entry = entry?;
            let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let (bytes, files) = measure(&entry.path())?;
            let noted = fs::read(self.sizes_file(digest)).ok();
            let noted = noted.and_then(|text| serde_json::from_slice::<Sizes>(&text).ok());
            let is_whole = noted.is_none_or(|noted| (noted.bytes, noted.files) == (bytes, files));
            if is_whole {
                let packed_bytes = noted.map_or(bytes, |noted| noted.packed_bytes);
                found.insert(digest, Sizes { packed_bytes, bytes, files });
            } else if self.evict(digest)? {
                warn!(%digest, "a bundle in the cache was not as it was put there; took it out");
            }
        }
        Ok(found)
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

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How many bytes and files there are below a directory.
fn measure(directory: &Path) -> io::Result<(u64, u64)> {
    let (mut bytes, mut files) = (0, 0);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let below = if metadata.is_dir() { measure(&entry.path())? } else { (metadata.len(), 1) };
        (bytes, files) = (bytes + below.0, files + below.1);
    }
    Ok((bytes, files))
}
