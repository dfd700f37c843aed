//! HTTP/2 (RFC 9113): many requests on one connection, whose limits are its own.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};

use crate::access_log::Line;
use crate::server::IDLE_MAX;

/// What a client that speaks HTTP/2 sends first (section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The most requests at once on one connection.
const STREAMS_MAX: u32 = 128;
/// The largest header of a request, as its fields are counted in section 6.5.2.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// The most bytes of request bodies that a connection may send before they are read, and of one body.
const WINDOW_BYTES: u32 = 256 << 10;
/// The most bytes of one answer that are kept until the client takes them.
const SEND_BYTES_MAX: usize = 256 << 10;
/// The most requests that were reset before they were looked at, and that were reset for a fault of the client: with more the
/// connection ends (CVE-2023-44487 and CVE-2024-27316 live of these).
const PENDING_RESETS_MAX: usize = 20;
const ERROR_RESETS_MAX: usize = 1_024;
/// How long a connection may be silent before it is asked whether it is there, and how long the client may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client has at least to take note that the connection ends (`GOAWAY`, section 6.8).
const GOAWAY_TIME: Duration = Duration::from_secs(10);

/// Serves one connection until it breaks off, its client has waited for nothing for a while, or `last_request` returns; then
/// the requests under way are still answered, but their client has to take the answers.
pub(crate) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: TowerToHyperService<Router>,
    last_request: impl Future<Output = ()>,
) -> hyper::Result<()> {
    let activity = Arc::new(Activity::new());
    let streams = Streams { service, activity: Arc::clone(&activity) };
    let mut connection = std::pin::pin!(builder().serve_connection(TokioIo::new(stream), streams));
    tokio::select! {
        ended = &mut connection => return ended,
        () = last_request => {}
        () = activity.idle() => {}
    }
    // Further requests are not taken.
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => ended,
        () = async {
            sleep(GOAWAY_TIME).await;
            activity.idle().await;
        } => Ok(()),
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
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

/// The requests of one connection.
struct Streams {
    service: TowerToHyperService<Router>,
    activity: Arc<Activity>,
}

impl Service<Request<Incoming>> for Streams {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let line = Line::begin(&request);
        let (service, waiting) = (self.service.clone(), self.activity.wait());
        Box::pin(async move {
            let response = service.call(request).await?;
            line.end(&response);
            Ok(response.map(|body| Answer { body, activity: Arc::clone(&waiting.0), waiting: None }))
        })
    }
}

/// Whether a client waits for something on its connection. A client that only has to take what is there does not: so one that
/// grants no window to its answers cannot keep them and its connection.
struct Activity(Mutex<Waits>);

struct Waits {
    /// Requests that are being served, and answers of which the next piece does not exist yet.
    open: usize,
    /// When the last of them ended, or the client last took something.
    since: Instant,
}

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(Waits { open: 0, since: Instant::now() }))
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(self: &Arc<Self>) -> Waiting {
        self.lock().open += 1;
        Waiting(Arc::clone(self))
    }

    /// Returns when the client has waited for nothing for [`IDLE_MAX`].
    async fn idle(&self) {
        loop {
            let now = Instant::now();
            let since = {
                let waits = self.lock();
                if waits.open > 0 { now } else { waits.since }
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
        let mut waits = self.0.lock();
        waits.open -= 1;
        waits.since = Instant::now();
    }
}

/// The body of an answer, which says whether the client waits for its next piece or it for the client.
struct Answer {
    body: Body,
    activity: Arc<Activity>,
    waiting: Option<Waiting>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_ready() {
            self.waiting = None;
            self.activity.lock().since = Instant::now();
        } else if self.waiting.is_none() {
            self.waiting = Some(self.activity.wait());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::routing::get;
    use futures::stream;
    use hyper::client::conn::http2::{self as client, SendRequest};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;
    use tokio_util::task::TaskTracker;

    use super::*;

    type Served = JoinHandle<hyper::Result<()>>;

    /// The client's end of a connection, and the server's task.
    fn connection() -> (DuplexStream, Served) {
        let router = Router::new()
            .route("/small", get(async || "small"))
            .route("/late", get(async || sleep(IDLE_MAX * 10).await))
            .route(
                "/events",
                get(async || {
                    let first = stream::iter([Ok::<_, Infallible>("first")]);
                    Body::from_stream(futures::StreamExt::chain(first, stream::pending()))
                }),
            );
        let (client, server) = duplex(1 << 20);
        (client, TaskTracker::new().spawn(serve(server, TowerToHyperService::new(router), pending())))
    }

    /// A client that lets each answer have `window` bytes before it is taken.
    async fn client(window: u32) -> (SendRequest<Body>, Served) {
        let (stream, served) = connection();
        let (sender, connection) = client::Builder::new(TokioExecutor::new())
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
        let (mut sender, served) = client(0).await;
        let begin = Instant::now();
        let answer = sender.send_request(request("/small")).await.unwrap();
        assert_eq!(answer.status(), 200, "the head needs no window");
        drop(served.await.unwrap());
        assert_eq!(begin.elapsed().as_secs(), (IDLE_MAX + GOAWAY_TIME).as_secs(), "told to go, then cut off");
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
