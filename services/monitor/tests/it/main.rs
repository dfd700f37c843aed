//! A monitor on the embedded default: each thing it brings on, shown to be brought on.

#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer that is not the expected one fails a test")]

mod env;
mod letters;
mod nodes;
mod sweeps;
mod upkeep;
