use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ConfigurationError;

/// A password, or a URL that may hold one: never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// `text` as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself: for the driver that needs it, not for a message.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Is there none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The secret that `key` has, or that stands in the file `key_file` names (without white space at its end).
    ///
    /// # Errors
    /// [`ConfigurationError`] if there is neither, both, or a file that others than its owner and group may read.
    pub fn or_file(&self, key: &str, file: Option<&Path>) -> Result<String, ConfigurationError> {
        let Some(file) = file else {
            if self.is_empty() {
                return Err(ConfigurationError::new(format!("{key} is missing: set {key} or {key}_file")));
            }
            return Ok(self.0.clone());
        };
        if !self.is_empty() {
            return Err(ConfigurationError::new(format!("both {key} and {key}_file are set: keep one")));
        }
        let name = file.display();
        let problem = |what: String| ConfigurationError::new(format!("{key}_file {name}: {what}"));
        let unreadable = |error| problem(format!("cannot be read: {error}"));
        let mode = fs::metadata(file).map_err(unreadable)?.mode() & 0o777;
        if mode & 0o027 != 0 {
            return Err(problem(format!(
                "its mode is {mode:04o}, so others can read or change it: chmod 0600 {name}"
            )));
        }
        let text = fs::read_to_string(file).map_err(unreadable)?;
        match text.trim_end() {
            "" => Err(problem("is empty".to_owned())),
            secret => Ok(secret.to_owned()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Secret(none)" } else { "Secret(***)" })
    }
}

/// Is the value of `key` one that must not be printed?
pub(super) fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    matches!(name, "url" | "access_key" | "secret_key" | "password" | "token")
}
