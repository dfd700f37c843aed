use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::manifest::Contents;
use super::{BundleError, Visitor, walk};

/// Unpacks the bundle in `file` as the directory `destination`, which appears complete, flushed and read-only (files
/// 0444 or 0555, directories 0555) or not at all. A `destination` that is there already is left as it is.
///
/// Blocks: call it where that is allowed.
///
/// # Errors
/// [`BundleError::Refused`] if the bundle breaks a rule; [`BundleError::Io`] if this machine could not do it. Nothing is
/// left behind.
pub fn unpack(file: &Path, destination: &Path) -> Result<(), BundleError> {
    if destination.is_dir() {
        return Ok(());
    }
    let bundle = File::open(file).map_err(|error| BundleError::io("open the bundle", error))?;
    let beside = destination.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(beside).map_err(|error| BundleError::io("make the directory of bundles", error))?;
    let staging = tempfile::Builder::new()
        .prefix(".unpacking-")
        .tempdir_in(beside)
        .map_err(|error| BundleError::io("make a directory to unpack into", error))?;
    let mut writer = Writer { root: staging.path(), directories: Vec::new(), contents: Contents::default() };
    walk(BufReader::new(bundle), &mut writer)?;
    let Writer { directories, contents, .. } = writer;
    contents.manifest()?;
    let placed = seal(staging.path(), &directories)
        .map_err(|error| BundleError::io("make the bundle read-only", error))
        .and_then(|()| place(staging.path(), destination, beside));
    if placed.is_err() {
        // What is read-only would stay when the directory is dropped.
        drop(remove(&staging.keep()));
    }
    placed
}

/// Deletes an unpacked bundle, read-only as it is. Done already is done.
///
/// # Errors
/// [`io::Error`]: a part of it may be left, so whoever trusts complete directories must move it away first.
pub fn remove(directory: &Path) -> io::Result<()> {
    match fs::set_permissions(directory, Permissions::from_mode(0o755)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

struct Writer<'a> {
    root: &'a Path,
    /// Parents come before their children.
    directories: Vec<PathBuf>,
    contents: Contents,
}

impl Visitor for Writer<'_> {
    fn directory(&mut self, path: &str) -> Result<(), BundleError> {
        let directory = self.root.join(path);
        DirBuilder::new()
            .mode(0o755)
            .create(&directory)
            .map_err(|error| BundleError::io("make a directory of the bundle", error))?;
        self.directories.push(directory);
        self.contents.directory(path)
    }

    fn file(&mut self, path: &str, executable: bool, content: &mut dyn Read) -> Result<(), BundleError> {
        let failed = |error| BundleError::io("write a file of the bundle", error);
        let mode = if executable { 0o555 } else { 0o444 };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .mode(mode)
            .open(self.root.join(path))
            .map_err(failed)?;
        let mut copy = Tee { content, file: &mut file, failed: None };
        let seen = self.contents.file(path, executable, &mut copy);
        if let Some(error) = copy.failed {
            return Err(failed(error));
        }
        seen?;
        // The process's umask may have taken bits away.
        file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
        file.sync_all().map_err(failed)
    }
}

/// Writes what is read through it.
struct Tee<'a> {
    content: &'a mut dyn Read,
    file: &'a mut File,
    failed: Option<io::Error>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        if let Err(error) = self.file.write_all(&buffer[..read]) {
            self.failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        Ok(read)
    }
}

/// Flushes the directories and takes the right to write in them away, the innermost first.
fn seal(root: &Path, directories: &[PathBuf]) -> io::Result<()> {
    for directory in directories.iter().rev().map(PathBuf::as_path).chain([root]) {
        fs::set_permissions(directory, Permissions::from_mode(0o555))?;
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

fn place(staging: &Path, destination: &Path, beside: &Path) -> Result<(), BundleError> {
    match fs::rename(staging, destination) {
        // Somebody else was faster with the same bundle.
        Err(_) if destination.is_dir() => drop(remove(staging)),
        other => other.map_err(|error| BundleError::io("move the bundle into place", error))?,
    }
    File::open(beside)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| BundleError::io("flush the directory of bundles", error))
}
