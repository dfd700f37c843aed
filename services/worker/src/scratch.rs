use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use domain::NodeId;
use rustix::fs::{FlockOperation, Mode, flock};
use tempfile::TempDir;
use tracing::warn;

/// Where the scripts of one life of a worker get their directories. Locked while that life lasts, so that the next one
/// sees whose leavings it may clear away.
pub(crate) struct ScratchRoot {
    dir: PathBuf,
    _locked: File,
}

/// One attempt's directory, removed with all it holds when it is dropped (which blocks: see [`Scratch::remove`]).
pub(crate) struct Scratch(TempDir);

impl ScratchRoot {
    /// Makes the directory of this life under `scratch_dir`, and removes those of lives that are over.
    ///
    /// # Errors
    /// It cannot be made or locked.
    pub(crate) fn new(scratch_dir: &Path, node: &NodeId) -> io::Result<Self> {
        std::fs::create_dir_all(scratch_dir)?;
        remove_leavings(scratch_dir);
        let (unlocked, dir) = (format!("new-{}", node.boot()), format!("life-{}", node.boot()));
        let (unlocked, dir) = (scratch_dir.join(unlocked), scratch_dir.join(dir));
        rustix::fs::mkdir(&unlocked, Mode::RWXU)?;
        let locked = File::open(&unlocked)?;
        flock(&locked, FlockOperation::NonBlockingLockExclusive)?;
        // Under its name it is never seen unlocked.
        std::fs::rename(&unlocked, &dir)?;
        Ok(Self { dir, _locked: locked })
    }

    /// A directory for one attempt.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn scratch(&self) -> io::Result<Scratch> {
        tempfile::Builder::new().prefix("run-").tempdir_in(&self.dir).map(Scratch)
    }
}

impl Drop for ScratchRoot {
    fn drop(&mut self) {
        // Whatever is left is cleared away by the next life.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes the directory, however much is in it, without holding up the runtime.
    pub(crate) async fn remove(self) {
        let removed = tokio::task::spawn_blocking(move || self.0.close()).await;
        if let Ok(Err(error)) = removed {
            warn!(%error, "a scratch directory could not be removed");
        }
    }
}

fn remove_leavings(scratch_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(scratch_dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("life-")) {
        let is_over = File::open(entry.path())
            .is_ok_and(|dir| flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok());
        if is_over {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leavings_of_a_dead_life_are_removed_and_those_of_a_living_one_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let node = |random| NodeId::new("n".parse().unwrap(), 1, random);
        let living = ScratchRoot::new(dir.path(), &node(1)).unwrap();
        let scratch = living.scratch().unwrap();
        std::fs::create_dir(dir.path().join("life-dead")).unwrap();
        std::fs::write(dir.path().join("life-dead/file"), b"x").unwrap();
        let _next = ScratchRoot::new(dir.path(), &node(2)).unwrap();
        assert!(scratch.path().is_dir());
        assert!(!dir.path().join("life-dead").exists());
    }
}
