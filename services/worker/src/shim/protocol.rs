use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use coordination::Boottime;

/// The largest frame: a [`Start`] with the longest command a manifest can hold fits several times.
const FRAME_BYTES_MAX: usize = 512 << 10;
/// Input and result go in pieces of this size.
pub(super) const PIECE_BYTES: usize = 32 << 10;

/// What to run: the first thing the worker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The program, as an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// How long it may run, in milliseconds.
    pub run_timeout_ms: u64,
    /// From SIGTERM to the kill of the whole tree, in milliseconds.
    pub grace_ms: u64,
    /// The file that is made, in a directory that is there, just before the SIGTERM: the script may look for it.
    #[serde(default)]
    pub stop_file: Option<PathBuf>,
    /// Until when it may run if the worker says nothing more.
    pub lease: Lease,
    /// How many bytes of input follow.
    pub input_bytes: u64,
    /// How many bytes of result are passed on at most; further ones are read and dropped.
    pub result_bytes_max: u64,
}

/// Until when the attempt is ours without a further renewal: of its lease in the record, and of its lock and its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// SIGTERM at this moment.
    pub stop_at: Boottime,
    /// The whole tree is killed at this moment.
    pub kill_at: Boottime,
}

impl Lease {
    /// The earlier of both clocks, each for itself.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self { stop_at: self.stop_at.min(other.stop_at), kill_at: self.kill_at.min(other.kill_at) }
    }

    /// What a lease of `lease` allows that was asked for at `sent_at` and granted later: the tree is asked to end when
    /// a fifth of it is left and dead when a tenth is left, so before anybody else may take it.
    #[must_use]
    pub fn granted(sent_at: Boottime, lease: Duration) -> Self {
        Self { stop_at: sent_at.after(lease * 4 / 5), kill_at: sent_at.after(lease * 9 / 10) }
    }
}

/// What the worker says afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The lease was renewed: this one holds from here on.
    Extend(Lease),
    /// SIGTERM now, and the kill of the whole tree after the grace.
    Terminate,
    /// Kill the whole tree now.
    Kill,
}

/// What the shim says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The script runs.
    Started,
    /// It could not be started; the shim ends.
    NotStarted(String),
    /// The next bytes of the result.
    Result(Vec<u8>),
    /// The whole tree is dead; the shim ends.
    Exited(Exit),
}

/// How a tree ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What the script exited with, if it exited.
    pub code: Option<i32>,
    /// The signal it died of, if it died of one.
    pub signal: Option<i32>,
    /// Why the shim ended it; `None` if it ended by itself.
    pub cause: Option<Cause>,
    /// It was killed while the kernel was killing processes for their memory.
    pub oom: bool,
    /// The largest resident set of any process of the tree.
    pub peak_rss_bytes: u64,
    /// Time the whole tree spent in user mode, in microseconds.
    pub user_us: u64,
    /// Time the whole tree spent in the kernel, in microseconds.
    pub system_us: u64,
    /// From the start to the end of the script, in microseconds.
    pub run_us: u64,
}

/// Why the shim ended a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// It ran longer than it may.
    RunTimeout,
    /// Its lease was not extended in time.
    LeaseEnd,
    /// The worker said so.
    Ordered,
    /// The worker is gone.
    Abandoned,
}

const START: u8 = 1;
const INPUT: u8 = 2;
const ORDER: u8 = 3;
const STARTED: u8 = 4;
const NOT_STARTED: u8 = 5;
const RESULT: u8 = 6;
const EXITED: u8 = 7;

/// What a worker can say, as the shim reads it.
#[derive(Debug)]
pub(super) enum FromWorker {
    Start(Start),
    Input(Vec<u8>),
    Order(Order),
}

/// A frame: four bytes length (little endian, of what follows), one byte kind, the payload.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 1).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(payload.len() + 5);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.push(kind);
    frame.extend_from_slice(payload);
    frame
}

fn json_frame(kind: u8, value: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(frame(kind, &serde_json::to_vec(value)?))
}

pub(super) fn start_frame(start: &Start) -> io::Result<Vec<u8>> {
    json_frame(START, start)
}

pub(super) fn input_frame(piece: &[u8]) -> Vec<u8> {
    frame(INPUT, piece)
}

pub(super) fn order_frame(order: &Order) -> io::Result<Vec<u8>> {
    json_frame(ORDER, order)
}

pub(super) fn report_frame(report: &Report) -> io::Result<Vec<u8>> {
    match report {
        Report::Started => Ok(frame(STARTED, &[])),
        Report::NotStarted(message) => Ok(frame(NOT_STARTED, message.as_bytes())),
        Report::Result(piece) => Ok(frame(RESULT, piece)),
        Report::Exited(exit) => json_frame(EXITED, exit),
    }
}

/// Bytes as they came, cut into frames.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    /// Adds bytes as they came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn next(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if !(1..=FRAME_BYTES_MAX).contains(&length) {
            return Err(invalid("a frame of a length that cannot be"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let (kind, payload) = (rest[0], rest[1..length].to_vec());
        self.bytes.drain(..4 + length);
        Ok(Some((kind, payload)))
    }

    /// The next whole thing the worker said.
    pub(super) fn said(&mut self) -> io::Result<Option<FromWorker>> {
        let Some((kind, payload)) = self.next()? else { return Ok(None) };
        Ok(Some(match kind {
            START => FromWorker::Start(json(&payload)?),
            INPUT => FromWorker::Input(payload),
            ORDER => FromWorker::Order(json(&payload)?),
            _ => return Err(invalid("a frame of an unknown kind")),
        }))
    }

    /// The next whole report.
    pub(super) fn report(&mut self) -> io::Result<Option<Report>> {
        let Some((kind, payload)) = self.next()? else { return Ok(None) };
        Ok(Some(match kind {
            STARTED => Report::Started,
            NOT_STARTED => Report::NotStarted(String::from_utf8_lossy(&payload).into_owned()),
            RESULT => Report::Result(payload),
            EXITED => Report::Exited(json(&payload)?),
            _ => return Err(invalid("a frame of an unknown kind")),
        }))
    }
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    serde_json::from_slice(payload).map_err(io::Error::from)
}

pub(super) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_however_the_bytes_are_cut() {
        let reports = [Report::Started, Report::Result(vec![7; 300]), Report::NotStarted("no".to_owned())];
        let bytes: Vec<u8> = reports.iter().flat_map(|report| report_frame(report).unwrap()).collect();
        for size in [1, 3, 64, 1_000] {
            let (mut inbox, mut read) = (Inbox::default(), Vec::new());
            for piece in bytes.chunks(size) {
                inbox.push(piece);
                while let Some(report) = inbox.report().unwrap() {
                    read.push(report);
                }
            }
            assert_eq!(read, reports);
        }
    }

    #[test]
    fn a_frame_that_cannot_be_is_an_error_and_allocates_nothing() {
        let mut inbox = Inbox::default();
        inbox.push(&u32::MAX.to_le_bytes());
        assert!(inbox.report().is_err());
    }
}
