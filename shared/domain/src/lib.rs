//! The words of Gantry and their rules: ids, names, states, limits, the manifest of a bundle.
//!
//! Nothing here does I/O or reads a clock; whoever needs the time passes it in. So every rule of the house that can be
//! stated without a server is stated here, once, and tested in microseconds:
//!
//! - [`ExecuteId`]: a UUIDv7, so that ids sort by the time they were made ([`ExecuteId::new`] takes that time).
//! - [`State`] and [`Event`]: the life of an execution as a pure function, [`State::on`].
//! - [`Ending`]: how an execution ended, with its [`Payload`] or its [`Failure`].
//! - [`Manifest`]: `gantry.toml` of a bundle, with errors that name line and column.
//! - [`mod@line`]: how what a script prints becomes log lines.
//! - [`KeyTemplate`]: which executions exclude each other ([`LockKey`]) or are counted together ([`LimitName`]).
//! - [`limits`]: every bound that a caller can meet.

mod attributes;
mod digest;
mod ending;
mod execute_id;
pub mod limits;
pub mod line;
mod lock;
mod manifest;
mod name;
mod retry;
mod state;

pub use attributes::{Attributes, InvalidAttributes};
pub use digest::{Digest, InvalidDigest};
pub use ending::{Ending, ErrorClass, Failure, Payload};
pub use execute_id::{ExecuteId, InvalidExecuteId};
pub use line::{Level, LogLine};
pub use lock::{InvalidKey, InvalidTemplate, KEY_BYTES_MAX, KeyTemplate, LimitName, LockKey};
pub use manifest::{InvalidManifest, Manifest, NamedLimit, ResultFrom, ResultSource, RunLimits, Runtime};
pub use name::{
    AliasName, InvalidName, ModelName, NodeId, NodeName, QueueName, TenantId, VersionNumber, VersionSelector,
};
pub use retry::RetryPolicy;
pub use state::{Event, IllegalTransition, State};
