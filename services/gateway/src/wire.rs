//! One connection's bytes: how long it may be silent, how long a head may take, how long an answer may be stuck.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::http2::PREFACE;

/// How long a client may not take what is written to it.
const STALL_MAX: Duration = Duration::from_secs(30);
/// As much of a head as is kept to be looked at: more than a head may have.
const HEAD_BYTES_KEPT: usize = 17 << 10;

/// Where a connection is between two requests; shared by who reads its bytes and who serves its requests.
#[derive(Default)]
pub(crate) struct Wire(Mutex<Exchange>);

#[derive(Default)]
struct Exchange {
    phase: Phase,
    /// The bytes of the head under way.
    head: Vec<u8>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has come yet.
    #[default]
    Silent,
    /// Part of a head has come.
    Head,
    /// A request is being served; or it is HTTP/2, whose frames are not looked at.
    Busy,
    /// A request was answered and the next has not begun. (How long that may last is hyper's timer.)
    Idle,
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A head was read to its end: this one. (It is not kept: who waits for an answer may wait for long.)
    pub fn serving(&self) -> Vec<u8> {
        let mut exchange = self.lock();
        exchange.phase = Phase::Busy;
        std::mem::take(&mut exchange.head)
    }

    /// The request was answered.
    pub fn answered(&self) {
        self.lock().phase = Phase::Idle;
    }

    /// Takes note of `bytes`; `true` if a head begins with them.
    fn received(&self, bytes: &[u8]) -> bool {
        let mut exchange = self.lock();
        let begins = matches!(exchange.phase, Phase::Silent | Phase::Idle);
        if begins {
            exchange.phase = Phase::Head;
            exchange.head.clear();
        }
        if exchange.phase == Phase::Head {
            let room = HEAD_BYTES_KEPT.saturating_sub(exchange.head.len());
            exchange.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        begins
    }

    /// Must the client send something?
    fn is_owed_a_head(&self) -> bool {
        matches!(self.lock().phase, Phase::Silent | Phase::Head)
    }
}

/// Does a head say both `Content-Length` and `Transfer-Encoding`? (RFC 9112, 6.3: request smuggling. hyper believes the latter
/// and forgets that there was the former.)
pub(crate) fn is_ambiguous(head: &[u8]) -> bool {
    let end = head.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(head.len());
    let names: Vec<_> = head[..end].split(|byte| *byte == b'\n').filter_map(name).collect();
    let has = |wanted: &str| names.iter().any(|name| name.eq_ignore_ascii_case(wanted.as_bytes()));
    has("content-length") && has("transfer-encoding")
}

/// The name in a header's line.
fn name(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some(line[..colon].trim_ascii())
}

/// A stream that breaks off when its [`Wire`]'s limits are passed.
pub(crate) struct Guarded<S> {
    stream: S,
    wire: Arc<Wire>,
    head_max: Duration,
    head_due: Instant,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
    is_stalled: bool,
    /// What was read to see which version is spoken, and is to be read again.
    first: Bytes,
}

impl<S> Guarded<S> {
    /// `stream`, whose first byte must come within `head_max`, and each head within `head_max` of its first byte.
    pub fn new(stream: S, wire: Arc<Wire>, head_max: Duration) -> Self {
        let head_due = Instant::now() + head_max;
        Self {
            stream,
            wire,
            head_max,
            head_due,
            reading: None,
            writing: None,
            is_stalled: false,
            first: Bytes::new(),
        }
    }

    fn poll_head_due(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        ready!(poll_due(&mut self.reading, self.head_due, cx));
        Poll::Ready(io::Error::new(ErrorKind::TimedOut, "the head of a request took too long"))
    }

    /// Passes `polled` on, unless it has been pending for too long.
    fn unless_stalled<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.is_stalled = false;
            return polled;
        }
        let due = match &self.writing {
            Some(writing) if self.is_stalled => writing.deadline(),
            _ => Instant::now() + STALL_MAX,
        };
        self.is_stalled = true;
        ready!(poll_due(&mut self.writing, due, cx));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client takes nothing")))
    }
}

fn poll_due(timer: &mut Option<Pin<Box<Sleep>>>, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
    if timer.deadline() != due {
        timer.as_mut().reset(due);
    }
    timer.as_mut().poll(cx)
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Does the client speak HTTP/2? Reads as much as it takes to know; whoever reads next gets it from the beginning.
    ///
    /// # Errors
    /// The connection broke off, or the client took too long.
    pub async fn is_http2(&mut self) -> io::Result<bool> {
        let mut first = Vec::with_capacity(PREFACE.len());
        while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
            let rest = PREFACE.len() - first.len();
            if (&mut *self).take(rest as u64).read_buf(&mut first).await? == 0 {
                break;
            }
        }
        let is_http2 = first == PREFACE;
        if is_http2 {
            drop(self.wire.serving());
        }
        self.first = first.into();
        Ok(is_http2)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.first.len().min(buffer.remaining());
        let first = self.first.split_to(length);
        buffer.put_slice(&first);
        let before = buffer.filled().len();
        let polled = match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let bytes = &buffer.filled()[before..];
                if !bytes.is_empty() && self.wire.received(bytes) {
                    self.head_due = Instant::now() + self.head_max;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending if self.wire.is_owed_a_head() => self.poll_head_due(cx).map(Err),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        };
        // What follows the first bytes comes along if it is there: hyper doubles its buffer for a head in two parts.
        if first.is_empty() { polled } else { Poll::Ready(Ok(())) }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_stalled(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.unless_stalled(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.unless_stalled(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.unless_stalled(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn a_head_that_says_both_lengths_is_ambiguous() {
        for (head, expected) in [
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\ncontent-length: 2\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nContent-Length:2\r\ntransfer-encoding:chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\ncontent-length: 2\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nContent-Length: 2\r\nx: transfer-encoding\r\n\r\n", false),
        ] {
            let wire = Wire::default();
            let (first, second) = head.split_at(30);
            assert!(wire.received(first.as_bytes()));
            assert!(!wire.received(second.as_bytes()));
            assert_eq!(is_ambiguous(&wire.serving()), expected, "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_and_a_request_under_way_has_more() {
        let (mut client, server) = duplex(1_000);
        let wire = Arc::new(Wire::default());
        let mut guarded = Guarded::new(server, wire.clone(), Duration::from_secs(10));
        client.write_all(b"GET").await.unwrap();
        let mut buffer = [0; 3];
        guarded.read_exact(&mut buffer).await.unwrap();
        let begin = Instant::now();
        assert_eq!(guarded.read_exact(&mut buffer).await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(begin.elapsed().as_secs(), 10);

        drop(wire.serving());
        let waits = tokio::time::timeout(Duration::from_secs(300), guarded.read_exact(&mut buffer)).await;
        assert!(waits.is_err(), "a request under way is not broken off");
        wire.answered();
        client.write_all(b"GET").await.unwrap();
        guarded.read_exact(&mut buffer).await.unwrap();
        assert_eq!(guarded.read_exact(&mut buffer).await.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (client, server) = duplex(10);
        let mut guarded = Guarded::new(server, Arc::default(), Duration::from_secs(10));
        let begin = Instant::now();
        assert_eq!(guarded.write_all(&[0; 20]).await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(begin.elapsed(), STALL_MAX);
        drop(client);
    }
}
