//! Who is alive, and who may: nodes, leaders, and which versions every node must have.
//!
//! [`Coordination`] is the port; [`zookeeper`] and [`record`] (which stands on the `store`) are its two adapters and
//! run one contract suite (`tests/it/contract/`). The words session, ensemble, znode and czxid mean what ZooKeeper
//! means by them and stay inside this crate.

mod boottime;
mod contention;
mod error;
mod metrics;
mod namesake;
mod notices;
mod port;
pub mod record;
mod view;
pub mod zookeeper;

pub use boottime::Boottime;
pub use contention::{Contended, Contender, Grant, Lost, Place, Queue, Refused, Validity};
pub use error::CoordinationError;
pub use port::{BundleNotice, Coordination, Lead, Link, Membership, VersionNotice};
