//! May this request enter: names, headers, media types, bodies. Nothing is stored or started before all of it holds.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use domain::limits::{DEADLINE_MAX, IDEMPOTENCY_KEY_BYTES_MAX, INPUT_BYTES_MAX, WAIT_DEFAULT, WAIT_MAX};
use domain::{Attributes, ExecuteId, Manifest, ModelName, Payload};
use futures::StreamExt;
use jiff::Timestamp;
use protocol::{ProblemCode, http};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::problem::Refusal;

/// The slowest a body may come, in bytes per second, after the grace.
const BODY_RATE_MIN: u64 = 64 << 10;
const BODY_GRACE: Duration = Duration::from_secs(10);
/// A body of at most so many bytes is copied: as it comes it is a part of the connection's buffer, all of which it would keep, and
/// the connection would need another.
const COPIED_MAX: usize = 2 << 10;
/// The most bytes of what an operator asks for.
const SMALL_BYTES_MAX: usize = 4 << 10;

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

/// A part of the path, as text. What is no UTF-8 is refused as the name that it cannot be.
pub(crate) struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(rejection) => Err(Refusal::new(ProblemCode::Name, rejection.body_text())),
        }
    }
}

/// Two parts of the path, as text.
pub(crate) struct Segments(pub String, pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segments {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<(String, String)>::from_request_parts(parts, state).await {
            Ok(Path((first, second))) => Ok(Self(first, second)),
            Err(rejection) => Err(Refusal::new(ProblemCode::Name, rejection.body_text())),
        }
    }
}

/// Are these characters that every broker carries?
fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| (32..127).contains(&byte))
}

/// The text of a header, if there is exactly one and it is visible ASCII.
pub(crate) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::new(ProblemCode::Parameter, format!("header {name} is given more than once")));
    }
    match value.to_str() {
        Ok(text) if is_visible(text) => Ok(Some(text)),
        Ok(_) | Err(_) => {
            Err(Refusal::new(ProblemCode::Parameter, format!("header {name} must be visible ASCII")))
        }
    }
}

/// How a caller wants to be answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Preference {
    /// How long it waits.
    pub wait: Duration,
    /// What of its wishes was granted, for `Preference-Applied`.
    pub applied: Option<String>,
}

/// What the `Prefer` headers say (RFC 7240): `wait=N` in seconds; `respond-async`, which without a `wait` means not to
/// wait at all. Other preferences are ignored, as the RFC has it, and so is a second `wait`.
pub(crate) fn preference(headers: &HeaderMap) -> Result<Preference, Refusal> {
    let (mut wait, mut is_async) = (None, false);
    for value in headers.get_all("prefer") {
        let text = value
            .to_str()
            .map_err(|_| Refusal::new(ProblemCode::Parameter, "header Prefer must be visible ASCII"))?;
        for preference in text.split(',') {
            let preference = preference.split(';').next().unwrap_or_default();
            let (key, value) = preference.split_once('=').unwrap_or((preference, ""));
            match key.trim().to_ascii_lowercase().as_str() {
                "respond-async" => is_async = true,
                "wait" if wait.is_none() => wait = Some(wait_seconds(value.trim().trim_matches('"'))?),
                _ => {}
            }
        }
    }
    let applied = match (is_async, wait) {
        (true, None) => Some("respond-async".to_owned()),
        (true, Some(wait)) => Some(format!("respond-async, wait={}", wait.as_secs())),
        (false, Some(wait)) => Some(format!("wait={}", wait.as_secs())),
        (false, None) => None,
    };
    let unsaid = if is_async { Duration::ZERO } else { WAIT_DEFAULT };
    Ok(Preference { wait: wait.unwrap_or(unsaid), applied })
}

/// The W3C trace context, if there is one; what is none is ignored, as that document has it.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let is_one = (55..=255).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    is_one.then(|| text.to_owned())
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

/// The attributes, if there are some.
pub(crate) fn attributes(headers: &HeaderMap) -> Result<Attributes, Refusal> {
    let Some(text) = header_text(headers, http::ATTRIBUTES)? else { return Ok(Attributes::default()) };
    text.parse()
        .map_err(|error| Refusal::new(ProblemCode::Parameter, format!("header Gantry-Attributes: {error}")))
}

/// The input of an execution: its media type and its body, checked if it says that it is JSON; and its room.
pub(crate) async fn input(
    room: &Arc<Semaphore>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Payload, OwnedSemaphorePermit), Refusal> {
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
    let Collected { bytes, room } = read(room, headers, body, INPUT_BYTES_MAX, ProblemCode::TooLarge)
        .await?
        .unless_empty("the body is empty; send {} if the model takes no input")?;
    let payload = Payload::new(&content_type, bytes);
    if payload.is_json() {
        payload.check_json().map_err(|error| Refusal::new(ProblemCode::JsonSyntax, error.to_string()))?;
    }
    Ok((payload, room))
}

/// Has the input everything that the names of its model's lock and limits are made of? (A queue producer hears the same as
/// the ending of its execution.)
pub(crate) fn keys(manifest: &Manifest, model: &ModelName, input: &Payload) -> Result<(), Refusal> {
    let named = manifest.lock_key(input).and_then(|_| manifest.limits_of(model, input));
    named.map(drop).map_err(|detail| Refusal::new(ProblemCode::Input, detail))
}

/// A body, and its share of the memory that bodies may take.
pub(crate) struct Collected {
    pub bytes: Bytes,
    pub room: OwnedSemaphorePermit,
}

impl Collected {
    /// Itself, or the refusal that says so.
    pub fn unless_empty(self, detail: &str) -> Result<Self, Refusal> {
        if self.bytes.is_empty() { Err(Refusal::new(ProblemCode::BodyMissing, detail)) } else { Ok(self) }
    }
}

/// Reads a body of 0 to `most` bytes that comes fast enough.
pub(crate) async fn read(
    room: &Arc<Semaphore>,
    headers: &HeaderMap,
    body: Body,
    most: usize,
    too_large: ProblemCode,
) -> Result<Collected, Refusal> {
    let length = length(headers, most, too_large)?;
    let kib = u32::try_from(length.div_ceil(1 << 10)).unwrap_or(u32::MAX);
    let room = room.clone().try_acquire_many_owned(kib).map_err(|_| {
        Refusal::new(ProblemCode::Overloaded, "the bodies of other requests take all there is; try again")
    })?;
    Ok(Collected { bytes: timely(body, length, most, too_large).await?, room })
}

/// Reads a body of 0 to [`SMALL_BYTES_MAX`] that comes fast enough. What an operator asks for needs no room among other bodies.
pub(crate) async fn read_small(headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let (most, too_large) = (SMALL_BYTES_MAX, ProblemCode::TooLarge);
    timely(body, length(headers, most, too_large)?, most, too_large).await
}

/// How long a body says it is, or the most it may be.
fn length(headers: &HeaderMap, most: usize, code: ProblemCode) -> Result<u64, Refusal> {
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match announced {
        Some(length) if length > most as u64 => Err(too_large(most, code)),
        length => Ok(length.unwrap_or(most as u64)),
    }
}

fn too_large(most: usize, code: ProblemCode) -> Refusal {
    Refusal::new(code, format!("the body has more than {most} bytes"))
}

async fn timely(body: Body, length: u64, most: usize, code: ProblemCode) -> Result<Bytes, Refusal> {
    let patience = BODY_GRACE + Duration::from_secs(length / BODY_RATE_MIN);
    let Ok(collected) = timeout(patience, collect(body, most)).await else {
        let detail = format!("the body did not come within {} s", patience.as_secs());
        return Err(Refusal::new(ProblemCode::BodyTimeout, detail));
    };
    collected.map_err(|broken| match broken {
        Some(error) => Refusal::new(ProblemCode::Parameter, format!("the body broke off: {error}")),
        None => too_large(most, code),
    })
}

/// The whole of a body, or what broke it off; `None` if it has more than `most` bytes.
async fn collect(body: Body, most: usize) -> Result<Bytes, Option<axum::Error>> {
    let mut chunks = body.into_data_stream();
    // Most bodies come in one piece.
    let Some(first) = chunks.next().await.transpose()? else { return Ok(Bytes::new()) };
    if first.len() > most {
        return Err(None);
    }
    let Some(second) = chunks.next().await.transpose()? else { return Ok(apart(first)) };
    let mut bytes = BytesMut::from(first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        if bytes.len() + chunk.len() > most {
            return Err(None);
        }
        bytes.extend_from_slice(&chunk);
        next = chunks.next().await.transpose()?;
    }
    Ok(apart(bytes.freeze()))
}

/// The same bytes, which keep no more than themselves if they are few.
fn apart(bytes: Bytes) -> Bytes {
    if bytes.len() > COPIED_MAX { bytes } else { Bytes::copy_from_slice(&bytes) }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use axum::response::IntoResponse;

    use super::*;

    fn prefer(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (HeaderName::from_static("prefer"), HeaderValue::from_static(line))).collect()
    }

    #[test]
    fn preferences_are_read_as_rfc_7240_says() {
        for (lines, wait, applied) in [
            (&[][..], 30, None),
            (&["wait=5"], 5, Some("wait=5")),
            (&["Wait = \"5\"; foo=bar"], 5, Some("wait=5")),
            (&["respond-async"], 0, Some("respond-async")),
            (&["respond-async, wait=10"], 10, Some("respond-async, wait=10")),
            (&["return=minimal", "wait=10, wait=20"], 10, Some("wait=10")),
            (&["handling=lenient"], 30, None),
        ] {
            let wait = Duration::from_secs(wait);
            let expected = Preference { wait, applied: applied.map(str::to_owned) };
            assert_eq!(preference(&prefer(lines)).unwrap(), expected, "{lines:?}");
        }
        for wrong in ["wait", "wait=", "wait=-1", "wait=1.5", "wait=301", "wait=1e3"] {
            assert!(preference(&prefer(&[wrong])).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_the_broker_would_not_carry_does_not_enter() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain;\tcharset=x"));
        assert!(header_text(&headers, "content-type").is_err(), "a tab");
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (text, expected) in [(good, Some(good)), ("x", None), ("00-0AF7\t", None)] {
            headers.insert("traceparent", HeaderValue::from_static(text));
            assert_eq!(traceparent(&headers).as_deref(), expected);
        }
    }

    #[tokio::test]
    async fn a_small_body_keeps_nothing_of_the_buffer_it_came_in() {
        for pieces in [&[(0, 20)][..], &[(0, 5), (5, 20)]] {
            let buffer = Bytes::from(vec![b'x'; 8 << 10]);
            let pieces: Vec<_> =
                pieces.iter().map(|(from, to)| Ok::<_, std::io::Error>(buffer.slice(*from..*to))).collect();
            let body = Body::from_stream(futures::stream::iter(pieces));
            let body = collect(body, 100).await.unwrap();
            assert_eq!(body.len(), 20);
            assert!(buffer.is_unique());
        }
        // Nothing but the body keeps the buffer when the second piece comes.
        let (mut buffer, rest) = (BytesMut::from(&[b'x'; 8 << 10][..]), Bytes::from_static(b"x"));
        let first = buffer.split_to(20).freeze();
        drop(buffer);
        let pieces = [first, rest].map(Ok::<_, std::io::Error>);
        let body = collect(Body::from_stream(futures::stream::iter(pieces)), 100).await.unwrap();
        let capacity = BytesMut::from(body).capacity();
        assert!(capacity < 100, "{capacity}");
    }

    #[tokio::test]
    async fn a_body_is_collected_up_to_its_limit_and_gives_its_room_back() {
        let room = Arc::new(Semaphore::new(4));
        let pieces = |sizes: &[usize]| {
            let pieces =
                sizes.iter().map(|size| Ok::<_, std::io::Error>(vec![b'x'; *size])).collect::<Vec<_>>();
            Body::from_stream(futures::stream::iter(pieces))
        };
        let headers = HeaderMap::new();
        for (sizes, length) in [
            (&[5][..], Ok(5)),
            (&[5, 6], Ok(11)),
            (&[2_000, 48], Ok(2_048)),
            (&[1, 2_048], Err(413)),
            (&[2_049], Err(413)),
            (&[], Ok(0)),
        ] {
            let read = read(&room, &headers, pieces(sizes), 2_048, ProblemCode::TooLarge).await;
            let read = read
                .map(|read| read.bytes.len())
                .map_err(|refusal| refusal.into_response().status().as_u16());
            assert_eq!(read, length, "{sizes:?}");
        }
        let held = read(&room, &headers, pieces(&[1]), 4_096, ProblemCode::TooLarge).await.unwrap();
        let refused = read(&room, &headers, pieces(&[1]), 1_024, ProblemCode::TooLarge).await.err().unwrap();
        assert_eq!(refused.into_response().status(), 503);
        drop(held);
        assert_eq!(room.available_permits(), 4);
    }
}
