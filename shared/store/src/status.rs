use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;

/// How a part of the log lies on the disk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogStatus {
    /// The day of its executions' ids (UTC); `None` where the log is not parted by days.
    pub day: Option<Date>,
    /// Since when it is in its final shape; `None`: it may still be written.
    pub sealed_at: Option<Timestamp>,
    /// How many lines it has.
    pub lines: u64,
    /// `lines` is the database's estimate.
    pub is_estimate: bool,
    /// How many bytes on the disk, indexes included.
    pub bytes: u64,
    /// How well the order of a sample of its lines on the disk agrees with that of their key, -1 to 1: the correlation of both
    /// ranks. `None` if there are none.
    pub correlation: Option<f64>,
    /// What a sample of reads cost.
    pub reads: Option<ReadCost>,
}

/// What reading the first 100 lines of an execution costs, on average over a sample of executions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReadCost {
    /// How many executions were read.
    pub reads: u32,
    /// How many lines each read brought.
    pub lines: f64,
    /// How many pages (8 KiB) of table and index each touched.
    pub pages: f64,
    /// How few it could be: one path down an index without a gap, and the lines side by side.
    pub pages_min: f64,
}

impl LogStatus {
    /// Bytes on the disk for each line, indexes included; `None` if it has no lines.
    #[must_use]
    pub fn bytes_per_line(&self) -> Option<f64> {
        (self.lines > 0).then(|| self.bytes as f64 / self.lines as f64)
    }
}
