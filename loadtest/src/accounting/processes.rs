//! CPU time and memory of processes, from /proc (proc(5)).

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use super::discover::Root;

/// The clock ticks of a second in /proc, on every Linux that Rust runs on.
const TICKS_PER_S: f64 = 100.0;

/// What a process and its descendants have used.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The name of its root.
    pub name: String,
    /// User and system time, also that of descendants which have ended and were waited for.
    pub cpu: Duration,
    /// Proportional share of memory; resident memory where the kernel does not tell that.
    pub memory_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    ticks: u64,
}

/// Reads all families. Those that are gone have used nothing.
pub fn read(roots: &[Root]) -> Vec<Reading> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats: HashMap<u32, Stat> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, stat(&fs::read_to_string(entry.path().join("stat")).ok()?)?))
        })
        .collect();
    roots.iter().map(|root| read_family(root, &stats)).collect()
}

fn read_family(root: &Root, stats: &HashMap<u32, Stat>) -> Reading {
    let mut members: Vec<u32> = root.pids.clone();
    let mut next = 0;
    while let Some(parent) = members.get(next).copied() {
        let children = stats.iter().filter(|(pid, stat)| stat.parent == parent && !members.contains(pid));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        members.extend(children);
        next += 1;
    }
    let ticks: u64 = members.iter().filter_map(|pid| stats.get(pid)).map(|stat| stat.ticks).sum();
    Reading {
        name: root.name.clone(),
        cpu: Duration::from_secs_f64(ticks as f64 / TICKS_PER_S),
        memory_bytes: members.iter().map(|pid| memory(*pid)).sum(),
    }
}

/// The parent and the time used, with that of children which were waited for.
fn stat(text: &str) -> Option<Stat> {
    // The name may hold anything, also spaces and brackets.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = (11..15).map(number).sum::<Option<u64>>()?;
    Some(Stat { parent: number(1)?.try_into().ok()?, ticks })
}

fn memory(pid: u32) -> u64 {
    let kib = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    kib("smaps_rollup", "Pss:").or_else(|| kib("status", "VmRSS:")).unwrap_or(0) * 1_024
}

/// CPU time of this process, finely.
pub fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_hides_nothing() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 100 20 3 4 20 0 1 0 55 1 2";
        assert_eq!(stat(text), Some(Stat { parent: 7, ticks: 127 }));
    }

    #[test]
    fn a_family_has_the_time_and_memory_of_this_process() {
        let root = Root { name: "own".to_owned(), pids: vec![std::process::id()] };
        let began = own_cpu();
        while own_cpu() < began + Duration::from_millis(50) {}
        let readings = read(&[root]);
        assert!(readings[0].cpu >= Duration::from_millis(40), "{readings:?}");
        assert!(readings[0].memory_bytes > 100_000, "{readings:?}");
    }
}
