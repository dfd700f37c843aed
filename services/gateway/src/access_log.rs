//! One line per request: method, path, model, parameters with secrets masked, status, elapsed time, `execute_id`.

use std::borrow::Cow;
use std::time::Instant;

use axum::http::{Method, Request, Response};
use protocol::http::EXECUTE_ID;

use crate::metrics;

/// A parameter whose name contains one of these is masked.
const SECRET: [&str; 5] = ["token", "secret", "password", "key", "auth"];
/// The longest path or query a line shows, in bytes.
const SHOWN_MAX: usize = 512;
/// The status of a request whose client hung up before it was answered (nginx's number for it).
const HUNG_UP: u16 = 499;

/// The line of a request under way. Dropped without an answer, it says that the client hung up.
pub(crate) struct Line {
    begin: Instant,
    method: Method,
    /// Copies: what is taken from the request itself keeps the whole buffer that its head was read into.
    path: Box<str>,
    query: Option<Box<str>>,
    is_written: bool,
}

impl Line {
    /// Begins to measure.
    pub fn begin<B>(request: &Request<B>) -> Self {
        let (method, uri) = (request.method().clone(), request.uri());
        let (path, query) = (uri.path().into(), uri.query().map(Into::into));
        Self { begin: Instant::now(), method, path, query, is_written: false }
    }

    /// Writes the line: the head of the answer is there.
    pub fn end<B>(mut self, response: &Response<B>) {
        let execute_id = response.headers().get(EXECUTE_ID).and_then(|id| id.to_str().ok());
        self.write(response.status().as_u16(), execute_id);
    }

    fn write(&mut self, status: u16, execute_id: Option<&str>) {
        self.is_written = true;
        let elapsed = self.begin.elapsed();
        metrics::request(status, elapsed);
        let path = &*self.path;
        tracing::info!(
            method = %self.method,
            path = shown(path),
            model = model(path),
            parameters = masked(self.query.as_deref().unwrap_or_default()).as_deref(),
            status,
            elapsed_ms = elapsed.as_micros() as f64 / 1_000.0,
            execute_id = execute_id.or_else(|| named(path)),
            "request"
        );
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.is_written {
            self.write(HUNG_UP, None);
        }
    }
}

/// The execution a path names.
fn named(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v1/executions/")?;
    rest.split('/').next().filter(|id| id.len() == 36)
}

/// The model a path names.
fn model(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v1/models/")?;
    Some(shown(rest.split('/').next().unwrap_or(rest)))
}

/// At most [`SHOWN_MAX`] bytes of `text`. (A path is ASCII by the time it is parsed.)
fn shown(text: &str) -> &str {
    text.get(..SHOWN_MAX).unwrap_or(text)
}

/// The parameters of a query, the values of secret ones replaced; `None` if there are none.
fn masked(query: &str) -> Option<Cow<'_, str>> {
    if query.is_empty() {
        return None;
    }
    let is_secret = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
        SECRET.iter().any(|word| name.contains(word))
    };
    if !query.split('&').any(is_secret) {
        return Some(Cow::Borrowed(shown(query)));
    }
    let pairs: Vec<_> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret(pair) => format!("{name}=***"),
            _ => pair.to_owned(),
        })
        .collect();
    Some(Cow::Owned(shown(&pairs.join("&")).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_among_the_parameters_are_masked() {
        assert_eq!(masked("a=1&api_key=xyz&Token=t").as_deref(), Some("a=1&api_key=***&Token=***"));
        assert_eq!(masked("wait=3").as_deref(), Some("wait=3"));
        assert_eq!(masked(""), None);
    }

    #[test]
    fn the_model_and_the_execution_are_named() {
        assert_eq!(model("/v1/models/iris/executions"), Some("iris"));
        assert_eq!(model("/v1/executions"), None);
        let id = "0195e5f0-7b3a-7cc0-8000-000000000000";
        assert_eq!(named(&format!("/v1/executions/{id}/logs")), Some(id));
        assert_eq!(named("/v1/executions/x"), None);
    }
}
