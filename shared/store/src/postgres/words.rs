//! What the record itself says about an execution that ends without a worker.

use domain::{ErrorClass, Failure, limits};

/// Why, as a program and as a person reads it.
pub(super) struct Reason {
    pub class: ErrorClass,
    pub message: &'static str,
}

impl Reason {
    pub fn failure(&self) -> Failure {
        Failure { class: self.class, message: self.message.to_owned(), exit_code: None, signal: None }
    }
}

pub(super) const CANCELLED: Reason =
    Reason { class: ErrorClass::Cancelled, message: "cancelled by its caller" };
pub(super) const EXPIRED: Reason =
    Reason { class: ErrorClass::Deadline, message: "its deadline passed before it could start" };
pub(super) const NODE_LOST: Reason =
    Reason { class: ErrorClass::NodeLost, message: "the nodes that ran it were lost too often" };
pub(super) const OUTSIDE_WINDOW: Reason =
    Reason { class: ErrorClass::Input, message: "its execute_id is dated too far back or ahead" };

/// How many reply addresses a row remembers.
pub(super) fn addresses_max() -> i32 {
    i32::try_from(limits::REPLY_ADDRESSES_MAX).unwrap_or(i32::MAX)
}
