//! The answers of one connection: made in pieces, each of which is known until it has been written.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use bytes::Buf;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

use crate::census::Place;
use crate::server::IDLE_MAX;

/// As much of an answer is written at once. The next piece is taken from the body at once, and handed over when the client's window
/// has room for one byte of it.
const PIECE_BYTES: usize = 16 << 10;

/// What a connection's client waits for, and what it has not taken.
pub(super) struct Activity(Mutex<Open>);

struct Open {
    /// Requests that are being served, and answers of which the next piece does not exist yet.
    waiting: usize,
    /// The answers of which pieces lie here, by their numbers.
    untaken: HashMap<u64, Untaken>,
    numbers: u64,
    /// When something was last asked for, made or taken.
    since: Instant,
}

struct Untaken {
    pieces: usize,
    /// When there was the first of them, or one was last taken.
    since: Instant,
}

impl Activity {
    pub fn new() -> Self {
        let since = Instant::now();
        Self(Mutex::new(Open { waiting: 0, untaken: HashMap::new(), numbers: 0, since }))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        let mut open = self.lock();
        open.numbers += 1;
        open.numbers
    }

    pub fn wait(self: &Arc<Self>) -> Waiting {
        self.lock().waiting += 1;
        Waiting(Arc::clone(self))
    }

    fn offered(&self, number: u64) {
        let untaken = || Untaken { pieces: 0, since: Instant::now() };
        self.lock().untaken.entry(number).or_insert_with(untaken).pieces += 1;
    }

    fn taken(&self, number: u64) {
        let mut open = self.lock();
        let now = Instant::now();
        open.since = now;
        if let Entry::Occupied(mut answer) = open.untaken.entry(number) {
            let untaken = answer.get_mut();
            untaken.pieces -= 1;
            untaken.since = now;
            if untaken.pieces == 0 {
                answer.remove();
            }
        }
    }

    /// Returns when the client has waited for nothing for [`IDLE_MAX`], or taken nothing of one of its answers for so long: an
    /// answer keeps memory and places that others need, whatever else its client waits for meanwhile.
    pub async fn idle(&self) {
        loop {
            let now = Instant::now();
            let since = {
                let open = self.lock();
                let quiet = if open.waiting > 0 { now } else { open.since };
                open.untaken.values().map(|untaken| untaken.since).fold(quiet, Ord::min)
            };
            let due = since + IDLE_MAX;
            if due <= now {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// One thing that the client waits for.
pub(super) struct Waiting(Arc<Activity>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut open = self.0.lock();
        open.waiting -= 1;
        open.since = Instant::now();
    }
}

/// What an answer holds until the last of its pieces has gone.
struct Held {
    number: u64,
    activity: Arc<Activity>,
    /// Given back with the rest.
    _place: Option<Place>,
}

/// The body of an answer in pieces.
pub(super) struct Answer {
    body: Body,
    /// What of the body's last frame is still to be written.
    rest: Bytes,
    /// There while the client waits for the next piece.
    waiting: Option<Waiting>,
    held: Arc<Held>,
}

impl Answer {
    /// The answer to a request that was `waiting`, in its `place` among all requests.
    pub fn new(body: Body, waiting: Waiting, place: Option<Place>) -> Self {
        let activity = Arc::clone(&waiting.0);
        let held = Arc::new(Held { number: activity.number(), activity, _place: place });
        Self { body, rest: Bytes::new(), waiting: Some(waiting), held }
    }
}

/// Some bytes of an answer. It is dropped when it has been written, for which its client has to grant a window: h2 keeps what there is
/// none for, also when all of the answer has been made.
pub(super) struct Piece {
    bytes: Bytes,
    held: Arc<Held>,
}

impl Piece {
    fn new(bytes: Bytes, held: &Arc<Held>) -> Self {
        held.activity.offered(held.number);
        Self { bytes, held: Arc::clone(held) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.held.activity.taken(self.held.number);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl HttpBody for Answer {
    type Data = Piece;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, axum::Error>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                    self.rest = frame.into_data().unwrap_or_default();
                }
                Poll::Ready(other) => {
                    self.waiting = None;
                    let held = &self.held;
                    let with_pieces = |frame: Frame<Bytes>| frame.map_data(|bytes| Piece::new(bytes, held));
                    return Poll::Ready(other.map(|frame| frame.map(with_pieces)));
                }
                Poll::Pending => {
                    if self.waiting.is_none() {
                        self.waiting = Some(self.held.activity.wait());
                    }
                    return Poll::Pending;
                }
            }
        }
        self.waiting = None;
        let length = self.rest.len().min(PIECE_BYTES);
        let bytes = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(Piece::new(bytes, &self.held)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
