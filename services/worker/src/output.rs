//! What a script prints, on its way into the record.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::limits::{LINE_BYTES_MAX, OUTPUT_BYTES_MAX, RESULT_BYTES_MAX};
use domain::{ExecuteId, Level, LogLine, line};
use futures::future::BoxFuture;
use store::{Append, Appended, Fence, StoreError, Writer};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};

use crate::leases::{Stop, Watch};
use crate::metrics;
use crate::shim::Streams;

/// Lines wait at most this long for others to go along.
const FLUSH_AFTER: Duration = Duration::from_millis(250);
/// The first ones do not wait so long: somebody may look on, and what ends sooner stores its lines with its end anyway.
const FIRST_FLUSH_AFTER: Duration = Duration::from_millis(50);
/// Lines go once they have this many bytes.
const FLUSH_BYTES: usize = 64 << 10;
/// Lines go once they are this many.
const FLUSH_LINES: usize = 500;
/// While a batch is being stored, this many times as much is read at most; then the script waits.
const AHEAD: usize = 4;
/// The most a pipe can hold (`/proc/sys/fs/pipe-max-size`).
const PIPE_BYTES_MAX: usize = 1 << 20;
/// What is read at once.
const READ_BYTES: usize = 16 << 10;

/// Why no further line can be stored.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The attempt is no longer ours.
    Stale,
    /// The lock or a limit is no longer certain: nothing may be written.
    PastRights,
    /// The record refuses the lines for good.
    Refused(StoreError),
}

/// What was printed and is not stored yet.
#[derive(Debug, Default)]
pub(crate) struct Printed {
    /// The `log_id` of the last line that is.
    pub(crate) base: i64,
    /// The last lines.
    pub(crate) tail: Vec<LogLine>,
    /// The last line of stdout, if it was to be kept apart; at most one byte more than a result may have.
    pub(crate) last_line: Option<Vec<u8>>,
    /// Set if something could not be stored.
    pub(crate) fault: Option<Fault>,
}

/// One attempt's way into the log.
pub(crate) struct Log<'a> {
    pub(crate) writer: &'a Writer,
    pub(crate) held: &'a Watch,
    pub(crate) execute_id: ExecuteId,
    pub(crate) attempt: i32,
    /// Of an exclusive execution: what its lines go under.
    pub(crate) fence: Option<&'a Fence>,
}

impl<'a> Log<'a> {
    /// Stores what comes out of `streams`, from `base` on, until `tree_dead` ends. With `keep_last_line` the last line of
    /// stdout is kept apart. A fault ends the attempt.
    pub(crate) async fn pump(
        &self,
        streams: Streams,
        base: i64,
        keep_last_line: bool,
        tree_dead: impl Future<Output = ()>,
    ) -> Printed {
        let mut lines = Lines::new(keep_last_line);
        let mut printed = Printed { base, ..Printed::default() };
        let mut appending: Option<BoxFuture<'a, Result<Appended, StoreError>>> = None;
        let mut open = (true, true);
        let mut buffer = vec![0; READ_BYTES];
        tokio::pin!(tree_dead);
        loop {
            let has_lines = lines.rows.flush_at.is_some() || lines.rows.are_due();
            if has_lines && printed.fault.is_none() && self.held.is_past_rights() {
                printed.fault = Some(Fault::PastRights);
            }
            if printed.fault.is_some() {
                // Nothing can be stored any more; what is read until the tree is dead goes nowhere.
                lines.rows.forget();
            } else if appending.is_none() && lines.rows.are_due() {
                appending = Some(self.append(printed.base, lines.rows.take()));
            }
            let room = lines.rows.have_room();
            let flush_at = lines.rows.flush_at.filter(|_| appending.is_none());
            tokio::select! {
                biased;
                () = &mut tree_dead => break,
                appended = in_flight(&mut appending) => {
                    appending = None;
                    self.note(&mut printed, appended);
                }
                ready = streams.stdout.readable(), if open.0 && room => {
                    open.0 = ready.is_ok() && read(&streams.stdout, &mut buffer, |b| lines.stdout(b));
                }
                ready = streams.stderr.readable(), if open.1 && room => {
                    open.1 = ready.is_ok() && read(&streams.stderr, &mut buffer, |b| lines.stderr(b));
                }
                () = sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => {
                    appending = Some(self.append(printed.base, lines.rows.take()));
                }
            }
        }
        // The tree is dead: what its pipes hold now is all there will be, even if somebody else holds them open.
        drain(&streams.stdout, &mut buffer, |bytes| lines.stdout(bytes));
        drain(&streams.stderr, &mut buffer, |bytes| lines.stderr(bytes));
        if appending.is_some() {
            tokio::select! {
                appended = in_flight(&mut appending) => self.note(&mut printed, appended),
                () = self.held.given_up() => printed.fault = Some(Fault::Stale),
            }
        }
        (printed.tail, printed.last_line) = lines.end();
        printed
    }

    fn append(&self, base: i64, lines: Vec<LogLine>) -> BoxFuture<'a, Result<Appended, StoreError>> {
        metrics::log_lines(lines.len());
        let append = Append {
            fence: self.fence.cloned(),
            execute_id: self.execute_id,
            attempt: self.attempt,
            base,
            lines,
        };
        let writer = self.writer;
        Box::pin(async move {
            loop {
                match writer.append(append.clone()).await {
                    // Too many wait: nothing was done.
                    Err(StoreError::Overloaded(_)) => tokio::time::sleep(FLUSH_AFTER).await,
                    answer => return answer,
                }
            }
        })
    }

    fn note(&self, printed: &mut Printed, appended: Result<Appended, StoreError>) {
        match appended {
            Ok(Appended::Stored { last_log_id }) => printed.base = last_log_id,
            Ok(Appended::Stale) => {
                printed.fault = Some(Fault::Stale);
                // It may be the fence that is too low: what becomes of the attempt the record says when it is given back.
                self.held.end(if self.fence.is_some() { Stop::RightLost } else { Stop::Lost });
            }
            Err(error) => {
                printed.fault = Some(Fault::Refused(error));
                self.held.end(Stop::YieldAtOnce);
            }
        }
    }
}

async fn in_flight(
    appending: &mut Option<BoxFuture<'_, Result<Appended, StoreError>>>,
) -> Result<Appended, StoreError> {
    match appending {
        Some(appending) => appending.await,
        None => std::future::pending().await,
    }
}

/// Reads once what is there; `false` at the end of the pipe.
fn read(pipe: &pipe::Receiver, buffer: &mut [u8], take: impl FnOnce(&[u8])) -> bool {
    match pipe.try_read(buffer) {
        Ok(0) => false,
        Ok(read) => {
            take(&buffer[..read]);
            true
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Reads what a pipe still holds. It asks the kernel, because the runtime may not have heard yet that there is something.
fn drain(pipe: &pipe::Receiver, buffer: &mut [u8], mut take: impl FnMut(&[u8])) {
    let mut left = PIPE_BYTES_MAX;
    while left > 0 {
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                take(&buffer[..read]);
                left = left.saturating_sub(read);
            }
        }
    }
}

/// Both streams of one attempt.
struct Lines {
    stdout: Cutter,
    stderr: Cutter,
    rows: Rows,
    keep_last_line: bool,
    /// The last line of stdout so far, and how much of it was dropped.
    kept: Option<(Vec<u8>, usize)>,
}

impl Lines {
    fn new(keep_last_line: bool) -> Self {
        let stdout_bytes = if keep_last_line { RESULT_BYTES_MAX + 1 } else { LINE_BYTES_MAX };
        Self {
            stdout: Cutter::new(stdout_bytes),
            stderr: Cutter::new(LINE_BYTES_MAX),
            rows: Rows::default(),
            keep_last_line,
            kept: None,
        }
    }

    fn stdout(&mut self, bytes: &[u8]) {
        let (rows, kept, keep) = (&mut self.rows, &mut self.kept, self.keep_last_line);
        self.stdout.push(bytes, |line, dropped| stdout_line(rows, kept, keep, line, dropped));
    }

    fn stderr(&mut self, bytes: &[u8]) {
        let rows = &mut self.rows;
        self.stderr.push(bytes, |line, dropped| rows.add(Level::Warning, line, dropped));
    }

    /// The last rows, and the last line if it was to be kept.
    fn end(mut self) -> (Vec<LogLine>, Option<Vec<u8>>) {
        let (rows, kept, keep) = (&mut self.rows, &mut self.kept, self.keep_last_line);
        self.stdout.end(|line, dropped| stdout_line(rows, kept, keep, line, dropped));
        self.stderr.end(|line, dropped| rows.add(Level::Warning, line, dropped));
        (self.rows.end(), self.kept.map(|(line, _)| line))
    }
}

fn stdout_line(
    rows: &mut Rows,
    kept: &mut Option<(Vec<u8>, usize)>,
    keep: bool,
    line: &[u8],
    dropped: usize,
) {
    if !keep {
        rows.add(Level::Info, line, dropped);
    } else if let Some((line, dropped)) = kept.replace((line.to_vec(), dropped)) {
        rows.add(Level::Info, &line, dropped);
    }
}

/// Cuts a stream at its line ends, keeping at most `longest` bytes of a line.
struct Cutter {
    line: Vec<u8>,
    dropped: usize,
    longest: usize,
}

impl Cutter {
    const fn new(longest: usize) -> Self {
        Self { line: Vec::new(), dropped: 0, longest }
    }

    fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(&[u8], usize)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                Some(_) | None => (piece, false),
            };
            let fits = text.len().min(self.longest - self.line.len());
            self.line.extend_from_slice(&text[..fits]);
            self.dropped += text.len() - fits;
            if ends {
                emit(&self.line, self.dropped);
                self.line.clear();
                self.dropped = 0;
            }
        }
    }

    /// A last line without its line end.
    fn end(&mut self, mut emit: impl FnMut(&[u8], usize)) {
        if !self.line.is_empty() {
            emit(&self.line, self.dropped);
            self.line.clear();
        }
    }
}

/// Rows that wait to be stored.
#[derive(Default)]
struct Rows {
    rows: Vec<LogLine>,
    bytes: usize,
    printed_bytes: usize,
    dropped_bytes: usize,
    flush_at: Option<Instant>,
    has_flushed: bool,
}

impl Rows {
    fn add(&mut self, default: Level, printed: &[u8], dropped: usize) {
        let bytes = printed.len() + dropped + 1;
        if self.dropped_bytes > 0 || self.printed_bytes + bytes > OUTPUT_BYTES_MAX {
            self.dropped_bytes += bytes;
            return;
        }
        self.printed_bytes += bytes;
        self.bytes += printed.len().min(LINE_BYTES_MAX);
        self.rows.extend(line::rows(printed, dropped, default, now_unix_us()));
        let wait = if self.has_flushed { FLUSH_AFTER } else { FIRST_FLUSH_AFTER };
        self.flush_at.get_or_insert_with(|| Instant::now() + wait);
    }

    fn are_due(&self) -> bool {
        self.bytes >= FLUSH_BYTES || self.rows.len() >= FLUSH_LINES
    }

    fn have_room(&self) -> bool {
        self.bytes < AHEAD * FLUSH_BYTES && self.rows.len() < AHEAD * FLUSH_LINES
    }

    fn take(&mut self) -> Vec<LogLine> {
        self.bytes = 0;
        self.flush_at = None;
        self.has_flushed = true;
        std::mem::take(&mut self.rows)
    }

    fn forget(&mut self) {
        drop(self.take());
    }

    fn end(mut self) -> Vec<LogLine> {
        if self.dropped_bytes > 0 {
            metrics::output_dropped(self.dropped_bytes as u64);
            let marker = format!(
                "{} bytes dropped: an attempt may print at most {OUTPUT_BYTES_MAX} bytes",
                self.dropped_bytes
            );
            self.rows.extend(line::rows(marker.as_bytes(), 0, Level::Warning, now_unix_us()));
        }
        self.rows
    }
}

fn now_unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Printed {
    /// Puts a line that was kept apart into the log after all: it is no result.
    pub(crate) fn log_last_line(&mut self) {
        if let Some(last) = self.last_line.take() {
            self.tail.extend(line::rows(&last, 0, Level::Info, now_unix_us()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(rows: &[LogLine]) -> Vec<&str> {
        rows.iter().map(|row| row.text.as_str()).collect()
    }

    #[test]
    fn lines_are_cut_wherever_the_reads_fall_and_the_last_may_lack_its_end() {
        for size in [1, 2, 5, 100] {
            let mut lines = Lines::new(false);
            for piece in b"one\n\ntwo\r\nthree".chunks(size) {
                lines.stdout(piece);
            }
            let (rows, last) = lines.end();
            assert_eq!(texts(&rows), ["one", "", "two", "three"]);
            assert_eq!(last, None);
        }
    }

    #[test]
    fn the_last_line_of_stdout_is_kept_apart_whole_if_it_is_the_result() {
        let long = "x".repeat(LINE_BYTES_MAX * 3);
        let mut lines = Lines::new(true);
        lines.stdout(b"first\nsecond\n");
        lines.stderr(b"warned\n");
        lines.stdout(long.as_bytes());
        lines.stdout(b"\n");
        let (rows, last) = lines.end();
        assert_eq!(texts(&rows), ["first", "warned", "second"]);
        assert_eq!(last, Some(long.into_bytes()));
    }

    #[test]
    fn a_line_without_end_is_not_buffered_and_says_what_is_missing() {
        let mut lines = Lines::new(false);
        for _ in 0..100 {
            lines.stdout(&[b'y'; READ_BYTES]);
        }
        assert!(lines.stdout.line.capacity() <= 4 * LINE_BYTES_MAX);
        let (rows, _) = lines.end();
        let missing = 100 * READ_BYTES - LINE_BYTES_MAX;
        assert!(rows.last().unwrap().text.ends_with(&format!("[{missing} bytes cut]")));
    }

    #[test]
    fn what_goes_beyond_the_attempts_share_is_dropped_and_counted() {
        let mut lines = Lines::new(false);
        let line = [&[b'z'; 1_023][..], b"\n"].concat();
        for _ in 0..OUTPUT_BYTES_MAX / line.len() + 10 {
            lines.stdout(&line);
        }
        let (rows, _) = lines.end();
        assert_eq!(rows.len(), 2 * OUTPUT_BYTES_MAX / line.len() + 1);
        assert!(rows.last().unwrap().text.starts_with("10240 bytes dropped"), "{:?}", rows.last());
    }
}
