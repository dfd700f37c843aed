//! Calls by publishing straight to RabbitMQ, as a producer of one's own would.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use broker::rabbitmq::{RabbitMq, RabbitMqConfig};
use broker::{Broker, PublishError};
use domain::{ExecuteId, Payload, State, VersionSelector};
use jiff::Timestamp;
use protocol::{HeaderValue, RawMessage, Reply, ReplyAddress, Request, header};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::call::{Call, End, Kind, Outcome};
use crate::cli::Servers;
use crate::http::Gateways;
use crate::replies::Replies;

/// How long a reply is waited for before the record is asked.
const REPLY: Duration = Duration::from_secs(30);
/// The pause before something is published again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the reply queue may take: a broker that is frozen accepts connections and then says nothing for ever.
const OPEN: Duration = Duration::from_secs(10);

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<RawMessage>>>>;

/// A producer.
pub struct Producer {
    broker: RabbitMq,
    waiting: Waiting,
    /// Where replies to us go.
    reply_queue: String,
    /// Owns the task that hands replies out, until this is cancelled.
    replies: TaskTracker,
    closed: CancellationToken,
}

impl Producer {
    /// Connects, and begins to receive replies.
    ///
    /// # Errors
    /// The configuration cannot be right. A broker that is away is waited for.
    pub async fn connect(servers: &Servers) -> anyhow::Result<Self> {
        let url = servers.amqp_url.clone().context("AMQP calls need --amqp-url or GANTRY_AMQP_URL")?;
        let config =
            RabbitMqConfig { url: url.clone(), prefix: servers.prefix.clone(), ..RabbitMqConfig::default() };
        let name = format!("loadtest-{}", ExecuteId::new(now_ms()));
        let broker = RabbitMq::connect(&config, &name).await.context("connect to the broker")?;
        let reply_queue = format!("{name}.replies");
        let (waiting, replies, closed) = (Waiting::default(), TaskTracker::new(), CancellationToken::new());
        let first = open(&url, &reply_queue).await;
        let handing_out = hand_out(first, url, reply_queue.clone(), waiting.clone());
        let until = closed.clone();
        replies.spawn(async move { until.run_until_cancelled(handing_out).await });
        Ok(Self { broker, waiting, reply_queue, replies, closed })
    }

    /// Makes `call` under one id, published until it is confirmed, and waits for its end.
    pub async fn call(&self, kind: &Kind, gateways: &Gateways, call: Call) -> Outcome {
        let execute_id = ExecuteId::new(now_ms());
        let mut outcome = Outcome::unsent();
        let (sender, reply) = oneshot::channel();
        lock(&self.waiting).insert(execute_id.to_string(), sender);
        let message = self.request(kind, execute_id, &call).to_message();
        while let Err(error) = self.broker.publish(&kind.queue, message.clone()).await {
            outcome.end = match &error {
                PublishError::Refused | PublishError::Away(_) => End::Refused(error.to_string()),
                PublishError::Unknown { .. } => End::Unresolved(error.to_string()),
            };
            let is_refused = matches!(error, PublishError::Refused);
            if is_refused && !call.retries {
                outcome.end = End::Shed;
            }
            if Instant::now() + PAUSE > call.until || outcome.end == End::Shed {
                lock(&self.waiting).remove(&execute_id.to_string());
                return outcome;
            }
            outcome.retried += 1;
            sleep(PAUSE).await;
        }
        outcome.execute_id = Some(execute_id);
        outcome.end = match timeout(REPLY.min(call.until - Instant::now().min(call.until)), reply).await {
            Ok(Ok(reply)) => end_of(reply, &call),
            // Replies are hints: the record has the answer.
            Ok(Err(_)) | Err(_) => gateways.ending(execute_id, &call).await,
        };
        lock(&self.waiting).remove(&execute_id.to_string());
        outcome
    }

    fn request(&self, kind: &Kind, execute_id: ExecuteId, call: &Call) -> Request {
        Request {
            execute_id,
            model: kind.model.clone(),
            version: VersionSelector::default(),
            queue: kind.queue.clone(),
            input: Payload::new(Payload::JSON, call.input.clone()),
            deadline: None,
            reply_address: Some(ReplyAddress {
                reply_to: self.reply_queue.clone(),
                correlation_id: execute_id.to_string(),
            }),
            traceparent: None,
            attributes: domain::Attributes::default(),
            recorded: false,
        }
    }

    /// Ends the connections, and what hands the replies out.
    pub async fn close(self) {
        self.broker.close().await;
        self.closed.cancel();
        self.replies.close();
        self.replies.wait().await;
    }
}

/// Hands replies out, on one connection after the other. Those that come while there is none are lost: the record has the
/// answer.
async fn hand_out(mut replies: Option<Replies>, url: String, queue: String, waiting: Waiting) {
    loop {
        while let Some(reply) = match &mut replies {
            Some(replies) => replies.next().await,
            None => None,
        } {
            let waiter = reply.correlation_id.as_ref().and_then(|id| lock(&waiting).remove(id));
            if let Some(waiter) = waiter {
                // Its call may have given up.
                let _gone = waiter.send(reply);
            }
        }
        sleep(PAUSE).await;
        replies = open(&url, &queue).await;
    }
}

async fn open(url: &str, queue: &str) -> Option<Replies> {
    timeout(OPEN, Replies::open(url, queue)).await.ok()?.ok()
}

fn lock(waiting: &Waiting) -> MutexGuard<'_, HashMap<String, oneshot::Sender<RawMessage>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end_of(reply: RawMessage, call: &Call) -> End {
    let is_rejection = reply.headers.get(header::STATE) == Some(&HeaderValue::Text("rejected".to_owned()));
    if is_rejection {
        return End::Refused(String::from_utf8_lossy(&reply.body).into_owned());
    }
    match Reply::parse(reply) {
        Ok(reply) => match reply.ending.result() {
            Some(result) if call.is_echo && result.bytes != call.input => End::Wrong,
            Some(_) => End::Succeeded,
            None => End::Ended(reply.ending.state()),
        },
        Err(_) => End::Ended(State::Failed),
    }
}

fn now_ms() -> u64 {
    Timestamp::now().as_millisecond().try_into().unwrap_or(0)
}
