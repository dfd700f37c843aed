use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use protocol::Problem;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use super::{ClientError, Exit};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may go unanswered, beyond the time it asks the gateway to wait.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a broken link or a busy gateway is tried again.
const PATIENCE: Duration = Duration::from_secs(15);
/// The pause before a try, unless the gateway names one.
const PAUSE: Duration = Duration::from_millis(300);

/// A gateway, by its URL.
pub struct Api {
    http: Client,
    base: Url,
    answered: AtomicBool,
}

impl Api {
    /// The gateway at `url`; connects to nothing yet.
    ///
    /// # Errors
    /// [`Exit::Usage`] if `url` is none.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let wrong = |why: String| {
            ClientError::usage(format!(
                "{url:?} is no URL of a gateway ({why}); one is http://127.0.0.1:7070"
            ))
        };
        let base = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(wrong("it must begin with http:// or https://".to_owned()));
        }
        bootstrap::install_tls_provider();
        let http = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            // Reading the system's certificates takes longer than a call; a plain connection needs none.
            .tls_built_in_root_certs(base.scheme() == "https")
            .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| wrong(bootstrap::chain(&error)))?;
        Ok(Self { http, base, answered: AtomicBool::new(false) })
    }

    /// The gateway's URL.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// A request to `/v1/` and the parts of `path`, each escaped.
    pub fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        self.http.request(method, url)
    }

    /// Gets what stands at `path` as JSON.
    ///
    /// # Errors
    /// [`ClientError`] as of [`Api::answer`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, ClientError> {
        let request = || self.request(Method::GET, path).query(query).timeout(ANSWER_TIMEOUT);
        let response = self.answer(request).await?;
        self.read(response).await
    }

    /// Reads the body of `response` as JSON.
    ///
    /// # Errors
    /// [`Exit::Internal`] if it is something else.
    pub async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let bytes = response.bytes().await.map_err(|error| self.broken(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            ClientError::new(
                Exit::Internal,
                format!("{} answered something that is no answer: {error}", self.url()),
            )
        })
    }

    /// Sends the request until it is answered with success. A link that broke (once there was one) and an answer that
    /// says "later" are tried again for [`PATIENCE`].
    ///
    /// # Errors
    /// [`ClientError`]: the problem that the gateway answered with, or [`Exit::Away`].
    pub async fn answer(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, ClientError> {
        let mut trouble_since = None;
        loop {
            let (error, pause) = match request().send().await {
                Ok(response) if response.status().is_success() => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(response);
                }
                Ok(response) => {
                    self.answered.store(true, Ordering::Relaxed);
                    let is_later = matches!(
                        response.status(),
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
                    );
                    let pause = retry_after(&response).unwrap_or(PAUSE);
                    let error = self.problem(response).await;
                    if !is_later {
                        return Err(error);
                    }
                    (error, pause)
                }
                Err(error) if !self.answered.load(Ordering::Relaxed) && error.is_connect() => {
                    return Err(self.unreachable(&error));
                }
                Err(error) => (self.broken(&error), PAUSE),
            };
            let since: Instant = *trouble_since.get_or_insert_with(Instant::now);
            if since.elapsed() + pause > PATIENCE {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// What a response without success says.
    async fn problem(&self, response: Response) -> ClientError {
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => ClientError::of_problem(problem),
            Err(_) => ClientError::new(
                Exit::of_status(status.as_u16()),
                format!(
                    "{} answered {status}, which is no answer of Gantry; is it the right URL?",
                    self.url()
                ),
            ),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        ClientError::new(
            Exit::Away,
            format!(
                "no Gantry at {}: {}\n  Start one with `gantry dev`, or say where it is with --url or GANTRY_URL.",
                self.url(),
                innermost(error)
            ),
        )
    }

    /// The link to the gateway broke.
    pub fn broken(&self, error: &reqwest::Error) -> ClientError {
        ClientError::new(Exit::Away, format!("the connection to {} broke: {}", self.url(), innermost(error)))
    }
}

/// The cause that says most: the layers above it only repeat that there was one.
fn innermost(error: &reqwest::Error) -> String {
    let outer: &dyn std::error::Error = error;
    std::iter::successors(Some(outer), |error| error.source())
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// How long the gateway asks to wait.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
