use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::protocol::{Inbox, Order, PIECE_BYTES, Report, Start, input_frame, order_frame, start_frame};

/// What the script prints, as it comes out of its pipes.
pub struct Streams {
    /// Its stdout.
    pub stdout: pipe::Receiver,
    /// Its stderr.
    pub stderr: pipe::Receiver,
}

/// The worker's side of one shim. Dropped, the shim kills its tree and ends.
pub struct Shim {
    child: Child,
    control: UnixStream,
    inbox: Inbox,
}

impl Shim {
    /// Spawns a shim with `argv` and tells it what to run. The worker is large, so this must stay on the
    /// `posix_spawn` path: no `pre_exec`.
    ///
    /// If the future is dropped, so is the shim.
    ///
    /// # Errors
    /// Whatever hinders it: no descriptors, no processes, no such program.
    pub async fn start(argv: &[String], start: &Start, input: &[u8]) -> io::Result<(Self, Streams)> {
        let (program, args) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let (ours, theirs) = StdUnixStream::pair()?;
        let (stdout, stdout_writer) = io::pipe()?;
        let (stderr, stderr_writer) = io::pipe()?;
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(stdout_writer)
            .stderr(stderr_writer)
            .process_group(0);
        let child = command.spawn()?;
        // It holds our copies of the descriptors that are the child's.
        drop(command);
        ours.set_nonblocking(true)?;
        let mut control = UnixStream::from_std(ours)?;
        control.write_all(&start_frame(start)?).await?;
        for piece in input.chunks(PIECE_BYTES) {
            control.write_all(&input_frame(piece)).await?;
        }
        let streams = Streams {
            stdout: pipe::Receiver::from_owned_fd(stdout.into())?,
            stderr: pipe::Receiver::from_owned_fd(stderr.into())?,
        };
        Ok((Self { child, control, inbox: Inbox::default() }, streams))
    }

    /// The shim's process id, until it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Tells the shim something.
    ///
    /// # Errors
    /// The shim is gone.
    pub async fn order(&mut self, order: &Order) -> io::Result<()> {
        self.control.write_all(&order_frame(order)?).await
    }

    /// The next thing the shim says. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The shim is gone without having said [`Report::Exited`]: call [`sweep`].
    pub async fn report(&mut self) -> io::Result<Report> {
        loop {
            if let Some(report) = self.inbox.report()? {
                return Ok(report);
            }
            self.control.readable().await?;
            let mut bytes = [0; 16 << 10];
            match self.control.try_read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.inbox.push(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It may also die with something unread.
                Err(error) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)),
            }
        }
    }

    /// Waits for the end of the shim itself, which has nothing more to say.
    pub async fn ended(mut self) {
        drop(self.control);
        // Its exit status says nothing that it has not said itself.
        let _ = self.child.wait().await;
    }
}

/// Kills every process whose environment holds all of `marks` (as `NAME=value`): what a shim that died by violence may
/// have left behind. Blocks; gives up after 5 s with processes that the kernel cannot end.
#[must_use]
pub fn sweep(marks: &[String]) -> bool {
    let until = coordination::Boottime::now().after(Duration::from_secs(5));
    while !until.has_passed() {
        let found = marked(marks);
        if found.is_empty() {
            return true;
        }
        for pid in found {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::yield_now();
    }
    false
}

fn marked(marks: &[String]) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| {
        let environ = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
        let has =
            |mark: &String| environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
        !marks.is_empty() && marks.iter().all(has)
    })
    .collect()
}
