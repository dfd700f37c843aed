//! Takes deliveries, claims their executions, runs them, and records and replies how they ended.
//!
//! One delivery's way, in the one order that loses nothing (`docs/architecture.md`): it waits for a slot
//! (`consumer.rs`), is parsed and **claimed**, together with others, in one statement (`claim.rs`), is **acknowledged**,
//! is **run** (`execution.rs`), and once its process tree is dead its result and last log lines are **committed**, then
//! the **replies** are sent, then its **slot** is free. (A builtin has run when it is claimed, and ends with that.)
//!
//! - `slots.rs`: the active-count cap. `leases.rs`: what is ours until when, and the renewal of it all in one statement.
//! - `waiting.rs`: where exclusive and limited executions wait for what they need, without a slot. `rights.rs`: what they
//!   then hold, and for how long that is certain. `fencing.rs`: whether anything exclusive may run at all.
//! - `versions.rs`, `cache.rs`: which bundle a version is, and where it lies. The cache is filled by the node's sync.
//! - `runtime/`: `builtin` runs inside the worker; `process` runs one process tree per execution under a [`shim`], which
//!   kills it at its deadlines even if this worker is dead or frozen.
//! - `output.rs`: what a script prints, on its way into the record.
//! - `settings.rs`: what an operator asks of the node while it runs; `membership.rs` announces what it is.
//! - `settlement.rs`: the rules by which an attempt's outcome becomes its settlement.
//! - `drain.rs`: the end.

mod backoff;
mod cache;
mod claim;
mod config;
mod consumer;
mod drain;
mod execution;
mod fencing;
mod labels;
mod leases;
mod membership;
mod metrics;
mod output;
mod rights;
mod runtime;
mod scratch;
mod service;
mod settings;
mod settlement;
pub mod shim;
mod slots;
mod timeline;
mod versions;
mod waiting;

pub use config::Config;
pub use labels::Labels;
pub use service::run;
pub use shim::shim_main;

pub(crate) use service::Worker;
