//! Both adapters against the port's contract, S3 under faults, and bundles that mean harm.

#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]

mod archives;
mod bundles;
mod compatibility;
mod contract;
mod s3_faults;
