//! The bytes of a bundle: a gzipped tar or a zip, with `gantry.toml` at its root.
//!
//! A bundle comes from a stranger. So no library unpacks it: `walk` is one loop of our own over both formats that
//! knows regular files and directories and refuses everything else, checks every path before anything is made of it,
//! and counts entries, bytes and their ratio *while reading*, never by what a header says. [`inspect`] walks an upload
//! without writing it; [`unpack()`] walks the same way into a directory beside its destination and renames it into place.
//! Both read everything, so a bundle that was inspected can be unpacked.
//!
//! Rules, all of them refusals with a stable code: paths are UTF-8, relative, without `.`, `..`, empty parts,
//! backslashes or control characters (a `./` in front, as `tar czf x.tar.gz .` writes it, is dropped), and differ after
//! case-folding; the bounds are those of [`domain::limits`]. A directory that wraps everything is not stripped: the
//! error says what was found instead.

mod content;
mod error;
mod manifest;
mod tar;
mod tree;
mod unpack;
mod zip;

use std::io::{Cursor, Read, Seek, SeekFrom};

use domain::Manifest;
use domain::limits::{BUNDLE_BYTES_MAX, BUNDLE_FILE_BYTES_MAX, BUNDLE_UNPACKED_BYTES_MAX};
use protocol::ProblemCode;

pub use error::BundleError;
use manifest::Contents;
use tree::Tree;
pub use unpack::{remove, unpack};

/// Checks a whole upload without writing it, and returns its manifest.
///
/// Takes as long as unpacking it in memory does: call it where blocking is allowed.
///
/// # Errors
/// [`BundleError::Refused`] with the code and the reason.
pub fn inspect(bundle: &[u8]) -> Result<Manifest, BundleError> {
    let mut contents = Contents::default();
    walk(Cursor::new(bundle), &mut contents)?;
    contents.manifest()
}

/// What [`walk`] finds, in the order of the bundle; parents always come before what they hold.
trait Visitor {
    fn directory(&mut self, path: &str) -> Result<(), BundleError>;
    fn file(&mut self, path: &str, executable: bool, content: &mut dyn Read) -> Result<(), BundleError>;
}

/// Reads the whole of `source` and shows each entry that keeps the rules to `visitor`; ends at the first that does not.
fn walk<R: Read + Seek>(mut source: R, visitor: &mut dyn Visitor) -> Result<(), BundleError> {
    let packed =
        source.seek(SeekFrom::End(0)).map_err(|error| BundleError::io("measure the bundle", error))?;
    if packed > BUNDLE_BYTES_MAX as u64 {
        return Err(BundleError::refused(
            ProblemCode::BundleSize,
            format!("the bundle has {packed} bytes; {BUNDLE_BYTES_MAX} are allowed"),
        ));
    }
    let mut magic = [0; 4];
    source.rewind().map_err(|error| BundleError::io("read the bundle", error))?;
    let read = content::read_up_to(&mut source, &mut magic)?;
    source.rewind().map_err(|error| BundleError::io("read the bundle", error))?;
    let mut walk = Walk { tree: Tree::default(), bytes: 0, visitor };
    match &magic[..read] {
        [0x1f, 0x8b, ..] => tar::read(source, packed, &mut walk),
        [b'P', b'K', ..] => zip::read(source, packed, &mut walk),
        _ => Err(BundleError::corrupt("neither a gzipped tar nor a zip")),
    }
}

/// Stands between the two readers and the visitor: checks each path against the tree so far and each size before a byte
/// is read, and names the parents that the archive left out.
struct Walk<'a> {
    tree: Tree,
    /// Of all files so far.
    bytes: u64,
    visitor: &'a mut dyn Visitor,
}

impl Walk<'_> {
    fn directory(&mut self, raw: &[u8]) -> Result<(), BundleError> {
        let Some(path) = tree::check_path(raw)? else { return Ok(()) };
        for made in self.tree.add_directory(&path)? {
            self.visitor.directory(&made)?;
        }
        Ok(())
    }

    /// The reader sees to it that `content` is exactly `size` bytes.
    fn file(
        &mut self,
        raw: &[u8],
        executable: bool,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), BundleError> {
        let Some(path) = tree::check_path(raw)? else {
            return Err(BundleError::refused(ProblemCode::BundlePath, "a file without a name"));
        };
        if size > BUNDLE_FILE_BYTES_MAX {
            let reason = format!("{path} has {size} bytes; a file may have {BUNDLE_FILE_BYTES_MAX}");
            return Err(BundleError::refused(ProblemCode::BundleSize, reason));
        }
        self.bytes += size;
        if self.bytes > BUNDLE_UNPACKED_BYTES_MAX {
            let reason = format!("the bundle's files have more than {BUNDLE_UNPACKED_BYTES_MAX} bytes");
            return Err(BundleError::refused(ProblemCode::BundleSize, reason));
        }
        for made in self.tree.add_file(&path)? {
            self.visitor.directory(&made)?;
        }
        self.visitor.file(&path, executable, content)
    }
}
