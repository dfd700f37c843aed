//! On the record.
