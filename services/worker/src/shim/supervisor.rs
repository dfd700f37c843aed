use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::io::{Errno, FdFlags};
use rustix::process::{getpid, umask};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::protocol::{
    Cause, Exit, FromWorker, Inbox, Lease, Order, PIECE_BYTES, Report, Start, invalid, report_frame,
};
use super::system::{bind_to, close_from};
use super::tree::{Tree, oom_kills};
use coordination::Boottime;

/// The descriptor the script writes its result to.
const RESULT_DESCRIPTOR: i32 = 3;

/// Supervises one tree, from [`Start`] to [`Report::Exited`]. An error means that no tree is left and the worker is not
/// there to be told, or says what we do not understand.
pub(super) fn supervise() -> io::Result<()> {
    close_from(3);
    umask(Mode::from_bits_truncate(0o077));
    // First of all, while descriptor 3 is free.
    let (result, script_result) = result_pipe()?;
    let tree = Tree::new()?;
    let mut inbox = Inbox::default();
    let Some((start, input)) = receive_start(&mut inbox)? else { return Ok(()) };
    rustix::io::ioctl_fionbio(rustix::stdio::stdin(), true)?;
    let mut supervisor = Supervisor::new(&start, tree, result, inbox)?;
    match supervisor.spawn(&start, input, script_result) {
        Ok(()) => {
            supervisor.say(&Report::Started)?;
            supervisor.run()
        }
        Err(error) => {
            let program = start.program.display();
            supervisor.say(&Report::NotStarted(format!("cannot start {program}: {error}")))?;
            supervisor.flush()
        }
    }
}

/// A pipe whose writing end is descriptor 3, the only one but 0, 1, 2 that the script inherits.
fn result_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let result = rustix::io::fcntl_dupfd_cloexec(&reading, 10)?;
    let writing_elsewhere = rustix::io::fcntl_dupfd_cloexec(&writing, 10)?;
    drop((reading, writing));
    let script_result = rustix::io::fcntl_dupfd_cloexec(&writing_elsewhere, RESULT_DESCRIPTOR)?;
    if script_result.as_raw_fd() != RESULT_DESCRIPTOR {
        return Err(invalid("descriptor 3 is taken"));
    }
    rustix::io::fcntl_setfd(&script_result, FdFlags::empty())?;
    rustix::io::ioctl_fionbio(&result, true)?;
    Ok((result, script_result))
}

/// Reads what to run and its input; `None` if the worker went away before it had said all.
fn receive_start(inbox: &mut Inbox) -> io::Result<Option<(Start, File)>> {
    let mut input = File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
    let (mut start, mut written) = (None::<Start>, 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        // What follows the input is for later: an order may come in the same read.
        while start.as_ref().is_none_or(|start| written < start.input_bytes) {
            match inbox.said()? {
                None => break,
                Some(FromWorker::Start(said)) => start = Some(said),
                Some(FromWorker::Input(bytes)) => {
                    input.write_all(&bytes)?;
                    written += bytes.len() as u64;
                }
                Some(FromWorker::Order(_)) => return Err(invalid("an order before the input was complete")),
            }
        }
        if let Some(start) = start.take_if(|start| written >= start.input_bytes) {
            input.rewind()?;
            return Ok(Some((start, input)));
        }
        match rustix::io::retry_on_intr(|| rustix::io::read(rustix::stdio::stdin(), &mut piece[..]))? {
            0 => return Ok(None),
            read => inbox.push(&piece[..read]),
        }
    }
}

/// The tree is being ended.
struct Stopping {
    cause: Cause,
    kill_at: Boottime,
}

struct Supervisor {
    tree: Tree,
    timer: OwnedFd,
    result: Option<OwnedFd>,
    result_bytes_left: u64,
    inbox: Inbox,
    outbox: Vec<u8>,
    started_at: Boottime,
    run_until: Boottime,
    grace: Duration,
    lease: Lease,
    stop_file: Option<PathBuf>,
    stopping: Option<Stopping>,
    oom_kills_before: Option<u64>,
}

impl Supervisor {
    fn new(start: &Start, tree: Tree, result: OwnedFd, inbox: Inbox) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let now = Boottime::now();
        Ok(Self {
            tree,
            timer: timerfd_create(TimerfdClockId::Boottime, flags)?,
            result: Some(result),
            result_bytes_left: start.result_bytes_max,
            inbox,
            outbox: Vec::new(),
            started_at: now,
            run_until: now.after(Duration::from_millis(start.run_timeout_ms)),
            grace: Duration::from_millis(start.grace_ms),
            lease: start.lease,
            stop_file: start.stop_file.clone(),
            stopping: None,
            oom_kills_before: oom_kills(),
        })
    }

    fn spawn(&mut self, start: &Start, input: File, script_result: OwnedFd) -> io::Result<()> {
        let mut command = Command::new(&start.program);
        command
            .args(&start.args)
            .env_clear()
            .envs(start.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&start.cwd)
            .stdin(Stdio::from(input));
        if let Some(name) = start.program.file_name() {
            command.arg0(name);
        }
        bind_to(&mut command, getpid());
        let child = command.spawn()?;
        self.tree.set_main(child.id());
        // From here on only the tree holds its pipes, so that they end with it.
        drop(script_result);
        let nowhere = File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&nowhere)?;
        rustix::stdio::dup2_stderr(&nowhere)?;
        Ok(())
    }

    /// Watches until the script has ended or must end, kills what is left of the tree, and reports.
    fn run(mut self) -> io::Result<()> {
        let cause = self.watch();
        self.tree.kill();
        let exit = self.exit(cause);
        if cause == Some(Cause::Abandoned) {
            return Ok(());
        }
        while self.result.is_some() {
            self.read_result()?;
            self.flush()?;
        }
        self.say(&Report::Exited(exit))?;
        self.flush()
    }

    fn watch(&mut self) -> Option<Cause> {
        loop {
            self.tree.reap();
            if self.tree.ended().is_some() {
                return self.stopping.take().map(|stopping| stopping.cause);
            }
            if let Some(cause) = self.check_clocks() {
                return Some(cause);
            }
            loop {
                match self.inbox.said() {
                    Ok(None) => break,
                    // The last word stands, also if it is a shorter one: orders come in order.
                    Ok(Some(FromWorker::Order(Order::Extend(lease)))) => self.lease = lease,
                    Ok(Some(FromWorker::Order(Order::Terminate))) => self.stop(Cause::Ordered, self.grace),
                    Ok(Some(FromWorker::Order(Order::Kill))) => return Some(Cause::Ordered),
                    Ok(Some(FromWorker::Start(_) | FromWorker::Input(_))) | Err(_) => {
                        return Some(Cause::Abandoned);
                    }
                }
            }
            // Any error on the control socket means that the worker is not there.
            if self.wait().is_err() {
                return Some(Cause::Abandoned);
            }
        }
    }

    /// Begins to end the tree if a clock says so; returns why it must be killed now if one says that.
    fn check_clocks(&mut self) -> Option<Cause> {
        if self.run_until.has_passed() {
            self.stop(Cause::RunTimeout, self.grace);
        }
        if self.lease.stop_at.has_passed() {
            self.stop(Cause::LeaseEnd, self.grace);
        }
        if self.lease.kill_at.has_passed() {
            return Some(self.stopping.take().map_or(Cause::LeaseEnd, |stopping| stopping.cause));
        }
        self.stopping.take_if(|stopping| stopping.kill_at.has_passed()).map(|stopping| stopping.cause)
    }

    /// SIGTERM to the tree, unless it had it already; the first cause stays.
    fn stop(&mut self, cause: Cause, grace: Duration) {
        if self.stopping.is_none() {
            self.make_stop_file();
            self.tree.terminate();
            self.stopping = Some(Stopping { cause, kill_at: Boottime::now().after(grace) });
        }
    }

    /// Makes the file that says so to a script that looks for it. Never through a link: the script may write there too.
    fn make_stop_file(&self) {
        let Some(path) = &self.stop_file else { return };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        // What stands in its place, or that there is no place, is the script's own doing: the signal follows all the same.
        let _ = open(path, flags, Mode::RUSR | Mode::WUSR);
    }

    /// Waits until something happens, and moves bytes. An error means that the worker is gone.
    fn wait(&mut self) -> io::Result<()> {
        self.set_timer()?;
        let control_events =
            if self.outbox.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        // While the worker does not take what was read, no more is read.
        let result = self.result.as_ref().filter(|_| self.outbox.is_empty());
        let mut fds = vec![
            PollFd::from_borrowed_fd(rustix::stdio::stdin(), control_events),
            PollFd::from_borrowed_fd(self.tree.signals(), PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
        ];
        fds.extend(result.map(|result| PollFd::new(result, PollFlags::IN)));
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let (control, result) = (fds[0].revents(), fds.get(3).map_or(PollFlags::empty(), PollFd::revents));
        if control.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read_control()?;
        }
        if control.contains(PollFlags::OUT) {
            self.write_some()?;
        }
        if !result.is_empty() {
            self.read_result()?;
        }
        Ok(())
    }

    fn set_timer(&self) -> io::Result<()> {
        let next = match &self.stopping {
            Some(stopping) => stopping.kill_at.min(self.lease.kill_at),
            None => self.run_until.min(self.lease.stop_at).min(self.lease.kill_at),
        };
        // Zero would disarm it.
        let at = i64::try_from(next.nanoseconds().max(1)).unwrap_or(i64::MAX);
        let at = Timespec { tv_sec: at / 1_000_000_000, tv_nsec: at % 1_000_000_000 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }

    fn read_control(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4_096];
        match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(read) => {
                self.inbox.push(&bytes[..read]);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads one piece of the result; forgets the pipe at its end, and once the tree is dead also when it is empty
    /// (somebody outside the tree may hold it).
    fn read_result(&mut self) -> io::Result<()> {
        let Some(result) = &self.result else { return Ok(()) };
        let mut piece = vec![0; PIECE_BYTES];
        match rustix::io::read(result, &mut piece) {
            Ok(0) => self.result = None,
            Ok(read) => {
                let passed_on = self.result_bytes_left.min(read as u64);
                self.result_bytes_left -= passed_on;
                piece.truncate(usize::try_from(passed_on).unwrap_or(0));
                if !piece.is_empty() {
                    self.say(&Report::Result(piece))?;
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if self.tree.ended().is_none() => {}
            Err(_) => self.result = None,
        }
        Ok(())
    }

    fn say(&mut self, report: &Report) -> io::Result<()> {
        self.outbox.extend_from_slice(&report_frame(report)?);
        self.write_some()
    }

    /// Writes what the worker takes now.
    fn write_some(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match rustix::net::send(rustix::stdio::stdin(), &self.outbox, rustix::net::SendFlags::NOSIGNAL) {
                Ok(written) => drop(self.outbox.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until the worker has taken everything. (A frozen worker takes it when it wakes up: the tree is dead, so
    /// there is no hurry.)
    fn flush(&mut self) -> io::Result<()> {
        self.write_some()?;
        while !self.outbox.is_empty() {
            let mut fds = [PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::OUT)];
            rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
            self.write_some()?;
        }
        Ok(())
    }

    fn exit(&self, cause: Option<Cause>) -> Exit {
        let ended = self.tree.ended();
        let signal = ended.and_then(|ended| ended.signal);
        let killed = cause.is_none() && signal == Some(libc::SIGKILL);
        Exit {
            code: ended.and_then(|ended| ended.code),
            signal,
            cause,
            oom: killed && oom_kills() > self.oom_kills_before,
            peak_rss_bytes: self.tree.peak_rss_bytes,
            user_us: self.tree.user_us,
            system_us: self.tree.system_us,
            run_us: u64::try_from(Boottime::now().since(self.started_at).as_micros()).unwrap_or(u64::MAX),
        }
    }
}
