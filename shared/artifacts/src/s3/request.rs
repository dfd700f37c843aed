use std::io;
use std::time::Duration;

use reqwest::{Response, StatusCode};

use crate::error::Source;

/// The slowest transfer that is waited for.
const BYTES_PER_SECOND_MIN: u64 = 2_000_000;
/// What an error page may hold before we stop reading it.
const ERROR_PAGE_BYTES_MAX: usize = 16 << 10;

/// Why one try failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another try may help.
    Passing(Source),
    /// It will not: the keys, the bucket or the request itself are wrong.
    Lasting(Source),
    /// The store has no such object.
    Missing,
    /// The object is larger than a bundle may be.
    TooLarge,
    /// The destination cannot take it.
    Destination(io::Error),
}

impl Failure {
    pub(super) fn into_source(self) -> Source {
        match self {
            Self::Passing(source) | Self::Lasting(source) => source,
            Self::Missing => "the store has no such object".into(),
            Self::TooLarge => "the object is larger than a bundle may be".into(),
            Self::Destination(error) => error.into(),
        }
    }
}

impl From<reqwest::Error> for Failure {
    /// Without the address, which is signed.
    fn from(error: reqwest::Error) -> Self {
        Self::Passing(error.without_url().into())
    }
}

/// What an answer that is no success means; reads its body, within bounds.
pub(super) async fn refusal(mut answer: Response) -> Failure {
    let status = answer.status();
    let mut page = Vec::new();
    while page.len() < ERROR_PAGE_BYTES_MAX {
        match answer.chunk().await {
            Ok(Some(chunk)) => page.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    let page = String::from_utf8_lossy(&page);
    // Error responses name their reason: <Error><Code>NoSuchKey</Code>..., S3 API reference, "Error responses".
    let code = page
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"))
        .map_or("", |(code, _)| code);
    let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    if status == StatusCode::NOT_FOUND && code != "NoSuchBucket" {
        return Failure::Missing;
    }
    let source = format!("the server answered {} {code}", status.as_u16()).into();
    let passing = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::PRECONDITION_FAILED
        );
    if passing { Failure::Passing(source) } else { Failure::Lasting(source) }
}

/// How long the transfer of `bytes` may take in all.
pub(super) const fn object_timeout(bytes: u64) -> Duration {
    Duration::from_secs(10 + bytes / BYTES_PER_SECOND_MIN)
}

/// Waits after the `tries`-th failed try: full jitter, up to 0.2 s, 0.4 s, 0.8 s, ... 5 s.
pub(super) async fn pause(tries: u32) {
    let most = Duration::from_millis(100 << tries.min(6)).min(Duration::from_secs(5));
    tokio::time::sleep(most.mul_f64(rand::random())).await;
}
