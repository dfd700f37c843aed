//! RabbitMQ's faults.
