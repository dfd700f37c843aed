//! Dispatch and reply: messages between gateways, monitors and workers, and from direct producers.
//!
//! [`Broker`] is the port; [`rabbitmq`] and [`embedded`] are its two adapters and run one contract suite
//! (`tests/it/contract/`). A message is a hint: the record is the truth, so a message may come twice, late or in
//! another order, and never has to be looked for. What the port promises is that a *confirmed* message is delivered
//! until somebody settles it.
//!
//! The words exchange, queue, routing key and confirm mean what RabbitMQ means by them and stay inside this crate.

pub mod embedded;
mod error;
pub mod metrics;
mod port;
pub mod rabbitmq;
mod rejection;

pub use error::{BrokerError, PublishError};
pub use port::{Broker, CONFIRM_TIMEOUT, Control, Deliveries, Delivery, DeliverySource, Settle, Settled};
