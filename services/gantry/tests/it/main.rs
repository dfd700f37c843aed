//! The binary as people use it: `gantry dev`, `gantry demo` and the client, judged by what they print and how they end.

#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]

mod client;
mod configuration;
mod dev;
mod harness;
mod reading;
mod store_status;
