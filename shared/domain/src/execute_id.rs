use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of an execution: a UUIDv7 (RFC 9562), so ids sort by the millisecond they were made in.
///
/// It is also the `message_id` of the execution's message and the key that duplicates are recognised by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Uuid", into = "Uuid")]
pub struct ExecuteId(Uuid);

/// The text is no UUID, or one of another version than 7.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExecuteId {
    /// Not a UUID in its hyphenated form.
    #[error("an execute_id is a UUID of 36 characters")]
    Syntax,
    /// A UUID that carries no time.
    #[error("an execute_id is a UUID of version 7, this one is of version {found}")]
    Version {
        /// The version digit found.
        found: usize,
    },
}

impl ExecuteId {
    /// A new id dated `unix_ms` milliseconds after 1970, with 74 random bits.
    ///
    /// Two ids of one millisecond have no order between them.
    #[must_use]
    pub fn new(unix_ms: u64) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &rand::random()).into_uuid())
    }

    /// The smallest id dated `unix_ms`: the lower bound of a range of ids.
    #[must_use]
    pub fn floor(unix_ms: u64) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &[0; 10]).into_uuid())
    }

    /// Milliseconds after 1970 the id is dated.
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        let bytes = self.0.as_bytes();
        bytes[..6].iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte))
    }

    /// The id as a UUID.
    #[must_use]
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl TryFrom<Uuid> for ExecuteId {
    type Error = InvalidExecuteId;

    fn try_from(uuid: Uuid) -> Result<Self, InvalidExecuteId> {
        match uuid.get_version_num() {
            7 => Ok(Self(uuid)),
            found => Err(InvalidExecuteId::Version { found }),
        }
    }
}

impl From<ExecuteId> for Uuid {
    fn from(id: ExecuteId) -> Self {
        id.0
    }
}

impl FromStr for ExecuteId {
    type Err = InvalidExecuteId;

    fn from_str(text: &str) -> Result<Self, InvalidExecuteId> {
        if text.len() != 36 {
            return Err(InvalidExecuteId::Syntax);
        }
        Uuid::parse_str(text).map_err(|_| InvalidExecuteId::Syntax)?.try_into()
    }
}

impl fmt::Display for ExecuteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for ExecuteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExecuteId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_their_time_and_carry_it() {
        let (early, late) = (ExecuteId::new(1_700_000_000_000), ExecuteId::new(1_700_000_000_001));
        assert!(early < late);
        assert_eq!(early.unix_ms(), 1_700_000_000_000);
        assert!(ExecuteId::floor(1_700_000_000_000) <= early);
        assert!(ExecuteId::floor(1_700_000_000_001) > early);
        assert_eq!(early.to_string().parse(), Ok(early));
    }

    #[test]
    fn other_versions_and_spellings_are_refused() {
        let v4 = "9f0a3f8e-2f3b-4c8e-9d7a-5b1f0c2d3e4f";
        assert_eq!(v4.parse::<ExecuteId>(), Err(InvalidExecuteId::Version { found: 4 }));
        for text in ["", "x", "018bcfe5680078538000000000000000", "{018bcfe5-6800-7853-8000-000000000000}"] {
            assert_eq!(text.parse::<ExecuteId>(), Err(InvalidExecuteId::Syntax), "{text}");
        }
    }
}
