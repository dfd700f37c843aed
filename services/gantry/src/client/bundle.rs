//! A folder as a bundle: the same files make the same bytes, so the same digest, wherever and whenever they are packed.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use domain::Manifest;
use domain::limits::{
    BUNDLE_BYTES_MAX, BUNDLE_ENTRIES_MAX, BUNDLE_FILE_BYTES_MAX, BUNDLE_UNPACKED_BYTES_MAX,
};
use flate2::{Compression, GzBuilder};

use super::screen;
use super::{ClientError, Exit};

/// What version control, interpreters and `gantry dev` leave in a folder; it is not packed.
const LEFT_OUT: [&str; 6] = [".git", ".gantry", ".hg", ".svn", "__pycache__", ".DS_Store"];
/// The most complaints that are listed.
const LISTED_MAX: usize = 20;

/// The smallest manifest, as an error shows it.
const SMALLEST: &str = "    runtime = \"process\"\n    command = [\"python3\", \"main.py\"]";

/// A packed folder.
pub struct Packed {
    /// The gzipped tar.
    pub bytes: Bytes,
    /// How many files it holds.
    pub files: usize,
}

/// Packs the folder `root`, without [`LEFT_OUT`].
///
/// # Errors
/// [`ClientError`] that lists everything in the folder that a bundle must not hold.
pub fn pack(root: &Path) -> Result<Packed, ClientError> {
    if !root.is_dir() {
        return Err(ClientError::usage(format!("{}: no such directory", root.display())));
    }
    let mut found = Found::default();
    found.walk(root, Path::new(""));
    found.check_sizes();
    if !found.complaints.is_empty() {
        return Err(refused(root, &found.complaints));
    }
    check_manifest(root)?;
    let bytes = archive(root, &found.files)
        .map_err(|error| ClientError::new(Exit::Data, format!("pack {}: {error}", root.display())))?;
    if bytes.len() > BUNDLE_BYTES_MAX {
        let (size, most) = (screen::bytes(bytes.len() as u64), screen::bytes(BUNDLE_BYTES_MAX as u64));
        return Err(refused(root, &[format!("packed it has {size}; {most} are allowed")]));
    }
    // The gateway's own rules, before anything is sent.
    artifacts::bundle::inspect(&bytes).map_err(|error| refused(root, &[bootstrap::chain(&error)]))?;
    Ok(Packed { bytes: bytes.into(), files: found.files.len() })
}

fn refused(root: &Path, complaints: &[String]) -> ClientError {
    let mut message = format!("{} cannot be pushed; nothing was sent:", root.display());
    for complaint in complaints.iter().take(LISTED_MAX) {
        message.push_str(&format!("\n  {complaint}"));
    }
    if complaints.len() > LISTED_MAX {
        message.push_str(&format!("\n  and {} more", complaints.len() - LISTED_MAX));
    }
    ClientError::new(Exit::Data, message)
}

fn check_manifest(root: &Path) -> Result<(), ClientError> {
    let path = root.join("gantry.toml");
    let text = fs::read_to_string(&path).map_err(|error| {
        let complaint = if error.kind() == io::ErrorKind::NotFound {
            format!("gantry.toml is missing; the smallest one is\n\n{SMALLEST}")
        } else {
            format!("gantry.toml: {error}")
        };
        refused(root, &[complaint])
    })?;
    Manifest::parse(&text).map(drop).map_err(|error| refused(root, &[error.to_string()]))
}

struct FoundFile {
    path: PathBuf,
    bytes: u64,
    executable: bool,
}

#[derive(Default)]
struct Found {
    files: Vec<FoundFile>,
    complaints: Vec<String>,
}

impl Found {
    /// Takes in everything below `root/inside`, by name.
    fn walk(&mut self, root: &Path, inside: &Path) {
        let shown = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        let entries = match fs::read_dir(root.join(inside)).and_then(Iterator::collect::<io::Result<Vec<_>>>)
        {
            Ok(entries) => entries,
            Err(error) => return self.complaints.push(format!("{}: {error}", shown.display())),
        };
        let mut entries: Vec<_> = entries.into_iter().map(|entry| entry.file_name()).collect();
        entries.sort();
        for name in entries {
            if LEFT_OUT.iter().any(|left_out| name == *left_out) {
                continue;
            }
            let path = inside.join(&name);
            match fs::symlink_metadata(root.join(&path)) {
                Ok(metadata) if metadata.is_dir() => self.walk(root, &path),
                Ok(metadata) => self.take(root, path, &metadata),
                Err(error) => self.complaints.push(format!("{}: {error}", path.display())),
            }
        }
    }

    fn take(&mut self, root: &Path, path: PathBuf, metadata: &fs::Metadata) {
        let kind = metadata.file_type();
        let what = if kind.is_symlink() {
            "a symbolic link; a bundle holds files only: replace it by what it points to".to_owned()
        } else if kind.is_socket() {
            "a socket".to_owned()
        } else if kind.is_fifo() {
            "a pipe".to_owned()
        } else if !kind.is_file() {
            "a device".to_owned()
        } else if metadata.len() > BUNDLE_FILE_BYTES_MAX {
            let (size, most) = (screen::bytes(metadata.len()), screen::bytes(BUNDLE_FILE_BYTES_MAX));
            format!("{size}; a file may have {most}")
        } else if let Err(error) = fs::File::open(root.join(&path)) {
            error.to_string()
        } else {
            let executable = metadata.permissions().mode() & 0o111 != 0;
            return self.files.push(FoundFile { path, bytes: metadata.len(), executable });
        };
        self.complaints.push(format!("{}: {what}", path.display()));
    }

    fn check_sizes(&mut self) {
        if self.files.len() > BUNDLE_ENTRIES_MAX {
            self.complaints.push(format!("{} files; {BUNDLE_ENTRIES_MAX} are allowed", self.files.len()));
        }
        let bytes = self.files.iter().map(|file| file.bytes).sum::<u64>();
        if bytes > BUNDLE_UNPACKED_BYTES_MAX {
            let (size, most) = (screen::bytes(bytes), screen::bytes(BUNDLE_UNPACKED_BYTES_MAX));
            self.complaints.push(format!("{size} in all; {most} are allowed"));
        }
    }
}

fn archive(root: &Path, files: &[FoundFile]) -> io::Result<Vec<u8>> {
    let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    let mut tar = tar::Builder::new(gzip);
    for file in files {
        let content = fs::read(root.join(&file.path))?;
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(if file.executable { 0o755 } else { 0o644 });
        header.set_mtime(0);
        tar.append_data(&mut header, &file.path, content.as_slice())?;
    }
    let mut gzip = tar.into_inner()?;
    gzip.flush()?;
    gzip.finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    const MANIFEST: (&str, &str) = ("gantry.toml", "runtime = \"process\"\ncommand = [\"sh\", \"run.sh\"]\n");

    #[test]
    fn the_same_files_make_the_same_bytes() {
        let files = [MANIFEST, ("run.sh", "echo 1"), ("data/a.csv", "1,2")];
        let (one, two) = (folder(&files), folder(&[files[2], files[1], files[0], ("__pycache__/x.pyc", "")]));
        let old = fs::File::options().write(true).open(two.path().join("run.sh")).unwrap();
        old.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(pack(one.path()).unwrap().bytes, pack(two.path()).unwrap().bytes);
        assert_eq!(pack(two.path()).unwrap().files, 3);
    }

    #[test]
    fn everything_that_cannot_be_in_a_bundle_is_listed() {
        let folder = folder(&[MANIFEST, ("run.sh", "")]);
        symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();
        let big = fs::File::create(folder.path().join("big")).unwrap();
        big.set_len(10 << 30).unwrap();
        let error = pack(folder.path()).err().unwrap();
        assert_eq!(error.exit, Exit::Data);
        for part in ["link: a symbolic link", "socket: a socket", "big: 10240.0 MiB"] {
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn a_wrong_manifest_is_refused_with_line_and_column() {
        let folder = folder(&[("gantry.toml", "runtime = \"process\"\ncomand = [\"sh\"]\n")]);
        let error = pack(folder.path()).err().unwrap();
        assert!(error.message.contains("gantry.toml line 2, column 1"), "{error}");
        fs::remove_file(folder.path().join("gantry.toml")).unwrap();
        assert!(pack(folder.path()).err().unwrap().message.contains("gantry.toml is missing"));
    }
}
