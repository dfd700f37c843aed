//! The record against real databases: one contract that both adapters keep, and what is special about each.

#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer that is not the expected one fails a test")]

mod contract;
mod postgres;
