//! What the broker port promises, on both adapters; and RabbitMQ's traps, each under a test that names it.

#![expect(clippy::unwrap_used, reason = "a test panics with what went wrong")]

mod contract;
mod embedded;
mod faults;
mod rabbitmq;
mod support;
