//! The judge must see each bug: a clean history, then the same with one bug seeded.

use domain::{ExecuteId, State};
use testkit::history::{AtLeast, Dump, Event, LogRow, Promise, Row, What, check};

const MINIMUM: AtLeast = AtLeast { accepted: 2, takeovers: 1 };

fn first() -> ExecuteId {
    ExecuteId::floor(1)
}

fn second() -> ExecuteId {
    ExecuteId::floor(2)
}

fn hash(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn event(at_ns: u64, process: &str, what: What) -> Event {
    Event { at_ns, process: process.to_owned(), what }
}

fn claimed(execute_id: ExecuteId, attempt: u32) -> What {
    What::Claimed { execute_id, attempt }
}

fn finished(execute_id: ExecuteId, attempt: u32, result: &str) -> What {
    What::Finished { execute_id, attempt, state: State::Succeeded, result: hash(result) }
}

fn answered(execute_id: ExecuteId, result: &str) -> What {
    What::Answered { execute_id, state: State::Succeeded, result: hash(result) }
}

fn logged(execute_id: ExecuteId, attempt: u32, sent_ns: u64) -> What {
    What::Logged { execute_id, attempt, sent_ns }
}

/// `first` runs on worker a; `second` is taken over from a by b.
fn clean() -> (Vec<Event>, Dump) {
    let events = vec![
        event(10, "client", What::Accepted(first())),
        event(11, "client", What::Accepted(second())),
        event(20, "a", claimed(first(), 1)),
        event(21, "a", What::SlotTaken),
        event(22, "a", claimed(second(), 1)),
        event(23, "a", What::SlotTaken),
        event(30, "a", logged(first(), 1, 25)),
        event(31, "a", logged(second(), 1, 26)),
        event(40, "a", finished(first(), 1, "one")),
        event(41, "a", What::SlotFreed),
        event(42, "client", answered(first(), "one")),
        event(50, "b", claimed(second(), 2)),
        event(51, "b", What::SlotTaken),
        event(60, "b", logged(second(), 2, 55)),
        event(70, "b", finished(second(), 2, "two")),
        event(71, "b", What::SlotFreed),
        event(72, "client", answered(second(), "two")),
    ];
    let row = |attempt, result, last_log_id| Row {
        state: State::Succeeded,
        attempt,
        result: hash(result),
        last_log_id,
    };
    let log = |execute_id, log_id, attempt| LogRow { execute_id, log_id, attempt };
    let dump = Dump {
        executions: [(first(), row(1, "one", 1)), (second(), row(2, "two", 3))].into(),
        logs: vec![log(second(), 3, 2), log(first(), 1, 1), log(second(), 1, 1), log(second(), 2, 2)],
        slots: [("a".to_owned(), 2), ("b".to_owned(), 1)].into(),
    };
    (events, dump)
}

/// The promises broken after `bug` was seeded into the clean history, each once.
fn broken_by(bug: impl FnOnce(&mut Vec<Event>, &mut Dump)) -> Vec<Promise> {
    let (mut events, mut dump) = clean();
    bug(&mut events, &mut dump);
    let mut promises: Vec<_> =
        check(&events, &dump, MINIMUM).violations.iter().map(|broken| broken.promise).collect();
    promises.sort_unstable();
    promises.dedup();
    promises
}

#[test]
fn a_clean_history_keeps_every_promise() {
    let (mut events, dump) = clean();
    events.reverse();
    let report = check(&events, &dump, MINIMUM);
    report.assert_kept();
    assert_eq!((report.accepted, report.terminal, report.lost()), (2, 2, 0));
    assert_eq!((report.finished, report.takeovers, report.log_rows), (2, 1, 4));
}

#[test]
fn an_accepted_execution_without_a_row_is_lost() {
    assert_eq!(
        broken_by(|events, _| events.push(event(12, "client", What::Accepted(ExecuteId::floor(3))))),
        [Promise::AcceptedIsFinished]
    );
}

#[test]
fn an_accepted_execution_that_never_ends_is_lost() {
    let broken = broken_by(|events, dump| {
        events.retain(|event| !matches!(event.what, What::Finished { .. } | What::Answered { .. }));
        dump.executions.get_mut(&first()).unwrap().state = State::Running;
    });
    assert_eq!(broken, [Promise::AcceptedIsFinished]);
}

#[test]
fn a_finish_without_the_test_of_the_attempt_is_caught() {
    // The frozen first attempt wakes up and commits over the second; the callers saw both.
    let broken = broken_by(|events, _| events.push(event(80, "a", finished(second(), 1, "two"))));
    assert_eq!(broken, [Promise::OneAttemptFinishes]);
}

#[test]
fn a_claim_that_is_granted_twice_is_caught() {
    assert_eq!(
        broken_by(|events, _| events.push(event(24, "b", claimed(first(), 1)))),
        [Promise::OneAttemptFinishes]
    );
}

#[test]
fn a_claim_that_the_record_forgot_is_caught() {
    assert_eq!(
        broken_by(|events, _| events.push(event(35, "b", claimed(first(), 2)))),
        [Promise::OneAttemptFinishes]
    );
}

#[test]
fn a_result_that_was_overwritten_is_caught() {
    let broken = broken_by(|_, dump| dump.executions.get_mut(&first()).unwrap().result = hash("other"));
    assert_eq!(broken, [Promise::ResultIsKept]);
}

#[test]
fn a_reply_before_the_commit_is_caught() {
    // The caller was told of a success, the worker died before the commit, and the next attempt failed.
    let broken = broken_by(|events, dump| {
        events.retain(
            |event| !matches!(event.what, What::Finished { execute_id, .. } if execute_id == first()),
        );
        *dump.executions.get_mut(&first()).unwrap() =
            Row { state: State::Failed, attempt: 1, result: None, last_log_id: 1 };
    });
    assert_eq!(broken, [Promise::ResultIsKept]);
}

#[test]
fn a_log_batch_of_an_overtaken_attempt_is_caught() {
    assert_eq!(
        broken_by(|events, _| events.push(event(62, "a", logged(second(), 1, 58)))),
        [Promise::StaleAttemptWritesNothing]
    );
}

#[test]
fn a_log_batch_that_was_under_way_at_the_takeover_is_no_violation() {
    assert_eq!(broken_by(|events, _| events.push(event(62, "a", logged(second(), 1, 49)))), []);
}

#[test]
fn a_log_batch_after_the_finish_is_caught() {
    assert_eq!(
        broken_by(|events, _| events.push(event(90, "b", logged(second(), 2, 75)))),
        [Promise::StaleAttemptWritesNothing]
    );
}

#[test]
fn a_log_row_of_an_overtaken_attempt_is_caught() {
    let broken = broken_by(|_, dump| dump.logs[0].attempt = 1);
    assert_eq!(broken, [Promise::StaleAttemptWritesNothing]);
}

#[test]
fn a_missing_log_row_is_a_gap() {
    assert_eq!(broken_by(|_, dump| dump.logs.truncate(3)), [Promise::LogHasNoGaps]);
}

#[test]
fn a_missing_last_log_row_is_a_gap() {
    assert_eq!(broken_by(|_, dump| dump.logs.retain(|row| row.log_id != 3)), [Promise::LogHasNoGaps]);
}

#[test]
fn a_log_row_twice_is_caught() {
    assert_eq!(broken_by(|_, dump| dump.logs.push(dump.logs[1])), [Promise::LogHasNoGaps]);
}

#[test]
fn a_slot_too_many_is_caught() {
    let broken = broken_by(|_, dump| dump.slots.extend([("a".to_owned(), 1)]));
    assert_eq!(broken, [Promise::CapHolds]);
}

#[test]
fn a_slot_that_is_freed_twice_is_caught() {
    assert_eq!(broken_by(|events, _| events.push(event(73, "b", What::SlotFreed))), [Promise::CapHolds]);
}

#[test]
fn a_history_in_which_too_little_happened_shows_nothing() {
    let (events, dump) = clean();
    let report = check(&events, &dump, AtLeast { accepted: 3, takeovers: 2 });
    let promises: Vec<_> = report.violations.iter().map(|broken| broken.promise).collect();
    assert_eq!(promises, [Promise::EnoughHappened; 2]);
}
