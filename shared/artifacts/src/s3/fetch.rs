use std::io;
use std::path::Path;
use std::time::Duration;

use domain::Digest;
use domain::limits::BUNDLE_BYTES_MAX;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderValue, IF_MATCH, RANGE};
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, timeout};

use super::request::{Failure, object_timeout, pause, refusal};
use super::{SIGNED_S, Store, TRIES};
use crate::part::Part;
use crate::{FetchError, Meter};

/// The longest the store may be silent in the middle of an answer.
const STALL: Duration = Duration::from_secs(15);
/// How often all the bytes may come and be wrong: what spoils them on the way may pass.
const WRONG_MAX: u32 = 3;
/// How long a transfer may take in all, beside waiting for its share of the bandwidth. It leaves a part, so that its
/// place is free for another for a while.
const FETCH_MAX: Duration = Duration::from_secs(600);

impl Store {
    pub(crate) async fn fetch(
        &self,
        digest: Digest,
        destination: &Path,
        meter: &Meter,
    ) -> Result<(), FetchError> {
        let part = Part::open(destination).await.map_err(FetchError::of_destination)?;
        let mut transfer = Transfer { store: self, digest, part, meter, object: None, spent: Duration::ZERO };
        let fetched = transfer.run().await;
        transfer.part.leave(fetched).await
    }
}

/// One object on its way.
struct Transfer<'a> {
    store: &'a Store,
    digest: Digest,
    part: Part,
    meter: &'a Meter,
    /// The entity tag of the object that `part` is a part of.
    object: Option<HeaderValue>,
    /// Waiting for the store, so far.
    spent: Duration,
}

impl Transfer<'_> {
    async fn run(&mut self) -> Result<(), FetchError> {
        let (mut tries, mut wrong) = (0, 0);
        // A part from before may be of something else; that is no fault of the store.
        let mut from_before = self.part.length() > 0;
        while !self.part.is(self.digest) {
            let before = self.part.length();
            let failure = match self.fetch_rest().await {
                Ok(()) if self.part.is(self.digest) => break,
                Ok(()) => {
                    wrong += u32::from(!from_before);
                    from_before = false;
                    self.restart().await.err()
                }
                Err(failure) => Some(failure),
            };
            // What moves on is not given up, however often the link breaks.
            tries = if self.part.length() > before { 1 } else { tries + 1 };
            match failure {
                None => {}
                Some(Failure::Passing(_)) if tries < TRIES && self.spent < FETCH_MAX => {}
                Some(failure @ (Failure::Passing(_) | Failure::Lasting(_))) => {
                    return Err(FetchError::Unavailable(failure.into_source()));
                }
                Some(Failure::Destination(error)) => return Err(FetchError::of_destination(error)),
                Some(Failure::Missing) => return Err(FetchError::Missing(self.digest)),
                Some(Failure::TooLarge) => wrong = WRONG_MAX,
            }
            if wrong >= WRONG_MAX {
                self.meter.restarts();
                return Err(FetchError::Corrupt(self.digest));
            }
            let began = Instant::now();
            pause(tries).await;
            self.spent += began.elapsed();
        }
        Ok(())
    }

    /// One try at what the part lacks.
    async fn fetch_rest(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        let asked = timeout(STALL, self.ask()).await;
        self.spent += began.elapsed();
        let mut answer = asked.map_err(|_| Failure::Passing("the store does not answer".into()))??;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&answer) == Some(self.part.length()) => {}
            StatusCode::OK => self.restart().await?,
            status if status.is_success() => {
                return Err(Failure::Passing("the store sends another range than was asked for".into()));
            }
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.restart().await?;
                return Err(Failure::Passing("the object is not what the part was taken from".into()));
            }
            _ => return Err(refusal(answer).await),
        }
        let left = answer.content_length();
        if left.is_some_and(|left| self.part.length() + left > BUNDLE_BYTES_MAX as u64) {
            return Err(Failure::TooLarge);
        }
        self.meter.is_at(self.part.length(), left.map_or(0, |left| self.part.length() + left));
        self.object = answer.headers().get(ETAG).cloned();
        self.stream(&mut answer, object_timeout(left.unwrap_or(BUNDLE_BYTES_MAX as u64))).await
    }

    /// The answer with the bytes that follow, of the same object if it is known.
    async fn ask(&self) -> Result<Response, Failure> {
        let bucket = &self.store.shared.bucket;
        let address = bucket.presign_get(self.store.key(self.digest), SIGNED_S, None).await;
        let address = address.map_err(|error| Failure::Lasting(error.into()))?;
        let mut request = self.store.shared.http.get(address);
        if self.part.length() > 0 {
            request = request.header(RANGE, format!("bytes={}-", self.part.length()));
            if let Some(object) = &self.object {
                request = request.header(IF_MATCH, object);
            }
        }
        Ok(request.send().await?)
    }

    /// Takes the bytes of `answer`. Beyond `limit`, not counting the wait for bandwidth, another connection may be
    /// faster.
    async fn stream(&mut self, answer: &mut Response, limit: Duration) -> Result<(), Failure> {
        let mut waited = Duration::ZERO;
        loop {
            let patience = STALL.min(limit.saturating_sub(waited));
            let began = Instant::now();
            let chunk = timeout(patience, answer.chunk()).await;
            waited += began.elapsed();
            self.spent += began.elapsed();
            let chunk = chunk.map_err(|_| {
                let slow =
                    format!("no byte for {} s, or slower than {} s in all", STALL.as_secs(), limit.as_secs());
                Failure::Passing(slow.into())
            })??;
            let Some(chunk) = chunk else { return Ok(()) };
            self.part.append(&chunk).await.map_err(|error| {
                if error.kind() == io::ErrorKind::FileTooLarge {
                    Failure::TooLarge
                } else {
                    Failure::Destination(error)
                }
            })?;
            self.meter.came(chunk.len() as u64).await;
        }
    }

    /// Forgets what is there.
    async fn restart(&mut self) -> Result<(), Failure> {
        self.object = None;
        self.meter.restarts();
        self.part.restart().await.map_err(Failure::Destination)
    }
}

/// Where the bytes of a partial answer begin: `Content-Range: bytes 5-9/10` (RFC 9110, 14.4).
fn starts_at(answer: &Response) -> Option<u64> {
    let range = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
