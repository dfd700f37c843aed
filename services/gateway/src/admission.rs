//! May this request enter: names, headers, media types, bodies. Nothing is stored or started before all of it holds.

use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use domain::limits::{DEADLINE_MAX, IDEMPOTENCY_KEY_BYTES_MAX, INPUT_BYTES_MAX, WAIT_DEFAULT, WAIT_MAX};
use domain::{ExecuteId, Payload};
use futures::StreamExt;
use jiff::Timestamp;
use protocol::{ProblemCode, http};

use crate::problem::Refusal;

/// The slowest a body may come, in bytes per second, after a grace of ten seconds.
const BODY_RATE_MIN: u64 = 64 << 10;
const BODY_GRACE: Duration = Duration::from_secs(10);

/// Reads `text` as a name of some kind.
pub(crate) fn name<T>(text: &str) -> Result<T, Refusal>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| Refusal::new(ProblemCode::Name, format!("{text:?}: {error}")))
}

/// Reads the id in a path.
pub(crate) fn execute_id(text: &str) -> Result<ExecuteId, Refusal> {
    text.parse().map_err(|error| Refusal::new(ProblemCode::Name, format!("{text:?}: {error}")))
}

/// The text of a header, if there is exactly one and it is visible ASCII.
pub(crate) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::new(ProblemCode::Parameter, format!("header {name} is given more than once")));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Refusal::new(ProblemCode::Parameter, format!("header {name} must be visible ASCII"))),
    }
}

/// How long a caller waits (RFC 7240, `Prefer`): `wait=N` in seconds, or `respond-async`.
pub(crate) fn preferred_wait(headers: &HeaderMap) -> Result<Duration, Refusal> {
    let mut wait = None;
    for value in headers.get_all("prefer") {
        let text = value
            .to_str()
            .map_err(|_| Refusal::new(ProblemCode::Parameter, "header Prefer must be visible ASCII"))?;
        for preference in text.split(',').map(str::trim) {
            let (key, value) = preference.split_once('=').unwrap_or((preference, ""));
            match (key.trim().to_ascii_lowercase().as_str(), value.trim().trim_matches('"')) {
                // What comes first counts (RFC 7240, section 2); respond-async beats any wait.
                ("respond-async", _) => return Ok(Duration::ZERO),
                ("wait", seconds) if wait.is_none() => wait = Some(wait_seconds(seconds)?),
                // Other preferences may be ignored (RFC 7240, section 2).
                _ => {}
            }
        }
    }
    Ok(wait.unwrap_or(WAIT_DEFAULT))
}

/// Reads a wait in whole seconds.
pub(crate) fn wait_seconds(text: &str) -> Result<Duration, Refusal> {
    let most = WAIT_MAX.as_secs();
    match text.parse::<u64>() {
        Ok(seconds) if seconds <= most => Ok(Duration::from_secs(seconds)),
        Ok(_) | Err(_) => {
            let detail = format!("wait is 0 to {most} whole seconds, not {text:?}");
            Err(Refusal::new(ProblemCode::Parameter, detail))
        }
    }
}

/// The idempotency key, if there is one.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(text) = header_text(headers, http::IDEMPOTENCY_KEY)? else { return Ok(None) };
    let is_fine =
        (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| (33..127).contains(&b));
    if !is_fine {
        let detail =
            format!("header Idempotency-Key is 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters");
        return Err(Refusal::new(ProblemCode::Parameter, detail));
    }
    Ok(Some(text.to_owned()))
}

/// The deadline, if there is one.
pub(crate) fn deadline(headers: &HeaderMap) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = header_text(headers, http::DEADLINE)? else { return Ok(None) };
    let days = DEADLINE_MAX.as_secs() / 86_400;
    let detail = format!(
        "header Gantry-Deadline is a time as 2026-11-22T10:00:00Z, at most {days} days ahead, not {text:?}"
    );
    let refusal = || Refusal::new(ProblemCode::Parameter, detail.clone());
    let deadline: Timestamp = text.parse().map_err(|_| refusal())?;
    let farthest = Timestamp::now().checked_add(DEADLINE_MAX).map_err(|_| refusal())?;
    if deadline > farthest { Err(refusal()) } else { Ok(Some(deadline)) }
}

/// The input of an execution: its media type and its body, checked if it says that it is JSON.
pub(crate) async fn input(headers: &HeaderMap, body: Body) -> Result<Payload, Refusal> {
    let content_type =
        header_text(headers, header::CONTENT_TYPE.as_str())?.unwrap_or(Payload::JSON).to_owned();
    if content_type.len() > 127 || !content_type.contains('/') {
        return Err(Refusal::new(ProblemCode::MediaType, format!("{content_type:?} is no media type")));
    }
    if let Some(encoding) =
        header_text(headers, header::CONTENT_ENCODING.as_str())?.filter(|e| *e != "identity")
    {
        let detail = format!("Content-Encoding {encoding:?} is not accepted: send the body as it is");
        return Err(Refusal::new(ProblemCode::MediaType, detail));
    }
    let bytes = read(headers, body, INPUT_BYTES_MAX, ProblemCode::TooLarge).await?;
    let payload = Payload::new(&content_type, bytes);
    if payload.is_json() {
        payload.check_json().map_err(|error| Refusal::new(ProblemCode::JsonSyntax, error.to_string()))?;
    }
    Ok(payload)
}

/// Reads a body of 1 to `most` bytes that comes fast enough.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    most: usize,
    too_large: ProblemCode,
) -> Result<Bytes, Refusal> {
    let refusal = || Refusal::new(too_large, format!("the body has more than {most} bytes"));
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > most as u64) {
        return Err(refusal());
    }
    let length = announced.unwrap_or(most as u64);
    let patience = BODY_GRACE + Duration::from_secs(length / BODY_RATE_MIN);
    let collect = async {
        let mut chunks = body.into_data_stream();
        let mut bytes = BytesMut::new();
        let mut only = None;
        while let Some(chunk) = chunks.next().await {
            let broken = |error| Refusal::new(ProblemCode::Parameter, format!("the body broke off: {error}"));
            let chunk = chunk.map_err(broken)?;
            if bytes.len() + only.as_ref().map_or(0, Bytes::len) + chunk.len() > most {
                return Err(refusal());
            }
            // Most bodies come in one piece, which then is not copied.
            match only.take() {
                None if bytes.is_empty() => only = Some(chunk),
                first => {
                    bytes.extend_from_slice(&first.unwrap_or_default());
                    bytes.extend_from_slice(&chunk);
                }
            }
        }
        Ok(only.unwrap_or_else(|| bytes.freeze()))
    };
    let Ok(bytes) = tokio::time::timeout(patience, collect).await else {
        let detail = format!("the body did not come within {} s", patience.as_secs());
        return Err(Refusal::new(ProblemCode::Parameter, detail));
    };
    let bytes = bytes?;
    if bytes.is_empty() {
        return Err(Refusal::new(
            ProblemCode::BodyMissing,
            "the body is empty; send {} if the model takes no input",
        ));
    }
    Ok(bytes)
}
