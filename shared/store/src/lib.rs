//! The record: what is true about executions, logs, models and nodes.
//!
//! [`Record`] is the port; [`postgres`] and [`sqlite`] are its two adapters and run one contract suite
//! (`tests/it/contract/`). Its four hot writes take **batches**: [`Writer`] collects what arrived while the batch before
//! was in flight and writes that as the next one (group commit), so callers await single rows and the database sees few
//! statements.
//!
//! Four rules hold for every operation:
//!
//! - **One guarded statement.** Each change names the state and the attempt it expects; who comes late changes nothing
//!   and is told so.
//! - **The record's clock.** No caller passes an absolute time that is compared with anything but the database's clock.
//! - **Repeating is harmless.** An operation whose answer was lost may be sent again as it was: a claim is recognised
//!   by its `claim_id`, a log batch by the base it expects, an ending by its attempt.
//! - **A deadline.** Every call ends in time, with [`StoreError::Timeout`] if need be; its outcome is then unknown, and
//!   the connection it used is thrown away.

mod contention;
mod error;
mod execution;
pub mod metrics;
mod model;
mod node;
pub mod postgres;
mod reading;
mod record;
mod retention;
pub mod sqlite;
mod status;
mod writer;

pub use contention::{
    BundleChange, BundleRow, ContendedKind, Entered, NewContender, QueuedContender, Standing,
};
pub use error::{Recovery, StoreError};
pub use execution::{
    Acceptance, AlreadyEnded, Append, Appended, Claim, ClaimAnswer, ClaimRequest, Conclusion, Dispatch,
    ExecutionRow, Fence, FenceTaken, Finish, Finished, LoggedLine, NewExecution, Renewal, Requeue, Rescued,
    Settlement,
};
pub use model::{AliasSet, ExpectedAlias, PushVersion, PushedVersion, SetAlias, VersionRow};
pub use node::{Leadership, NodeEvent, NodeEventKind, NodeLife, NodeSeen, QueueLoad, RunningRow, Turn};
pub use reading::{
    ExecutionFilter, ExecutionPage, LineFilter, LogCursor, LogFilter, LogSearch, LogSlice, LogsFound, OfNode,
};
pub use record::{CancelAnswer, Record};
pub use retention::{Forgotten, LogDay, LogRetention, LogStep};
pub use status::{LogStatus, ReadCost};
pub use writer::{Writer, WriterConfig, WriterTask};
