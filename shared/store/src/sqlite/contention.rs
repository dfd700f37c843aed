//! The queues of locks and limits, what is asked of nodes, and what nodes have of bundles.

use std::time::Duration;

use domain::{NodeName, TenantId};
use protocol::NodeSettings;
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::fail::Fail;
use super::row::{digest, find, list, parsed, run, us, value};
use crate::{BundleChange, BundleRow, ContendedKind, Entered, NewContender, QueuedContender, Standing};

pub(super) fn enter(
    c: &Connection,
    now: i64,
    new: &NewContender,
    waiters_max: u32,
    lease: Duration,
) -> Result<Entered, Fail> {
    let known =
        run(c, "update contender set entries = entries + 1 where ticket = ?1", [new.ticket.as_bytes()])?;
    if known == 0 {
        let queue = params![new.tenant.as_str(), new.kind.label(), new.name, now];
        let sql = "select count(*) from contender
             where tenant = ?1 and kind = ?2 and name = ?3 and leased_until > ?4";
        let there = value::<u32>(c, sql, queue)?.unwrap_or_default();
        if u64::from(there) > u64::from(new.running_max) + u64::from(waiters_max) {
            return Ok(Entered::Full(there - new.running_max));
        }
        run(
            c,
            "insert into contender (ticket, tenant, kind, name, running_max, contender, leased_until)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                new.ticket.as_bytes(),
                new.tenant.as_str(),
                new.kind.label(),
                new.name,
                new.running_max,
                new.contender.to_string(),
                now + us(lease)
            ],
        )?;
    }
    let standing = stand(c, now, &[new.ticket], lease)?.pop();
    standing
        .map(Entered::Stands)
        .ok_or_else(|| Fail::corrupt("contender", "a row that was just made is not there"))
}

/// A contender's own row.
struct Own {
    ticket: Uuid,
    place: i64,
    tenant: String,
    kind: String,
    name: String,
    running_max: u32,
    leased_until: i64,
    fence: Option<i64>,
}

pub(super) fn stand(
    c: &Connection,
    now: i64,
    tickets: &[Uuid],
    lease: Duration,
) -> Result<Vec<Standing>, Fail> {
    let mut own = Vec::new();
    for ticket in tickets {
        own.extend(find_own(c, *ticket)?);
    }
    own.sort_unstable_by_key(|own| own.place);
    let fresh_until = now + us(lease.mul_f64(0.75));
    for own in &own {
        // Who only waits is asked about often, and written seldom.
        if own.fence.is_some() || own.leased_until < fresh_until {
            let sql = "update contender set leased_until = ?2 where place = ?1";
            run(c, sql, params![own.place, now + us(lease)])?;
        }
    }
    own.into_iter().map(|own| grant(c, now, own, lease)).collect()
}

fn find_own(c: &Connection, ticket: Uuid) -> Result<Option<Own>, Fail> {
    let sql = "select place, tenant, kind, name, running_max, leased_until, fence
         from contender where ticket = ?1";
    find(c, sql, [ticket.as_bytes()], |row| {
        Ok(Own {
            ticket,
            place: row.get(0)?,
            tenant: row.get(1)?,
            kind: row.get(2)?,
            name: row.get(3)?,
            running_max: row.get(4)?,
            leased_until: row.get(5)?,
            fence: row.get(6)?,
        })
    })
}

/// Where it stands, once whoever's lease ran out is gone; granted, if it is its turn.
fn grant(c: &Connection, now: i64, own: Own, lease: Duration) -> Result<Standing, Fail> {
    let Own { ticket, place, tenant, kind, name, running_max, fence, .. } = own;
    if fence.is_some() {
        return Ok(Standing { ticket, before: 0, fence });
    }
    let queue = "tenant = ?1 and kind = ?2 and name = ?3";
    let gone = format!("delete from contender where {queue} and leased_until <= ?4");
    run(c, &gone, params![tenant, kind, name, now])?;
    let ahead = format!("select count(*) from contender where {queue} and place < ?4");
    let before = value::<u32>(c, &ahead, params![tenant, kind, name, place])?.unwrap_or_default();
    if before >= running_max {
        return Ok(Standing { ticket, before, fence: None });
    }
    let sql = "insert into fence (what, fence) values (?1, 1)
         on conflict do update set fence = fence.fence + 1 returning fence";
    let fence = value::<i64>(c, sql, [CONTENTION])?;
    let sql = "update contender set fence = ?2, leased_until = ?3 where place = ?1";
    run(c, sql, params![place, fence, now + us(lease)])?;
    Ok(Standing { ticket, before, fence })
}

/// What the fences of contenders are counted under.
const CONTENTION: &str = "contention";

pub(super) fn highest_fence(c: &Connection) -> Result<i64, Fail> {
    Ok(value(c, "select fence from fence where what = ?1", [CONTENTION])?.unwrap_or(0))
}

pub(super) fn leave(c: &Connection, tickets: &[Uuid]) -> Result<(), Fail> {
    for ticket in tickets {
        run(c, "delete from contender where ticket = ?1", [ticket.as_bytes()])?;
    }
    Ok(())
}

pub(super) fn list_contenders(
    c: &Connection,
    now: i64,
    tenant: &TenantId,
    kind: ContendedKind,
    name: &str,
) -> Result<Vec<QueuedContender>, Fail> {
    let sql = "select contender, fence from contender
         where tenant = ?1 and kind = ?2 and name = ?3 and leased_until > ?4 order by place";
    list(c, sql, params![tenant.as_str(), kind.label(), name, now], |row| {
        let text = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        let contender = serde_json::from_str(text).map_err(|error| Fail::corrupt("contender", error))?;
        Ok(QueuedContender { contender, fence: row.get(1)? })
    })
}

pub(super) fn list_contended(
    c: &Connection,
    now: i64,
    tenant: &TenantId,
    kind: ContendedKind,
) -> Result<Vec<String>, Fail> {
    let sql = "select distinct name from contender
         where tenant = ?1 and kind = ?2 and leased_until > ?3 order by name";
    list(c, sql, params![tenant.as_str(), kind.label(), now], |row| Ok(row.get(0)?))
}

/// Forgets contenders whose queue nobody has asked about since they were lost, and the notices of lost processes.
pub(super) fn forget_lost(c: &Connection, now: i64) -> Result<(), Fail> {
    let hour_ago = now - us(Duration::from_secs(3_600));
    run(c, "delete from contender where leased_until < ?1", [hour_ago])?;
    run(c, "delete from bundle_announcer where leased_until < ?1", [hour_ago])?;
    Ok(())
}

pub(super) fn set_node(c: &Connection, node: &NodeName, settings: &NodeSettings) -> Result<(), Fail> {
    if *settings == NodeSettings::default() {
        run(c, "delete from node_setting where node = ?1", [node.as_str()])?;
        return Ok(());
    }
    let text = serde_json::to_string(settings).map_err(|error| Fail::corrupt("node_setting", error))?;
    let sql = "insert into node_setting (node, settings) values (?1, ?2)
         on conflict do update set settings = excluded.settings";
    run(c, sql, params![node.as_str(), text])?;
    Ok(())
}

pub(super) fn list_settings(c: &Connection) -> Result<Vec<(NodeName, String)>, Fail> {
    list(c, "select node, settings from node_setting order by node", [], |row| {
        Ok((parsed(row, 0)?, row.get(1)?))
    })
}

pub(super) fn announce_bundles(
    c: &Connection,
    now: i64,
    announcer: Uuid,
    changes: &[BundleChange],
    lease: Duration,
) -> Result<bool, Fail> {
    let announcer = announcer.as_bytes();
    let sql = "update bundle_announcer set leased_until = ?2 where announcer = ?1";
    let known = run(c, sql, params![announcer, now + us(lease)])? > 0;
    if !known {
        let sql = "insert into bundle_announcer (announcer, leased_until) values (?1, ?2)";
        run(c, sql, params![announcer, now + us(lease)])?;
    }
    for BundleChange { digest, node, state } in changes {
        match state {
            Some(state) => run(
                c,
                "insert into bundle_notice (digest, node, announcer, state) values (?1, ?2, ?3, ?4)
                 on conflict do update set announcer = excluded.announcer, state = excluded.state",
                params![digest.as_bytes(), node.as_str(), announcer, state.to_string()],
            )?,
            None => run(
                c,
                "delete from bundle_notice where digest = ?1 and node = ?2 and announcer = ?3",
                params![digest.as_bytes(), node.as_str(), announcer],
            )?,
        };
    }
    Ok(known)
}

pub(super) fn withdraw_bundles(c: &Connection, announcer: Uuid) -> Result<(), Fail> {
    run(c, "delete from bundle_announcer where announcer = ?1", [announcer.as_bytes()])?;
    Ok(())
}

pub(super) fn list_bundles(c: &Connection, now: i64) -> Result<Vec<BundleRow>, Fail> {
    let sql = "select digest, node, state from bundle_notice join bundle_announcer using (announcer)
         where leased_until > ?1 order by digest, node";
    let bundle =
        |row: &Row<'_>| Ok(BundleRow { digest: digest(row, 0)?, node: parsed(row, 1)?, state: row.get(2)? });
    list(c, sql, [now], bundle)
}
