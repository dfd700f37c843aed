use domain::{AliasName, Digest, Manifest, ModelName, TenantId, VersionNumber};
use jiff::Timestamp;

/// A version to add to a model.
#[derive(Debug, Clone)]
pub struct PushVersion {
    /// Whose it is.
    pub tenant: TenantId,
    /// The model; made if it is new.
    pub model: ModelName,
    /// SHA-256 of the bundle, which is in the artifacts already.
    pub digest: Digest,
    /// The bundle's size, packed.
    pub bytes: u64,
    /// Its manifest.
    pub manifest: Manifest,
}

/// What became of a version to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedVersion {
    /// The version; `latest` points at it now.
    pub version: VersionRow,
    /// `false` if the model had a version with this digest already: that one is returned.
    pub created: bool,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRow {
    /// The model.
    pub model: ModelName,
    /// Its number, counted from 1.
    pub version: VersionNumber,
    /// SHA-256 of the bundle.
    pub digest: Digest,
    /// The bundle's size, packed.
    pub bytes: u64,
    /// Its manifest.
    pub manifest: Manifest,
    /// The aliases that point at it, by name.
    pub aliases: Vec<String>,
    /// When it was pushed.
    pub created_at: Timestamp,
    /// When an alias was last to move here and could not yet ([`crate::Record::want_version`]).
    pub wanted_at: Option<Timestamp>,
}

/// An alias to move, to make or to take away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAlias {
    /// Whose it is.
    pub tenant: TenantId,
    /// The model.
    pub model: ModelName,
    /// The alias.
    pub alias: AliasName,
    /// What it is to point at; `None`: there is to be no such alias.
    pub version: Option<VersionNumber>,
    /// Only if it points at this now.
    pub expected: ExpectedAlias,
}

/// What an alias must point at to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedAlias {
    /// Whatever it points at.
    Anything,
    /// There is no such alias yet.
    Nothing,
    /// This version.
    Version(VersionNumber),
}

/// What became of an alias to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AliasSet {
    /// It is as was asked for.
    Set {
        /// What it pointed at before.
        was: Option<VersionNumber>,
    },
    /// It points at something else than was expected and was left alone.
    Differs {
        /// What it points at.
        is: Option<VersionNumber>,
    },
    /// The model has no such version; nothing was changed.
    NoVersion,
}
