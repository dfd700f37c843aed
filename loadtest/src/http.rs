//! Calls over HTTP/1, on connections that are kept.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use domain::{ExecuteId, ModelName, State};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use protocol::Problem;
use protocol::http::{self, Execution, Handle, LogPage, LogRow, ModelList};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::call::{Call, End, Outcome};

/// How long the gateway is asked to wait for a result before it answers with a handle.
const WAIT: Duration = Duration::from_secs(30);
/// How long an answer may take beyond that.
const SLACK: Duration = Duration::from_secs(10);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// The pause before something is sent again, unless the gateway names one.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

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

    /// Makes `call` to `model`, again and again under one key, until it is resolved or `call.until` has come.
    pub async fn call(&self, model: &ModelName, run: &str, call: Call) -> Outcome {
        let key = format!("{run}-{}", call.number);
        let path = format!("/v1/models/{model}/executions");
        let headers =
            [("content-type", "application/json"), ("prefer", "wait=30"), (http::IDEMPOTENCY_KEY, &key)];
        let mut outcome = Outcome {
            execute_id: None,
            end: End::Unresolved("not sent".to_owned()),
            retried: 0,
            has_two_ids: false,
        };
        loop {
            let sent = self.send(Method::POST, &path, &headers, call.input.clone(), WAIT + SLACK).await;
            let pause = match sent {
                Ok(answer) => {
                    let pause = pause_of(&answer);
                    note_id(&answer, &mut outcome);
                    outcome.end = end_of(&answer, &call);
                    pause
                }
                Err(error) => {
                    outcome.end = End::Unresolved(format!("{error:#}"));
                    Some(PAUSE)
                }
            };
            match pause {
                Some(pause) if Instant::now() + pause < call.until => {
                    outcome.retried += 1;
                    sleep(pause).await;
                }
                Some(_) => return outcome,
                None => break,
            }
        }
        if let (End::Open, Some(id)) = (&outcome.end, outcome.execute_id) {
            outcome.end = self.ending(id, &call).await;
        }
        outcome
    }

    /// How execution `id` ends, once it has or `call.until` has come.
    pub async fn ending(&self, id: ExecuteId, call: &Call) -> End {
        while Instant::now() < call.until {
            let wait = call.until.saturating_duration_since(Instant::now()).min(WAIT).as_secs().max(1);
            let asked =
                self.get::<Execution>(&format!("/v1/executions/{id}?wait={wait}"), WAIT + SLACK).await;
            match asked {
                Ok(execution) if execution.state == State::Succeeded && call.is_echo => {
                    if let Some(end) = self.echoed(id, call).await {
                        return end;
                    }
                    sleep(PAUSE).await;
                }
                Ok(execution) if execution.state == State::Succeeded => return End::Succeeded,
                Ok(execution) if execution.state.is_terminal() => return End::Ended(execution.state),
                Ok(_) => {}
                Err(_) => sleep(PAUSE).await,
            }
        }
        End::Open
    }

    async fn echoed(&self, id: ExecuteId, call: &Call) -> Option<End> {
        let path = format!("/v1/executions/{id}/result");
        let answer = self.send(Method::GET, &path, &[], Bytes::new(), SLACK).await.ok()?;
        (answer.status == StatusCode::OK).then(|| end_of(&answer, call))
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

/// How long to wait before the call is sent again; `None` if the answer resolves it.
fn pause_of(answer: &Answer) -> Option<Duration> {
    let is_later = matches!(
        answer.status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE
    );
    let named = || answer.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs);
    is_later.then(|| named().unwrap_or(PAUSE).min(PAUSE_MAX))
}

fn note_id(answer: &Answer, outcome: &mut Outcome) {
    let header = answer.headers.get(http::EXECUTE_ID).and_then(|id| id.to_str().ok()?.parse().ok());
    let handle = || serde_json::from_slice::<Handle>(&answer.body).ok().map(|handle| handle.execute_id);
    let Some(id) = header.or_else(handle) else { return };
    outcome.has_two_ids |= outcome.execute_id.is_some_and(|known| known != id);
    outcome.execute_id = Some(id);
}

fn end_of(answer: &Answer, call: &Call) -> End {
    if answer.status == StatusCode::OK {
        let is_json = answer
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let is_right = !call.is_echo || (is_json && answer.body == call.input);
        return if is_right { End::Succeeded } else { End::Wrong };
    }
    if answer.status == StatusCode::ACCEPTED {
        return End::Open;
    }
    let problem = serde_json::from_slice::<Problem>(&answer.body);
    match problem {
        Ok(Problem { state: Some(state), .. }) => End::Ended(state),
        Ok(problem) => End::Refused(format!("{}: {}", problem.title, problem.detail)),
        Err(_) => End::Refused(format!("status {}", answer.status)),
    }
}
