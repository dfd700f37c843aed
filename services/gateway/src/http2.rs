//! HTTP/2 (RFC 9113): many requests on one connection, whose limits are its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use axum::response::IntoResponse;
use bytes::Buf;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use protocol::ProblemCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::TaskTracker;

use crate::access_log::Line;
use crate::census::{Census, Place};
use crate::problem::Refusal;
use crate::server::IDLE_MAX;

/// What a client that speaks HTTP/2 sends first (section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The most requests at once on one connection.
const STREAMS_MAX: u32 = 128;
/// The largest header of a request, as its fields are counted in section 6.5.2.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// The most bytes of request bodies that a connection may send before they are read, and of one body.
const WINDOW_BYTES: u32 = 256 << 10;
/// As much of an answer is written at once. The next piece is taken from the body at once, and handed over when the client's window
/// has room for one byte of it.
const PIECE_BYTES: usize = 16 << 10;
/// With so many bytes of one answer that the client has not taken no further piece is written.
const SEND_BYTES_MAX: usize = 64 << 10;
/// The most requests that are reset by the client before they were looked at (CVE-2023-44487), and that may be reset for a fault of
/// the client in the connection's life (RUSTSEC-2024-0003): with more it ends.
const PENDING_RESETS_MAX: usize = 20;
const ERROR_RESETS_MAX: usize = 1_024;
/// How long a connection may be silent before it is asked whether it is there, and how long the client may take to say so: what
/// was sent before has to come through first.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client has at least to take note that the connection ends (`GOAWAY`, section 6.8).
const GOAWAY_TIME: Duration = Duration::from_secs(10);

/// The requests of one connection.
pub(crate) struct Requests {
    pub service: TowerToHyperService<Router>,
    /// All requests over HTTP/2 that there are.
    pub census: Arc<Census>,
    /// Where these come from.
    pub address: IpAddr,
}

/// Serves one connection until it breaks off, its client is [idle](Activity::idle), or `last_request` returns; then the client is
/// told to send no more, and the requests under way are still answered, as long as it takes the answers.
pub(crate) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    requests: Requests,
    last_request: impl Future<Output = ()>,
) -> hyper::Result<()> {
    let (tasks, activity) = (Tasks::default(), Arc::new(Activity::new()));
    let ended = {
        let streams = Streams { requests, activity: Arc::clone(&activity) };
        let connection = builder(tasks.clone()).serve_connection(TokioIo::new(stream), streams);
        let mut connection = std::pin::pin!(connection);
        let early = tokio::select! {
            ended = &mut connection => Some(ended),
            () = last_request => None,
            () = activity.idle() => None,
        };
        match early {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = async {
                        sleep(GOAWAY_TIME).await;
                        activity.idle().await;
                    } => Ok(()),
                }
            }
        }
    };
    // Without the connection each of them ends.
    tasks.0.close();
    tasks.0.wait().await;
    ended
}

fn builder(tasks: Tasks) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(ERROR_RESETS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// The tasks of one connection's requests.
#[derive(Clone, Default)]
struct Tasks(TaskTracker);

impl<F: Future<Output: Send + 'static> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

struct Streams {
    requests: Requests,
    activity: Arc<Activity>,
}

impl Service<Request<Incoming>> for Streams {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let line = Line::begin(&request);
        let Requests { service, census, address } = &self.requests;
        let (service, place) = (service.clone(), census.enter(*address));
        let held =
            Arc::new(Held { number: self.activity.number(), activity: Arc::clone(&self.activity), place });
        let waiting = self.activity.wait();
        Box::pin(async move {
            let response = match held.place {
                Some(_) => service.call(request).await?,
                None => too_many(),
            };
            line.end(&response);
            Ok(response.map(|body| Answer { body, rest: Bytes::new(), waiting: Some(waiting), held }))
        })
    }
}

fn too_many() -> Response<Body> {
    Refusal::new(ProblemCode::Overloaded, "there are too many requests at once").into_response()
}

/// What a connection's client waits for, and what it has not taken.
struct Activity(Mutex<Open>);

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
    fn new() -> Self {
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

    fn wait(self: &Arc<Self>) -> Waiting {
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
    async fn idle(&self) {
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
struct Waiting(Arc<Activity>);

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
    place: Option<Place>,
}

/// The body of an answer in pieces.
struct Answer {
    body: Body,
    /// What of the body's last frame is still to be written.
    rest: Bytes,
    /// There while the client waits for the next piece.
    waiting: Option<Waiting>,
    held: Arc<Held>,
}

/// Some bytes of an answer. It is dropped when it has been written, for which its client has to grant a window: h2 keeps what there is
/// none for, also when all of the answer has been made.
struct Piece {
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

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::net::Ipv4Addr;

    use axum::routing::get;
    use futures::stream;
    use http_body_util::BodyExt;
    use hyper::client::conn::http2::{self as client, SendRequest};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;
    use crate::Config;

    const LARGE: usize = 1 << 20;

    type Served = JoinHandle<hyper::Result<()>>;

    /// The client's end of a connection with room for two requests at once, and the server's task.
    fn connection() -> (DuplexStream, Served) {
        let router = Router::new()
            .route("/small", get(async || "small"))
            .route("/large", get(async || vec![b'x'; LARGE]))
            .route("/late", get(async || sleep(IDLE_MAX * 10).await))
            .route(
                "/events",
                get(async || {
                    let first = stream::iter([Ok::<_, Infallible>("first")]);
                    Body::from_stream(futures::StreamExt::chain(first, stream::pending()))
                }),
            );
        let (client, server) = duplex(1 << 20);
        let requests = Requests {
            service: TowerToHyperService::new(router),
            census: Arc::new(Census::new(&Config { connections_max: 2, ..Config::default() })),
            address: Ipv4Addr::LOCALHOST.into(),
        };
        (client, TaskTracker::new().spawn(serve(server, requests, pending())))
    }

    /// A client that lets each answer have `window` bytes before it is taken.
    async fn client(window: u32) -> (SendRequest<Body>, Served) {
        let (stream, served) = connection();
        let (sender, connection) = client::Builder::new(Tasks::default())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        // Ends when either end does.
        TaskTracker::new().spawn(connection);
        (sender, served)
    }

    fn request(path: &str) -> Request<Body> {
        Request::get(format!("http://gantry{path}")).body(Body::empty()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_client_waits_for_nothing_is_ended() {
        let (mut sender, served) = client(1_000).await;
        let begin = Instant::now();
        assert_eq!(sender.send_request(request("/small")).await.unwrap().status(), 200);
        // The client may close first.
        drop(served.await.unwrap());
        assert_eq!(begin.elapsed().as_secs(), IDLE_MAX.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_grants_its_answers_no_window_does_not_keep_them() {
        for window in [0, 1] {
            let (mut sender, served) = client(window).await;
            let begin = Instant::now();
            let answer = sender.send_request(request("/small")).await.unwrap();
            assert_eq!(answer.status(), 200, "the head needs no window");
            drop(served.await.unwrap());
            let expected = (IDLE_MAX + GOAWAY_TIME).as_secs();
            assert_eq!(begin.elapsed().as_secs(), expected, "told to go, then cut off; window {window}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_ends_the_connection_whatever_else_its_client_waits_for() {
        for window in [0, 1] {
            let (mut sender, served) = client(window).await;
            let begin = Instant::now();
            let waits = sender.send_request(request("/late"));
            let answer = sender.send_request(request("/small")).await.unwrap();
            drop(served.await.unwrap());
            let expected = (IDLE_MAX + GOAWAY_TIME).as_secs();
            assert_eq!(begin.elapsed().as_secs(), expected, "window {window}");
            assert!(waits.await.is_err());
            drop(answer);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_sent_for_as_long_as_its_client_goes_on_taking_it() {
        let (mut sender, _served) = client(16 << 10).await;
        let mut body = sender.send_request(request("/large")).await.unwrap().into_body();
        let begin = Instant::now();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame.unwrap().into_data().unwrap().len();
            sleep(IDLE_MAX / 4).await;
        }
        assert_eq!(length, LARGE);
        assert!(begin.elapsed() > IDLE_MAX * 10, "it was not slow: {:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_client_hung_up_leaves_no_task() {
        let (mut sender, served) = client(0).await;
        let waits = sender.send_request(request("/late"));
        let answer = sender.send_request(request("/small")).await.unwrap();
        let begin = Instant::now();
        drop((waits, answer, sender));
        drop(served.await.unwrap());
        assert_eq!(begin.elapsed().as_secs(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_keeps_its_place_until_its_client_has_taken_it() {
        let (mut sender, _served) = client(1).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(sender.send_request(request("/small")).await.unwrap());
        }
        assert_eq!(sender.send_request(request("/small")).await.unwrap().status(), 503);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_have_places_which_their_answers_give_back() {
        let (mut sender, _served) = client(1_000).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(sender.send_request(request("/events")).await.unwrap());
        }
        assert_eq!(sender.send_request(request("/small")).await.unwrap().status(), 503);
        held.clear();
        // The resets are on their way.
        sleep(Duration::from_millis(1)).await;
        for _ in 0..3 {
            let answer = sender.send_request(request("/small")).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "small");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_lasts_as_long_as_its_client_waits() {
        for path in ["/late", "/events"] {
            let (mut sender, served) = client(1_000).await;
            let answer = timeout(IDLE_MAX * 5, async {
                let answer = sender.send_request(request(path)).await.unwrap();
                axum::body::to_bytes(Body::new(answer.into_body()), 1_000).await
            });
            assert!(answer.await.is_err(), "{path}: there is no answer yet");
            assert!(!served.is_finished(), "{path}");
            // The client hung up: nobody waits any more.
            let begin = Instant::now();
            drop(served.await.unwrap());
            assert_eq!(begin.elapsed().as_secs(), IDLE_MAX.as_secs(), "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_answer_pings_is_gone() {
        let (mut stream, served) = connection();
        stream.write_all(PREFACE).await.unwrap();
        let begin = Instant::now();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(begin.elapsed(), PING_INTERVAL + PING_TIMEOUT);
        assert!(served.await.unwrap().is_err());
    }
}
