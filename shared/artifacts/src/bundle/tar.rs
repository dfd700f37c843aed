use std::io::{BufRead, BufReader, Read};

use domain::limits::{BUNDLE_ENTRIES_MAX, BUNDLE_PATH_BYTES_MAX};
use flate2::bufread::GzDecoder;
use protocol::ProblemCode;
use tar::{EntryType, Header};

use super::content::{Meter, Metered, pump, read_up_to};
use super::{BundleError, Walk};

const BLOCK: usize = 512;
/// What one extended header may hold: a path of the longest kind and the times and owners that tars write beside it.
const EXTENDED_BYTES_MAX: u64 = 16 << 10;
/// What may follow the end marker: `tar` fills its last record with zeros.
const PADDING_BYTES_MAX: usize = 1 << 20;
/// What a stream may hold beside its files: headers and padding.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// Reads a gzipped tar (ustar, GNU and pax) to its very end.
pub(super) fn read(source: impl Read, packed: u64, walk: &mut Walk<'_>) -> Result<(), BundleError> {
    let decoder = GzDecoder::new(BufReader::new(source));
    let mut stream = Metered { inner: decoder, meter: Meter::new(packed, OVERHEAD_BYTES) };
    entries(&mut stream, walk)?;
    only_zeros(&mut stream)?;
    let rest = stream.inner.into_inner().fill_buf().map_err(BundleError::from_read)?.len();
    if rest > 0 {
        return Err(BundleError::corrupt("something follows the end of the gzip stream"));
    }
    Ok(())
}

/// What extended headers say of the entry that follows them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

fn entries(stream: &mut impl Read, walk: &mut Walk<'_>) -> Result<(), BundleError> {
    let mut headers = 0;
    let mut extended = Extended::default();
    while let Some(header) = next_header(stream)? {
        headers += 1;
        if headers > 3 * BUNDLE_ENTRIES_MAX {
            return Err(BundleError::refused(ProblemCode::BundleCount, "the bundle has too many entries"));
        }
        let size = header.entry_size().map_err(BundleError::from_read)?;
        let kind = header.entry_type();
        if kind.is_gnu_longname() || kind.is_pax_local_extensions() || kind.is_pax_global_extensions() {
            let text = extension(stream, size)?;
            if kind.is_gnu_longname() {
                long_name(text, &mut extended)?;
            } else {
                pax(&text, kind.is_pax_global_extensions(), &mut extended)?;
            }
            continue;
        }
        let said = std::mem::take(&mut extended);
        if said.size.is_some_and(|said| said != size) {
            return Err(BundleError::corrupt("an extended header says another size than the header"));
        }
        let path = said.path.unwrap_or_else(|| header.path_bytes().into_owned());
        entry(stream, &header, kind, &path, size, walk)?;
    }
    match extended.path {
        Some(_) => Err(BundleError::corrupt("an extended header without an entry")),
        None => Ok(()),
    }
}

fn entry(
    stream: &mut impl Read,
    header: &Header,
    kind: EntryType,
    path: &[u8],
    size: u64,
    walk: &mut Walk<'_>,
) -> Result<(), BundleError> {
    let shown = String::from_utf8_lossy(path);
    if kind.is_symlink() || kind.is_hard_link() || kind.is_gnu_longlink() {
        return Err(BundleError::refused(
            ProblemCode::BundleLink,
            format!("{shown:?} is a link: pack the file it points to (tar --dereference)"),
        ));
    }
    // Before there was a type for directories, a slash at the end of the name made one.
    if kind.is_dir() || (kind.is_file() && path.ends_with(b"/")) {
        if size > 0 {
            return Err(BundleError::corrupt(format!("directory {shown:?} has content")));
        }
        return walk.directory(path);
    }
    if !kind.is_file() {
        return Err(BundleError::refused(
            ProblemCode::BundleType,
            format!("{shown:?} is neither a file nor a directory (tar type {:?})", kind.as_byte() as char),
        ));
    }
    let executable = header.mode().map_err(BundleError::from_read)? & 0o111 != 0;
    let mut content = Exactly { inner: &mut *stream, left: size };
    walk.file(path, executable, size, &mut content)?;
    skip_padding(stream, size)
}

/// The next header; `None` at the end marker.
fn next_header(stream: &mut impl Read) -> Result<Option<Header>, BundleError> {
    let mut header = Header::new_old();
    let block = header.as_mut_bytes();
    if read_up_to(stream, block)? < BLOCK {
        return Err(BundleError::corrupt("the tar is cut short: it has no end marker"));
    }
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let sum: u32 =
        block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    if header.cksum().ok() != Some(sum) {
        return Err(BundleError::corrupt("a tar header has a wrong checksum"));
    }
    Ok(Some(header))
}

/// The content of an extended header.
fn extension(stream: &mut impl Read, size: u64) -> Result<Vec<u8>, BundleError> {
    if size > EXTENDED_BYTES_MAX {
        return Err(BundleError::refused(
            ProblemCode::BundlePath,
            format!("an extended tar header has {size} bytes; {EXTENDED_BYTES_MAX} are allowed"),
        ));
    }
    let mut text = Vec::new();
    pump(&mut Exactly { inner: &mut *stream, left: size }, |piece| {
        text.extend_from_slice(piece);
        Ok(())
    })?;
    skip_padding(stream, size)?;
    Ok(text)
}

fn long_name(mut text: Vec<u8>, extended: &mut Extended) -> Result<(), BundleError> {
    if text.last() == Some(&0) {
        text.pop();
    }
    if text.len() > BUNDLE_PATH_BYTES_MAX {
        return Err(BundleError::refused(
            ProblemCode::BundlePath,
            format!("a path is longer than {BUNDLE_PATH_BYTES_MAX} bytes"),
        ));
    }
    named(extended, text)
}

fn named(extended: &mut Extended, path: Vec<u8>) -> Result<(), BundleError> {
    match extended.path.replace(path) {
        Some(_) => Err(BundleError::corrupt("an entry has two long names")),
        None => Ok(()),
    }
}

/// Records of the form `<length> <key>=<value>\n`. Times, owners and comments do not concern us.
fn pax(mut text: &[u8], global: bool, extended: &mut Extended) -> Result<(), BundleError> {
    let wrong = || BundleError::corrupt("an extended tar header cannot be read");
    while !text.is_empty() {
        let space = text.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length =
            number(&text[..space]).and_then(|length| usize::try_from(length).ok()).ok_or_else(wrong)?;
        if length <= space + 1 || length > text.len() || text[length - 1] != b'\n' {
            return Err(wrong());
        }
        let record = &text[space + 1..length - 1];
        text = &text[length..];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" if !global => named(extended, value.to_vec())?,
            b"size" if !global => extended.size = Some(number(value).ok_or_else(wrong)?),
            b"path" | b"size" => return Err(BundleError::corrupt("a path or size for all entries")),
            b"linkpath" => {
                return Err(BundleError::refused(ProblemCode::BundleLink, "the bundle holds a link"));
            }
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(BundleError::refused(ProblemCode::BundleType, "the bundle holds a sparse file"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn number(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

fn skip_padding(stream: &mut impl Read, size: u64) -> Result<(), BundleError> {
    let mut padding = [0; BLOCK];
    let length = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    if read_up_to(stream, &mut padding[..length])? < length {
        return Err(BundleError::corrupt("the bundle is cut short"));
    }
    Ok(())
}

fn only_zeros(stream: &mut impl Read) -> Result<(), BundleError> {
    let mut length = 0;
    pump(stream, |piece| {
        length += piece.len();
        if length > PADDING_BYTES_MAX || piece.iter().any(|byte| *byte != 0) {
            return Err(BundleError::corrupt("something follows the end of the tar"));
        }
        Ok(())
    })
}

/// The next `left` bytes of a stream; an error if it ends before.
struct Exactly<'a> {
    inner: &'a mut dyn Read,
    left: u64,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}
