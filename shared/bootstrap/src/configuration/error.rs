use figment::error::{Actual, Kind};
use figment::value::{Dict, Value};

/// The configuration cannot be used: starting again will not help before somebody changes it. The message names the
/// place, the key and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigurationError(String);

impl ConfigurationError {
    /// The complaint in words.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Says what figment found in words for people; `place` knows where a key's value came from.
pub(super) fn explain(
    error: &figment::Error,
    shape: &Dict,
    place: impl Fn(&str) -> Option<String>,
) -> ConfigurationError {
    let key = error.path.join(".");
    let problem = match &error.kind {
        Kind::UnknownField(..) => unknown(&error.path, shape),
        Kind::UnknownVariant(found, allowed) => {
            format!("{key} is one of {}, not {found:?}", allowed.join(", "))
        }
        Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
            format!("{key} must be {}, not {}", kind(wanted), actual(found))
        }
        Kind::MissingField(field) => format!("{key}: {field} is missing"),
        Kind::Message(message) if key.is_empty() => message.clone(),
        other @ (Kind::Message(_)
        | Kind::InvalidLength(..)
        | Kind::DuplicateField(_)
        | Kind::ISizeOutOfRange(_)
        | Kind::USizeOutOfRange(_)
        | Kind::Unsupported(_)
        | Kind::UnsupportedKey(..)) => format!("{key}: {other}"),
    };
    match place(&key) {
        Some(place) => ConfigurationError::new(format!("{place}: {problem}")),
        None => ConfigurationError::new(problem),
    }
}

/// What serde calls a type, in words.
fn kind(wanted: &str) -> &str {
    match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list, as [\"a\", \"b\"]",
        wanted => wanted,
    }
}

fn actual(found: &Actual) -> String {
    if let Actual::Str(text) = found {
        format!("{text:?}")
    } else if let Actual::Unsigned(number) = found {
        number.to_string()
    } else if let Actual::Signed(number) = found {
        number.to_string()
    } else {
        found.to_string()
    }
}

/// The key at `path` is none: says which one may have been meant.
fn unknown(path: &[String], shape: &Dict) -> String {
    let key = path.join(".");
    let Some((last, above)) = path.split_last() else { return "unknown key".to_owned() };
    let siblings = above.iter().try_fold(shape, |dict, part| dict.get(part).and_then(Value::as_dict));
    let what = if above.is_empty() { "section" } else { "key" };
    let siblings: Vec<&str> = siblings.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let nearest = siblings
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, last), *name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3));
    let full = |name: &str| {
        let parts = above.iter().map(String::as_str).chain([name]);
        parts.collect::<Vec<_>>().join(".")
    };
    match nearest {
        Some((_, name)) => format!("unknown {what} {key}; did you mean {}?", full(name)),
        None => format!("unknown {what} {key}; there are {}", siblings.join(", ")),
    }
}
