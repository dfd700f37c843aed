//! Between RabbitMQ's properties and our [`RawMessage`].

use bytes::Bytes;
use domain::QueueName;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use protocol::{HeaderValue, RawMessage};

use super::names::Names;
use crate::Control;

/// `type` of a message that carries [`Control::Cancel`]; its `message_id` is the execution's.
const CANCEL: &str = "cancel";

/// Does the broker write the message to disk?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    OnDisk,
    InMemory,
}

/// The properties and the body that say `message`.
pub(super) fn to_amqp(message: RawMessage, kept: Kept) -> (BasicProperties, Bytes) {
    let mut properties = BasicProperties::default().with_delivery_mode(match kept {
        Kept::OnDisk => 2,
        Kept::InMemory => 1,
    });
    if let Some(text) = short(message.message_id) {
        properties = properties.with_message_id(text);
    }
    if let Some(text) = short(message.content_type) {
        properties = properties.with_content_type(text);
    }
    if let Some(text) = short(message.content_encoding) {
        properties = properties.with_content_encoding(text);
    }
    if let Some(text) = short(message.reply_to) {
        properties = properties.with_reply_to(text);
    }
    if let Some(text) = short(message.correlation_id) {
        properties = properties.with_correlation_id(text);
    }
    let mut headers = FieldTable::default();
    for (name, value) in message.headers {
        if let Ok(name) = ShortString::try_new(name) {
            headers.insert(name, to_value(value));
        }
    }
    (properties.with_headers(headers), message.body)
}

/// The message that the properties and the body say.
pub(super) fn from_amqp(properties: &BasicProperties, body: Vec<u8>) -> RawMessage {
    let text = |property: &Option<ShortString>| property.as_ref().map(ToString::to_string);
    let headers = properties.headers().iter().flat_map(|table| table.inner());
    RawMessage {
        message_id: text(properties.message_id()),
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        reply_to: text(properties.reply_to()),
        correlation_id: text(properties.correlation_id()),
        headers: headers.map(|(name, value)| (name.to_string(), from_value(value))).collect(),
        body: body.into(),
    }
}

/// The message that says `control`, and expires soon.
pub(super) fn control_to_amqp(control: &Control) -> BasicProperties {
    let Control::Cancel(execute_id) = control;
    BasicProperties::default()
        .with_delivery_mode(1)
        .with_type(CANCEL.into())
        .with_message_id(execute_id.to_string().into())
}

/// `None` for a control that a newer release may send and this one does not know.
pub(super) fn control_from_amqp(properties: &BasicProperties) -> Option<Control> {
    match properties.kind().as_ref()?.as_str() {
        CANCEL => properties.message_id().as_ref()?.as_str().parse().ok().map(Control::Cancel),
        _ => None,
    }
}

/// The queue that a dead-lettered message lay in, from its `x-death` header: the newest death comes first.
pub(super) fn queue_of_death(properties: &BasicProperties, names: &Names) -> Option<QueueName> {
    let deaths = properties.headers().as_ref()?.inner().get("x-death")?.as_array()?;
    let death = deaths.as_slice().first()?.as_field_table()?;
    let queue = death.inner().get("queue")?.as_long_string()?;
    names.parse_queue(std::str::from_utf8(queue.as_bytes()).ok()?)
}

/// What is too long for a property cannot have come by AMQP, and is left out.
fn short(text: Option<String>) -> Option<ShortString> {
    ShortString::try_new(text?).ok()
}

fn to_value(value: HeaderValue) -> AMQPValue {
    match value {
        HeaderValue::Text(text) => AMQPValue::LongString(LongString::from(text)),
        HeaderValue::Integer(number) => AMQPValue::LongLongInt(number),
        HeaderValue::Bool(flag) => AMQPValue::Boolean(flag),
        HeaderValue::Other => AMQPValue::Void,
    }
}

fn from_value(value: &AMQPValue) -> HeaderValue {
    match value {
        AMQPValue::Boolean(flag) => HeaderValue::Bool(*flag),
        AMQPValue::ShortShortInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortShortUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongLongInt(number) => HeaderValue::Integer(*number),
        AMQPValue::ShortString(text) => HeaderValue::Text(text.to_string()),
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => HeaderValue::Text(text.to_owned()),
            Err(_) => HeaderValue::Other,
        },
        AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::Timestamp(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => HeaderValue::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domain::ExecuteId;
    use lapin::types::{ByteArray, DecimalValue, FieldArray};

    use super::*;

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let message = RawMessage {
            message_id: Some("id".to_owned()),
            content_type: Some("application/json".to_owned()),
            content_encoding: Some("identity".to_owned()),
            reply_to: Some("queue".to_owned()),
            correlation_id: Some("ü".to_owned()),
            headers: BTreeMap::from([
                ("text".to_owned(), HeaderValue::Text("a\u{0}ü".to_owned())),
                ("number".to_owned(), HeaderValue::Integer(i64::MIN)),
                ("flag".to_owned(), HeaderValue::Bool(true)),
                ("other".to_owned(), HeaderValue::Other),
            ]),
            body: Bytes::from_static(&[0, 159]),
        };
        let (properties, body) = to_amqp(message.clone(), Kept::OnDisk);
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(from_amqp(&properties, body.to_vec()), message);
    }

    #[test]
    fn every_type_a_table_can_hold_is_a_value() {
        let values = [
            (AMQPValue::Boolean(true), HeaderValue::Bool(true)),
            (AMQPValue::ShortShortInt(-1), HeaderValue::Integer(-1)),
            (AMQPValue::ShortShortUInt(255), HeaderValue::Integer(255)),
            (AMQPValue::ShortInt(-1), HeaderValue::Integer(-1)),
            (AMQPValue::ShortUInt(u16::MAX), HeaderValue::Integer(65_535)),
            (AMQPValue::LongInt(1), HeaderValue::Integer(1)),
            (AMQPValue::LongUInt(u32::MAX), HeaderValue::Integer(4_294_967_295)),
            (AMQPValue::LongLongInt(i64::MAX), HeaderValue::Integer(i64::MAX)),
            (AMQPValue::ShortString("a".into()), HeaderValue::Text("a".to_owned())),
            (AMQPValue::LongString("b".into()), HeaderValue::Text("b".to_owned())),
            (AMQPValue::LongString(vec![159].into()), HeaderValue::Other),
            (AMQPValue::Float(0.5), HeaderValue::Other),
            (AMQPValue::Double(0.5), HeaderValue::Other),
            (AMQPValue::DecimalValue(DecimalValue { scale: 1, value: 1 }), HeaderValue::Other),
            (AMQPValue::FieldArray(FieldArray::default()), HeaderValue::Other),
            (AMQPValue::Timestamp(1), HeaderValue::Other),
            (AMQPValue::FieldTable(FieldTable::default()), HeaderValue::Other),
            (AMQPValue::ByteArray(ByteArray::default()), HeaderValue::Other),
            (AMQPValue::Void, HeaderValue::Other),
        ];
        for (value, expected) in values {
            assert_eq!(from_value(&value), expected, "{value:?}");
        }
    }

    #[test]
    fn what_does_not_fit_into_a_property_is_left_out() {
        let long = "x".repeat(256);
        let headers = BTreeMap::from([(long.clone(), HeaderValue::Bool(true))]);
        let message = RawMessage { correlation_id: Some(long), headers, ..RawMessage::default() };
        let (properties, _) = to_amqp(message, Kept::InMemory);
        assert_eq!(from_amqp(&properties, Vec::new()), RawMessage::default());
    }

    #[test]
    fn a_control_reads_back_and_an_unknown_one_is_ignored() {
        let control = Control::Cancel(ExecuteId::new(1_700_000_000_000));
        assert_eq!(control_from_amqp(&control_to_amqp(&control)), Some(control));
        let newer = BasicProperties::default().with_type("pause".into());
        assert_eq!(control_from_amqp(&newer), None);
    }
}
