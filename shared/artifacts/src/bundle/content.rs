use std::io::{self, Read};

use domain::limits::{BUNDLE_RATIO_MAX, BUNDLE_UNPACKED_BYTES_MAX};
use protocol::ProblemCode;

use super::BundleError;

/// Below this many unpacked bytes no ratio is suspicious.
const RATIO_FLOOR_BYTES: u64 = 1 << 20;

/// Counts what was really unpacked, and refuses at the first byte too many.
pub(super) struct Meter {
    packed: u64,
    unpacked: u64,
    unpacked_max: u64,
}

impl Meter {
    /// For a bundle of `packed` bytes whose unpacked stream also holds up to `overhead` bytes that are no file's.
    pub(super) const fn new(packed: u64, overhead: u64) -> Self {
        Self { packed, unpacked: 0, unpacked_max: BUNDLE_UNPACKED_BYTES_MAX + overhead }
    }

    pub(super) fn count(&mut self, bytes: u64) -> Result<(), BundleError> {
        self.unpacked += bytes;
        if self.unpacked > self.unpacked_max {
            return Err(BundleError::refused(
                ProblemCode::BundleSize,
                format!("the bundle unpacks to more than {BUNDLE_UNPACKED_BYTES_MAX} bytes"),
            ));
        }
        if self.unpacked > RATIO_FLOOR_BYTES && self.unpacked / BUNDLE_RATIO_MAX > self.packed {
            return Err(BundleError::refused(
                ProblemCode::BundleRatio,
                format!("the bundle grows to more than {BUNDLE_RATIO_MAX} times its size when unpacked"),
            ));
        }
        Ok(())
    }
}

/// A reader whose every byte is metered.
pub(super) struct Metered<R> {
    pub(super) inner: R,
    pub(super) meter: Meter,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.meter.count(read as u64)?;
        Ok(read)
    }
}

/// Reads all of `content` in pieces of at most 64 KiB.
pub(super) fn pump(
    content: &mut dyn Read,
    mut piece: impl FnMut(&[u8]) -> Result<(), BundleError>,
) -> Result<(), BundleError> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => piece(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BundleError::from_read(error)),
        }
    }
}

/// Fills as much of `buffer` as there is; returns how much.
pub(super) fn read_up_to(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize, BundleError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BundleError::from_read(error)),
        }
    }
    Ok(filled)
}
