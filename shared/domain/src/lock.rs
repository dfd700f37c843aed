use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, Payload, TenantId};

/// The longest lock key or limit name, in bytes.
pub const KEY_BYTES_MAX: usize = 256;

/// The text cannot be a lock key or the name of a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} is 1 to {KEY_BYTES_MAX} bytes without control characters")]
pub struct InvalidKey {
    /// What it was to be.
    pub kind: &'static str,
}

fn check(text: &str, kind: &'static str) -> Result<(), InvalidKey> {
    let fits = (1..=KEY_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(InvalidKey { kind }) }
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        ///
        /// 1 to [`KEY_BYTES_MAX`] bytes of any text without control characters. It is never a part of a path:
        /// [`Self::path_part`] is.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// What stands for it in a path: the first 32 hexadecimal digits of SHA-256 over `<tenant>|<text>`.
            #[must_use]
            pub fn path_part(&self, tenant: &TenantId) -> String {
                let mut part = Digest::of(format!("{tenant}|{}", self.0).as_bytes()).to_string();
                part.truncate(32);
                part
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidKey;

            fn try_from(text: String) -> Result<Self, InvalidKey> {
                check(&text, $kind).map(|()| Self(text))
            }
        }

        impl FromStr for $name {
            type Err = InvalidKey;

            fn from_str(text: &str) -> Result<Self, InvalidKey> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(key: $name) -> Self {
                key.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

key!(/// What executions that exclude each other share.
    LockKey, "lock key");
key!(/// The name of a cluster-wide limit on how many executions run at once.
    LimitName, "limit name");

/// A text with places for parts of the input: `account:{input.account_id}`.
///
/// `{input}` is the whole input, `{input.a.b.0}` a part of it, name by name (RFC 6901 without its slashes; a name with
/// dots or braces cannot be reached). What stands there must be a string, a number or a boolean, and not empty. `{{` and
/// `}}` are braces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A JSON pointer.
    Input(String),
}

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template {template:?}: {message}")]
pub struct InvalidTemplate {
    /// As it was written.
    pub template: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl KeyTemplate {
    /// The text with the parts of `input` in place.
    ///
    /// # Errors
    /// A sentence for the caller if a part is not there, is no string, number or boolean, or is empty, or if the input
    /// is no JSON while the template names it.
    pub fn render(&self, input: &Payload) -> Result<String, String> {
        let mut rendered = String::new();
        let mut value = None;
        for part in &self.parts {
            match part {
                Part::Text(text) => rendered.push_str(text),
                Part::Input(pointer) => {
                    if value.is_none() {
                        let parsed = serde_json::from_slice::<serde_json::Value>(&input.bytes);
                        value =
                            Some(parsed.map_err(|_| format!("{:?} needs an input that is JSON", self.text))?);
                    }
                    let found = value.as_ref().and_then(|value| value.pointer(pointer));
                    rendered.push_str(&scalar(found).ok_or_else(|| self.lacks(pointer))?);
                }
            }
        }
        Ok(rendered)
    }

    fn lacks(&self, pointer: &str) -> String {
        let place = pointer.replace('/', ".");
        format!("{:?} needs input{place} to be a string, a number or a boolean, and not empty", self.text)
    }
}

fn scalar(value: Option<&serde_json::Value>) -> Option<String> {
    use serde_json::Value;
    match value? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl TryFrom<String> for KeyTemplate {
    type Error = InvalidTemplate;

    fn try_from(text: String) -> Result<Self, InvalidTemplate> {
        let parts = parse(&text).map_err(|message| InvalidTemplate { template: text.clone(), message })?;
        Ok(Self { text, parts })
    }
}

impl FromStr for KeyTemplate {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, InvalidTemplate> {
        text.to_owned().try_into()
    }
}

impl From<KeyTemplate> for String {
    fn from(template: KeyTemplate) -> Self {
        template.text
    }
}

impl fmt::Display for KeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse(text: &str) -> Result<Vec<Part>, String> {
    if !(1..=KEY_BYTES_MAX).contains(&text.len()) || text.chars().any(char::is_control) {
        return Err(format!("it is 1 to {KEY_BYTES_MAX} bytes without control characters"));
    }
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        plain.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            plain.push_str(brace);
            rest = after;
            continue;
        }
        let Some((place, after)) = rest.split_once('}').filter(|_| brace == "{") else {
            return Err("a brace stands alone; {{ and }} are braces".to_owned());
        };
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(Part::Input(pointer(place)?));
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

fn pointer(place: &str) -> Result<String, String> {
    let allowed = || format!("{{{place}}} is not {{input}} or {{input.name}} with names a.b.c");
    let names = place.strip_prefix("input").ok_or_else(allowed)?;
    if names.is_empty() {
        return Ok(String::new());
    }
    let names = names.strip_prefix('.').ok_or_else(allowed)?;
    let mut pointer = String::new();
    for name in names.split('.') {
        if name.is_empty() || name.contains('{') {
            return Err(allowed());
        }
        pointer.push('/');
        pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
    }
    Ok(pointer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, input: &str) -> Result<String, String> {
        let payload = Payload::new(Payload::JSON, input.as_bytes().to_vec());
        template.parse::<KeyTemplate>().unwrap().render(&payload)
    }

    #[test]
    fn parts_of_the_input_take_their_places() {
        let input = r#"{"account_id": 7, "who": {"name": "Ada", "is~a/b": true}, "list": ["x"]}"#;
        for (template, wanted) in [
            ("account:{input.account_id}", "account:7"),
            ("{input.who.name}-{input.list.0}", "Ada-x"),
            ("{input.who.is~a/b}", "true"),
            ("plain {{}}", "plain {}"),
        ] {
            assert_eq!(render(template, input).as_deref(), Ok(wanted), "{template}");
        }
        assert_eq!(render("k:{input}", "\"all\"").as_deref(), Ok("k:all"));
    }

    #[test]
    fn what_is_missing_or_no_scalar_is_said_by_name() {
        for (template, input) in [
            ("{input.a}", "{}"),
            ("{input.a}", r#"{"a": null}"#),
            ("{input.a}", r#"{"a": {}}"#),
            ("{input.a}", r#"{"a": ""}"#),
            ("{input.a}", "no json"),
        ] {
            let error = render(template, input).unwrap_err();
            assert!(error.contains("input"), "{error}");
        }
        assert_eq!(render("no input", "no json").as_deref(), Ok("no input"));
    }

    #[test]
    fn templates_that_cannot_be_are_refused() {
        let long = "x".repeat(KEY_BYTES_MAX + 1);
        for template in
            ["", "a{", "a}", "{input", "{output}", "{input.}", "{input..a}", "{inputs}", "\n", &long]
        {
            assert!(template.parse::<KeyTemplate>().is_err(), "{template}");
        }
    }

    #[test]
    fn what_stands_in_a_path_is_hexadecimal_and_differs_by_tenant() {
        let key: LockKey = "../a/b".parse().unwrap();
        let part = key.path_part(&TenantId::default());
        assert_eq!(part.len(), 32);
        assert!(part.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(part, key.path_part(&"other".parse().unwrap()));
    }
}
