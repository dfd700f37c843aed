//! Processes killed, frozen and cut off; servers restarted under load.

mod exclusive;
mod links;
mod processes;
mod restarts;
