use std::collections::BTreeMap;

use bytes::Bytes;
use domain::{
    Attributes, Digest, ExecuteId, InvalidAttributes, InvalidExecuteId, InvalidName, ModelName, Payload,
    QueueName, VersionSelector, limits,
};
use jiff::Timestamp;

/// The only value of the `x-gantry-schema` header there is.
pub const SCHEMA: i64 = 1;

/// Names of the headers.
pub mod header {
    /// The model to run: required in a request.
    pub const MODEL: &str = "x-gantry-model";
    /// Version number or alias; `latest` if absent.
    pub const VERSION: &str = "x-gantry-version";
    /// Never start after this time (RFC 3339).
    pub const DEADLINE: &str = "x-gantry-deadline";
    /// Labels to find the execution by: `customer=acme, run=7`.
    pub const ATTRIBUTES: &str = "x-gantry-attributes";
    /// The schema of the envelope: the integer 1, required.
    pub const SCHEMA: &str = "x-gantry-schema";
    /// Set by Gantry's own publishers: the row exists already. Only a hint.
    pub const RECORDED: &str = "x-gantry-recorded";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// In a reply: the terminal state.
    pub const STATE: &str = "x-gantry-state";
    /// In a reply: the attempt that ended it.
    pub const ATTEMPT: &str = "x-gantry-attempt";
    /// In a reply: how long the script ran, in microseconds.
    pub const RUN_US: &str = "x-gantry-run-us";
    /// In a message of the rejected queue: the queue it was taken from.
    pub const QUEUE: &str = "x-gantry-queue";
    /// In a message of the rejected queue: the stable code of the reason.
    pub const REASON: &str = "x-gantry-reason";
    /// In a message of the rejected queue: the reason in words.
    pub const REASON_TEXT: &str = "x-gantry-reason-text";
    /// In a message of the rejected queue: how many of its headers were too large to be kept.
    pub const DROPPED: &str = "x-gantry-headers-dropped";
}

/// The value of a header, as far as the contract uses it. As JSON it is that value; [`HeaderValue::Other`] is null.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum HeaderValue {
    /// A string.
    Text(String),
    /// An integer of any width.
    Integer(i64),
    /// A boolean.
    Bool(bool),
    /// A type the contract has no use for.
    Other,
}

/// A message as a broker carries it, without the broker's types. As JSON it is all but its body.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RawMessage {
    /// `message_id`.
    pub message_id: Option<String>,
    /// `content_type`.
    pub content_type: Option<String>,
    /// `content_encoding`: must be absent or `identity`.
    pub content_encoding: Option<String>,
    /// `reply_to`.
    pub reply_to: Option<String>,
    /// `correlation_id`.
    pub correlation_id: Option<String>,
    /// Headers.
    pub headers: BTreeMap<String, HeaderValue>,
    /// The body as it came.
    #[serde(skip)]
    pub body: Bytes,
}

/// Where a reply goes: the queue a caller listens on, and the id it tells replies apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ReplyAddress {
    /// `reply_to`: a queue, by its name.
    pub reply_to: String,
    /// `correlation_id`: returned as it came.
    pub correlation_id: String,
}

/// A request to run something: what a message on `gantry.execute` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its id, also the dedupe key.
    pub execute_id: ExecuteId,
    /// What to run.
    pub model: ModelName,
    /// Which version of it.
    pub version: VersionSelector,
    /// The queue it was published to.
    pub queue: QueueName,
    /// The input.
    pub input: Payload,
    /// Never start after this time.
    pub deadline: Option<Timestamp>,
    /// Where the reply goes, if anybody waits.
    pub reply_address: Option<ReplyAddress>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Labels to find it by. (A dispatch of what is recorded leaves them out: the row has them.)
    pub attributes: Attributes,
    /// The publisher says that the row exists already; only a hint.
    pub recorded: bool,
}

/// A message that can never be run: it goes to the rejected queue with its reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// The body is empty.
    #[error("the body is empty; send {{}} if the model takes no input")]
    Empty,
    /// The body is too large.
    #[error("the body has {bytes} bytes, at most {} are allowed", limits::INPUT_BYTES_MAX)]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The body says it is JSON and is not.
    #[error("the body is no JSON: {message}")]
    Parse {
        /// What is wrong and where.
        message: String,
    },
    /// No schema, or one we do not know.
    #[error("header {} must be the integer {SCHEMA}", header::SCHEMA)]
    Schema,
    /// No `message_id`.
    #[error("property message_id is missing: it must be the execute_id")]
    ExecuteIdMissing,
    /// A `message_id` that is no execute_id.
    #[error("property message_id: {0}")]
    ExecuteId(InvalidExecuteId),
    /// No model.
    #[error("header {} is missing", header::MODEL)]
    ModelMissing,
    /// A name that cannot be one.
    #[error("header {header}: {source}")]
    Name {
        /// The header.
        header: &'static str,
        /// The rule it breaks.
        source: InvalidName,
    },
    /// A deadline that is none.
    #[error("header {} must be a time as 2026-11-22T10:00:00Z", header::DEADLINE)]
    Deadline,
    /// Attributes that break their rule.
    #[error("header x-gantry-attributes: {0}")]
    Attributes(InvalidAttributes),
    /// A compressed body.
    #[error("content_encoding {0:?} is not accepted: send the body as it is")]
    Encoding(String),
    /// A property that is too long or contains control characters.
    #[error("property {0} must be 1 to 255 visible ASCII characters")]
    Property(&'static str),
}

impl InvalidMessage {
    /// The stable code of the reason.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLarge { .. } => "too_large",
            Self::Parse { .. } => "parse",
            Self::Schema => "schema",
            Self::ExecuteIdMissing | Self::ExecuteId(_) => "execute_id",
            Self::ModelMissing | Self::Name { .. } => "model",
            Self::Deadline => "deadline",
            Self::Attributes(_) => "attributes",
            Self::Encoding(_) => "encoding",
            Self::Property(_) => "property",
        }
    }
}

impl Request {
    /// Reads the request in `message`, which came from `queue`. Unknown headers are ignored.
    ///
    /// # Errors
    /// [`InvalidMessage`] if it can never be run, whoever tries.
    pub fn parse(message: RawMessage, queue: QueueName) -> Result<Self, InvalidMessage> {
        if message.headers.get(header::SCHEMA) != Some(&HeaderValue::Integer(SCHEMA)) {
            return Err(InvalidMessage::Schema);
        }
        let id = message.message_id.as_deref().ok_or(InvalidMessage::ExecuteIdMissing)?;
        let execute_id = id.parse().map_err(InvalidMessage::ExecuteId)?;
        let named = |header| move |source| InvalidMessage::Name { header, source };
        let model = match text(&message.headers, header::MODEL)? {
            Some(text) => text.parse().map_err(named(header::MODEL))?,
            None => return Err(InvalidMessage::ModelMissing),
        };
        let version = match text(&message.headers, header::VERSION)? {
            Some(text) => text.parse().map_err(named(header::VERSION))?,
            None => VersionSelector::default(),
        };
        let deadline = text(&message.headers, header::DEADLINE)?
            .map(|text| text.parse().map_err(|_| InvalidMessage::Deadline))
            .transpose()?;
        if let Some(encoding) = message.content_encoding.filter(|e| !e.is_empty() && e != "identity") {
            return Err(InvalidMessage::Encoding(encoding));
        }
        let traceparent = text(&message.headers, header::TRACEPARENT)?.map(str::to_owned);
        let attributes = attributes(&message.headers)?;
        let recorded = message.headers.get(header::RECORDED) == Some(&HeaderValue::Bool(true));
        let reply_address = reply_address(execute_id, message.reply_to, message.correlation_id)?;
        let input = input(message.content_type, message.body)?;
        Ok(Self {
            execute_id,
            model,
            version,
            queue,
            input,
            deadline,
            reply_address,
            traceparent,
            attributes,
            recorded,
        })
    }

    /// The message that says this; [`Request::parse`] reads it back.
    #[must_use]
    pub fn to_message(&self) -> RawMessage {
        let mut headers = BTreeMap::from([
            (header::SCHEMA.to_owned(), HeaderValue::Integer(SCHEMA)),
            (header::MODEL.to_owned(), HeaderValue::Text(self.model.to_string())),
            (header::VERSION.to_owned(), HeaderValue::Text(self.version.to_string())),
        ]);
        if let Some(deadline) = self.deadline {
            headers.insert(header::DEADLINE.to_owned(), HeaderValue::Text(deadline.to_string()));
        }
        if let Some(traceparent) = &self.traceparent {
            headers.insert(header::TRACEPARENT.to_owned(), HeaderValue::Text(traceparent.clone()));
        }
        if !self.attributes.is_empty() {
            let text = HeaderValue::Text(self.attributes.to_string());
            headers.insert(header::ATTRIBUTES.to_owned(), text);
        }
        if self.recorded {
            headers.insert(header::RECORDED.to_owned(), HeaderValue::Bool(true));
        }
        RawMessage {
            message_id: Some(self.execute_id.to_string()),
            content_type: Some(self.input.content_type.to_string()),
            content_encoding: None,
            reply_to: self.reply_address.as_ref().map(|address| address.reply_to.clone()),
            correlation_id: self.reply_address.as_ref().map(|address| address.correlation_id.clone()),
            headers,
            body: self.input.bytes.clone(),
        }
    }

    /// The fingerprint that tells an execution from another one under the same id or key: its input's SHA-256.
    #[must_use]
    pub fn input_digest(&self) -> Digest {
        Digest::of(&self.input.bytes)
    }
}

fn text<'a>(
    headers: &'a BTreeMap<String, HeaderValue>,
    name: &'static str,
) -> Result<Option<&'a str>, InvalidMessage> {
    match headers.get(name) {
        None => Ok(None),
        Some(HeaderValue::Text(text)) if is_visible(text, 255) => Ok(Some(text)),
        Some(HeaderValue::Text(_) | HeaderValue::Integer(_) | HeaderValue::Bool(_) | HeaderValue::Other) => {
            Err(InvalidMessage::Property(name))
        }
    }
}

fn attributes(headers: &BTreeMap<String, HeaderValue>) -> Result<Attributes, InvalidMessage> {
    match headers.get(header::ATTRIBUTES) {
        None => Ok(Attributes::default()),
        Some(HeaderValue::Text(text)) => text.parse().map_err(InvalidMessage::Attributes),
        Some(HeaderValue::Integer(_) | HeaderValue::Bool(_) | HeaderValue::Other) => {
            Err(InvalidMessage::Property(header::ATTRIBUTES))
        }
    }
}

fn reply_address(
    execute_id: ExecuteId,
    reply_to: Option<String>,
    correlation_id: Option<String>,
) -> Result<Option<ReplyAddress>, InvalidMessage> {
    let Some(reply_to) = reply_to.filter(|name| !name.is_empty()) else { return Ok(None) };
    if !is_visible(&reply_to, 255) {
        return Err(InvalidMessage::Property("reply_to"));
    }
    let correlation_id = correlation_id.unwrap_or_else(|| execute_id.to_string());
    if !is_visible(&correlation_id, 255) {
        return Err(InvalidMessage::Property("correlation_id"));
    }
    Ok(Some(ReplyAddress { reply_to, correlation_id }))
}

fn input(content_type: Option<String>, body: Bytes) -> Result<Payload, InvalidMessage> {
    let content_type = content_type.filter(|t| !t.is_empty()).unwrap_or_else(|| Payload::JSON.to_owned());
    if !is_visible(&content_type, 127) {
        return Err(InvalidMessage::Property("content_type"));
    }
    if body.len() > limits::INPUT_BYTES_MAX {
        return Err(InvalidMessage::TooLarge { bytes: body.len() });
    }
    if body.is_empty() {
        return Err(InvalidMessage::Empty);
    }
    let payload = Payload::new(&content_type, body);
    if payload.is_json() {
        payload.check_json().map_err(|error| InvalidMessage::Parse { message: error.to_string() })?;
    }
    Ok(payload)
}

fn is_visible(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|b| (32..127).contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            execute_id: ExecuteId::new(1_700_000_000_000),
            model: "iris".parse().unwrap(),
            version: VersionSelector::default(),
            queue: QueueName::default(),
            input: Payload::new(Payload::JSON, &b"{\"a\":1}"[..]),
            deadline: Some("2026-11-22T10:00:00Z".parse().unwrap()),
            reply_address: Some(ReplyAddress { reply_to: "q".to_owned(), correlation_id: "c".to_owned() }),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            attributes: "customer=acme, run=7".parse().unwrap(),
            recorded: true,
        }
    }

    fn broken(change: impl FnOnce(&mut RawMessage)) -> &'static str {
        let mut message = request().to_message();
        change(&mut message);
        Request::parse(message, QueueName::default()).unwrap_err().code()
    }

    #[test]
    fn a_request_reads_back_as_it_was_written() {
        let request = request();
        assert_eq!(Request::parse(request.to_message(), QueueName::default()), Ok(request));
    }

    #[test]
    fn what_can_never_be_run_is_rejected_with_its_reason() {
        let set = |m: &mut RawMessage, name: &str, value| m.headers.insert(name.to_owned(), value);
        assert_eq!(broken(|m| m.body = Bytes::new()), "empty");
        assert_eq!(broken(|m| m.body = Bytes::from_static(b"{\"a\":")), "parse");
        assert_eq!(broken(|m| m.body = vec![b' '; limits::INPUT_BYTES_MAX + 1].into()), "too_large");
        assert_eq!(broken(|m| drop(m.headers.remove(header::SCHEMA))), "schema");
        assert_eq!(broken(|m| drop(set(m, header::SCHEMA, HeaderValue::Integer(999)))), "schema");
        assert_eq!(broken(|m| drop(set(m, header::SCHEMA, HeaderValue::Text("1".into())))), "schema");
        assert_eq!(broken(|m| drop(set(m, header::ATTRIBUTES, HeaderValue::Text("a".into())))), "attributes");
        assert_eq!(broken(|m| m.message_id = None), "execute_id");
        assert_eq!(broken(|m| m.message_id = Some("x".into())), "execute_id");
        assert_eq!(
            broken(|m| m.message_id = Some("9f0a3f8e-2f3b-4c8e-9d7a-5b1f0c2d3e4f".into())),
            "execute_id"
        );
        assert_eq!(broken(|m| drop(m.headers.remove(header::MODEL))), "model");
        assert_eq!(broken(|m| drop(set(m, header::MODEL, HeaderValue::Text("../x".into())))), "model");
        assert_eq!(broken(|m| drop(set(m, header::MODEL, HeaderValue::Other))), "property");
        assert_eq!(broken(|m| drop(set(m, header::VERSION, HeaderValue::Text("A".into())))), "model");
        assert_eq!(broken(|m| drop(set(m, header::DEADLINE, HeaderValue::Text("soon".into())))), "deadline");
        assert_eq!(broken(|m| m.content_encoding = Some("gzip".into())), "encoding");
        assert_eq!(broken(|m| m.correlation_id = Some("a\nb".into())), "property");
    }

    #[test]
    fn unknown_headers_are_ignored_and_other_media_types_are_not_parsed() {
        let mut message = request().to_message();
        message.headers.insert("x-other".to_owned(), HeaderValue::Other);
        message.content_type = Some("application/octet-stream".to_owned());
        message.body = Bytes::from_static(&[0, 159, 146, 150]);
        assert!(Request::parse(message, QueueName::default()).is_ok());
    }
}
