//! What tests stand on: real servers, faults, and a judge. For development only; nothing that ships depends on it.
//!
//! - [`servers()`]: the shared servers that `compose/test` started, found through `GANTRY_TEST_*`. A missing one fails the
//!   test with advice; it never skips. [`fresh_name`] is how a test gets a schema, queue prefix, znode or key prefix of its own.
//! - [`Server`]: a server that one test owns, to kill, freeze and restart. Such tests live in a module named `faults`:
//!   `compose/test` runs those one after another.
//! - [`House`]: the whole system as processes of the real binary.
//! - [`Ensemble`]: three ZooKeeper servers, and the links between them.
//! - [`Proxy`]: a link that can be slow, cut, silent, or lose answers.
//! - [`S3Server`]: the S3 protocol in this process, also as the binary `s3-server`.
//! - [`eventually()`]: waiting for a named condition, in the place of sleeping long enough.
//! - [`history`]: what clients and workers saw, checked against what Gantry promises.
//!
//! No driver of any server is named here: what a test says to RabbitMQ it says through `broker`, or through
//! [`Server::admin`].

mod ensemble;
mod eventually;
pub mod history;
mod house;
mod proxy;
mod s3;
mod server;
mod servers;

pub use ensemble::Ensemble;
pub use eventually::{eventually, eventually_some};
pub use house::{Addresses, House, Shape};
pub use proxy::{Fault, Proxy};
pub use s3::{S3Server, serve_s3};
pub use server::{Server, ServerKind};
pub use servers::{S3Access, Servers, fresh_name, servers};
