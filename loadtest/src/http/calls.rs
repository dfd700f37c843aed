//! One call over HTTP, in each of the ways there are.

use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::{ExecuteId, ModelName, State};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{Method, StatusCode};
use protocol::Problem;
use protocol::http::{self, Execution, Handle};
use tokio::time::sleep;

use super::{Answer, Gateways, SLACK};
use crate::call::{Call, End, Mode, Outcome, Steps};

/// How long the gateway is asked to wait for a result before it answers with a handle.
const WAIT: Duration = Duration::from_secs(30);
/// The pause before something is sent again, unless the gateway names one.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

impl Gateways {
    /// Makes `call`, again and again under one key, until it is resolved or `call.until` has come; without a key, and only once, if
    /// it is not to be sent again.
    pub async fn call(&self, model: &ModelName, mode: Mode, run: &str, call: Call) -> Outcome {
        let key = format!("{run}-{}", call.number);
        let path = format!("/v1/models/{model}/executions");
        let prefer = if mode == Mode::Sync { "wait=30" } else { "respond-async" };
        let headers =
            [("content-type", "application/json"), ("prefer", prefer), (http::IDEMPOTENCY_KEY, &key)];
        let mut outcome = Outcome::unsent();
        loop {
            let headers = if call.retries { &headers[..] } else { &headers[..2] };
            let sent = self.send(Method::POST, &path, headers, call.input.clone(), WAIT + SLACK).await;
            let pause = match sent {
                Ok(answer) => {
                    let pause = pause_of(&answer);
                    note_id(&answer, &mut outcome);
                    outcome.steps = steps(&answer);
                    if answer.status == StatusCode::ACCEPTED {
                        // The wait goes on after this answer.
                        outcome.steps.wait = None;
                    }
                    outcome.end = end_of(&answer, &call);
                    if pause.is_some() && !call.retries {
                        outcome.end = End::Shed;
                        return outcome;
                    }
                    pause
                }
                Err(error) => {
                    outcome.end = End::Unresolved(format!("{error:#}"));
                    call.retries.then_some(PAUSE)
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
            if mode == Mode::Sse {
                self.follow(id, &call).await;
            }
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

    /// Follows the log of execution `id` to its end, or as long as there is something to follow.
    async fn follow(&self, id: ExecuteId, call: &Call) {
        let path = format!("/v1/executions/{id}/logs");
        let limit = call.until.saturating_duration_since(Instant::now());
        let headers = [("accept", "text/event-stream")];
        // Whatever breaks off: how it ended is asked for next.
        let _events = self.send(Method::GET, &path, &headers, Bytes::new(), limit).await;
    }

    async fn echoed(&self, id: ExecuteId, call: &Call) -> Option<End> {
        let path = format!("/v1/executions/{id}/result");
        let answer = self.send(Method::GET, &path, &[], Bytes::new(), SLACK).await.ok()?;
        (answer.status == StatusCode::OK).then(|| end_of(&answer, call))
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

/// What `Server-Timing` says: `record;dur=0.412, publish;dur=1.2, wait;dur=3.4`.
fn steps(answer: &Answer) -> Steps {
    let text =
        answer.headers.get("server-timing").and_then(|timing| timing.to_str().ok()).unwrap_or_default();
    let step = |name: &str| {
        let entry = text.split(", ").find_map(|entry| entry.strip_prefix(name)?.strip_prefix(";dur="))?;
        Some(Duration::from_secs_f64(entry.parse::<f64>().ok().filter(|ms| (0.0..1e9).contains(ms))? / 1e3))
    };
    Steps { record: step("record"), publish: step("publish"), wait: step("wait") }
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
