//! One line per request: method, path, model, parameters with secrets masked, status, elapsed time, `execute_id`.

use std::borrow::Cow;
use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use protocol::http::EXECUTE_ID;

use crate::metrics;

/// A parameter whose name contains one of these is masked.
const SECRET: [&str; 5] = ["token", "secret", "password", "key", "auth"];
/// The longest path or query a line shows, in bytes.
const SHOWN_MAX: usize = 512;

pub(crate) async fn log(request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let method = request.method().clone();
    let uri = request.uri().clone();
    let response = next.run(request).await;
    let elapsed = begin.elapsed();
    let status = response.status().as_u16();
    metrics::request(status, elapsed);
    let execute_id = response.headers().get(EXECUTE_ID).and_then(|id| id.to_str().ok());
    tracing::info!(
        method = %method,
        path = shown(uri.path()),
        model = model(uri.path()),
        parameters = masked(uri.query().unwrap_or_default()).as_deref(),
        status,
        elapsed_ms = elapsed.as_secs_f64() * 1_000.0,
        execute_id,
        "request"
    );
    response
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
    fn the_model_is_named() {
        assert_eq!(model("/v1/models/iris/executions"), Some("iris"));
        assert_eq!(model("/v1/executions"), None);
    }
}
