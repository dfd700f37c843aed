use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::try_join_all;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, PublisherConfirm,
};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Shape;
use crate::pace::{Pace, measure};

const PREFETCH: u16 = 2_048;
/// Deliveries that are answered together.
const CHUNK: usize = 64;
/// As an execution's message is.
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;
/// When an unused queue goes by itself.
const EXPIRES_MS: i32 = 60_000;

/// Who waits for which answer.
type Waiters = Arc<Mutex<HashMap<ShortString, oneshot::Sender<()>>>>;

/// Messages to an echo and back: persistent, confirmed, over a quorum queue, acknowledged several at once, the answer over a
/// classic queue. Caller, consumer of the answers and echo have a connection each. No publication waits for the one before.
pub async fn round_trips(url: &str, shape: Shape) -> anyhow::Result<Pace> {
    let publishing = connect(url).await?;
    let consuming = connect(url).await?;
    let echoing = connect(url).await?;
    let prefix = format!("loadtest.{}", uuid::Uuid::now_v7());
    let work = declare(&echoing, &format!("{prefix}.work"), "quorum").await?;
    let answers = declare(&consuming, &format!("{prefix}.answers"), "classic").await?;
    let mut tasks = JoinSet::new();
    let channel = echoing.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    tasks.spawn(echo(consume(&channel, &work, false).await?, channel));
    let waiters = Waiters::default();
    let channel = consuming.create_channel().await?;
    tasks.spawn(hand_out(consume(&channel, &answers, true).await?, waiters.clone()));
    let confirmed = publishing.create_channel().await?;
    confirmed.confirm_select(ConfirmSelectOptions::default()).await?;
    let body = Bytes::from(vec![b'x'; shape.payload]);
    let calls = measure(shape.concurrency, shape.time, async |number| {
        let id = ShortString::from(number.to_string());
        let (answer, answered) = oneshot::channel();
        lock(&waiters).insert(id.clone(), answer);
        let properties = BasicProperties::default()
            .with_correlation_id(id)
            .with_reply_to(answers.clone())
            .with_delivery_mode(PERSISTENT);
        let confirmation = publish(&confirmed, work.clone(), &body, properties).await?.await?;
        if !matches!(confirmation, Confirmation::Ack(None)) {
            bail!("a publication was answered with {confirmation:?}");
        }
        answered.await.context("the answers have ended")
    });
    // An echo that breaks off is no slow echo.
    let pace = tokio::select! {
        pace = calls => pace,
        ended = tasks.join_next() => match ended {
            Some(ended) => ended.context("echo").and_then(|ended| ended).and(Err(anyhow::anyhow!("the echo has ended"))),
            None => Err(anyhow::anyhow!("there is no echo")),
        },
    };
    tasks.shutdown().await;
    for queue in [work, answers] {
        confirmed.queue_delete(queue, QueueDeleteOptions::default()).await?;
    }
    for connection in [publishing, consuming, echoing] {
        // A goodbye that meets the broker's own takes nothing from what was measured.
        drop(connection.close(200, "OK".into()).await);
    }
    pace
}

/// Answers what is ready together, then acknowledges it together.
async fn echo(deliveries: Consumer, channel: Channel) -> anyhow::Result<()> {
    let mut chunks = deliveries.ready_chunks(CHUNK);
    while let Some(chunk) = chunks.next().await {
        let chunk: Vec<Delivery> = chunk.into_iter().collect::<Result<_, _>>()?;
        let answers = chunk.iter().map(async |delivery| {
            let (reply_to, id) = (delivery.properties.reply_to(), delivery.properties.correlation_id());
            let (Some(reply_to), Some(id)) = (reply_to, id) else { bail!("a message without an address") };
            let properties =
                BasicProperties::default().with_correlation_id(id.clone()).with_delivery_mode(TRANSIENT);
            Ok(publish(&channel, reply_to.clone(), &delivery.data, properties).await?)
        });
        try_join_all(answers).await?;
        if let Some(last) = chunk.last() {
            last.acker.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    bail!("the broker has cancelled the echo")
}

async fn hand_out(mut answers: Consumer, waiters: Waiters) -> anyhow::Result<()> {
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        let waiter = answer.properties.correlation_id().as_ref().and_then(|id| lock(&waiters).remove(id));
        // Its caller may have given up.
        waiter.map(|waiter| waiter.send(()));
    }
    bail!("the broker has cancelled the consumer of the answers")
}

fn lock(waiters: &Waiters) -> std::sync::MutexGuard<'_, HashMap<ShortString, oneshot::Sender<()>>> {
    waiters.lock().unwrap_or_else(PoisonError::into_inner)
}

pub async fn connect(url: &str) -> anyhow::Result<Connection> {
    Connection::connect(url, ConnectionProperties::default()).await.context("connect to RabbitMQ")
}

async fn declare(connection: &Connection, name: &str, kind: &str) -> anyhow::Result<ShortString> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    // Should this be interrupted.
    arguments.insert("x-expires".into(), AMQPValue::LongInt(EXPIRES_MS));
    connection.create_channel().await?.queue_declare(name.into(), options, arguments).await?;
    Ok(name.into())
}

pub async fn consume(channel: &Channel, queue: &ShortString, no_ack: bool) -> lapin::Result<Consumer> {
    let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
    channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await
}

async fn publish(
    channel: &Channel,
    queue: ShortString,
    body: &[u8],
    properties: BasicProperties,
) -> lapin::Result<PublisherConfirm> {
    channel.basic_publish("".into(), queue, BasicPublishOptions::default(), body, properties).await
}
