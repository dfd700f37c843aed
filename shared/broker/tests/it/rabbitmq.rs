//! RabbitMQ's traps that need no fault.
