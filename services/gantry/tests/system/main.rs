//! The whole house, as an operator runs it: gateways, workers, syncs and a monitor as processes of the real binary, on
//! the real servers. What is asserted here is what callers and the outside world can see.
//!
//! Tests below `faults` own their servers or wait for leases to run out; they run one at a time.

#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]

mod calls;
mod faults;
mod harness;
mod neighbours;
mod slots;
mod statements;
