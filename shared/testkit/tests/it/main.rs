//! The testkit on itself, and the fences between the crates.
#![cfg(test)]

mod faults;
mod fences;
mod history;
mod proxy;
mod s3;
