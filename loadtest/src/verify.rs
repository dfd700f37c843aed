//! What the record says of the accepted calls, asked over HTTP once the load is over.

use std::time::{Duration, Instant};

use domain::State;
use futures::StreamExt;
use protocol::http::{Execution, LogRow};
use tokio::time::sleep;

use crate::http::Gateways;
use crate::stages::Stages;
use crate::tally::Accepted;

/// At most so many are looked at, evenly spread; those that nobody saw end are looked at in any case.
const LOOKED_AT_MAX: usize = 20_000;
/// How many are looked at at once.
const AT_ONCE: usize = 16;
/// The pause before the record is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// What the record says of the accepted calls.
#[derive(Debug, Default)]
pub struct RecordSays {
    /// How many were looked at.
    pub looked_at: u64,
    /// How many have not ended.
    pub lost: u64,
    /// How many ended more than once.
    pub doubled: u64,
    /// How many ended another way than their callers were told.
    pub different: u64,
    /// How many succeeded without having their lines once and in order.
    pub broken_logs: u64,
    /// How many took more than one attempt.
    pub rescued: u64,
    /// Where the time of those went that succeeded.
    pub stages: Stages,
}

impl RecordSays {
    /// Takes what it says of another kind of calls into this.
    ///
    /// # Errors
    /// Never.
    pub fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        self.looked_at += other.looked_at;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.different += other.different;
        self.broken_logs += other.broken_logs;
        self.rescued += other.rescued;
        self.stages.merge(&other.stages)
    }
}

/// What the record says of one call.
#[derive(Debug, Default)]
struct Finding {
    execution: Option<Execution>,
    lost: bool,
    doubled: bool,
    different: bool,
    broken_log: bool,
    rescued: bool,
}

/// Looks the calls up, those that have not ended until `until`.
pub async fn verify(
    gateways: &Gateways,
    accepted: &[Accepted],
    lines: Option<u32>,
    until: Instant,
) -> RecordSays {
    let step = accepted.len().div_ceil(LOOKED_AT_MAX).max(1);
    let chosen = accepted.iter().enumerate().filter(|(n, accepted)| n % step == 0 || accepted.told.is_none());
    let mut findings = futures::stream::iter(chosen)
        .map(async |(_, accepted)| (accepted, look(gateways, accepted, lines, until).await))
        .buffer_unordered(AT_ONCE);
    let mut says = RecordSays::default();
    while let Some((accepted, finding)) = findings.next().await {
        if let Some(execution) = &finding.execution {
            says.stages.add(accepted, execution);
        }
        says.looked_at += 1;
        says.lost += u64::from(finding.lost);
        says.doubled += u64::from(finding.doubled);
        says.different += u64::from(finding.different);
        says.broken_logs += u64::from(finding.broken_log);
        says.rescued += u64::from(finding.rescued);
    }
    says
}

async fn look(gateways: &Gateways, accepted: &Accepted, lines: Option<u32>, until: Instant) -> Finding {
    let Accepted { id, told, .. } = *accepted;
    let execution = loop {
        match gateways.execution(id).await {
            Ok(execution) if execution.state.is_terminal() => break execution,
            Ok(_) | Err(_) if Instant::now() > until => return Finding { lost: true, ..Finding::default() },
            Ok(_) | Err(_) => sleep(PAUSE).await,
        }
    };
    let mut finding = Finding {
        doubled: ends(&execution) > 1,
        different: told.is_some_and(|told| told != execution.state),
        rescued: execution.attempt > 1,
        ..Finding::default()
    };
    if let Some(lines) = lines.filter(|_| execution.state == State::Succeeded) {
        finding.broken_log = loop {
            match gateways.log(id).await {
                Ok(rows) => break !is_counted(&rows, execution.attempt, lines),
                Err(_) if Instant::now() > until => break true,
                Err(_) => sleep(PAUSE).await,
            }
        };
    }
    finding.execution = Some(execution);
    finding
}

/// How often it came to an end, by its timeline.
fn ends(execution: &Execution) -> usize {
    let is_end = |event: &str| event.parse().is_ok_and(|state: State| state.is_terminal());
    execution.timeline.iter().filter(|event| is_end(&event.event)).count()
}

/// Do the rows run 1, 2, 3, ... without gaps, and do those of `attempt` say 1 to `lines`?
fn is_counted(rows: &[LogRow], attempt: i32, lines: u32) -> bool {
    let is_dense = rows.iter().zip(1..).all(|(row, log_id)| row.log_id == log_id);
    let of_attempt = rows.iter().filter(|row| row.attempt == attempt);
    is_dense && of_attempt.map(|row| row.line.clone()).eq((1..=lines).map(|line| line.to_string()))
}

#[cfg(test)]
mod tests {
    use domain::Level;

    use super::*;

    fn rows(lines: &[(i64, i32, &str)]) -> Vec<LogRow> {
        let row = |(log_id, attempt, line): &(i64, i32, &str)| LogRow {
            log_id: *log_id,
            attempt: *attempt,
            level: Level::Info,
            at: jiff::Timestamp::UNIX_EPOCH,
            line: (*line).to_owned(),
            continues: false,
        };
        lines.iter().map(row).collect()
    }

    #[test]
    fn gaps_repeats_and_disorder_are_seen() {
        let good = rows(&[(1, 1, "1"), (2, 2, "1"), (3, 2, "2")]);
        assert!(is_counted(&good, 2, 2));
        for bad in [
            rows(&[(1, 1, "1"), (3, 1, "2")]),
            rows(&[(1, 1, "1"), (2, 1, "1"), (3, 1, "2")]),
            rows(&[(1, 1, "2"), (2, 1, "1")]),
            rows(&[(1, 1, "1")]),
            rows(&[]),
        ] {
            assert!(!is_counted(&bad, 1, 2), "{bad:?}");
        }
    }
}
