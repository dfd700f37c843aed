use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name breaks the rule for its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} name is 1 to 63 characters a-z 0-9 . _ - and starts with a letter or digit")]
pub struct InvalidName {
    /// What the name was to name.
    pub kind: &'static str,
}

/// Is `text` of the form `[a-z0-9][a-z0-9._-]{0,62}`, without `..`?
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && plain(text.as_bytes()[0])
        && text.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
        && !text.contains("..")
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 63 characters `a-z 0-9 . _ -`, starting with a letter or digit, without `..`: safe as a part of a
        /// path, a queue, a znode and a URL.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                if is_name(&text) { Ok(Self(text)) } else { Err(InvalidName { kind: $kind }) }
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(/// A hosted model.
    ModelName, "model");
name!(/// A movable name of a version, as `latest`.
    AliasName, "alias");
name!(/// A queue that models name and workers serve.
    QueueName, "queue");
name!(/// Whom a row or message belongs to.
    TenantId, "tenant");
name!(/// A machine that runs a worker and a sync.
    NodeName, "node");

impl AliasName {
    /// The alias every new version takes.
    #[must_use]
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }
}

impl Default for QueueName {
    /// The queue of a model that names none.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl Default for TenantId {
    /// The tenant of everything until there are tokens.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// The number of a model's version, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionNumber(pub i32);

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which version of a model a caller wants: a number, or the alias that points at one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum VersionSelector {
    /// This one.
    Number(VersionNumber),
    /// The one the alias points at when the execution is accepted.
    Alias(AliasName),
}

impl Default for VersionSelector {
    fn default() -> Self {
        Self::Alias(AliasName::latest())
    }
}

impl FromStr for VersionSelector {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.parse::<i32>() {
            Ok(number) if number > 0 => Ok(Self::Number(VersionNumber(number))),
            Ok(_) => Err(InvalidName { kind: "version" }),
            Err(_) => text.parse().map(Self::Alias),
        }
    }
}

impl fmt::Display for VersionSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Alias(alias) => alias.fmt(f),
        }
    }
}

/// One life of a node: its name and the id of this boot, so that a restarted worker is never taken for the one that
/// held its leases before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId {
    name: NodeName,
    boot: String,
}

impl NodeId {
    /// The life of `name` that `boot_unix_ms` and `random` tell apart from every other.
    #[must_use]
    pub fn new(name: NodeName, boot_unix_ms: u64, random: u32) -> Self {
        Self { name, boot: format!("{boot_unix_ms:x}{random:08x}") }
    }

    /// The node's name.
    #[must_use]
    pub const fn name(&self) -> &NodeName {
        &self.name
    }

    /// The boot id: hexadecimal digits, different in every life.
    #[must_use]
    pub fn boot(&self) -> &str {
        &self.boot
    }
}

impl FromStr for NodeId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = InvalidName { kind: "node" };
        let (name, boot) = text.split_once('@').ok_or(invalid.clone())?;
        if boot.is_empty() || !boot.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid);
        }
        Ok(Self { name: name.parse()?, boot: boot.to_owned() })
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.boot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        let long = "a".repeat(64);
        for text in [
            "",
            "../../etc/passwd",
            "a/b",
            ".hidden",
            &long,
            "🙂",
            "CON",
            "trailing ",
            "a..b",
            "a\u{202e}b",
            "-a",
        ] {
            assert_eq!(text.parse::<ModelName>(), Err(InvalidName { kind: "model" }), "{text}");
        }
        for text in ["a", "iris", "0.9_x-y"] {
            assert!(text.parse::<ModelName>().is_ok(), "{text}");
        }
    }

    #[test]
    fn a_version_is_a_positive_number_or_an_alias() {
        assert_eq!("3".parse(), Ok(VersionSelector::Number(VersionNumber(3))));
        assert_eq!("latest".parse(), Ok(VersionSelector::default()));
        assert!("0".parse::<VersionSelector>().is_err());
        assert!("-1".parse::<VersionSelector>().is_err());
    }

    #[test]
    fn a_node_id_reads_back() {
        let id = NodeId::new("box-1".parse().unwrap(), 1_700_000_000_000, 7);
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}
