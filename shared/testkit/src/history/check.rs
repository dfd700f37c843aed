use std::collections::{BTreeMap, BTreeSet};

use domain::ExecuteId;

use super::{AtLeast, Dump, Event, LogRow, Promise, Report, Row, Violation, What};

/// How many events of a worker are shown with a violation.
const CHAIN: usize = 20;

/// Judges `events` (in any order) and the record they left.
#[must_use]
pub fn check(events: &[Event], dump: &Dump, at_least: AtLeast) -> Report {
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by_key(|event| event.at_ns);
    let mut of_execution: BTreeMap<ExecuteId, History<'_>> = BTreeMap::new();
    let mut of_worker: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        match event.what.execute_id() {
            Some(execute_id) => of_execution.entry(execute_id).or_default().events.push(event),
            None => of_worker.entry(&event.process).or_default().push(event),
        }
    }
    let mut logs = dump.logs.clone();
    logs.sort_unstable();
    for rows in logs.chunk_by(|a, b| a.execute_id == b.execute_id) {
        of_execution.entry(rows[0].execute_id).or_default().logs = rows;
    }
    for (execute_id, row) in &dump.executions {
        of_execution.entry(*execute_id).or_default().row = Some(row);
    }

    let mut report = Report { log_rows: logs.len(), ..Report::default() };
    for (execute_id, history) in &of_execution {
        history.count(&mut report);
        let mut broken = Vec::new();
        history.judge(&mut broken);
        report.violations.extend(broken.into_iter().map(|(promise, how)| Violation {
            promise,
            how: format!("{execute_id}: {how}"),
            chain: history.events.iter().map(|event| (*event).clone()).collect(),
        }));
    }
    for (worker, events) in of_worker {
        let cap = dump.slots.get(worker).copied().unwrap_or(0);
        report.violations.extend(over_cap(worker, cap, &events));
    }
    for (what, found, wanted) in [
        ("accepted", report.accepted, at_least.accepted),
        ("takeovers", report.takeovers, at_least.takeovers),
    ] {
        if found < wanted {
            let how = format!("{found} {what}, at least {wanted} were to happen");
            report.violations.push(Violation { promise: Promise::EnoughHappened, how, chain: Vec::new() });
        }
    }
    report
}

/// Everything about one execution.
#[derive(Default)]
struct History<'a> {
    events: Vec<&'a Event>,
    row: Option<&'a Row>,
    logs: &'a [LogRow],
}

type Broken = Vec<(Promise, String)>;

impl History<'_> {
    fn accepted(&self) -> bool {
        self.events.iter().any(|event| matches!(event.what, What::Accepted(_)))
    }

    fn terminal(&self) -> bool {
        self.row.is_some_and(|row| row.state.is_terminal())
    }

    fn count(&self, report: &mut Report) {
        report.accepted += usize::from(self.accepted());
        report.terminal += usize::from(self.accepted() && self.terminal());
        for event in &self.events {
            report.finished += usize::from(matches!(event.what, What::Finished { .. }));
            report.takeovers += usize::from(matches!(event.what, What::Claimed { attempt: 2.., .. }));
        }
    }

    fn judge(&self, broken: &mut Broken) {
        if self.accepted() && !self.terminal() {
            let found = self.row.map_or("no row".to_owned(), |row| format!("still {}", row.state));
            broken.push((Promise::AcceptedIsFinished, format!("accepted, {found}")));
        }
        self.judge_attempts(broken);
        self.judge_results(broken);
        self.judge_log_batches(broken);
        self.judge_log_rows(broken);
    }

    fn judge_attempts(&self, broken: &mut Broken) {
        let mut claimed = BTreeSet::new();
        let mut finished = BTreeSet::new();
        for event in &self.events {
            match event.what {
                What::Claimed { attempt, .. } => {
                    if !claimed.insert(attempt) {
                        broken.push((
                            Promise::OneAttemptFinishes,
                            format!("attempt {attempt} was granted twice"),
                        ));
                    }
                }
                What::Finished { attempt, .. } => {
                    finished.insert(attempt);
                }
                What::Accepted(_)
                | What::Logged { .. }
                | What::Answered { .. }
                | What::SlotTaken
                | What::SlotFreed => {}
            }
        }
        if finished.len() > 1 {
            broken.push((Promise::OneAttemptFinishes, format!("attempts {finished:?} all finished")));
        }
        let last = self.row.map_or(0, |row| row.attempt);
        if let Some(attempt) = finished.iter().find(|attempt| **attempt != last) {
            let how = format!("attempt {attempt} finished, the row's last is {last}");
            broken.push((Promise::OneAttemptFinishes, how));
        }
        if let Some(attempt) = claimed.last().filter(|attempt| **attempt > last) {
            let how = format!("attempt {attempt} was granted, the row's last is {last}");
            broken.push((Promise::OneAttemptFinishes, how));
        }
    }

    fn judge_results(&self, broken: &mut Broken) {
        for event in &self.events {
            let (What::Finished { state, result, .. } | What::Answered { state, result, .. }) = &event.what
            else {
                continue;
            };
            let kept = self.row.is_some_and(|row| row.state == *state && row.result == *result);
            if !kept {
                let how = format!(
                    "{} knows {state} with {result:?}, the record holds {:?}",
                    event.process, self.row
                );
                broken.push((Promise::ResultIsKept, how));
            }
        }
    }

    /// A batch that was sent after a higher claim or a finish was known must have been refused.
    fn judge_log_batches(&self, broken: &mut Broken) {
        for event in &self.events {
            let What::Logged { attempt, sent_ns, .. } = event.what else { continue };
            let overtaken = self.events.iter().find(|earlier| {
                earlier.at_ns < sent_ns
                    && match earlier.what {
                        What::Claimed { attempt: other, .. } => other > attempt,
                        What::Finished { .. } => true,
                        What::Accepted(_) | What::Logged { .. } | What::Answered { .. } => false,
                        What::SlotTaken | What::SlotFreed => false,
                    }
            });
            if let Some(by) = overtaken {
                let how = format!("attempt {attempt} stored log lines after {:?}", by.what);
                broken.push((Promise::StaleAttemptWritesNothing, how));
            }
        }
    }

    fn judge_log_rows(&self, broken: &mut Broken) {
        let last = self.row.map_or(0, |row| row.attempt);
        for pair in self.logs.windows(2) {
            if pair[1].attempt < pair[0].attempt {
                let how = format!(
                    "log_id {} is of attempt {}, the one before of {}",
                    pair[1].log_id, pair[1].attempt, pair[0].attempt
                );
                broken.push((Promise::StaleAttemptWritesNothing, how));
            }
        }
        if let Some(row) = self.logs.iter().find(|row| row.attempt > last) {
            let how =
                format!("log_id {} is of attempt {}, the row's last is {last}", row.log_id, row.attempt);
            broken.push((Promise::StaleAttemptWritesNothing, how));
        }
        let dense = self.logs.iter().zip(1..).find(|(row, expected)| row.log_id != *expected);
        if let Some((row, expected)) = dense {
            broken.push((Promise::LogHasNoGaps, format!("log_id {} where {expected} was due", row.log_id)));
        }
        let (rows, said) = (self.logs.len() as u64, self.row.map_or(0, |row| row.last_log_id));
        if rows != said {
            broken.push((Promise::LogHasNoGaps, format!("{rows} log rows, the row says {said}")));
        }
    }
}

/// The first moment at which `worker` used more than `cap` slots.
fn over_cap(worker: &str, cap: u32, events: &[&Event]) -> Option<Violation> {
    let mut used = 0_i64;
    for (index, event) in events.iter().enumerate() {
        used += if event.what == What::SlotTaken { 1 } else { -1 };
        if used > i64::from(cap) || used < 0 {
            return Some(Violation {
                promise: Promise::CapHolds,
                how: format!("{worker} used {used} of {cap} slots"),
                chain: events[index.saturating_sub(CHAIN)..=index]
                    .iter()
                    .map(|event| (*event).clone())
                    .collect(),
            });
        }
    }
    None
}
