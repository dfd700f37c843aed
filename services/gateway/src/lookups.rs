//! The one look-up that serves every waiter and follower without a reply of its own.

use std::collections::HashMap;
use std::time::Duration;

use domain::{ExecuteId, State};
use protocol::Reply;
use store::{LoggedLine, StoreError};

use crate::gateway::Gateway;
use crate::metrics;

/// How often it looks.
const EVERY: Duration = Duration::from_millis(100);
/// How long a waiter relies on its reply alone.
const REPLY_AGE: Duration = Duration::from_millis(100);
/// The most executions in one statement.
const IDS_MAX: usize = 1_000;
/// The most lines one follower gets from one look.
const LINES_EACH: u32 = 500;

/// Looks ten times a second, or at once again while a follower is far behind, for ever.
pub(crate) async fn run(gateway: Gateway) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut is_away, mut is_behind) = (false, false);
    loop {
        if !is_behind {
            ticks.tick().await;
        }
        metrics::waiting(gateway.waiters.count(), gateway.followers.count());
        let looked = look(&gateway).await;
        is_behind = looked.as_ref().is_ok_and(|is_behind| *is_behind);
        if let (Err(error), false) = (&looked, is_away) {
            tracing::warn!(error = bootstrap::chain(error), "cannot look up executions");
        }
        is_away = looked.is_err();
    }
}

/// Looks once; `true` if some follower got as many lines as one gets from one look.
async fn look(gateway: &Gateway) -> Result<bool, StoreError> {
    let places = gateway.followers.places(LINES_EACH as usize);
    let mut ids = gateway.waiters.waiting_since(REPLY_AGE);
    ids.extend(places.iter().map(|(id, _)| *id));
    ids.sort_unstable();
    ids.dedup();
    // First who has ended, then the lines: what has ended by then has no lines after those.
    let mut ended = HashMap::new();
    for chunk in ids.chunks(IDS_MAX) {
        for conclusion in gateway.ports.record.endings(chunk).await? {
            let Some(ending) = conclusion.ending else { continue };
            ended.insert(conclusion.execute_id, ending.state());
            let (execute_id, attempt) = (conclusion.execute_id, conclusion.attempt);
            gateway.dispatched.forget(execute_id);
            if gateway.waiters.wake(Reply { execute_id, attempt, ending, run: Duration::ZERO }) {
                metrics::answered_by_look_up();
            }
        }
    }
    let mut is_behind = false;
    for chunk in places.chunks(IDS_MAX) {
        is_behind |= hand_out(gateway, chunk, &ended).await?;
    }
    Ok(is_behind)
}

async fn hand_out(
    gateway: &Gateway,
    places: &[(ExecuteId, i64)],
    ended: &HashMap<ExecuteId, State>,
) -> Result<bool, StoreError> {
    let mut lines: HashMap<ExecuteId, Vec<LoggedLine>> = HashMap::new();
    for (id, line) in gateway.ports.record.follow_logs(places, LINES_EACH).await? {
        lines.entry(id).or_default().push(line);
    }
    for (id, lines) in &mut lines {
        // Two followers of one execution at different places bring some lines twice.
        lines.sort_unstable_by_key(|line| line.log_id);
        lines.dedup_by_key(|line| line.log_id);
        gateway.followers.hand_out(*id, lines);
    }
    for place in places {
        let nothing_after =
            lines.get(&place.0).is_none_or(|lines| lines.iter().all(|line| line.log_id <= place.1));
        if let (Some(state), true) = (ended.get(&place.0), nothing_after) {
            gateway.followers.end(*place, *state);
        }
    }
    Ok(lines.values().any(|lines| lines.len() >= LINES_EACH as usize))
}
