use protocol::NodeInfo;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// Is `other`, an earlier life of the node `own`, certainly over?
///
/// Only a process on this machine can be looked for. It is gone if there is no such process, or if its id is ours now
/// (in a container every life has the same one). So a node that was killed need not wait for its own announcement to
/// run out when it starts again.
pub(crate) fn is_over(other: &NodeInfo, own: &NodeInfo) -> bool {
    let pid = i32::try_from(other.pid).ok().and_then(Pid::from_raw);
    other.address == own.address
        && (other.pid == own.pid || pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH)))
}
