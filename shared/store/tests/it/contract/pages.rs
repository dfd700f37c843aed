//! Pages of one execution's log.

use domain::limits::LOG_LOOK_MAX;
use domain::{Level, LogLine};
use jiff::Timestamp;
use store::{Append, Appended, LineFilter, LogFilter, LogSlice, NewExecution};

use super::{Env, append};

/// A running execution with these lines.
pub async fn logged(env: &Env, lines: Vec<LogLine>) -> NewExecution {
    let (new, _) = env.running().await;
    write(env, &new, lines).await;
    new
}

/// Writes these lines as the first ones of attempt 1.
pub async fn write(env: &Env, new: &NewExecution, lines: Vec<LogLine>) {
    let mut base = 0;
    for chunk in lines.chunks(5_000) {
        let append = Append { lines: chunk.to_vec(), ..append(new, 1, base, &[]) };
        base += chunk.len() as i64;
        assert_eq!(env.record.append(&[append]).await.unwrap(), [Appended::Stored { last_log_id: base }]);
    }
}

pub fn line(level: Level, second: i64, text: impl Into<String>) -> LogLine {
    LogLine { level, at_unix_us: (1_700_000_000 + second) * 1_000_000, text: text.into(), continues: false }
}

fn numbers(slice: &LogSlice) -> Vec<i64> {
    slice.lines.iter().map(|line| line.log_id).collect()
}

pub async fn a_page_of_a_log_and_its_tail_are_in_order(env: Env) {
    let (new, _) = env.running().await;
    let mut batch = append(&new, 1, 0, &["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    batch.lines[2].level = Level::Error;
    batch.lines[2].continues = true;
    env.record.append(&[batch]).await.unwrap();
    let list = async |filter| env.record.list_log(new.execute_id, &filter).await.unwrap();
    let page = list(LogFilter::after(2, 3)).await;
    assert_eq!((numbers(&page), page.next), (vec![3, 4, 5], Some(5)));
    let first = &page.lines[0];
    assert_eq!((first.level, first.continues, first.attempt), (Level::Error, true, 1));
    assert_eq!(first.at, Timestamp::from_microsecond(1_700_000_000_000_001).unwrap());
    assert_eq!((page.lines[1].level, page.lines[1].continues), (Level::Info, false));
    let page = list(LogFilter::after(6, 3)).await;
    assert_eq!((numbers(&page), page.next), (vec![7, 8, 9], None), "no further page");
    assert_eq!(list(LogFilter::after(9, 3)).await, LogSlice::default());
    let page = list(LogFilter::tail(2)).await;
    assert_eq!((numbers(&page), page.next), (vec![8, 9], Some(8)));
    let page = list(LogFilter { before: Some(5), after: 2, ..LogFilter::after(0, 9) }).await;
    assert_eq!((numbers(&page), page.next), (vec![3, 4], None));
    let none = LogFilter { before: Some(3), ..LogFilter::after(7, 9) };
    assert_eq!(list(none).await, LogSlice::default());
}

pub async fn pages_lead_forwards_and_backwards_over_every_line_once(env: Env) {
    let lines = (1..=25).map(|n| line(if n % 3 == 0 { Level::Warning } else { Level::Info }, n, "x"));
    let new = logged(&env, lines.collect()).await;
    let all = |is_wanted: fn(&i64) -> bool| (1..=25).filter(is_wanted).collect::<Vec<i64>>();
    for (level, expected) in [(None, all(|_| true)), (Some(Level::Warning), all(|n| n % 3 == 0))] {
        let lines = LineFilter { level, ..LineFilter::default() };
        let (mut filter, mut seen) =
            (LogFilter { lines: lines.clone(), ..LogFilter::after(0, 4) }, Vec::new());
        loop {
            let page = env.record.list_log(new.execute_id, &filter).await.unwrap();
            seen.extend(numbers(&page));
            let Some(next) = page.next else { break };
            filter.after = next;
        }
        assert_eq!(seen, expected);
        let (mut filter, mut seen) = (LogFilter { lines, ..LogFilter::tail(4) }, Vec::new());
        loop {
            let page = env.record.list_log(new.execute_id, &filter).await.unwrap();
            seen.extend(numbers(&page).into_iter().rev());
            let Some(next) = page.next else { break };
            filter.before = Some(next);
        }
        seen.reverse();
        assert_eq!(seen, expected);
    }
}

pub async fn lines_are_found_by_level_text_and_time(env: Env) {
    let new = logged(
        &env,
        vec![
            line(Level::Debug, 1, "begin 100% of it"),
            line(Level::Info, 2, "Größe: 漢字 ok"),
            line(Level::Warning, 3, "begin_again"),
            line(Level::Error, 4, "BEGIN \\ failed"),
        ],
    )
    .await;
    let find = async |lines| {
        let filter = LogFilter { lines, ..LogFilter::after(0, 100) };
        let found = numbers(&env.record.list_log(new.execute_id, &filter).await.unwrap());
        let tail = LogFilter { from_end: true, ..filter };
        assert_eq!(numbers(&env.record.list_log(new.execute_id, &tail).await.unwrap()), found);
        found
    };
    let level = |level| LineFilter { level: Some(level), ..LineFilter::default() };
    let text = |text: &str| LineFilter { text: Some(text.to_owned()), ..LineFilter::default() };
    let at = |second: i64| Some(Timestamp::from_second(1_700_000_000 + second).unwrap());
    assert_eq!(find(level(Level::Debug)).await, [1, 2, 3, 4]);
    assert_eq!(find(level(Level::Info)).await, [2, 3, 4]);
    assert_eq!(find(level(Level::Warning)).await, [3, 4]);
    assert_eq!(find(level(Level::Error)).await, [4]);
    // Letter for letter: no pattern, and no folding of cases.
    for (wanted, expected) in [
        ("begin", &[1, 3][..]),
        ("BEGIN", &[4]),
        ("100%", &[1]),
        ("%", &[1]),
        ("n_a", &[3]),
        ("\\", &[4]),
        ("漢", &[2]),
        ("größe", &[]),
    ] {
        assert_eq!(find(text(wanted)).await, expected, "{wanted}");
    }
    assert_eq!(find(LineFilter { from: at(2), to: at(4), ..LineFilter::default() }).await, [2, 3]);
    assert_eq!(find(LineFilter { from: at(3), ..text("begin") }).await, [3]);
    assert_eq!(find(LineFilter { text: Some("begin".to_owned()), ..level(Level::Error) }).await, [0_i64; 0]);
}

pub async fn a_page_that_finds_little_says_how_far_it_got(env: Env) {
    let most = i64::from(LOG_LOOK_MAX);
    let quiet = |n| line(Level::Info, 0, if n == 1 || n == most + 5 { "rare" } else { "often" });
    let new = logged(&env, (1..=most + 5).map(quiet).collect()).await;
    let rare = || LineFilter { text: Some("rare".to_owned()), ..LineFilter::default() };
    let list = async |filter| {
        let page = env.record.list_log(new.execute_id, &filter).await.unwrap();
        (numbers(&page), page.next)
    };
    let forwards = |after| LogFilter { lines: rare(), ..LogFilter::after(after, 10) };
    assert_eq!(list(forwards(0)).await, (vec![1], Some(most)));
    assert_eq!(list(forwards(most)).await, (vec![most + 5], None));
    let backwards = |before| LogFilter { lines: rare(), before, ..LogFilter::tail(10) };
    assert_eq!(list(backwards(None)).await, (vec![most + 5], Some(6)));
    assert_eq!(list(backwards(Some(6))).await, (vec![1], None));
}
