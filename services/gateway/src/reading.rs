//! What readers may ask for: pages, levels, texts, times. Whatever is wrong with it is said with what is allowed.

use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::http::{HeaderMap, header};
use domain::limits::SEARCH_TEXT_BYTES_MAX;
use domain::{ExecuteId, Level};
use jiff::Timestamp;
use protocol::ProblemCode;
use store::{LineFilter, LogCursor};

use crate::admission;
use crate::problem::Refusal;

pub(crate) const NDJSON: &str = "application/x-ndjson";
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

pub(crate) fn refuse(detail: impl Into<String>) -> Refusal {
    Refusal::new(ProblemCode::Parameter, detail)
}

/// Does the caller ask for this media type?
pub(crate) fn accepts(headers: &HeaderMap, media_type: &str) -> Result<bool, Refusal> {
    let accept = admission::header_text(headers, header::ACCEPT.as_str())?;
    Ok(accept.is_some_and(|accept| accept.contains(media_type)))
}

/// A count within its bounds.
pub(crate) fn count(name: &str, given: u32, allowed: RangeInclusive<u32>) -> Result<u32, Refusal> {
    if allowed.contains(&given) {
        return Ok(given);
    }
    Err(refuse(format!("{name} is {} to {}, not {given}", allowed.start(), allowed.end())))
}

/// Refuses those parameters that are given and are not for this kind of answer.
pub(crate) fn refuse_given(given: &[(&str, bool)], what: &str) -> Result<(), Refusal> {
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => Err(refuse(format!("{name} is not for {what}"))),
        None => Ok(()),
    }
}

/// The lines that are wanted, by the parameters of the same names.
pub(crate) fn lines(
    level: Option<&str>,
    text: Option<String>,
    from: Option<&str>,
    to: Option<&str>,
) -> Result<LineFilter, Refusal> {
    let level = level
        .map(|given| {
            Level::from_str(given).map_err(|_| {
                refuse(format!("level is D, I, W or E (with it come those that matter more), not {given:?}"))
            })
        })
        .transpose()?;
    if let Some(text) = &text
        && (text.is_empty() || text.len() > SEARCH_TEXT_BYTES_MAX || text.contains('\0'))
    {
        let detail =
            format!("text is 1 to {SEARCH_TEXT_BYTES_MAX} bytes without NUL, not {} bytes", text.len());
        return Err(refuse(detail));
    }
    let (from, to) = times(from, to)?;
    Ok(LineFilter { level, text, from, to })
}

/// A range of time.
pub(crate) fn times(
    from: Option<&str>,
    to: Option<&str>,
) -> Result<(Option<Timestamp>, Option<Timestamp>), Refusal> {
    let (from, to) = (time("from", from)?, time("to", to)?);
    if let (Some(from), Some(to)) = (from, to)
        && from > to
    {
        return Err(refuse(format!("from is no later than to, but {from} is later than {to}")));
    }
    Ok((from, to))
}

fn time(name: &str, given: Option<&str>) -> Result<Option<Timestamp>, Refusal> {
    let read = |text: &str| {
        text.parse()
            .map_err(|_| refuse(format!("{name} is a time (RFC 3339) as 2026-11-23T08:00:00Z, not {text:?}")))
    };
    given.map(read).transpose()
}

/// The smallest id dated at that time: as a bound, those from then on.
pub(crate) fn id_at(at: Timestamp) -> ExecuteId {
    ExecuteId::floor(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

/// The cursor of a list of executions.
pub(crate) fn list_cursor(text: &str) -> Result<ExecuteId, Refusal> {
    text.parse().map_err(|_| no_cursor(text))
}

/// The cursor of a search: an execution and the line in it after which to go on.
pub(crate) fn log_cursor(text: &str) -> Result<LogCursor, Refusal> {
    let parts = text.split_once('.').and_then(|(execute_id, log_id)| {
        Some(LogCursor { execute_id: execute_id.parse().ok()?, log_id: log_id.parse().ok()? })
    });
    parts.filter(|cursor| cursor.log_id >= 0).ok_or_else(|| no_cursor(text))
}

/// The same as text.
pub(crate) fn log_cursor_text(cursor: LogCursor) -> String {
    format!("{}.{}", cursor.execute_id, cursor.log_id)
}

fn no_cursor(text: &str) -> Refusal {
    refuse(format!("cursor is what `next` of a page says, not {text:?}"))
}
