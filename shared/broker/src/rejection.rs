use domain::QueueName;
use protocol::{HeaderValue, RawMessage, header};

/// The message as it goes into the rejected queue: its body kept, where it came from and why said in its headers.
pub(crate) fn with_reason(
    mut message: RawMessage,
    queue: &QueueName,
    code: &str,
    reason: &str,
) -> RawMessage {
    for (name, text) in
        [(header::QUEUE, queue.as_str()), (header::REASON, code), (header::REASON_TEXT, reason)]
    {
        message.headers.insert(name.to_owned(), HeaderValue::Text(text.to_owned()));
    }
    message
}
