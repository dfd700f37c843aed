use std::io;

use protocol::ProblemCode;

/// Why a bundle was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It breaks a rule; the same bytes will always break it.
    #[error("{reason}")]
    Refused {
        /// Which rule.
        code: ProblemCode,
        /// What exactly is wrong, and where.
        reason: String,
    },
    /// This machine could not read or write; the bundle may be good.
    #[error("{step}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl BundleError {
    /// The code a caller gets.
    #[must_use]
    pub const fn code(&self) -> ProblemCode {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Io { .. } => ProblemCode::Internal,
        }
    }

    pub(super) fn refused(code: ProblemCode, reason: impl Into<String>) -> Self {
        Self::Refused { code, reason: reason.into() }
    }

    pub(super) fn corrupt(reason: impl Into<String>) -> Self {
        Self::refused(ProblemCode::BundleCorrupt, reason)
    }

    pub(super) const fn io(step: &'static str, source: io::Error) -> Self {
        Self::Io { step, source }
    }

    /// What an error while reading the bundle means: one of ours that came through a reader, a machine that could not
    /// read, or bytes that make no sense.
    pub(super) fn from_read(error: io::Error) -> Self {
        if error.raw_os_error().is_some() {
            return Self::io("read the bundle", error);
        }
        match error.downcast::<Self>() {
            Ok(ours) => ours,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::corrupt("the bundle is cut short")
            }
            Err(error) => Self::corrupt(format!("the bundle cannot be unpacked: {error}")),
        }
    }
}

impl From<BundleError> for io::Error {
    /// Carries a refusal through a [`io::Read`]; `BundleError::from_read` takes it out again.
    fn from(error: BundleError) -> Self {
        Self::other(error)
    }
}
