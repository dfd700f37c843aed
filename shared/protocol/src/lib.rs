//! What crosses a process boundary: the AMQP envelope, the HTTP bodies, the problems, the announcement of a node.
//!
//! Everything here is public contract (see `docs/asyncapi.yaml` and `/openapi.json`): a field may be added, never change
//! its meaning. Drivers stay out: a broker adapter turns its own types into a [`RawMessage`] and back.

pub mod cache;
mod envelope;
pub mod http;
mod node;
mod problem;
mod reply;

pub use envelope::{HeaderValue, InvalidMessage, RawMessage, ReplyAddress, Request, SCHEMA, header};
pub use node::{BundleState, Drain, DrainMode, NodeInfo, NodeSettings, NodeState};
pub use problem::{Problem, ProblemCode};
pub use reply::{InvalidReply, Reply};
