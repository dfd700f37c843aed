//! Both adapters against the port's contract, and ZooKeeper under faults.

#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]

mod contract;
mod env;
mod faults;
mod traps;
