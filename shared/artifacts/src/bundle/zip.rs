//! A reader for the part of the zip format that bundles need: PKWARE's APPNOTE 6.3, sections 4.3 to 4.5, methods
//! *stored* and *deflated*, no encryption, no ZIP64 (no bundle is that large), one disk.
//!
//! The central directory is what counts; a local header is read only to find where its data begins, and must name the
//! same path. No two entries may share bytes, which is what the densest zip bombs do.

use std::io::{Read, Seek, SeekFrom};

use domain::limits::{BUNDLE_ENTRIES_MAX, BUNDLE_PATH_BYTES_MAX};
use flate2::Crc;
use flate2::read::DeflateDecoder;
use protocol::ProblemCode;

use super::content::{Meter, read_up_to};
use super::{BundleError, Walk};

const END_BYTES: u64 = 22;
const COMMENT_BYTES_MAX: u64 = 0xffff;
const CENTRAL_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;
const FLAG_ENCRYPTED: u16 = 1;

/// An entry of the central directory.
struct Entry {
    path: Vec<u8>,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    mode: u32,
    offset: u64,
}

/// Reads a zip of `length` bytes: every entry of its central directory, in that order.
pub(super) fn read<R: Read + Seek>(
    mut source: R,
    length: u64,
    walk: &mut Walk<'_>,
) -> Result<(), BundleError> {
    let (entries, directory) = central_directory(&mut source, length)?;
    let data = locate(&mut source, &entries, directory)?;
    let mut meter = Meter::new(length, 0);
    for (entry, start) in entries.iter().zip(data) {
        if entry.path.ends_with(b"/") {
            if entry.size > 0 {
                return Err(BundleError::corrupt(format!("directory {:?} has content", shown(entry))));
            }
            walk.directory(&entry.path)?;
            continue;
        }
        source.seek(SeekFrom::Start(start)).map_err(BundleError::from_read)?;
        let packed = source.by_ref().take(entry.packed);
        let unpacked: Box<dyn Read + '_> =
            if entry.method == STORED { Box::new(packed) } else { Box::new(DeflateDecoder::new(packed)) };
        let mut content =
            Checked { inner: unpacked, entry, meter: &mut meter, left: entry.size, crc: Crc::new() };
        walk.file(&entry.path, entry.mode & 0o111 != 0, entry.size, &mut content)?;
    }
    Ok(())
}

fn shown(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.path).into_owned()
}

/// The entries, and where their directory begins.
fn central_directory<R: Read + Seek>(source: &mut R, length: u64) -> Result<(Vec<Entry>, u64), BundleError> {
    let tail_at = length.saturating_sub(END_BYTES + COMMENT_BYTES_MAX);
    source.seek(SeekFrom::Start(tail_at)).map_err(BundleError::from_read)?;
    let mut tail = vec![0; (length - tail_at) as usize];
    exact(source, &mut tail)?;
    // The end record's comment reaches exactly to the end: nothing follows, and no second end can hide in it.
    let at = (0..=tail.len().saturating_sub(END_BYTES as usize))
        .rev()
        .find(|at| {
            tail[*at..].starts_with(b"PK\x05\x06")
                && tail.len() >= at + END_BYTES as usize
                && at + END_BYTES as usize + usize::from(u16_at(&tail, at + 20)) == tail.len()
        })
        .ok_or_else(|| BundleError::corrupt("the zip is cut short, or something follows its end"))?;
    let end = &tail[at..];
    let (count, bytes, start) = (u16_at(end, 10), u32_at(end, 12), u64::from(u32_at(end, 16)));
    if usize::from(count) > BUNDLE_ENTRIES_MAX {
        return Err(BundleError::refused(
            ProblemCode::BundleCount,
            format!("the bundle has more than {BUNDLE_ENTRIES_MAX} files and directories"),
        ));
    }
    if u16_at(end, 4) != 0 || u16_at(end, 6) != 0 || u16_at(end, 8) != count {
        return Err(BundleError::corrupt("the zip is one of several parts"));
    }
    if start + u64::from(bytes) != tail_at + at as u64 {
        return Err(BundleError::corrupt("the zip's directory is not where its end says"));
    }
    source.seek(SeekFrom::Start(start)).map_err(BundleError::from_read)?;
    let mut directory = source.by_ref().take(u64::from(bytes));
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(central_entry(&mut directory)?);
    }
    if directory.limit() > 0 {
        return Err(BundleError::corrupt("the zip's directory holds more than its end says"));
    }
    Ok((entries, start))
}

fn central_entry(directory: &mut impl Read) -> Result<Entry, BundleError> {
    let mut fixed = [0; CENTRAL_BYTES];
    exact(directory, &mut fixed)?;
    if !fixed.starts_with(b"PK\x01\x02") {
        return Err(BundleError::corrupt("the zip's directory cannot be read"));
    }
    let name_bytes = usize::from(u16_at(&fixed, 28));
    if name_bytes > BUNDLE_PATH_BYTES_MAX {
        return Err(BundleError::refused(
            ProblemCode::BundlePath,
            format!("a path is longer than {BUNDLE_PATH_BYTES_MAX} bytes"),
        ));
    }
    let mut path = vec![0; name_bytes];
    exact(directory, &mut path)?;
    let mut rest = vec![0; usize::from(u16_at(&fixed, 30)) + usize::from(u16_at(&fixed, 32))];
    exact(directory, &mut rest)?;
    let entry = Entry {
        path,
        method: u16_at(&fixed, 10),
        crc: u32_at(&fixed, 16),
        packed: u32_at(&fixed, 20).into(),
        size: u32_at(&fixed, 24).into(),
        mode: u32_at(&fixed, 38) >> 16,
        offset: u32_at(&fixed, 42).into(),
    };
    check_entry(&entry, u16_at(&fixed, 8))?;
    Ok(entry)
}

fn check_entry(entry: &Entry, flags: u16) -> Result<(), BundleError> {
    let path = shown(entry);
    // The file type of Unix: what no packer wrote is decided by the slash at the end of the name.
    match entry.mode & 0o170_000 {
        0 | 0o100_000 => {}
        0o040_000 if entry.path.ends_with(b"/") => {}
        0o120_000 => {
            return Err(BundleError::refused(
                ProblemCode::BundleLink,
                format!("{path:?} is a link: pack the file it points to"),
            ));
        }
        kind => {
            return Err(BundleError::refused(
                ProblemCode::BundleType,
                format!("{path:?} is neither a file nor a directory (type {kind:o})"),
            ));
        }
    }
    if flags & FLAG_ENCRYPTED != 0 {
        return Err(BundleError::corrupt(format!("{path:?} is encrypted")));
    }
    match entry.method {
        STORED if entry.packed != entry.size => {
            Err(BundleError::corrupt(format!("{path:?} is stored, but has two sizes")))
        }
        STORED | DEFLATED => Ok(()),
        method => Err(BundleError::corrupt(format!(
            "{path:?} is packed by method {method}; only deflate is understood"
        ))),
    }
}

/// Where each entry's data begins, after a look at its local header.
fn locate<R: Read + Seek>(
    source: &mut R,
    entries: &[Entry],
    directory: u64,
) -> Result<Vec<u64>, BundleError> {
    let mut starts = Vec::with_capacity(entries.len());
    let mut taken = Vec::with_capacity(entries.len());
    for entry in entries {
        source.seek(SeekFrom::Start(entry.offset)).map_err(BundleError::from_read)?;
        let mut local = [0; LOCAL_BYTES];
        exact(source, &mut local)?;
        let mut path = vec![0; usize::from(u16_at(&local, 26)).min(BUNDLE_PATH_BYTES_MAX)];
        exact(source, &mut path)?;
        if !local.starts_with(b"PK\x03\x04") || path != entry.path {
            return Err(BundleError::corrupt(format!(
                "{:?} is not where the zip's directory says",
                shown(entry)
            )));
        }
        let start = entry.offset + LOCAL_BYTES as u64 + path.len() as u64 + u64::from(u16_at(&local, 28));
        starts.push(start);
        taken.push((entry.offset, start + entry.packed));
    }
    taken.push((directory, directory));
    taken.sort_unstable();
    if taken.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(BundleError::corrupt("two entries of the zip overlap"));
    }
    Ok(starts)
}

/// The content of an entry: exactly the size and the checksum the directory says.
struct Checked<'a> {
    inner: Box<dyn Read + 'a>,
    entry: &'a Entry,
    meter: &'a mut Meter,
    left: u64,
    crc: Crc,
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = self.inner.read(buffer)?;
        if read as u64 > self.left || (read == 0 && self.left > 0) {
            let reason = format!("{:?} has another size than the zip's directory says", shown(self.entry));
            return Err(BundleError::corrupt(reason).into());
        }
        self.meter.count(read as u64)?;
        self.left -= read as u64;
        self.crc.update(&buffer[..read]);
        if read == 0 && self.crc.sum() != self.entry.crc {
            return Err(BundleError::corrupt(format!("{:?} has a wrong checksum", shown(self.entry))).into());
        }
        Ok(read)
    }
}

fn exact(source: &mut impl Read, buffer: &mut [u8]) -> Result<(), BundleError> {
    if read_up_to(source, buffer)? < buffer.len() {
        return Err(BundleError::corrupt("the bundle is cut short"));
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
