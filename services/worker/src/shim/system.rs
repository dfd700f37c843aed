//! The system calls of the shim that neither std nor rustix has a safe word for.
#![expect(
    unsafe_code,
    reason = "close_range, signalfd and wait4 have no safe wrapper, and pre_exec is unsafe by nature"
)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, setsid};

/// A child that ended and was taken off the process table.
pub(super) struct Reaped {
    pub(super) pid: i32,
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) peak_rss_bytes: u64,
    pub(super) user_us: u64,
    pub(super) system_us: u64,
}

/// What became of looking for an ended child.
pub(super) enum Wait {
    /// This one ended.
    Reaped(Reaped),
    /// There are children, and none has ended.
    Running,
    /// There are no children.
    None,
}

/// Closes every descriptor from `first` on: what the worker's parents may have left open is not for scripts.
pub(super) fn close_from(first: u32) {
    // SAFETY: called before this process has opened anything, so no owner of these descriptors exists.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Blocks the signals that tell of children and those that would end this process, and returns the descriptor they are
/// read from instead: the shim outlives a SIGTERM to its whole group, or nobody would watch over the tree.
pub(super) fn signal_descriptor() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised by sigemptyset before it is used; the descriptor returned is new and ours.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

/// Makes `command` start in a session of its own, with no signal blocked, and dead if `shim` is.
pub(super) fn bind_to(command: &mut Command, shim: Pid) {
    let prepare = move || {
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is initialised by sigemptyset before it is used.
        unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        }
        setsid()?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The shim may have died just before the line above.
        if getppid() == Some(shim) { Ok(()) } else { Err(io::Error::from(io::ErrorKind::BrokenPipe)) }
    };
    // SAFETY: the closure only makes system calls; and the shim has one thread, so no lock is held across the fork.
    unsafe { command.pre_exec(prepare) };
}

/// Takes one ended child off the process table, if there is one.
pub(super) fn wait_any() -> Wait {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are valid for writes; all zeroes is a valid rusage.
    let (pid, usage) = unsafe {
        let pid = libc::wait4(-1, &raw mut status, libc::WNOHANG | libc::__WALL, usage.as_mut_ptr());
        (pid, usage.assume_init())
    };
    match pid {
        0 => Wait::Running,
        -1 if io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD) => Wait::None,
        -1 => Wait::Running,
        pid => {
            let us =
                |time: libc::timeval| time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_usec.unsigned_abs();
            Wait::Reaped(Reaped {
                pid,
                code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
                signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
                peak_rss_bytes: usage.ru_maxrss.unsigned_abs() * 1_024,
                user_us: us(usage.ru_utime),
                system_us: us(usage.ru_stime),
            })
        }
    }
}
