use domain::{Digest, Manifest, ModelName, TenantId, VersionNumber};
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
}
