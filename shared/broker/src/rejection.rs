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
        let bytes = name.len() + value.bytes();
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
