//! HTTP/2 (RFC 9113): many requests on one connection, whose limits are its own.

mod answer;

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use protocol::ProblemCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use self::answer::{Activity, Answer};
use crate::access_log::Line;
use crate::census::Census;
use crate::problem::Refusal;

/// What a client that speaks HTTP/2 sends first (section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The most requests at once on one connection.
const STREAMS_MAX: u32 = 128;
/// The largest header of a request, as its fields are counted in section 6.5.2.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// The most bytes of request bodies that a connection may send before they are read, and of one body.
const WINDOW_BYTES: u32 = 256 << 10;
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
        let waiting = self.activity.wait();
        Box::pin(async move {
            let response = match place {
                Some(_) => service.call(request).await?,
                None => too_many(),
            };
            line.end(&response);
            Ok(response.map(|body| Answer::new(body, waiting, place)))
        })
    }
}

fn too_many() -> Response<Body> {
    Refusal::new(ProblemCode::Overloaded, "there are too many requests at once").into_response()
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
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::Config;
    use crate::server::IDLE_MAX;

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
