use protocol::NodeInfo;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// Is `other`, an earlier life of the node `own`, certainly over?
///
/// Only a process on this machine can be looked for. It is gone if there is no such process, or if its id is ours now.
/// So a node that was killed need not wait for its own announcement to run out when it starts again. Process 1 says
/// nothing: it may be the first of any container.
pub(crate) fn is_over(other: &NodeInfo, own: &NodeInfo) -> bool {
    let pid = i32::try_from(other.pid).ok().and_then(Pid::from_raw);
    let is_gone = |pid: Pid| other.pid == own.pid || test_kill_process(pid) == Err(Errno::SRCH);
    other.address == own.address && pid.is_some_and(|pid| pid != Pid::INIT && is_gone(pid))
}
