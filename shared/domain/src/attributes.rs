use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX};
use crate::name::is_name;

/// The labels that a caller gives an execution to find it by: as text `customer=acme, run=7`.
///
/// At most [`ATTRIBUTES_MAX`]; a key follows the rule of names, a value is 1 to [`ATTRIBUTE_VALUE_BYTES_MAX`] visible ASCII
/// characters without a comma, not beginning or ending with a space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Attributes(BTreeMap<String, String>);

/// What is wrong with attributes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAttributes {
    /// Too many.
    #[error("at most {ATTRIBUTES_MAX} attributes are allowed")]
    Count,
    /// One is no `key=value`, or breaks a rule.
    #[error(
        "{0:?} is no attribute: one is key=value, as customer=acme, several are separated by commas; a key is 1 to 63 characters a-z 0-9 . _ - and starts with a letter or digit, a value 1 to {ATTRIBUTE_VALUE_BYTES_MAX} visible ASCII characters"
    )]
    Syntax(String),
    /// One key is given twice.
    #[error("the attribute {0:?} is given twice")]
    Twice(String),
}

impl Attributes {
    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Are all of `others` among these?
    #[must_use]
    pub fn contain(&self, others: &Self) -> bool {
        others.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }

    fn add(&mut self, key: &str, value: &str) -> Result<(), InvalidAttributes> {
        let is_value = (1..=ATTRIBUTE_VALUE_BYTES_MAX).contains(&value.len())
            && value.bytes().all(|byte| (32..127).contains(&byte) && byte != b',')
            && value.trim() == value;
        if !is_name(key) || !is_value {
            return Err(InvalidAttributes::Syntax(format!("{key}={value}")));
        }
        if self.0.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(InvalidAttributes::Twice(key.to_owned()));
        }
        if self.0.len() > ATTRIBUTES_MAX { Err(InvalidAttributes::Count) } else { Ok(()) }
    }
}

impl TryFrom<BTreeMap<String, String>> for Attributes {
    type Error = InvalidAttributes;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, InvalidAttributes> {
        let mut attributes = Self::default();
        map.iter().try_for_each(|(key, value)| attributes.add(key, value))?;
        Ok(attributes)
    }
}

impl From<Attributes> for BTreeMap<String, String> {
    fn from(attributes: Attributes) -> Self {
        attributes.0
    }
}

impl FromStr for Attributes {
    type Err = InvalidAttributes;

    fn from_str(text: &str) -> Result<Self, InvalidAttributes> {
        let mut attributes = Self::default();
        for part in text.split(',') {
            let part = part.trim();
            let (key, value) =
                part.split_once('=').ok_or_else(|| InvalidAttributes::Syntax(part.to_owned()))?;
            attributes.add(key, value)?;
        }
        Ok(attributes)
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{key}={value}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_as_they_were_written() {
        let attributes: Attributes = "run=7 ,customer=acme=x y,z=%".parse().unwrap();
        assert_eq!(attributes.to_string(), "customer=acme=x y, run=7, z=%");
        assert_eq!(attributes.to_string().parse(), Ok(attributes.clone()));
        assert!(attributes.contain(&"run=7".parse().unwrap()) && attributes.contain(&Attributes::default()));
        assert!(!attributes.contain(&"run=8".parse().unwrap()));
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let long = format!("a={}", "x".repeat(ATTRIBUTE_VALUE_BYTES_MAX + 1));
        for text in ["", "a", "a=", "=b", "A=b", "a=b,,c=d", "a=b,", "a=ü", "a=\n", &long] {
            assert!(matches!(text.parse::<Attributes>(), Err(InvalidAttributes::Syntax(_))), "{text}");
        }
        assert_eq!("a=1,a=2".parse::<Attributes>(), Err(InvalidAttributes::Twice("a".to_owned())));
        let many: Vec<String> = (0..=ATTRIBUTES_MAX).map(|n| format!("k{n}=v")).collect();
        assert_eq!(many.join(",").parse::<Attributes>(), Err(InvalidAttributes::Count));
    }
}
