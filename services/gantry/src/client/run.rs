use std::time::{Duration, Instant};

use domain::limits::WAIT_MAX;
use domain::{Attributes, ExecuteId, ModelName, Payload, State, VersionSelector};
use protocol::http::{self, Execution, Handle};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

use super::api::ANSWER_TIMEOUT;
use super::logs::follow;
use super::{Api, ClientError, Exit, Terminal};
use crate::cli;

/// The longest one request waits; longer waits are several requests.
const WAIT_EACH: Duration = Duration::from_secs(30);

/// What is to be run.
pub struct Submission {
    /// The model.
    pub model: ModelName,
    /// Which version of it.
    pub version: Option<VersionSelector>,
    /// Its input.
    pub input: Payload,
    /// Labels to find it by, as the header has them.
    pub attributes: Option<String>,
    /// Repeating the submission with the same key is the same execution.
    pub key: String,
    /// Wait or not.
    pub prefer: Prefer,
}

/// Does the caller wait for the result?
#[derive(Debug, Clone, Copy)]
pub enum Prefer {
    /// This long at most.
    Wait(Duration),
    /// No.
    Async,
}

/// What became of a submission.
pub enum Submitted {
    /// It ended with this result.
    Ended(Ended),
    /// It is accepted and goes on.
    Accepted(ExecuteId),
}

/// The result of an execution that succeeded.
pub struct Ended {
    /// Which execution.
    pub execute_id: ExecuteId,
    /// The attempt that succeeded.
    pub attempt: i32,
    /// What it produced.
    pub result: Payload,
}

/// Submits an execution.
///
/// # Errors
/// [`ClientError`]; an execution that ended without success is one.
pub async fn submit(api: &Api, submission: &Submission) -> Result<Submitted, ClientError> {
    let (prefer, wait) = match submission.prefer {
        Prefer::Wait(wait) => (format!("wait={}", wait.as_secs()), wait),
        Prefer::Async => ("respond-async".to_owned(), Duration::ZERO),
    };
    let path = ["models", submission.model.as_str(), "executions"];
    let version = submission.version.as_ref().map(|version| ("version", version.to_string()));
    let response = api
        .answer(|| {
            let request = api
                .request(Method::POST, &path)
                .query(version.as_slice())
                .header("prefer", &prefer)
                .header(http::IDEMPOTENCY_KEY, &submission.key)
                .header(CONTENT_TYPE, &*submission.input.content_type)
                .body(submission.input.bytes.clone())
                .timeout(wait + ANSWER_TIMEOUT);
            match &submission.attributes {
                Some(attributes) => request.header(http::ATTRIBUTES, attributes),
                None => request,
            }
        })
        .await?;
    if response.status() == StatusCode::ACCEPTED {
        let handle: Handle = api.read(response).await?;
        return Ok(Submitted::Accepted(handle.execute_id));
    }
    ended(api, response).await.map(Submitted::Ended)
}

/// The result of an execution that ended.
///
/// # Errors
/// [`ClientError`]; an execution that ended without success is one.
pub async fn result(api: &Api, id: ExecuteId) -> Result<Ended, ClientError> {
    let id = id.to_string();
    let path = ["executions", &id, "result"];
    let response = api.answer(|| api.request(Method::GET, &path).timeout(ANSWER_TIMEOUT)).await?;
    ended(api, response).await
}

async fn ended(api: &Api, response: Response) -> Result<Ended, ClientError> {
    let header = |headers: &HeaderMap, name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let headers = response.headers().clone();
    let missing = |what| ClientError::new(Exit::Internal, format!("{} answered without {what}", api.url()));
    let execute_id = header(&headers, http::EXECUTE_ID).and_then(|id| id.parse().ok());
    let attempt = header(&headers, http::ATTEMPT).and_then(|attempt| attempt.parse().ok());
    let content_type = header(&headers, CONTENT_TYPE.as_str()).unwrap_or_else(|| Payload::JSON.to_owned());
    let bytes = response.bytes().await.map_err(|error| api.broken(&error))?;
    Ok(Ended {
        execute_id: execute_id.ok_or_else(|| missing(http::EXECUTE_ID))?,
        attempt: attempt.ok_or_else(|| missing(http::ATTEMPT))?,
        result: Payload::new(&content_type, bytes),
    })
}

fn attributes(given: &[Attributes]) -> Option<String> {
    let texts: Vec<String> = given.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// `gantry run`.
///
/// # Errors
/// [`ClientError`]; an execution that ended without success is one, and so is one that goes on when the wait is over.
pub async fn run(api: &Api, args: &cli::Run, terminal: Terminal) -> Result<(), ClientError> {
    let until = args.wait.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let submission = Submission {
        model: args.model.clone(),
        version: args.version.clone(),
        input: args.input.read(&args.content_type)?,
        attributes: attributes(&args.attributes),
        key: args.idempotency_key.clone().unwrap_or_else(|| new_id().to_string()),
        prefer: if args.detach || args.follow { Prefer::Async } else { Prefer::Wait(left(until)) },
    };
    match outcome(api, args, &submission, until, terminal).await {
        Ok(Some(ended)) => print(&ended, args.json, terminal),
        Ok(None) => Ok(()),
        Err(error) => {
            if let (true, Some(problem)) = (args.json, &error.problem) {
                terminal.json(problem)?;
            }
            Err(error)
        }
    }
}

async fn outcome(
    api: &Api,
    args: &cli::Run,
    submission: &Submission,
    until: Option<Instant>,
    terminal: Terminal,
) -> Result<Option<Ended>, ClientError> {
    let id = match submit(api, submission).await? {
        Submitted::Ended(ended) => return Ok(Some(ended)),
        Submitted::Accepted(id) => id,
    };
    if args.detach {
        if args.json {
            terminal.json(&json!({ "execute_id": id }))?;
        } else {
            terminal.say(&id.to_string())?;
        }
        return Ok(None);
    }
    if args.follow {
        terminal.note(&terminal.stderr.dim(&format!("accepted {id}")));
        let follow = follow(api, id, 0, &[], |row| {
            terminal.note(&terminal.stderr.log_row(row));
            Ok(())
        });
        match until {
            None => follow.await?,
            Some(until) => match tokio::time::timeout_at(until.into(), follow).await {
                Ok(followed) => followed?,
                Err(_) => return Err(goes_on(id, args)),
            },
        }
    }
    loop {
        if wait(api, id, left(until)).await?.state.is_terminal() {
            return result(api, id).await.map(Some);
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            return Err(goes_on(id, args));
        }
    }
}

fn goes_on(id: ExecuteId, args: &cli::Run) -> ClientError {
    let waited = args.wait.unwrap_or_default();
    ClientError::new(
        Exit::Later,
        format!("not ended after {waited} s; it goes on:\n  gantry logs {id} -f\n  gantry show {id}"),
    )
}

/// How long the next request waits.
fn left(until: Option<Instant>) -> Duration {
    let left = until.map_or(WAIT_EACH, |until| until.saturating_duration_since(Instant::now()));
    // Whole seconds, rounded up: a request that waits for no time would be asked again and again.
    Duration::from_secs(left.as_millis().div_ceil(1_000) as u64).min(WAIT_EACH).min(WAIT_MAX)
}

/// The execution, once it has ended or the wait is over.
async fn wait(api: &Api, id: ExecuteId, wait: Duration) -> Result<Execution, ClientError> {
    let id = id.to_string();
    let query = [("wait", wait.as_secs())];
    let request =
        || api.request(Method::GET, &["executions", &id]).query(&query).timeout(wait + ANSWER_TIMEOUT);
    let response = api.answer(request).await?;
    api.read(response).await
}

fn print(ended: &Ended, as_json: bool, terminal: Terminal) -> Result<(), ClientError> {
    if as_json {
        let text = String::from_utf8_lossy(&ended.result.bytes);
        let result = match serde_json::from_str(&text) {
            Ok(value) if ended.result.is_json() => value,
            Ok(_) | Err(_) => serde_json::Value::String(text.into_owned()),
        };
        return terminal.json(&json!({
            "execute_id": ended.execute_id,
            "state": State::Succeeded,
            "attempt": ended.attempt,
            "content_type": &*ended.result.content_type,
            "result": result,
        }));
    }
    terminal.write(&ended.result.bytes)?;
    let is_text = ended.result.is_json() || ended.result.content_type.starts_with("text/");
    if is_text && !ended.result.bytes.ends_with(b"\n") { terminal.write(b"\n") } else { Ok(()) }
}

/// A new id, for what needs one.
fn new_id() -> ExecuteId {
    ExecuteId::new(jiff::Timestamp::now().as_millisecond().try_into().unwrap_or(0))
}
