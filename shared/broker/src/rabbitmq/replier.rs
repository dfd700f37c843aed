use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel};
use tokio::sync::{mpsc, oneshot, watch};

use super::publisher::{Channels, Link};
use crate::metrics;

/// How many may be on their way to the socket.
const IN_FLIGHT_MAX: usize = 1_024;
const CHUNK: usize = 64;

/// What is sent without waiting for anything: replies and broadcasts.
pub(super) enum Outgoing {
    /// A message without a confirm.
    Message(Box<Message>),
    /// Answers when everything before it has been handed to the socket.
    Flush(oneshot::Sender<()>),
}

/// A message without a confirm.
pub(super) struct Message {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
    /// How many replies it carries; a broadcast carries none.
    pub(super) replies: u64,
}

/// The one task that sends on the channel without confirms. What cannot be sent is dropped and counted.
pub(super) struct Replier {
    outgoing: mpsc::Receiver<Outgoing>,
    link: watch::Receiver<Link>,
}

impl Replier {
    pub(super) const fn new(outgoing: mpsc::Receiver<Outgoing>, link: watch::Receiver<Link>) -> Self {
        Self { outgoing, link }
    }

    pub(super) async fn run(mut self) {
        loop {
            let link = self.link.borrow_and_update().clone();
            if let Some(channels) = link.filter(|channels| channels.epoch.is_standing()) {
                self.serve(&channels).await;
            }
            tokio::select! {
                changed = self.link.changed() => if changed.is_err() { return },
                outgoing = self.outgoing.recv() => match outgoing {
                    Some(Outgoing::Message(message)) => dropped(message.replies),
                    Some(Outgoing::Flush(done)) => { done.send(()).ok(); }
                    None => return,
                },
            }
        }
    }

    async fn serve(&mut self, channels: &Channels) {
        let mut over = std::pin::pin!(channels.epoch.over().cancelled());
        let mut sending = FuturesUnordered::new();
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            let room = IN_FLIGHT_MAX.saturating_sub(sending.len()).min(CHUNK);
            tokio::select! {
                biased;
                () = &mut over => return,
                Some(first) = sending.next() => {
                    let mut alive: bool = first;
                    while let Some(Some(next)) = sending.next().now_or_never() {
                        alive &= next;
                    }
                    if !alive {
                        channels.epoch.over().cancel();
                    }
                }
                taken = self.outgoing.recv_many(&mut chunk, room), if room > 0 => {
                    if taken == 0 {
                        return;
                    }
                    for outgoing in chunk.drain(..) {
                        match outgoing {
                            Outgoing::Message(message) => sending.push(send(&channels.replies, *message)),
                            Outgoing::Flush(done) => {
                                while sending.next().await.is_some() {}
                                done.send(()).ok();
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Without confirms a publication ends when its frames are written. Says whether the channel is alive.
async fn send(channel: &Channel, message: Message) -> bool {
    let Message { exchange, routing_key, properties, body, replies } = message;
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(exchange, routing_key, options, &body, properties).await.is_ok();
    if !sent {
        dropped(replies);
    }
    sent
}

fn dropped(replies: u64) {
    match replies {
        0 => metrics::control_dropped(),
        _ => metrics::replies_dropped("away", replies),
    }
}
