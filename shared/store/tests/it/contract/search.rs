//! Search in the logs of a model.

use domain::limits::{LOG_LOOK_MAX, SEARCH_EXECUTIONS_MAX};
use domain::{ExecuteId, Level, LogLine};
use jiff::Timestamp;
use store::{LineFilter, LogCursor, LogSearch, LogsFound, NewExecution};

use super::pages::{line, write};
use super::{Env, claim_of, claimed, new_execution};

fn search(text: &str, limit: u32) -> LogSearch {
    LogSearch {
        model: "echo".parse().unwrap(),
        from: None,
        before: None,
        cursor: None,
        lines: LineFilter { text: Some(text.to_owned()), ..LineFilter::default() },
        limit,
    }
}

/// A running execution dated `n` ms after now, with these lines.
async fn logged(env: &Env, n: u64, model: &str, lines: Vec<LogLine>) -> NewExecution {
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap();
    let (execute_id, model) = (ExecuteId::new(now + n * 100), model.parse().unwrap());
    let new = NewExecution { execute_id, model, ..new_execution() };
    env.accept(&new).await;
    claimed(env.claim(&claim_of(&new)).await);
    write(env, &new, lines).await;
    new
}

fn texts(words: &[&str]) -> Vec<LogLine> {
    words.iter().map(|word| line(Level::Info, 0, *word)).collect()
}

fn places(found: &LogsFound) -> Vec<(ExecuteId, i64)> {
    found.lines.iter().map(|(execute_id, line)| (*execute_id, line.log_id)).collect()
}

pub async fn a_search_finds_lines_of_one_model_the_youngest_execution_first(env: Env) {
    let old = logged(&env, 0, "echo", texts(&["a needle", "hay", "needle"])).await.execute_id;
    logged(&env, 1, "other", texts(&["needle"])).await;
    logged(&env, 2, "echo", vec![]).await;
    let young = logged(&env, 3, "echo", texts(&["hay", "needles"])).await.execute_id;
    let record = &env.record;
    let tenant = new_execution().tenant;
    let found = record.search_logs(&tenant, &search("needle", 100)).await.unwrap();
    assert_eq!((places(&found), found.next), (vec![(young, 2), (old, 1), (old, 3)], None));
    assert_eq!(found.lines[1].1.line, "a needle");
    let any = LogSearch { lines: LineFilter::default(), ..search("", 100) };
    assert_eq!(record.search_logs(&tenant, &any).await.unwrap().lines.len(), 5);
    let bad = LineFilter { level: Some(Level::Warning), ..LineFilter::default() };
    let none = LogSearch { lines: bad, ..search("", 100) };
    assert_eq!(record.search_logs(&tenant, &none).await.unwrap(), LogsFound::default());
}

pub async fn pages_of_a_search_hold_every_line_once(env: Env) {
    let mut expected = Vec::new();
    for n in 0..5 {
        let id = logged(&env, n, "echo", texts(&["x", "-", "x", "x"])).await.execute_id;
        expected.splice(0..0, [(id, 1), (id, 3), (id, 4)]);
    }
    for limit in [1, 2, 3, 4, 100] {
        let (mut search, mut seen) = (search("x", limit), Vec::new());
        loop {
            let found = env.record.search_logs(&new_execution().tenant, &search).await.unwrap();
            seen.extend(places(&found));
            let Some(next) = found.next else { break };
            search.cursor = Some(next);
        }
        assert_eq!(seen, expected, "{limit} a page");
    }
}

pub async fn a_search_keeps_to_its_range_of_ids_and_its_tenant(env: Env) {
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(logged(&env, n, "echo", texts(&["x"])).await.execute_id);
    }
    let find = async |search: LogSearch| {
        places(&env.record.search_logs(&new_execution().tenant, &search).await.unwrap())
    };
    let within = LogSearch { from: Some(ids[1]), before: Some(ids[3]), ..search("x", 9) };
    assert_eq!(find(within.clone()).await, [(ids[2], 1), (ids[1], 1)]);
    let cursor = Some(LogCursor { execute_id: ids[2], log_id: 1 });
    assert_eq!(find(LogSearch { cursor, ..within }).await, [(ids[1], 1)]);
    let stranger = "stranger".parse().unwrap();
    let found = env.record.search_logs(&stranger, &search("x", 9)).await.unwrap();
    assert_eq!(found, LogsFound::default());
}

pub async fn a_search_that_finds_little_says_how_far_it_got(env: Env) {
    let most = i64::from(LOG_LOOK_MAX);
    let often = |n| line(Level::Info, 0, if n == most + 3 { "rare" } else { "often" });
    let old = logged(&env, 0, "echo", texts(&["rare"])).await.execute_id;
    let long = logged(&env, 1, "echo", (1..=most + 3).map(often).collect()).await.execute_id;
    let tenant = new_execution().tenant;
    let found = env.record.search_logs(&tenant, &search("rare", 10)).await.unwrap();
    let cursor = Some(LogCursor { execute_id: long, log_id: most });
    assert_eq!(found, LogsFound { lines: vec![], next: cursor });
    let rest = env.record.search_logs(&tenant, &LogSearch { cursor, ..search("rare", 10) }).await.unwrap();
    assert_eq!((places(&rest), rest.next), (vec![(long, most + 3), (old, 1)], None));

    // Executions without a line count too.
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap();
    let silent = |n| NewExecution { execute_id: ExecuteId::new(now + 1_000 + n), ..new_execution() };
    let silent: Vec<_> = (0..u64::from(SEARCH_EXECUTIONS_MAX)).map(silent).collect();
    env.record.accept(&silent).await.unwrap();
    let found = env.record.search_logs(&tenant, &search("rare", 10)).await.unwrap();
    let cursor = Some(LogCursor { execute_id: silent[0].execute_id, log_id: 0 });
    assert_eq!(found, LogsFound { lines: vec![], next: cursor });
    let found = env.record.search_logs(&tenant, &LogSearch { cursor, ..search("rare", 10) }).await.unwrap();
    assert_eq!(found.next, Some(LogCursor { execute_id: long, log_id: most }));
}
