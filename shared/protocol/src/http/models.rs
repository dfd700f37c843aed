//! Models, their versions and aliases, and which nodes have their bundles.

use domain::{AliasName, ModelName, NodeName, VersionNumber};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Its number, counted from 1.
    #[schema(value_type = i32)]
    pub version: VersionNumber,
    /// SHA-256 of the bundle.
    pub digest: String,
    /// The bundle's size, packed.
    pub bytes: u64,
    /// The aliases that point at it.
    pub aliases: Vec<String>,
    /// Its manifest.
    #[schema(value_type = Object)]
    pub manifest: domain::Manifest,
    /// When it was pushed.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A hosted model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// Its name.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Its versions, the youngest first.
    pub versions: Vec<Version>,
}

/// All hosted models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// By name.
    pub models: Vec<Model>,
}

/// An alias and what it points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alias {
    /// Its name.
    #[schema(value_type = String)]
    pub alias: AliasName,
    /// The version.
    #[schema(value_type = i32)]
    pub version: VersionNumber,
}

/// The aliases of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AliasList {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// By name.
    pub aliases: Vec<Alias>,
}

/// Where an alias is to point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveAlias {
    /// The version.
    #[schema(value_type = i32)]
    pub version: VersionNumber,
    /// Move it however few nodes are ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Only if it points at this version now; 0: only if there is no such alias yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u32>,
}

/// An alias that points where it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovedAlias {
    /// Its name.
    #[schema(value_type = String)]
    pub alias: AliasName,
    /// The version.
    #[schema(value_type = i32)]
    pub version: VersionNumber,
    /// What it pointed at before; absent if it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>)]
    pub was: Option<VersionNumber>,
}

/// Which nodes have the bundles of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// How many percent of the nodes must be ready before an alias moves.
    pub ready_percent_min: u32,
    /// The versions asked for, the youngest first.
    pub versions: Vec<VersionReadiness>,
}

/// Which nodes have the bundle of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionReadiness {
    /// Its number.
    #[schema(value_type = i32)]
    pub version: VersionNumber,
    /// SHA-256 of the bundle.
    pub digest: String,
    /// The bundle's size, packed.
    pub bytes: u64,
    /// The aliases that point at it.
    pub aliases: Vec<String>,
    /// How many of `nodes` are ready.
    pub nodes_ready: u32,
    /// Are they enough for an alias to move to it?
    pub is_ready: bool,
    /// The nodes that are there, take work and serve the model's queue, by name.
    pub nodes: Vec<NodeReadiness>,
}

/// What a node has of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeReadiness {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeName,
    /// What it says.
    pub state: ReadyState,
    /// How many bytes of the bundle are there.
    pub bytes: u64,
    /// `fetching`: of how many; absent while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// `failed`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a node says of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadyState {
    /// Nothing: it has not begun to fetch it.
    Missing,
    /// It is on its way.
    Fetching,
    /// It is there, checked and unpacked.
    Ready,
    /// The last try failed; there will be another.
    Failed,
}
