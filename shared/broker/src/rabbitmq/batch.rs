//! Several replies to one process as one message: a message costs the broker and both ends more than a reply in it does.
//!
//! The body is, for each reply: the length of its head (4 bytes, big-endian), its head as JSON, the length of its body, its
//! body.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use lapin::BasicProperties;
use protocol::RawMessage;

/// `type` of such a message.
const KIND: &str = "replies";
/// A message that has grown to this takes no further reply.
const BYTES_MAX: usize = 256 << 10;

/// What carries some replies.
pub(super) struct Batch {
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
    /// How many they are.
    pub(super) replies: u64,
}

/// The messages that say `replies`, in order.
pub(super) fn to_amqp(replies: &[RawMessage]) -> Vec<Batch> {
    let mut batches = Vec::new();
    let (mut body, mut count) = (BytesMut::new(), 0);
    for (place, reply) in replies.iter().enumerate() {
        // Strings and numbers: this cannot fail.
        put(&mut body, &serde_json::to_vec(reply).unwrap_or_default());
        put(&mut body, &reply.body);
        count += 1;
        if body.len() >= BYTES_MAX || place + 1 == replies.len() {
            let properties = BasicProperties::default().with_delivery_mode(1).with_type(KIND.into());
            batches.push(Batch { properties, body: body.split().freeze(), replies: count });
            count = 0;
        }
    }
    batches
}

/// Is this such a message?
pub(super) fn is_batch(properties: &BasicProperties) -> bool {
    properties.kind().as_ref().is_some_and(|kind| kind.as_str() == KIND)
}

/// The replies that the body of such a message says; ends with `None` if what follows cannot be read.
pub(super) fn from_amqp(body: Vec<u8>) -> impl Iterator<Item = Option<RawMessage>> {
    let mut rest = Bytes::from(body);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let reply = next(&mut rest);
        if reply.is_none() {
            rest.clear();
        }
        Some(reply)
    })
}

fn next(rest: &mut Bytes) -> Option<RawMessage> {
    let (head, body) = (take(rest)?, take(rest)?);
    Some(RawMessage { body, ..serde_json::from_slice(&head).ok()? })
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
    use std::collections::BTreeMap;

    use protocol::HeaderValue;

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
        for Batch { properties, body, .. } in &messages {
            assert!(is_batch(properties));
            assert!(body.len() < BYTES_MAX + 300_000);
        }
        assert_eq!(messages.iter().map(|batch| batch.replies).sum::<u64>(), 10);
        let read: Option<Vec<_>> = messages.iter().flat_map(|batch| from_amqp(batch.body.to_vec())).collect();
        assert_eq!(read, Some(replies));
        assert!(to_amqp(&[]).is_empty());
    }

    #[test]
    fn a_body_that_was_cut_or_forged_says_what_can_be_read_of_it() {
        let whole = to_amqp(&[reply(1, vec![1]), reply(2, vec![2])]).remove(0).body;
        let first = to_amqp(&[reply(1, vec![1])]).remove(0).body.len();
        let read = |body: &[u8]| from_amqp(body.to_vec()).map(|reply| reply.is_some()).collect::<Vec<_>>();
        for cut in 1..whole.len() {
            let expected: &[bool] = match cut {
                _ if cut < first => &[false],
                _ if cut == first => &[true],
                _ => &[true, false],
            };
            assert_eq!(read(&whole[..cut]), expected, "{cut} of {} bytes", whole.len());
        }
        assert_eq!(read(&[255; 100]), [false]);
        assert_eq!(read(&[&[0, 0, 0, 2], &b"[]"[..], &[0, 0, 0, 0]].concat()), [false]);
    }
}
