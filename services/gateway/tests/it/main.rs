//! The gateway over real HTTP, on the embedded ports. The worker's part is played by hand, so that each test decides when
//! and whether it claims, commits and replies.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod aliases;
mod away;
mod calls;
mod harness;
mod http2;
mod inputs;
mod logs;
mod models;
mod nodes;
mod pages;
mod server;
