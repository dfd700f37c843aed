//! How our types are kept in columns, and read back.

use std::str::FromStr;
use std::time::Duration;

use domain::{
    Attributes, Digest, Ending, ErrorClass, ExecuteId, Failure, Payload, State, VersionNumber, limits,
};
use jiff::Timestamp;
use protocol::ReplyAddress;
use protocol::http::TimelineEvent;
use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Params, Row};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::fail::Fail;
use crate::Conclusion;

/// The columns that [`conclusion`] reads, from `execution` joined with its result.
pub(super) const CONCLUSION: &str = "execute_id, attempt, state, error_class, error, exit_code, signal, \
     content_type, bytes, reply_addresses from execution left join execution_result using (id)";

/// The first row of a query, read by `read`; `None` if there is none.
pub(super) fn find<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, Fail>,
) -> Result<Option<T>, Fail> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// All rows of a query.
pub(super) fn list<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&Row<'_>) -> Result<T, Fail>,
) -> Result<Vec<T>, Fail> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The one value of a query.
pub(super) fn value<T: FromSql>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
) -> Result<Option<T>, Fail> {
    Ok(connection.prepare_cached(sql)?.query_row(params, |row| row.get(0)).optional()?)
}

/// Runs a statement and says how many rows it changed.
pub(super) fn run(connection: &Connection, sql: &str, params: impl Params) -> Result<usize, Fail> {
    Ok(connection.prepare_cached(sql)?.execute(params)?)
}

pub(super) fn id_bytes(id: ExecuteId) -> [u8; 16] {
    *id.as_uuid().as_bytes()
}

pub(super) fn id(row: &Row<'_>, column: usize) -> Result<ExecuteId, Fail> {
    Uuid::from_bytes(row.get(column)?).try_into().map_err(|error| Fail::corrupt("execution", error))
}

pub(super) fn digest(row: &Row<'_>, column: usize) -> Result<Digest, Fail> {
    Ok(Digest::from_bytes(row.get(column)?))
}

/// A name, state, class, ... in a text column.
pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(row: &Row<'_>, column: usize) -> Result<T, Fail> {
    let text = row.get_ref(column)?.as_str().map_err(|error| Fail::corrupt("a table", error))?;
    text.parse().map_err(|error| Fail::corrupt("a table", format!("{text:?}: {error}")))
}

/// Attributes as their column has them; `None` if there are none.
pub(super) fn attributes_text(attributes: &Attributes) -> Option<String> {
    // A map of strings: this cannot fail.
    (!attributes.is_empty()).then(|| serde_json::to_string(attributes).unwrap_or_default())
}

pub(super) fn attributes(row: &Row<'_>, column: usize) -> Result<Attributes, Fail> {
    match row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from)? {
        None => Ok(Attributes::default()),
        Some(text) => serde_json::from_str(text).map_err(|error| Fail::corrupt("execution", error)),
    }
}

pub(super) fn version(row: &Row<'_>, column: usize) -> Result<Option<VersionNumber>, Fail> {
    Ok(row.get::<_, Option<i32>>(column)?.map(VersionNumber))
}

pub(super) fn time(us: i64) -> Result<Timestamp, Fail> {
    Timestamp::from_microsecond(us).map_err(|error| Fail::corrupt("a table", error))
}

pub(super) fn maybe_time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>, Fail> {
    row.get::<_, Option<i64>>(column)?.map(time).transpose()
}

pub(super) fn us(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2)
}

pub(super) fn payload(row: &Row<'_>, content_type: usize, bytes: usize) -> Result<Option<Payload>, Fail> {
    let Some(content_type) = row.get_ref(content_type)?.as_str_or_null().map_err(rusqlite::Error::from)?
    else {
        return Ok(None);
    };
    Ok(Some(Payload::new(content_type, row.get::<_, Vec<u8>>(bytes)?)))
}

/// May an execution with this id be made now?
pub(super) fn in_window(id: ExecuteId, now: i64) -> bool {
    let dated = i64::try_from(id.unix_ms()).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000);
    dated >= now - us(limits::EXECUTE_ID_AGE_MAX) && dated <= now + us(limits::EXECUTE_ID_AHEAD_MAX)
}

/// Reads [`CONCLUSION`].
pub(super) fn conclusion(row: &Row<'_>) -> Result<Conclusion, Fail> {
    let state: State = parsed(row, 2)?;
    let failure = match row.get::<_, Option<String>>(4)? {
        Some(message) => Some(Failure {
            class: parsed::<ErrorClass>(row, 3)?,
            message,
            exit_code: row.get(5)?,
            signal: row.get(6)?,
        }),
        None => None,
    };
    let ending = Ending::from_parts(state, payload(row, 7, 8)?, failure);
    if state.is_terminal() && ending.is_none() {
        return Err(Fail::corrupt("execution", format!("{state} without its result or failure")));
    }
    let addresses = row.get_ref(9)?.as_str().map_err(rusqlite::Error::from)?;
    Ok(Conclusion {
        execute_id: id(row, 0)?,
        attempt: row.get(1)?,
        ending,
        reply_addresses: reply_addresses(addresses)?,
    })
}

/// A reply address as its execution remembers it.
#[derive(Serialize, Deserialize)]
struct Remembered {
    #[serde(flatten)]
    address: ReplyAddress,
    /// The claim that brought it, so that repeating that claim does not add it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claim_id: Option<Uuid>,
}

fn remembered(text: &str) -> Result<Vec<Remembered>, Fail> {
    let lines = serde_json::Deserializer::from_str(text).into_iter();
    lines.collect::<Result<_, _>>().map_err(|error| Fail::corrupt("execution", error))
}

/// Everybody who wants a reply.
pub(super) fn reply_addresses(text: &str) -> Result<Vec<ReplyAddress>, Fail> {
    Ok(remembered(text)?.into_iter().map(|one| one.address).collect())
}

/// What to append to no address at all, for `address`.
pub(super) fn first_address(address: Option<&ReplyAddress>, claim_id: Option<Uuid>) -> String {
    address.map_or_else(String::new, |address| line(&Remembered { address: address.clone(), claim_id }))
}

/// What to append to `known` so that a further message's sender gets a reply too.
///
/// Two messages with one address are two replies; the same message again is none: a repeated claim has its `claim_id`,
/// and `is_repeat` says that it is a redelivery or a dispatch of our own.
pub(super) fn further_address(
    known: &str,
    address: Option<&ReplyAddress>,
    claim_id: Option<Uuid>,
    is_repeat: bool,
) -> Result<String, Fail> {
    let Some(address) = address else { return Ok(String::new()) };
    let known = remembered(known)?;
    let is_known = |one: &Remembered| {
        (claim_id.is_some() && one.claim_id == claim_id) || (is_repeat && one.address == *address)
    };
    if known.len() >= limits::REPLY_ADDRESSES_MAX || known.iter().any(is_known) {
        return Ok(String::new());
    }
    Ok(first_address(Some(address), claim_id))
}

/// What to append to a timeline for these events.
pub(super) fn timeline_text(events: &[TimelineEvent]) -> String {
    events.iter().map(line).collect()
}

pub(super) fn timeline(text: &str) -> Result<Vec<TimelineEvent>, Fail> {
    let events = serde_json::Deserializer::from_str(text).into_iter();
    events.collect::<Result<_, _>>().map_err(|error| Fail::corrupt("execution", error))
}

fn line<T: Serialize>(value: &T) -> String {
    // Structs of strings and numbers: this cannot fail.
    serde_json::to_string(value).map(|json| json + "\n").unwrap_or_default()
}
