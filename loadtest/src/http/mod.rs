//! HTTP to the gateways, on connections that are kept.

mod calls;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use domain::{ExecuteId, ModelName};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use protocol::http::{Execution, Handle, LogPage, LogRow, ModelList};
use serde::de::DeserializeOwned;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// How long an answer may take beyond that.
const SLACK: Duration = Duration::from_secs(10);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Calls at once on one connection of HTTP/2: as many as every server should allow (RFC 9113, 6.5.2).
const STREAMS_EACH: usize = 100;

/// The version of HTTP that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.1: one call at a time on each connection.
    Http1,
    /// 2, without TLS and by prior knowledge (RFC 9113, 3.3): many calls at once on each connection.
    Http2,
}

impl Version {
    /// HTTP/2 if that was asked for.
    pub fn of(is_http2: bool) -> Self {
        if is_http2 { Self::Http2 } else { Self::Http1 }
    }
}

impl From<Version> for hyper::Version {
    fn from(version: Version) -> Self {
        match version {
            Version::Http1 => Self::HTTP_11,
            Version::Http2 => Self::HTTP_2,
        }
    }
}

/// The gateways, and connections to them.
pub struct Gateways {
    version: Version,
    /// The address of this machine that connections are made from; any if there is none.
    from: Option<Ipv4Addr>,
    places: Vec<Place>,
    next: AtomicUsize,
    /// Owns the tasks that drive the connections.
    connections: TaskTracker,
}

struct Place {
    address: String,
    /// Room for calls on connections that are open.
    idle: Mutex<Vec<Sender>>,
    /// Held while a connection is made that others wait for as well.
    connecting: tokio::sync::Mutex<()>,
}

/// Room for one call.
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Shared(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Shared(sender) => sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Shared(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

impl Place {
    fn take(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let kept = idle.pop()?;
            if !kept.is_closed() {
                return Some(kept);
            }
        }
    }

    fn keep(&self, senders: impl IntoIterator<Item = Sender>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(senders);
    }
}

/// An answer, read whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Gateways {
    /// The gateways at `urls`; connects to nothing yet.
    ///
    /// # Errors
    /// One is no plain `http://` URL.
    pub fn new(urls: &[String], version: Version) -> anyhow::Result<Self> {
        let mut places = Vec::new();
        for url in urls {
            let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
            if uri.scheme_str() != Some("http") {
                bail!("{url}: only http:// is supported");
            }
            let authority = uri.authority().with_context(|| format!("{url} names no server"))?;
            let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
            places.push(Place { address, idle: Mutex::default(), connecting: tokio::sync::Mutex::default() });
        }
        let (next, connections) = (AtomicUsize::new(0), TaskTracker::new());
        Ok(Self { version, from: None, places, next, connections })
    }

    /// The same, on connections from that address of this machine.
    pub fn bound_to(self, address: Ipv4Addr) -> Self {
        Self { from: Some(address), ..self }
    }

    /// Is the model there?
    ///
    /// # Errors
    /// It is not, or no gateway answers.
    pub async fn check_model(&self, model: &ModelName) -> anyhow::Result<()> {
        let list: ModelList = self.get("/v1/models", SLACK).await.context("ask for the models")?;
        if list.models.iter().any(|known| known.model == *model) {
            return Ok(());
        }
        bail!("there is no model {model}; `gantry push examples/{model}` may make it")
    }

    /// The row of execution `id`.
    ///
    /// # Errors
    /// It cannot be had now.
    pub async fn execution(&self, id: ExecuteId) -> anyhow::Result<Execution> {
        self.get(&format!("/v1/executions/{id}"), SLACK).await
    }

    /// All log lines of execution `id`.
    ///
    /// # Errors
    /// They cannot be had now.
    pub async fn log(&self, id: ExecuteId) -> anyhow::Result<Vec<LogRow>> {
        let mut rows: Vec<LogRow> = Vec::new();
        loop {
            let after = rows.last().map_or(0, |row| row.log_id);
            let page: LogPage =
                self.get(&format!("/v1/executions/{id}/logs?after={after}&limit=1000"), SLACK).await?;
            let is_last = page.lines.is_empty();
            rows.extend(page.lines);
            if is_last || page.complete {
                return Ok(rows);
            }
        }
    }

    /// Sends `input` and gives the body of the answer.
    ///
    /// # Errors
    /// There is none.
    pub async fn echo(&self, input: Bytes) -> anyhow::Result<Bytes> {
        let headers = [("content-type", "application/json")];
        Ok(self.send(Method::POST, "/", &headers, input, SLACK).await?.body)
    }

    /// Submits one execution without waiting for it.
    ///
    /// # Errors
    /// It was not accepted.
    pub async fn submit(&self, model: &ModelName, input: Bytes) -> anyhow::Result<ExecuteId> {
        let headers = [("content-type", "application/json"), ("prefer", "respond-async")];
        let path = format!("/v1/models/{model}/executions");
        let answer = self.send(Method::POST, &path, &headers, input, SLACK).await?;
        let handle: Handle = serde_json::from_slice(&answer.body)
            .with_context(|| format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)))?;
        Ok(handle.execute_id)
    }

    /// Submits one execution and returns when it is answered, which a gateway does after `wait_s` at the latest.
    ///
    /// # Errors
    /// It is not answered.
    pub async fn wait(&self, model: &ModelName, input: Bytes, wait_s: u32) -> anyhow::Result<()> {
        let prefer = format!("wait={wait_s}");
        let headers = [("content-type", "application/json"), ("prefer", &prefer)];
        let path = format!("/v1/models/{model}/executions");
        let limit = Duration::from_secs(wait_s.into()) + SLACK;
        self.send(Method::POST, &path, &headers, input, limit).await.map(drop)
    }

    /// The value of the first sample of a metric without labels.
    ///
    /// # Errors
    /// It cannot be had now.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = self.send(Method::GET, "/metrics", &[], Bytes::new(), SLACK).await?;
        let text = String::from_utf8_lossy(&answer.body);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.with_context(|| format!("there is no metric {name}"))
    }

    /// Follows the log of execution `id`, on a connection of its own: the body of the event stream.
    ///
    /// # Errors
    /// The gateway does not answer with one.
    pub async fn events(&self, id: ExecuteId) -> anyhow::Result<Incoming> {
        let place = &self.places[self.next.fetch_add(1, Ordering::Relaxed) % self.places.len()];
        let mut sender = self.connect(&place.address, Version::Http1).await?;
        let request = Request::get(format!("/v1/executions/{id}/logs"))
            .header(HOST, &place.address)
            .header("accept", "text/event-stream")
            .body(Full::default())?;
        let response = timeout(SLACK, sender.send(request)).await.context("no answer in time")??;
        if response.status() != StatusCode::OK {
            bail!("the log of {id} is not streamed: {}", response.status());
        }
        Ok(response.into_body())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> anyhow::Result<T> {
        let answer = self.send(Method::GET, path, &[], Bytes::new(), limit).await?;
        if !answer.status.is_success() {
            bail!("{path} was answered with {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        serde_json::from_slice(&answer.body).with_context(|| format!("read the answer to {path}"))
    }

    /// Sends one request to the next gateway, on a kept connection if there is one.
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        limit: Duration,
    ) -> anyhow::Result<Answer> {
        let place = &self.places[self.next.fetch_add(1, Ordering::Relaxed) % self.places.len()];
        let mut request = Request::builder().method(method);
        request = match self.version {
            Version::Http1 => request.uri(path).header(HOST, &place.address),
            Version::Http2 => request.uri(format!("http://{}{path}", place.address)),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        timeout(limit, self.exchange(place, request)).await.context("no answer in time")?
    }

    async fn exchange(&self, place: &Place, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let mut sender = self.sender(place).await?;
        let response = sender.send(request).await.context("send")?;
        if response.version() != self.version.into() {
            bail!("the answer is {:?}", response.version());
        }
        let (parts, body) = response.into_parts();
        let body = body.collect().await.context("read the answer")?.to_bytes();
        place.keep([sender]);
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    async fn sender(&self, place: &Place) -> anyhow::Result<Sender> {
        if let Some(kept) = place.take() {
            return Ok(kept);
        }
        if self.version == Version::Http1 {
            return self.connect(&place.address, Version::Http1).await;
        }
        let _connecting = place.connecting.lock().await;
        if let Some(kept) = place.take() {
            return Ok(kept);
        }
        let made = self.connect(&place.address, Version::Http2).await?;
        if let Sender::Shared(sender) = &made {
            place.keep((1..STREAMS_EACH).map(|_| Sender::Shared(sender.clone())));
        }
        Ok(made)
    }

    async fn stream(&self, address: &str) -> anyhow::Result<TcpStream> {
        let Some(from) = self.from else { return Ok(TcpStream::connect(address).await?) };
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into()).with_context(|| format!("bind {from}"))?;
        let to = lookup_host(address).await?.find(|to| to.is_ipv4()).context("it has no address of IPv4")?;
        Ok(socket.connect(to).await?)
    }

    async fn connect(&self, address: &str, version: Version) -> anyhow::Result<Sender> {
        let stream = timeout(CONNECT, self.stream(address)).await.context("connect")??;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        // A connection that breaks is seen by whoever uses it.
        Ok(match version {
            Version::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                self.connections.spawn(async move { drop(connection.await) });
                Sender::One(sender)
            }
            Version::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                self.connections.spawn(async move { drop(connection.await) });
                Sender::Shared(sender)
            }
        })
    }
}
