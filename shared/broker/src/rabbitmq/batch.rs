//! Several replies to one process as one message: a message costs the broker and both ends more than a reply in it does.
//!
//! The body is, for each reply: the length of its head (4 bytes, big-endian), its head as JSON, the length of its body, its
//! body.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use lapin::BasicProperties;
use protocol::{HeaderValue, RawMessage};
use serde::{Deserialize, Serialize};

/// `type` of such a message.
const KIND: &str = "replies";
/// A message that has grown to this takes no further reply.
const BYTES_MAX: usize = 256 << 10;

/// What a reply has beside its body.
#[derive(Serialize, Deserialize)]
struct Head<'a> {
    message_id: Option<Cow<'a, str>>,
    content_type: Option<Cow<'a, str>>,
    correlation_id: Option<Cow<'a, str>>,
    headers: BTreeMap<Cow<'a, str>, Value<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value<'a> {
    Bool(bool),
    Integer(i64),
    Text(Cow<'a, str>),
}

/// The messages that say `replies`, in order.
pub(super) fn to_amqp(replies: &[RawMessage]) -> Vec<(BasicProperties, Bytes)> {
    let properties = BasicProperties::default().with_delivery_mode(1).with_type(KIND.into());
    let mut bodies = Vec::new();
    let mut body = BytesMut::new();
    for reply in replies {
        put(&mut body, &serde_json::to_vec(&head(reply)).unwrap_or_default());
        put(&mut body, &reply.body);
        if body.len() >= BYTES_MAX {
            bodies.push(body.split().freeze());
        }
    }
    if !body.is_empty() {
        bodies.push(body.freeze());
    }
    bodies.into_iter().map(|body| (properties.clone(), body)).collect()
}

/// Is this such a message?
pub(super) fn is_batch(properties: &BasicProperties) -> bool {
    properties.kind().as_ref().is_some_and(|kind| kind.as_str() == KIND)
}

/// The replies that the body of such a message says, up to the first that cannot be read.
pub(super) fn from_amqp(body: Vec<u8>) -> impl Iterator<Item = RawMessage> {
    let mut rest = Bytes::from(body);
    std::iter::from_fn(move || {
        let (head, body) = (take(&mut rest)?, take(&mut rest)?);
        let head: Head<'_> = serde_json::from_slice(&head).ok()?;
        let text = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
        Some(RawMessage {
            message_id: text(head.message_id),
            content_type: text(head.content_type),
            correlation_id: text(head.correlation_id),
            headers: head
                .headers
                .into_iter()
                .map(|(name, value)| (name.into_owned(), value.into()))
                .collect(),
            body,
            ..RawMessage::default()
        })
    })
}

fn head(reply: &RawMessage) -> Head<'_> {
    let headers =
        reply.headers.iter().filter_map(|(name, v)| Some((Cow::Borrowed(name.as_str()), value(v)?)));
    Head {
        message_id: reply.message_id.as_deref().map(Cow::Borrowed),
        content_type: reply.content_type.as_deref().map(Cow::Borrowed),
        correlation_id: reply.correlation_id.as_deref().map(Cow::Borrowed),
        headers: headers.collect(),
    }
}

fn value(value: &HeaderValue) -> Option<Value<'_>> {
    Some(match value {
        HeaderValue::Text(text) => Value::Text(Cow::Borrowed(text)),
        HeaderValue::Integer(number) => Value::Integer(*number),
        HeaderValue::Bool(flag) => Value::Bool(*flag),
        HeaderValue::Other => return None,
    })
}

impl From<Value<'_>> for HeaderValue {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Bool(flag) => Self::Bool(flag),
            Value::Integer(number) => Self::Integer(number),
            Value::Text(text) => Self::Text(text.into_owned()),
        }
    }
}

/// (A reply is far shorter than 4 GiB.)
fn put(body: &mut BytesMut, part: &[u8]) {
    body.reserve(4 + part.len());
    body.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
    body.put_slice(part);
}

fn take(rest: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(rest.try_get_u32().ok()?).ok()?;
    (length <= rest.len()).then(|| rest.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(number: usize, body: Vec<u8>) -> RawMessage {
        RawMessage {
            message_id: Some(format!("id-{number}")),
            content_type: number.is_multiple_of(2).then(|| "text/csv; \"ü\"".to_owned()),
            correlation_id: Some("c\n".to_owned()),
            headers: BTreeMap::from([
                ("text".to_owned(), HeaderValue::Text("1".to_owned())),
                ("number".to_owned(), HeaderValue::Integer(i64::MIN)),
                ("flag".to_owned(), HeaderValue::Bool(true)),
            ]),
            body: body.into(),
            ..RawMessage::default()
        }
    }

    #[test]
    fn replies_read_back_in_order_and_no_message_grows_without_bound() {
        let replies: Vec<_> = (0..10).map(|n| reply(n, vec![159; n * 30_000])).collect();
        let messages = to_amqp(&replies);
        assert!(messages.len() > 2, "{} messages", messages.len());
        for (properties, body) in &messages {
            assert!(is_batch(properties));
            assert!(body.len() < BYTES_MAX + 300_000);
        }
        let read: Vec<_> = messages.into_iter().flat_map(|(_, body)| from_amqp(body.to_vec())).collect();
        assert_eq!(read, replies);
        assert_eq!(to_amqp(&[]), []);
    }

    #[test]
    fn a_body_that_was_cut_or_forged_says_what_can_be_read_of_it() {
        let (_, whole) = to_amqp(&[reply(1, vec![1]), reply(2, vec![2])]).remove(0);
        for cut in 0..whole.len() {
            assert!(from_amqp(whole[..cut].to_vec()).count() < 2, "{cut} of {} bytes", whole.len());
        }
        assert_eq!(from_amqp(vec![255; 100]).count(), 0);
        assert_eq!(from_amqp([&[0, 0, 0, 2], &b"{}"[..], &[0, 0, 0, 0]].concat()).count(), 0);
    }
}
