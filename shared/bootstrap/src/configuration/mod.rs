//! One `gantry.toml`, each key overridable by an environment variable.
//!
//! `[worker] slots = 8` and `GANTRY_WORKER__SLOTS=8` say the same, and the variable wins. What is left out has the
//! default that the section's type gives it. Every complaint names where the value came from (the line of the file, or
//! the variable), the key, and what would be right.

mod environment;
mod error;
mod file;
mod secret;

use std::ffi::OsString;
use std::path::Path;

use figment::Figment;
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::ConfigurationError;
pub use secret::Secret;

use environment::Variable;
use file::File;

/// A configuration as it was read, with the place each value came from.
pub struct Loaded<T> {
    /// What is configured.
    pub configuration: T,
    figment: Figment,
    file: Option<File>,
}

/// Reads the configuration `T` from `file` and the `environment` on top of `T`'s defaults. Without a file, the defaults
/// and the environment are all there is.
///
/// # Errors
/// [`ConfigurationError`], which names the file and line or the variable, the key, and what would be right.
pub fn load<T>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded<T>, ConfigurationError>
where
    T: Serialize + DeserializeOwned + Default,
{
    let defaults = Serialized::defaults(T::default());
    let shape = shape(&T::default())?;
    let mut figment = Figment::from(defaults);
    let file = file.map(File::read).transpose()?;
    if let Some(file) = &file {
        figment = figment.merge(file);
    }
    for variable in environment::variables(environment, &shape)? {
        figment = figment.merge(variable);
    }
    match figment.extract_lossy() {
        Ok(configuration) => Ok(Loaded { configuration, figment, file }),
        Err(error) => Err(error::explain(&error, &shape, |path| place(&figment, file.as_ref(), path))),
    }
}

/// The tree of keys of `T`, with their values.
fn shape<T: Serialize>(configuration: &T) -> Result<Dict, ConfigurationError> {
    Value::serialize(configuration)
        .ok()
        .and_then(Value::into_dict)
        .ok_or_else(|| ConfigurationError::new("the configuration is no table of sections"))
}

impl<T: Serialize> Loaded<T> {
    /// The complaint that the value of `key` (as `worker.slots`) breaks a `rule` (as `must be 1 to 1024`).
    pub fn complaint(&self, key: &str, rule: &str) -> ConfigurationError {
        match place(&self.figment, self.file.as_ref(), key) {
            Some(place) => ConfigurationError::new(format!("{place}: {key} {rule}")),
            None => ConfigurationError::new(format!("{key} {rule}")),
        }
    }

    /// Every key with its value and where the value came from, by name; secrets are masked.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = entries(&self.configuration);
        for entry in &mut entries {
            entry.place = place(&self.figment, self.file.as_ref(), &entry.key);
            if secret::is_secret(&entry.key) && !matches!(entry.value.as_str(), "" | "\"\"") {
                entry.value = "\"***\"".to_owned();
            }
        }
        entries
    }
}

/// One key of a configuration.
pub struct Entry {
    /// As `worker.slots`.
    pub key: String,
    /// Its value as TOML; empty if there is none.
    pub value: String,
    /// Where it came from; `None` for a default.
    pub place: Option<String>,
}

/// Every key of `T` with its default, by section and name.
#[must_use]
pub fn defaults<T: Serialize + Default>() -> Vec<Entry> {
    entries(&T::default())
}

fn entries<T: Serialize>(configuration: &T) -> Vec<Entry> {
    let mut entries = Vec::new();
    if let Ok(tree) = shape(configuration) {
        walk("", &tree, &mut |key, value| {
            entries.push(Entry { key: key.to_owned(), value: render(value), place: None });
        });
    }
    entries
}

/// Calls `each` with the path and value of every leaf of `tree`.
fn walk(above: &str, tree: &Dict, each: &mut impl FnMut(&str, &Value)) {
    for (name, value) in tree {
        let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        match value.as_dict() {
            Some(inner) => walk(&path, inner, each),
            None => each(&path, value),
        }
    }
}

/// `value` as TOML writes it; empty if there is none.
fn render(value: &Value) -> String {
    toml::Value::try_from(value).map_or_else(|_| String::new(), |value| value.to_string())
}

/// Where the value at `path` came from: the file and line, or the variable; `None` for a default.
fn place(figment: &Figment, file: Option<&File>, path: &str) -> Option<String> {
    let name = figment.find_metadata(path)?.name.clone();
    match file {
        Some(file) if name == file.name() => Some(file.place(path)),
        Some(_) | None if name.starts_with(Variable::KIND) => Some(name.into_owned()),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests;
