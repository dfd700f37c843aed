use std::fs;
use std::path::Path;

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};
use toml::de::{DeTable, DeValue};

use super::ConfigurationError;

/// A configuration file, read.
pub(super) struct File {
    name: String,
    text: String,
    table: Dict,
}

impl File {
    /// Reads the file at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigurationError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|error| ConfigurationError::new(format!("{name}: cannot be read: {error}")))?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line(&text, span.start));
            ConfigurationError::new(format!("{name} line {line}: no TOML: {}", error.message()))
        })?;
        let table = Value::serialize(table).ok().and_then(Value::into_dict).unwrap_or_default();
        Ok(Self { name, text, table })
    }

    /// The path it was read from.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The file and the line in which `path` (as `worker.slots`) stands.
    pub(super) fn place(&self, path: &str) -> String {
        match self.line(path) {
            Some(line) => format!("{} line {line}", self.name),
            None => self.name.clone(),
        }
    }

    fn line(&self, path: &str) -> Option<usize> {
        let table = DeTable::parse(&self.text).ok()?;
        let mut table = table.get_ref();
        let mut found = None;
        for part in path.split('.') {
            let (key, value) = table.iter().find(|(key, _)| key.get_ref() == part)?;
            found = Some(line(&self.text, key.span().start));
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_) => break,
            }
        }
        found
    }
}

/// The line, counted from 1, of byte `at`.
fn line(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}

impl Provider for File {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.table.clone())]))
    }
}
