//! The process that supervises one script's process tree: `gantry shim`.
//!
//! It is entered before any runtime starts and stays a small single thread, for two reasons. The worker may be large,
//! and what forks must be small; and the worker may be killed, frozen or cut off from the record, and the tree must die
//! all the same, before somebody else may start the next attempt. So the shim, not the worker, holds the clocks:
//!
//! - the **run deadline**, from the manifest;
//! - the **lease**, which the worker extends each time the record granted a renewal, reckoned from the moment the
//!   renewal was *sent*. If no extension comes, the tree gets SIGTERM at [`Lease::stop_at`] and is dead by
//!   [`Lease::kill_at`], which lies before the lease runs out;
//! - the **control socket** (its descriptor 0): when that closes, the worker is dead, and the tree is killed at once.
//!
//! A tree is killed whole: the shim is a subreaper, so what daemonises itself comes back to it as a child, and it goes
//! on until the kernel says that it has no child left. Only then does it say [`Report::Exited`].
//!
//! What it cannot hold against: a script that kills its own shim (the script itself then dies with it, what it
//! daemonised is swept by the worker), until scripts run under their own user.
//!
//! - `protocol.rs`: what is said over the control socket
//! - `supervisor.rs`: the loop
//! - `tree.rs`: all descendants, their signals, their end
//! - `system.rs`: the system calls that need `unsafe`
//! - `client.rs`: the worker's side

mod client;
mod protocol;
mod supervisor;
mod system;
mod tree;

use std::process::ExitCode;

pub use client::{Shim, Streams, sweep};
pub use protocol::{Cause, Exit, Lease, Order, Report, Start};

/// What `gantry shim` does. Call it first thing in `main`, before any runtime or thread starts.
#[must_use]
pub fn shim_main() -> ExitCode {
    match supervisor::supervise() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gantry shim: {}", bootstrap::chain(&error));
            ExitCode::FAILURE
        }
    }
}
