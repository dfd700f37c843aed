//! A process tree whose root's parent is a subreaper: all its members, their signals, their end.

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, getpid, kill_process};

use super::system::{Reaped, Wait, signal_descriptor, wait_any};

/// A process that forks faster than it can be stopped is met by killing all the same, after this many looks.
const FREEZE_PASSES_MAX: usize = 16;

/// All descendants of this process, and what they used.
pub(super) struct Tree {
    signals: OwnedFd,
    main: Option<i32>,
    ended: Option<Reaped>,
    /// The largest resident set of those that ended.
    pub(super) peak_rss_bytes: u64,
    /// User time of those that ended.
    pub(super) user_us: u64,
    /// System time of those that ended.
    pub(super) system_us: u64,
}

impl Tree {
    /// The tree of this process, which has no children yet. From here on it survives SIGTERM and its like.
    pub(super) fn new() -> std::io::Result<Self> {
        rustix::process::set_child_subreaper(Some(getpid()))?;
        let signals = signal_descriptor()?;
        Ok(Self { signals, main: None, ended: None, peak_rss_bytes: 0, user_us: 0, system_us: 0 })
    }

    /// Names the child whose end is the script's end.
    pub(super) fn set_main(&mut self, pid: u32) {
        self.main = i32::try_from(pid).ok();
    }

    /// Readable when a child may have ended.
    pub(super) fn signals(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// How the script ended, if it has.
    pub(super) const fn ended(&self) -> Option<&Reaped> {
        self.ended.as_ref()
    }

    /// Takes all ended children off the process table. Returns whether any child is left.
    pub(super) fn reap(&mut self) -> bool {
        let mut drained = [0; 1_024];
        while rustix::io::read(&self.signals, &mut drained).is_ok_and(|read| read == drained.len()) {}
        loop {
            match wait_any() {
                Wait::None => return false,
                Wait::Running => return true,
                Wait::Reaped(reaped) => {
                    self.peak_rss_bytes = self.peak_rss_bytes.max(reaped.peak_rss_bytes);
                    self.user_us += reaped.user_us;
                    self.system_us += reaped.system_us;
                    if self.main == Some(reaped.pid) {
                        self.ended = Some(reaped);
                    }
                }
            }
        }
    }

    /// Sends SIGTERM to all members.
    pub(super) fn terminate(&self) {
        for pid in descendants() {
            // Gone already is as good.
            let _ = kill_process(pid, Signal::TERM);
            // A stopped process would not see it.
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// Kills all members and returns when there is none. A process that the kernel cannot end now (it waits for a disk)
    /// is waited for: nothing may be said to be dead that is not.
    pub(super) fn kill(&mut self) {
        if !self.reap() {
            return;
        }
        freeze();
        loop {
            for pid in descendants() {
                let _ = kill_process(pid, Signal::KILL);
            }
            if !self.reap() {
                return;
            }
            self.wait(Duration::from_millis(20));
            if !self.reap() {
                return;
            }
        }
    }

    fn wait(&self, longest: Duration) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(longest.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], Some(&timeout));
    }
}

/// Stops every descendant, so that none can fork away while the others are killed.
fn freeze() {
    let mut frozen: Vec<Pid> = Vec::new();
    for _ in 0..FREEZE_PASSES_MAX {
        let new: Vec<Pid> = descendants().into_iter().filter(|pid| !frozen.contains(pid)).collect();
        if new.is_empty() {
            return;
        }
        for pid in new {
            let _ = kill_process(pid, Signal::STOP);
            frozen.push(pid);
        }
    }
}

/// Every process below this one, zombies included.
fn descendants() -> Vec<Pid> {
    let mut found = Vec::new();
    let mut parents = vec![getpid()];
    while let Some(parent) = parents.pop() {
        let children = children(parent);
        found.extend_from_slice(&children);
        parents.extend(children);
    }
    found
}

/// The children of all threads of `parent`. What vanishes while we look is gone.
fn children(parent: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())) else {
        return Vec::new();
    };
    let mut children = Vec::new();
    let mut text = String::new();
    for thread in threads.flatten() {
        text.clear();
        if fs::File::open(thread.path().join("children"))
            .is_ok_and(|mut file| file.read_to_string(&mut text).is_ok())
        {
            children.extend(text.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
        }
    }
    children
}

/// How many processes of this machine the kernel has killed for their memory so far.
pub(super) fn oom_kills() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}
