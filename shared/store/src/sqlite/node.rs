//! Nodes, leaders, and the leader's upkeep.

use std::time::Duration;

use domain::{NodeId, NodeName};
use protocol::{NodeInfo, NodeState};
use rusqlite::{Connection, Row, params};

use super::contention;
use super::fail::Fail;
use super::fence;
use super::row::{find, list, parsed, run, time, us, value};
use crate::node::{LastKnown, follows, is_alarm, state_of};
use crate::{Leadership, NodeEvent, NodeEventKind, NodeLife, NodeSeen};

/// What the upkeep is led under.
const UPKEEP: &str = "upkeep";
/// How many idempotency keys one transaction forgets at most, so that it never holds the others up for long.
const KEYS_MAX: usize = 5_000;

pub(super) fn announce_node(c: &Connection, now: i64, info: &NodeInfo, lease: Duration) -> Result<(), Fail> {
    let text = serde_json::to_string(info).map_err(|error| Fail::corrupt("node_lease", error))?;
    run(c, "delete from node_lease where expires_at <= ?1", [now])?;
    run(
        c,
        "insert into node_lease (node, info, expires_at) values (?1, ?2, ?3)
         on conflict do update set info = excluded.info, expires_at = excluded.expires_at",
        params![info.id.to_string(), text, now + us(lease)],
    )?;
    Ok(())
}

pub(super) fn withdraw_node(c: &Connection, node: &NodeId) -> Result<(), Fail> {
    run(c, "delete from node_lease where node = ?1", [node.to_string()])?;
    Ok(())
}

pub(super) fn list_nodes(c: &Connection, now: i64) -> Result<Vec<NodeInfo>, Fail> {
    list(c, "select info from node_lease where expires_at > ?1 order by node", [now], |row| {
        let text = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        serde_json::from_str(text).map_err(|error| Fail::corrupt("node_lease", error))
    })
}

pub(super) fn lead(
    c: &Connection,
    now: i64,
    what: &str,
    holder: &str,
    lease: Duration,
) -> Result<Leadership, Fail> {
    let sql = "select holder, fence, leased_until > ?2 from leader where what = ?1";
    let found = find(c, sql, params![what, now], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, bool>(2)?))
    })?;
    let fence = match found {
        Some((other, fence, true)) if other != holder => {
            return Ok(Leadership { fence, is_leader: false, holder: other });
        }
        Some((leader, fence, _)) if leader == holder => fence,
        Some((_, fence, _)) => fence.max(taken(c, what)?) + 1,
        None => taken(c, what)? + 1,
    };
    run(
        c,
        "insert into leader (what, holder, fence, leased_until) values (?1, ?2, ?3, ?4)
         on conflict do update set holder = excluded.holder, fence = excluded.fence,
             leased_until = excluded.leased_until",
        params![what, holder, fence, now + us(lease)],
    )?;
    take_fence(c, what, fence)?;
    Ok(Leadership { fence, is_leader: true, holder: holder.to_owned() })
}

/// The highest fence taken for `what`; 0 if none was.
fn taken(c: &Connection, what: &str) -> Result<i64, Fail> {
    Ok(value(c, "select fence from fence where what = ?1", [what])?.unwrap_or(0))
}

fn take_fence(c: &Connection, what: &str, fence: i64) -> Result<bool, Fail> {
    let sql = "insert into fence (what, fence) values (?1, ?2)
         on conflict do update set fence = excluded.fence where fence.fence <= excluded.fence";
    Ok(run(c, sql, params![what, fence])? > 0)
}

pub(super) fn take_upkeep_fence(c: &Connection, fence: i64) -> Result<bool, Fail> {
    take_fence(c, UPKEEP, fence)
}

/// Is this the highest fence taken for the upkeep?
pub(super) fn holds_upkeep(c: &Connection, fence: i64) -> Result<bool, Fail> {
    Ok(taken(c, UPKEEP)? == fence)
}

/// How far one step of the upkeep came.
pub(super) enum Upkeep {
    /// The fence is stale: nothing was done.
    Stale,
    /// There is more to do.
    More,
    /// It is done.
    Done,
}

pub(super) fn upkeep(c: &Connection, now: i64, fence: i64, keep_events: Duration) -> Result<Upkeep, Fail> {
    if !holds_upkeep(c, fence)? {
        return Ok(Upkeep::Stale);
    }
    contention::forget_lost(c, now)?;
    fence::forget(c, now)?;
    let before = now - us(keep_events);
    run(c, "delete from node_life where state in ('left', 'lost') and changed_at < ?1", [before])?;
    let old = "delete from node_event where id in
         (select id from node_event where at < ?1 order by at limit 10000)";
    run(c, old, [before])?;
    // The log is one clustered table here: there are no partitions to make.
    let forgotten = run(
        c,
        "delete from idempotency_key where (tenant, model, key) in
             (select tenant, model, key from idempotency_key where expires_at <= ?1 limit ?2)",
        params![now, KEYS_MAX as i64],
    )?;
    Ok(if forgotten == KEYS_MAX { Upkeep::More } else { Upkeep::Done })
}

pub(super) fn note(
    c: &Connection,
    now: i64,
    info: &NodeInfo,
    seen: NodeSeen,
) -> Result<Option<NodeEventKind>, Fail> {
    let (node, name) = (info.id.to_string(), info.id.name().as_str());
    let sql = "select state, json_extract(info, '$.slots') from node_life where node = ?1";
    let last = find(c, sql, [&node], |row| Ok(LastKnown { state: state(row, 0)?, slots: row.get(1)? }))?;
    let Some((kind, state)) = follows(last.as_ref(), info, seen) else { return Ok(None) };
    let sql = "select kind from node_event where name = ?1 order by id desc limit 1";
    let before = value::<String>(c, sql, [name])?.and_then(|kind| NodeEventKind::of(&kind));
    run(
        c,
        "insert into node_event (name, node, kind, slots, alarm, at) values (?1, ?2, ?3, ?4, ?5, ?6)",
        params![name, node, kind.label(), info.slots, is_alarm(kind, before), now],
    )?;
    let text = serde_json::to_string(info).map_err(|error| Fail::corrupt("node_life", error))?;
    run(
        c,
        "insert into node_life (node, state, info, changed_at) values (?1, ?2, ?3, ?4)
         on conflict do update set state = excluded.state, info = excluded.info,
             changed_at = excluded.changed_at",
        params![node, state.label(), text, now],
    )?;
    Ok(Some(kind))
}

fn state(row: &Row<'_>, column: usize) -> Result<NodeState, Fail> {
    let text = row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?;
    state_of(text).ok_or_else(|| Fail::corrupt("node_life", format!("the state {text:?}")))
}

pub(super) fn list_lives(c: &Connection, now: i64, gone_within: Duration) -> Result<Vec<NodeLife>, Fail> {
    let sql = "select info, state, changed_at from node_life
         where state in ('up', 'draining') or changed_at > ?1 order by node limit 10000";
    list(c, sql, [now - us(gone_within)], |row| {
        let text = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        let info = serde_json::from_str(text).map_err(|error| Fail::corrupt("node_life", error))?;
        Ok(NodeLife { info, state: state(row, 1)?, changed_at: time(row.get(2)?)? })
    })
}

pub(super) fn list_events(
    c: &Connection,
    name: Option<&NodeName>,
    limit: u32,
) -> Result<Vec<NodeEvent>, Fail> {
    match name {
        Some(name) => {
            let sql = "select id, node, kind, at, slots from node_event where name = ?1
                 order by id desc limit ?2";
            list(c, sql, params![name.as_str(), limit], event)
        }
        None => {
            let sql = "select id, node, kind, at, slots from node_event order by id desc limit ?1";
            list(c, sql, [limit], event)
        }
    }
}

pub(super) fn list_alarms(c: &Connection, now: i64, limit: u32) -> Result<Vec<NodeEvent>, Fail> {
    let sql = "select id, node, kind, at, slots from node_event where alarm and at > ?1 order by id limit ?2";
    list(c, sql, params![now - us(Duration::from_secs(3_600)), limit], event)
}

pub(super) fn settle_alarm(c: &Connection, event_id: i64) -> Result<(), Fail> {
    run(c, "update node_event set alarm = 0 where id = ?1", [event_id])?;
    Ok(())
}

fn event(row: &Row<'_>) -> Result<NodeEvent, Fail> {
    let kind = row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?;
    let kind =
        NodeEventKind::of(kind).ok_or_else(|| Fail::corrupt("node_event", format!("no kind {kind:?}")))?;
    Ok(NodeEvent {
        event_id: row.get(0)?,
        node: parsed(row, 1)?,
        kind,
        at: time(row.get(3)?)?,
        slots: row.get(4)?,
    })
}

pub(super) fn count_running(c: &Connection) -> Result<Vec<(NodeId, u32)>, Fail> {
    let sql = "select node, count(*) from execution where state = 'running' group by node order by node";
    list(c, sql, [], |row| Ok((parsed(row, 0)?, row.get(1)?)))
}
