use std::io;
use std::path::Path;
use std::time::Duration;

use domain::Digest;
use domain::limits::BUNDLE_BYTES_MAX;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderValue, IF_MATCH, RANGE};
use reqwest::{Response, StatusCode};
use tokio::time::timeout;

use super::request::{Failure, object_timeout, pause, refusal};
use super::{SIGNED_S, Store, TRIES};
use crate::FetchError;
use crate::part::Part;

/// The longest the store may be silent in the middle of an answer.
const STALL: Duration = Duration::from_secs(15);
/// How often all the bytes may come and be wrong: what spoils them on the way may pass.
const WRONG_MAX: u32 = 2;

impl Store {
    pub(crate) async fn fetch(&self, digest: Digest, destination: &Path) -> Result<(), FetchError> {
        let away = |error: io::Error| FetchError::Unavailable(error.into());
        let mut part = Part::open(destination).await.map_err(away)?;
        let mut object = None;
        let (mut tries, mut wrong) = (0, 0);
        while !part.is(digest) {
            let resumed = part.length() > 0 && tries == 0;
            match self.fetch_rest(digest, &mut part, &mut object).await {
                Ok(()) if part.is(digest) => break,
                Ok(()) => {
                    // A part from before may be of something else; that is no fault of the store.
                    wrong += u32::from(!resumed);
                    part.restart().await.map_err(away)?;
                    object = None;
                }
                Err(Failure::Passing(_)) if tries + 1 < TRIES => {}
                Err(failure @ (Failure::Passing(_) | Failure::Lasting(_))) => {
                    part.flush().await.map_err(away)?;
                    return Err(FetchError::Unavailable(failure.into_source()));
                }
                Err(Failure::Missing) => {
                    part.discard().await.map_err(away)?;
                    return Err(FetchError::Missing(digest));
                }
                Err(Failure::TooLarge) => wrong = WRONG_MAX,
            }
            if wrong == WRONG_MAX {
                part.discard().await.map_err(away)?;
                return Err(FetchError::Corrupt(digest));
            }
            tries += 1;
            pause(tries).await;
        }
        part.flush().await.map_err(away)
    }

    /// One try at what `part` lacks. `object` is the entity tag of the object it is a part of.
    async fn fetch_rest(
        &self,
        digest: Digest,
        part: &mut Part,
        object: &mut Option<HeaderValue>,
    ) -> Result<(), Failure> {
        let mut answer = timeout(STALL, self.ask(digest, part.length(), object.as_ref()))
            .await
            .map_err(|_| Failure::Passing("the store does not answer".into()))??;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&answer) == Some(part.length()) => {}
            StatusCode::OK => restart(part).await?,
            status if status.is_success() => {
                return Err(Failure::Passing("the store sends another range than was asked for".into()));
            }
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
                *object = None;
                restart(part).await?;
                return Err(Failure::Passing("the object is not what the part was taken from".into()));
            }
            _ => return Err(refusal(answer).await),
        }
        let left = answer.content_length();
        if left.is_some_and(|left| part.length() + left > BUNDLE_BYTES_MAX as u64) {
            return Err(Failure::TooLarge);
        }
        *object = answer.headers().get(ETAG).cloned();
        let limit = object_timeout(left.unwrap_or(BUNDLE_BYTES_MAX as u64));
        timeout(limit, stream(&mut answer, part)).await.map_err(|_| {
            Failure::Passing(format!("the transfer took longer than {} s", limit.as_secs()).into())
        })?
    }

    /// The answer with the bytes from `start` on, of that same `object` if one is given.
    async fn ask(
        &self,
        digest: Digest,
        start: u64,
        object: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        let address = self.shared.bucket.presign_get(self.key(digest), SIGNED_S, None).await;
        let address = address.map_err(|error| Failure::Lasting(error.into()))?;
        let mut request = self.shared.http.get(address);
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
            if let Some(object) = object {
                request = request.header(IF_MATCH, object);
            }
        }
        Ok(request.send().await?)
    }
}

async fn stream(answer: &mut Response, part: &mut Part) -> Result<(), Failure> {
    loop {
        let chunk = timeout(STALL, answer.chunk())
            .await
            .map_err(|_| Failure::Passing(format!("no byte for {} s", STALL.as_secs()).into()))??;
        let Some(chunk) = chunk else { return Ok(()) };
        part.append(&chunk).await.map_err(|error| {
            if error.kind() == io::ErrorKind::FileTooLarge {
                Failure::TooLarge
            } else {
                Failure::Lasting(error.into())
            }
        })?;
    }
}

async fn restart(part: &mut Part) -> Result<(), Failure> {
    part.restart().await.map_err(|error| Failure::Lasting(error.into()))
}

/// Where the bytes of a partial answer begin: `Content-Range: bytes 5-9/10` (RFC 9110, 14.4).
fn starts_at(answer: &Response) -> Option<u64> {
    let range = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
