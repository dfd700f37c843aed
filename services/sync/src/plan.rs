//! What a node does next about its cache: desired minus observed, without I/O and without a memory.
//!
//! Prefetching and eviction never fight. Eviction begins at the high watermark and ends at the low one; what nobody asked
//! for is fetched only as far as it fits below the low one; and only a pinned version makes room for itself, from what is
//! not pinned. So what was taken out is not fetched again until there is room, or somebody asks for it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use domain::Digest;

/// What this node should have, the most important first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) digest: Digest,
    /// What it takes in the cache, as far as that is known.
    pub(crate) bytes: u64,
    /// An alias points at it or is to: it makes room for itself, and it is the last to go.
    pub(crate) is_pinned: bool,
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    pub(crate) cached: Vec<Cached>,
    /// What is on its way, and what it will take.
    pub(crate) fetching: HashMap<Digest, u64>,
    /// What failed and is not to be tried again yet.
    pub(crate) waiting: HashSet<Digest>,
    pub(crate) disk_free_bytes: u64,
}

/// A bundle in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cached {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
    pub(crate) unused_for: Duration,
    pub(crate) is_pinned: bool,
    /// Somebody runs from it, as far as that was tried.
    pub(crate) is_held: bool,
}

/// What it may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The high watermark of the cache.
    pub(crate) cache_bytes_max: u64,
    /// The low watermark of the disk.
    pub(crate) disk_free_bytes_min: u64,
    /// What was used within this stays.
    pub(crate) keep: Duration,
    /// How many fetches may be under way that nobody asked for.
    pub(crate) fetches_max: usize,
}

/// One step. An eviction that is refused because somebody runs from the bundle is planned around in the next pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Evict(Digest),
    Fetch(Digest),
}

impl Limits {
    /// Where eviction ends and up to where is prefetched: a tenth below the high watermark.
    const fn cache_bytes_low(&self) -> u64 {
        self.cache_bytes_max - self.cache_bytes_max / 10
    }

    /// The same for the disk.
    const fn disk_free_bytes_enough(&self) -> u64 {
        self.disk_free_bytes_min.saturating_add(self.disk_free_bytes_min / 10)
    }
}

/// What to do, in this order; evictions come before the fetches they make room for.
pub(crate) fn plan(desired: &[Desired], observed: &Observed, limits: &Limits) -> Vec<Action> {
    let mut pass = Pass::new(observed, limits);
    if pass.is_too_full() {
        pass.make_room(0, true);
    }
    for wanted in desired {
        if pass.fetches >= limits.fetches_max {
            break;
        }
        let is_there = pass.cached.contains(&wanted.digest);
        if is_there
            || observed.fetching.contains_key(&wanted.digest)
            || observed.waiting.contains(&wanted.digest)
        {
            continue;
        }
        if pass.fits(wanted.bytes) || (wanted.is_pinned && pass.has_room_after_all(wanted.bytes)) {
            pass.fetch(wanted);
        }
    }
    pass.actions
}

/// The state of the node as the actions so far will leave it.
struct Pass<'a> {
    limits: &'a Limits,
    actions: Vec<Action>,
    cached: HashSet<Digest>,
    /// What may go, the last to go first.
    candidates: Vec<&'a Cached>,
    /// In the cache and on the way to it.
    bytes: u64,
    disk_free_bytes: u64,
    fetches: usize,
}

impl<'a> Pass<'a> {
    fn new(observed: &'a Observed, limits: &'a Limits) -> Self {
        let mut candidates: Vec<_> =
            observed.cached.iter().filter(|it| !it.is_held && it.unused_for >= limits.keep).collect();
        candidates.sort_by_key(|it| (!it.is_pinned, it.unused_for, it.digest));
        let cached: HashSet<_> = observed.cached.iter().map(|it| it.digest).collect();
        // What has just come may be in both.
        let on_the_way: u64 =
            observed.fetching.iter().filter(|(it, _)| !cached.contains(it)).map(|(_, bytes)| bytes).sum();
        Self {
            limits,
            actions: Vec::new(),
            cached,
            candidates,
            bytes: observed.cached.iter().map(|it| it.bytes).sum::<u64>() + on_the_way,
            disk_free_bytes: observed.disk_free_bytes.saturating_sub(on_the_way),
            fetches: observed.fetching.len(),
        }
    }

    /// Is one of the watermarks passed at which eviction begins?
    const fn is_too_full(&self) -> bool {
        self.bytes > self.limits.cache_bytes_max || self.disk_free_bytes < self.limits.disk_free_bytes_min
    }

    /// Would so many more bytes stay within the watermarks at which eviction ends?
    const fn fits(&self, bytes: u64) -> bool {
        self.bytes.saturating_add(bytes) <= self.limits.cache_bytes_low()
            && self.disk_free_bytes >= self.limits.disk_free_bytes_enough().saturating_add(bytes)
    }

    /// Takes out what was not used for longest until `bytes` fit or nothing is left that may go; pinned ones only after
    /// all others, and if `even_pinned`.
    fn make_room(&mut self, bytes: u64, even_pinned: bool) {
        let mut gone = Vec::new();
        while !self.fits(bytes)
            && let Some(last) = self.candidates.pop_if(|it| even_pinned || !it.is_pinned)
        {
            self.bytes = self.bytes.saturating_sub(last.bytes);
            self.disk_free_bytes = self.disk_free_bytes.saturating_add(last.bytes);
            gone.push(last);
        }
        // Where a large one had to go as well, a small one before it need not.
        for at in (0..gone.len()).rev() {
            if self.fits(bytes.saturating_add(gone[at].bytes)) {
                let stays = gone.remove(at);
                self.bytes += stays.bytes;
                self.disk_free_bytes -= stays.bytes;
            }
        }
        for it in gone {
            self.cached.remove(&it.digest);
            self.actions.push(Action::Evict(it.digest));
        }
    }

    /// Makes room for a pinned one, from what is not pinned; takes out nothing if that is not enough.
    fn has_room_after_all(&mut self, bytes: u64) -> bool {
        let most: u64 = self.candidates.iter().filter(|it| !it.is_pinned).map(|it| it.bytes).sum();
        let is_enough = self.bytes.saturating_sub(most).saturating_add(bytes)
            <= self.limits.cache_bytes_low()
            && self.disk_free_bytes.saturating_add(most)
                >= self.limits.disk_free_bytes_enough().saturating_add(bytes);
        if is_enough {
            self.make_room(bytes, false);
        }
        is_enough
    }

    fn fetch(&mut self, wanted: &Desired) {
        self.actions.push(Action::Fetch(wanted.digest));
        self.cached.insert(wanted.digest);
        self.bytes = self.bytes.saturating_add(wanted.bytes);
        self.disk_free_bytes = self.disk_free_bytes.saturating_sub(wanted.bytes);
        self.fetches += 1;
    }
}

#[cfg(test)]
mod tests;
