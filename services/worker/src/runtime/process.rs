use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use domain::limits::RESULT_BYTES_MAX;
use domain::{ErrorClass, Failure, Manifest, Payload, ResultSource};
use protocol::Request;
use store::{Fence, Writer};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Ran;
use crate::leases::{Stop, Watch};
use crate::output::{Fault, Log, Printed};
use crate::scratch::Scratch;
use crate::settlement::Outcome;
use crate::shim::{self, Cause, Exit, Order, Report, Shim, Start};

/// Where programs are looked for that are not in their bundle.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// One attempt to be run as a process tree.
pub(crate) struct Process<'a> {
    pub(crate) shim: &'a [String],
    pub(crate) bundle: &'a Path,
    pub(crate) scratch: &'a Scratch,
    pub(crate) manifest: &'a Manifest,
    pub(crate) version: domain::VersionNumber,
    pub(crate) request: &'a Request,
    pub(crate) attempt: i32,
    pub(crate) base: i64,
    pub(crate) held: &'a Watch,
    pub(crate) writer: &'a Writer,
    /// Of an exclusive execution: what it writes under.
    pub(crate) fence: Option<&'a Fence>,
}

impl Process<'_> {
    /// Runs it, and returns once its whole tree is dead.
    ///
    /// If the future is dropped the shim kills the tree.
    pub(crate) async fn run(self) -> Ran {
        let start = match self.start().await {
            Ok(start) => start,
            Err(failure) => return self.unstarted(Outcome::Failed(failure)),
        };
        let (shim, streams) = match Shim::start(self.shim, &start, &self.request.input.bytes).await {
            Ok(started) => started,
            Err(error) => {
                let message = format!("its shim could not be started: {error}");
                return self.unstarted(Outcome::Broken { class: ErrorClass::Internal, message });
            }
        };
        let tree_dead = CancellationToken::new();
        let keep_last_line = self.manifest.result.from == ResultSource::LastLine;
        let mut watched = self.held.clone();
        let log = Log {
            writer: self.writer,
            held: self.held,
            execute_id: self.request.execute_id,
            attempt: self.attempt,
            fence: self.fence,
        };
        let watch = async {
            let end = watch(shim, &mut watched, &start).await;
            tree_dead.cancel();
            end
        };
        let (end, mut printed) =
            tokio::join!(watch, log.pump(streams, self.base, keep_last_line, tree_dead.cancelled()));
        let (outcome, run) = self.outcome(end, &mut printed);
        if !matches!(outcome, Outcome::Succeeded(_)) {
            printed.log_last_line();
        }
        Ran { outcome, printed, run }
    }

    fn unstarted(&self, outcome: Outcome) -> Ran {
        let printed = Printed { base: self.base, ..Printed::default() };
        Ran { outcome, printed, run: Duration::ZERO }
    }

    async fn start(&self) -> Result<Start, Failure> {
        let (name, args) =
            self.manifest.command.split_first().map_or(("", &[][..]), |(n, a)| (n.as_str(), a));
        let Some(program) = find_program(self.bundle, name).await else {
            let message = format!("{name:?} is neither a file of the bundle nor a program on {SEARCH_PATH}");
            return Err(Failure::new(ErrorClass::Artifact, message));
        };
        Ok(Start {
            program,
            args: args.to_vec(),
            env: self.environment(),
            cwd: self.bundle.to_path_buf(),
            run_timeout_ms: self.manifest.limits.run_timeout_ms,
            grace_ms: self.manifest.limits.grace_ms,
            stop_file: Some(self.stop_file()),
            lease: self.held.lease(),
            input_bytes: self.request.input.bytes.len() as u64,
            result_bytes_max: RESULT_BYTES_MAX as u64 + 1,
        })
    }

    fn stop_file(&self) -> PathBuf {
        self.scratch.path().join(".gantry-stop")
    }

    /// The script's environment, built from nothing.
    fn environment(&self) -> Vec<(String, String)> {
        let scratch = self.scratch.path().display().to_string();
        let mut environment = vec![
            ("PATH", SEARCH_PATH.to_owned()),
            ("HOME", scratch.clone()),
            ("TMPDIR", scratch),
            ("LANG", "C.UTF-8".to_owned()),
            ("TZ", "UTC".to_owned()),
            ("GANTRY_EXECUTE_ID", self.request.execute_id.to_string()),
            ("GANTRY_ATTEMPT", self.attempt.to_string()),
            ("GANTRY_MODEL", self.request.model.to_string()),
            ("GANTRY_VERSION", self.version.to_string()),
            ("GANTRY_RESULT_FD", "3".to_owned()),
            ("GANTRY_STOP_FILE", self.stop_file().display().to_string()),
        ];
        if let Some(Fence { generation, number, .. }) = self.fence {
            environment.push(("GANTRY_FENCING_TOKEN", format!("{generation}.{number}")));
        }
        if let Some(deadline) = self.request.deadline {
            environment.push(("GANTRY_DEADLINE", deadline.to_string()));
        }
        environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn outcome(&self, end: End, printed: &mut Printed) -> (Outcome, Duration) {
        let broken = |message| Outcome::Broken { class: ErrorClass::Internal, message };
        if let Some(Fault::Refused(error)) = &printed.fault {
            let message = format!("its log was refused: {}", bootstrap::chain(error));
            warn!(execute_id = %self.request.execute_id, "{message}");
            printed.tail.clear();
            return (broken(message), Duration::ZERO);
        }
        match &printed.fault {
            Some(Fault::PastRights) => return (Outcome::Stopped(Stop::RightLost), Duration::ZERO),
            Some(Fault::Stale) if self.fence.is_some() => {
                return (Outcome::Stopped(Stop::RightLost), Duration::ZERO);
            }
            Some(Fault::Stale | Fault::Refused(_)) => return (Outcome::Stopped(Stop::Lost), Duration::ZERO),
            None => {}
        }
        let (exit, result) = match end {
            End::Exited { exit, result } => (exit, result),
            End::NotStarted(why) => {
                return (Outcome::Failed(Failure::new(ErrorClass::Artifact, why)), Duration::ZERO);
            }
            End::ShimDied => return (broken("its shim died".to_owned()), Duration::ZERO),
        };
        let run = Duration::from_micros(exit.run_us);
        let failure = |class, message| Failure {
            exit_code: exit.code,
            signal: exit.signal,
            ..Failure::new(class, message)
        };
        let outcome = match exit.cause {
            Some(Cause::RunTimeout) => {
                let message = format!("it ran longer than {} ms", self.manifest.limits.run_timeout_ms);
                Outcome::TimedOut(failure(ErrorClass::Timeout, message))
            }
            Some(Cause::Ordered) => Outcome::Stopped(self.held.stop().unwrap_or(Stop::Yield)),
            Some(Cause::LeaseEnd | Cause::Abandoned) => {
                Outcome::Stopped(self.held.stop().unwrap_or(Stop::LeaseEnd))
            }
            None => match (exit.code, exit.signal) {
                (Some(0), _) => self.result(result, printed),
                (Some(code), _) => {
                    Outcome::Failed(failure(ErrorClass::Script, format!("it ended with exit code {code}")))
                }
                (None, signal) if exit.oom => {
                    let message = "the kernel killed it for its memory".to_owned();
                    debug!(?signal, peak_rss_bytes = exit.peak_rss_bytes, "out of memory");
                    Outcome::Failed(failure(ErrorClass::Oom, message))
                }
                (None, signal) => {
                    let message = format!("it died of signal {}", signal.unwrap_or_default());
                    Outcome::Failed(failure(ErrorClass::Signal, message))
                }
            },
        };
        (outcome, run)
    }

    /// What a script that ended well has as its result.
    fn result(&self, descriptor: Vec<u8>, printed: &mut Printed) -> Outcome {
        let bytes = match self.manifest.result.from {
            ResultSource::Descriptor => descriptor,
            ResultSource::LastLine => {
                let mut line = printed.last_line.clone().unwrap_or_default();
                line.truncate(line.strip_suffix(b"\r").map_or(line.len(), <[u8]>::len));
                line
            }
        };
        if bytes.len() > RESULT_BYTES_MAX {
            printed.last_line = None;
            let message = format!("its result has more than the {RESULT_BYTES_MAX} bytes a result may have");
            return Outcome::Failed(Failure::new(ErrorClass::TooLarge, message));
        }
        let mut payload = Payload::new(&self.manifest.result.content_type, bytes);
        if payload.is_json() {
            if payload.bytes.is_empty() {
                payload.bytes = Bytes::from_static(b"null");
            } else if let Err(error) = payload.check_json() {
                let message = format!("its result is no JSON: {error}");
                return Outcome::Failed(Failure::new(ErrorClass::Script, message));
            }
        }
        Outcome::Succeeded(payload)
    }
}

/// How a supervised tree came to its end.
enum End {
    Exited { exit: Exit, result: Vec<u8> },
    NotStarted(String),
    ShimDied,
}

/// Listens to the shim and passes on what happens to the lease, until the tree is dead.
async fn watch(mut shim: Shim, held: &mut Watch, start: &Start) -> End {
    let (mut result, mut lease, mut told) = (Vec::new(), start.lease, None);
    let end = loop {
        // A shim that cannot be told any more says so itself.
        let now = held.lease();
        if now != lease {
            let _ = shim.order(&Order::Extend(now)).await;
            lease = now;
        }
        let stop = held.ordered();
        if stop > told {
            told = stop;
            let order = match stop {
                Some(Stop::Lost | Stop::RightLost | Stop::YieldAtOnce) => Order::Kill,
                Some(Stop::Yield | Stop::Cancel | Stop::LeaseEnd) | None => Order::Terminate,
            };
            let _ = shim.order(&order).await;
        }
        tokio::select! {
            report = shim.report() => match report {
                Ok(Report::Started) => {}
                Ok(Report::NotStarted(why)) => break End::NotStarted(why),
                Ok(Report::Result(piece)) => result.extend(piece),
                Ok(Report::Exited(exit)) => break End::Exited { exit, result },
                Err(error) => {
                    warn!(%error, "a shim died");
                    sweep(start).await;
                    break End::ShimDied;
                }
            },
            () = held.changed() => {}
        }
    };
    shim.ended().await;
    end
}

/// Kills what a shim left behind that died by violence.
async fn sweep(start: &Start) {
    let marks = ["GANTRY_EXECUTE_ID", "GANTRY_ATTEMPT"];
    let marks = start.env.iter().filter(|(name, _)| marks.contains(&name.as_str()));
    let marks: Vec<String> = marks.map(|(name, value)| format!("{name}={value}")).collect();
    if !matches!(tokio::task::spawn_blocking(move || shim::sweep(&marks)).await, Ok(true)) {
        warn!("processes of a dead shim are still alive");
    }
}

/// The program a command names: a file of the bundle, else an executable on the search path.
async fn find_program(bundle: &Path, name: &str) -> Option<PathBuf> {
    let in_bundle = bundle.join(name);
    if !name.starts_with('/') && tokio::fs::metadata(&in_bundle).await.is_ok_and(|file| file.is_file()) {
        return Some(in_bundle);
    }
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![PathBuf::from(name)]
    } else {
        SEARCH_PATH.split(':').map(|dir| Path::new(dir).join(name)).collect()
    };
    for candidate in candidates.into_iter().filter(|candidate| candidate.is_absolute()) {
        let is_program = |file: std::fs::Metadata| file.is_file() && file.permissions().mode() & 0o111 != 0;
        if tokio::fs::metadata(&candidate).await.is_ok_and(is_program) {
            return Some(candidate);
        }
    }
    None
}
