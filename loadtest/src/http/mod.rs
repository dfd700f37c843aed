//! HTTP/1 to the gateways, on connections that are kept.

mod calls;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use domain::{ExecuteId, ModelName};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use protocol::http::{Execution, Handle, LogPage, LogRow, ModelList};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// How long an answer may take beyond that.
const SLACK: Duration = Duration::from_secs(10);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// The gateways, and connections to them.
pub struct Gateways {
    places: Vec<Place>,
    next: AtomicUsize,
    /// Owns the tasks that drive the connections.
    connections: TaskTracker,
}

struct Place {
    address: String,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
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
    pub fn new(urls: &[String]) -> anyhow::Result<Self> {
        let mut places = Vec::new();
        for url in urls {
            let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
            if uri.scheme_str() != Some("http") {
                bail!("{url}: only http:// is supported");
            }
            let authority = uri.authority().with_context(|| format!("{url} names no server"))?;
            let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
            places.push(Place { address, idle: Mutex::default() });
        }
        Ok(Self { places, next: AtomicUsize::new(0), connections: TaskTracker::new() })
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
        let mut connection = self.connect(&place.address).await?;
        let request = Request::get(format!("/v1/executions/{id}/logs"))
            .header(HOST, &place.address)
            .header("accept", "text/event-stream")
            .body(Full::default())?;
        let response =
            timeout(SLACK, connection.send_request(request)).await.context("no answer in time")??;
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
        let mut request = Request::builder().method(method).uri(path).header(HOST, &place.address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        timeout(limit, self.exchange(place, request)).await.context("no answer in time")?
    }

    async fn exchange(&self, place: &Place, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let kept = place.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match kept.filter(|kept| !kept.is_closed()) {
            Some(kept) => kept,
            None => self.connect(&place.address).await?,
        };
        connection.ready().await.context("the connection was closed")?;
        let response = connection.send_request(request).await.context("send")?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.context("read the answer")?.to_bytes();
        place.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    async fn connect(&self, address: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = timeout(CONNECT, TcpStream::connect(address)).await.context("connect")??;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        self.connections.spawn(async move {
            // A connection that breaks is seen by whoever uses it.
            let _broken = connection.await;
        });
        Ok(sender)
    }
}
