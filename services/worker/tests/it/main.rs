//! The worker against real processes and the embedded ports.

#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]

mod bundles;
mod capacity;
mod counted;
mod deaths;
mod deliveries;
mod endings;
mod exclusive;
mod shim;
mod support;
