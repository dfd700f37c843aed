use domain::QueueName;
use protocol::{HeaderValue, RawMessage, header};

/// The most bytes of the sender's headers that are kept: they have to fit into one frame of whoever publishes them.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// The most bytes of a reason: it may quote what was wrong.
const REASON_BYTES_MAX: usize = 1_000;

/// The message as it goes into the rejected queue: its body kept, where it came from and why said in its headers. Of its own
/// headers those are kept that there is room for, by name; how many are not is said too.
pub(crate) fn with_reason(
    mut message: RawMessage,
    queue: &QueueName,
    code: &str,
    reason: &str,
) -> RawMessage {
    let (count, mut room) = (message.headers.len(), HEADER_BYTES_MAX);
    message.headers.retain(|name, value| {
        let bytes = encoded_bytes(name, value);
        let fits = bytes <= room;
        if fits {
            room -= bytes;
        }
        fits
    });
    let dropped = count - message.headers.len();
    if dropped > 0 {
        let dropped = HeaderValue::Integer(i64::try_from(dropped).unwrap_or(i64::MAX));
        message.headers.insert(header::DROPPED.to_owned(), dropped);
    }
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    for (name, text) in
        [(header::QUEUE, queue.as_str()), (header::REASON, code), (header::REASON_TEXT, reason)]
    {
        message.headers.insert(name.to_owned(), HeaderValue::Text(text.to_owned()));
    }
    message
}

/// What a header takes in a message: the length of its name, the name, the type and the value (AMQP 0-9-1, 4.2.5.5).
const fn encoded_bytes(name: &str, value: &HeaderValue) -> usize {
    1 + name.len()
        + 1
        + match value {
            HeaderValue::Text(text) => size_of::<u32>() + text.len(),
            HeaderValue::Integer(_) => size_of::<i64>(),
            HeaderValue::Bool(_) => size_of::<u8>(),
            HeaderValue::Other => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_kept_as_far_as_there_is_room_for_them_and_what_they_take() {
        for (name_bytes, text_bytes) in [(4, 0), (4, 100), (200, 10_000)] {
            let one = |n| (format!("{n:0name_bytes$}"), HeaderValue::Text("x".repeat(text_bytes)));
            let message = RawMessage { headers: (0..9_000).map(one).collect(), ..RawMessage::default() };
            let rejected = with_reason(message, &QueueName::default(), "model", "why");
            let kept: Vec<_> = rejected.headers.keys().filter(|name| !name.starts_with("x-")).collect();
            let each = 1 + name_bytes + 1 + 4 + text_bytes;
            assert_eq!(kept.len(), HEADER_BYTES_MAX / each, "{name_bytes}, {text_bytes}");
            let dropped = HeaderValue::Integer(i64::try_from(9_000 - kept.len()).unwrap());
            assert_eq!(rejected.headers[header::DROPPED], dropped);
        }
    }
}
