//! The fences of exclusive executions.

use std::time::Duration;

use domain::{ExecuteId, TenantId};
use rusqlite::{Connection, params};

use super::fail::Fail;
use super::row::{find, id_bytes, run, us, value};
use crate::{Fence, FenceTaken};

pub(super) fn take(
    c: &Connection,
    now: i64,
    tenant: &TenantId,
    fence: &Fence,
    execute_id: ExecuteId,
    attempt: i32,
) -> Result<FenceTaken, Fail> {
    let sql = "select generation, number, execute_id = ?3 and attempt = ?4 from lock_fence
         where tenant = ?1 and lock_key = ?2";
    let by = params![tenant.as_str(), fence.key.as_str(), id_bytes(execute_id), attempt];
    let known = find(c, sql, by, |row| Ok(((row.get(0)?, row.get(1)?), row.get::<_, bool>(2)?)))?;
    let wanted = (fence.generation, fence.number);
    let is_high = known.is_none_or(|(highest, is_own)| highest < wanted || (highest == wanted && is_own));
    let sql = "select 1 from execution
         where execute_id = ?1 and tenant = ?2 and attempt = ?3 and state = 'running'";
    let by = params![id_bytes(execute_id), tenant.as_str(), attempt];
    if !is_high || value::<i64>(c, sql, by)?.is_none() {
        let (generation, number) = known.map_or(wanted, |(highest, _)| highest);
        return Ok(FenceTaken::TooOld { generation, number });
    }
    run(
        c,
        "insert or replace into lock_fence (tenant, lock_key, generation, number, execute_id, attempt, taken_at)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            tenant.as_str(),
            fence.key.as_str(),
            fence.generation,
            fence.number,
            id_bytes(execute_id),
            attempt,
            now
        ],
    )?;
    Ok(FenceTaken::Taken)
}

/// May who has this fence write to that execution? Also if it needs none.
pub(super) fn allows(c: &Connection, execute_id: ExecuteId, fence: Option<&Fence>) -> Result<bool, Fail> {
    let Some(fence) = fence else { return Ok(true) };
    let sql = "select 1 from lock_fence where lock_key = ?2 and generation = ?3 and number = ?4
         and tenant = (select tenant from execution where execute_id = ?1)";
    let by = params![id_bytes(execute_id), fence.key.as_str(), fence.generation, fence.number];
    Ok(value::<i64>(c, sql, by)?.is_some())
}

/// Nothing that runs is as old.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Forgets fences of long ago. The highest of all stays, to be compared with what would be dealt.
pub(super) fn forget(c: &Connection, now: i64) -> Result<(), Fail> {
    let Some((generation, number)) = highest(c)? else { return Ok(()) };
    let sql = "delete from lock_fence where taken_at < ?1 and (generation, number) < (?2, ?3)";
    run(c, sql, params![now - us(FORGET_AFTER), generation, number])?;
    Ok(())
}

pub(super) fn highest(c: &Connection) -> Result<Option<(i64, i64)>, Fail> {
    let sql = "select generation, number from lock_fence order by generation desc, number desc limit 1";
    find(c, sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
}
