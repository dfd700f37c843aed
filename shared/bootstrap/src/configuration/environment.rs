use std::ffi::OsString;

use figment::value::{Dict, Map, Tag, Value};
use figment::{Metadata, Profile, Provider};

use super::ConfigurationError;

/// One environment variable that sets one key: `GANTRY_WORKER__SLOTS` is `worker.slots`.
pub(super) struct Variable {
    name: String,
    path: Vec<String>,
    value: Value,
}

impl Variable {
    /// How the place of a value that came from a variable begins.
    pub(super) const KIND: &'static str = "environment variable ";
}

/// The variables in `environment` that set a key. Without a double underscore a variable is not the configuration's:
/// `GANTRY_URL` belongs to the client.
pub(super) fn variables(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    shape: &Dict,
) -> Result<Vec<Variable>, ConfigurationError> {
    let mut variables = Vec::new();
    for (name, text) in environment {
        let Ok(name) = name.into_string() else { continue };
        let Some(key) = name.strip_prefix("GANTRY_").filter(|key| key.contains("__")) else { continue };
        let path: Vec<String> = key.to_lowercase().split("__").map(str::to_owned).collect();
        let text = text.into_string().map_err(|_| {
            ConfigurationError::new(format!("{}{name}: its value is no UTF-8", Variable::KIND))
        })?;
        let value = value(text, is_list(shape, &path));
        variables.push(Variable { name, path, value });
    }
    variables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(variables)
}

/// A variable's text is a string; numbers and booleans are made of it where the key wants one. Lists are separated by
/// commas, or written as in the file.
fn value(text: String, is_list: bool) -> Value {
    let list = if text.trim_start().starts_with('[') {
        toml::from_str::<toml::Table>(&format!("list = {text}"))
            .ok()
            .and_then(|mut table| table.remove("list"))
            .and_then(|list| Value::serialize(list).ok())
    } else if is_list {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Some(Value::Array(Tag::Default, parts.map(Value::from).collect()))
    } else {
        None
    };
    list.unwrap_or_else(|| Value::from(text))
}

fn is_list(shape: &Dict, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    let found = rest.iter().try_fold(shape.get(first), |value, part| Some(value?.as_dict()?.get(part)));
    matches!(found.flatten(), Some(Value::Array(..)))
}

impl Provider for Variable {
    fn metadata(&self) -> Metadata {
        Metadata::named(format!("{}{}", Self::KIND, self.name))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nested = self.path.iter().rev().fold(self.value.clone(), |value, part| {
            Value::Dict(Tag::Default, Dict::from([(part.clone(), value)]))
        });
        Ok(Map::from([(Profile::Default, nested.into_dict().unwrap_or_default())]))
    }
}
