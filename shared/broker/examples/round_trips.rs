//! How many requests and replies per second go through RabbitMQ, by this crate and by the bare driver, in one run:
//!
//! `cargo run --release -p broker --example round_trips -- amqp://user:password@host:port/%2f [seconds per row]`
//!
//! A request is persistent, confirmed and acknowledged, on a quorum queue; its answer is transient. Client and worker are in this
//! process. The bare driver shares channels between tasks, which is fast and mixes up confirms: it is only a ceiling.

#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing to say")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::rabbitmq::{RabbitMq, RabbitMqConfig};
use broker::{Broker, DeliverySource};
use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use protocol::{RawMessage, ReplyAddress};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

const BODY: &[u8] = &[b'x'; 256];
const PREFETCH: u16 = 512;
const CHUNK: usize = 64;

/// Who waits for which answer.
type Waiters = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("the broker's URL");
    let seconds = arguments.next().map_or(5, |text| text.parse().unwrap());
    let prefix = format!("bench{}", std::process::id());
    println!(
        "in flight | this crate: round trips/s, p50, p99 | bare driver: round trips/s, p50, p99 | ratio"
    );
    for in_flight in [1, 64, 256] {
        let limit = Duration::from_secs(seconds);
        let ours = this_crate(&url, &prefix, in_flight, limit).await;
        let bare = bare_driver(&url, &prefix, in_flight, limit).await;
        println!("{in_flight:9} | {ours} | {bare} | {:.2}", ours.rate / bare.rate);
    }
}

struct Figures {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:8.0}, {:7.2?}, {:7.2?}", self.rate, self.p50, self.p99)
    }
}

/// Calls over and over, `in_flight` at once, for `limit`.
async fn measure<F: Future<Output = ()>>(
    in_flight: usize,
    limit: Duration,
    call: impl Fn(String) -> F,
) -> Figures {
    let began = Instant::now();
    let caller = async |number: usize| {
        let mut times = Vec::new();
        while began.elapsed() < limit {
            let sent = Instant::now();
            call(format!("{number}-{}", times.len())).await;
            times.push(sent.elapsed());
        }
        times
    };
    let mut times: Vec<_> = join_all((0..in_flight).map(caller)).await.concat();
    let elapsed = began.elapsed();
    times.sort_unstable();
    Figures {
        rate: times.len() as f64 / elapsed.as_secs_f64(),
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
    }
}

async fn this_crate(url: &str, prefix: &str, in_flight: usize, limit: Duration) -> Figures {
    let config = RabbitMqConfig { url: url.to_owned(), prefix: prefix.to_owned(), ca_file: None };
    let worker = Arc::new(RabbitMq::connect(&config, "worker").await.unwrap());
    let client = Arc::new(RabbitMq::connect(&config, "client").await.unwrap());
    let queue = "ours".parse().unwrap();
    let source = DeliverySource::Queues(vec!["ours".parse().unwrap()]);
    let mut deliveries = worker.consume(source, PREFETCH).await.unwrap();
    let mut replies = client.replies().await.unwrap();
    let waiters = Waiters::default();
    let mut tasks = JoinSet::new();
    let echo = worker.clone();
    tasks.spawn(async move {
        loop {
            for delivery in deliveries.next_chunk(CHUNK).await {
                let message = &delivery.message;
                let reply_to = message.reply_to.clone().unwrap();
                let correlation_id = message.correlation_id.clone().unwrap();
                let body = message.body.clone();
                let address = ReplyAddress { reply_to, correlation_id };
                echo.reply(&address, RawMessage { body, ..RawMessage::default() });
                let _settled = delivery.ack().await;
            }
        }
    });
    let waiting = waiters.clone();
    tasks.spawn(async move {
        while let Some(reply) = replies.recv().await {
            answer(&waiting, &reply.correlation_id.unwrap());
        }
    });
    let figures = measure(in_flight, limit, async |id: String| {
        let answered = wait(&waiters, &id);
        let message = RawMessage {
            message_id: Some(id.clone()),
            reply_to: Some(client.reply_queue().to_owned()),
            correlation_id: Some(id),
            body: BODY.into(),
            ..RawMessage::default()
        };
        client.publish(&queue, message).await.unwrap();
        answered.await.unwrap();
    })
    .await;
    tasks.shutdown().await;
    client.close().await;
    worker.close().await;
    figures
}

async fn bare_driver(url: &str, prefix: &str, in_flight: usize, limit: Duration) -> Figures {
    let connect = async || Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let (publishing, consuming, working) = (connect().await, connect().await, connect().await);
    let work = declare(&working, &format!("{prefix}.bare.work"), "quorum").await;
    let answers = declare(&consuming, &format!("{prefix}.bare.answers"), "classic").await;
    let mut tasks = JoinSet::new();
    let channel = working.create_channel().await.unwrap();
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.unwrap();
    let stream = consume(&channel, &work, false).await;
    tasks.spawn(async move {
        let mut chunks = stream.ready_chunks(CHUNK);
        while let Some(chunk) = chunks.next().await {
            let chunk: Vec<_> = chunk.into_iter().map(Result::unwrap).collect();
            let replies = chunk.iter().map(|delivery| {
                let id = delivery.properties.correlation_id().clone().unwrap();
                let properties = BasicProperties::default().with_correlation_id(id).with_delivery_mode(1);
                let reply_to = delivery.properties.reply_to().clone().unwrap();
                publish(&channel, reply_to, &delivery.data, properties)
            });
            try_join_all(replies).await.unwrap();
            let all = BasicAckOptions { multiple: true };
            chunk.last().unwrap().acker.ack(all).await.unwrap();
        }
    });
    let channel = consuming.create_channel().await.unwrap();
    let mut stream = consume(&channel, &answers, true).await;
    let waiters = Waiters::default();
    let waiting = waiters.clone();
    tasks.spawn(async move {
        while let Some(reply) = stream.next().await {
            answer(&waiting, reply.unwrap().properties.correlation_id().as_ref().unwrap().as_str());
        }
    });
    let confirmed = publishing.create_channel().await.unwrap();
    confirmed.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let figures = measure(in_flight, limit, async |id: String| {
        let answered = wait(&waiters, &id);
        let properties = BasicProperties::default()
            .with_correlation_id(id.into())
            .with_reply_to(answers.clone())
            .with_delivery_mode(2);
        publish(&confirmed, work.clone(), BODY, properties).await.unwrap().await.unwrap();
        answered.await.unwrap();
    })
    .await;
    tasks.shutdown().await;
    for connection in [publishing, consuming, working] {
        connection.close(200, "OK".into()).await.unwrap();
    }
    figures
}

async fn declare(connection: &Connection, name: &str, kind: &str) -> ShortString {
    let channel = connection.create_channel().await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    channel.queue_declare(name.into(), options, arguments).await.unwrap();
    name.into()
}

async fn consume(channel: &Channel, queue: &ShortString, no_ack: bool) -> lapin::Consumer {
    let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
    channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await.unwrap()
}

async fn publish(
    channel: &Channel,
    queue: ShortString,
    body: &[u8],
    properties: BasicProperties,
) -> lapin::Result<lapin::PublisherConfirm> {
    channel.basic_publish("".into(), queue, BasicPublishOptions::default(), body, properties).await
}

fn wait(waiters: &Waiters, id: &str) -> oneshot::Receiver<()> {
    let (answer, answered) = oneshot::channel();
    waiters.lock().unwrap().insert(id.to_owned(), answer);
    answered
}

fn answer(waiters: &Waiters, id: &str) {
    if let Some(waiter) = waiters.lock().unwrap().remove(id) {
        waiter.send(()).ok();
    }
}
