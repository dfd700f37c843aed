//! A sync on real ports: S3 behind a link that can fail, SQLite, and the coordination on it.

#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]

mod env;
mod many;
mod notices;
mod room;
mod transfers;
