use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How many labels a node has at most.
const LABELS_MAX: usize = 16;
/// How long a label's name and its text are at most, in characters.
const CHARACTERS_MAX: usize = 63;

/// What an operator wrote of a node: `labels = ["zone=a", "gpu=a100"]`.
///
/// At most 16, each name once; names and texts have 1 to 63 characters and no control characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// The texts by name.
    #[must_use]
    pub const fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl TryFrom<Vec<String>> for Labels {
    type Error = String;

    fn try_from(list: Vec<String>) -> Result<Self, String> {
        if list.len() > LABELS_MAX {
            return Err(format!("a node has at most {LABELS_MAX} labels, not {}", list.len()));
        }
        let mut labels = BTreeMap::new();
        for label in list {
            let fits = |part: &str| {
                (1..=CHARACTERS_MAX).contains(&part.chars().count()) && !part.chars().any(char::is_control)
            };
            let Some((name, text)) = label.split_once('=').map(|(name, text)| (name.trim(), text.trim()))
            else {
                return Err(format!("a label is name=text, not {label:?}"));
            };
            if !fits(name) || !fits(text) {
                return Err(format!(
                    "label {label:?}: name and text have 1 to {CHARACTERS_MAX} characters, none of them a control character"
                ));
            }
            if labels.insert(name.to_owned(), text.to_owned()).is_some() {
                return Err(format!("label {name:?} is given twice"));
            }
        }
        Ok(Self(labels))
    }
}

impl From<Labels> for Vec<String> {
    fn from(labels: Labels) -> Self {
        labels.0.into_iter().map(|(name, text)| format!("{name}={text}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(list: &[&str]) -> Result<Labels, String> {
        list.iter().map(|&label| label.to_owned()).collect::<Vec<_>>().try_into()
    }

    #[test]
    fn labels_are_names_with_texts() {
        let given = labels(&["zone=a", " gpu = a100 ", "note=x=y"]).unwrap();
        let wanted = [("gpu", "a100"), ("note", "x=y"), ("zone", "a")];
        assert!(given.as_map().iter().map(|(name, text)| (name.as_str(), text.as_str())).eq(wanted));
        assert_eq!(Vec::from(given), ["gpu=a100", "note=x=y", "zone=a"]);
    }

    #[test]
    fn labels_are_bounded() {
        let long = "x".repeat(64);
        for wrong in ["zone", "=a", "zone=", "a\u{7}=b", &format!("{long}=a"), &format!("a={long}")] {
            assert!(labels(&[wrong]).is_err(), "{wrong}");
        }
        assert!(labels(&["zone=a", "zone=b"]).is_err());
        let many: Vec<String> = (0..17).map(|n| format!("l{n}=x")).collect();
        assert!(Labels::try_from(many[..16].to_vec()).is_ok());
        assert!(Labels::try_from(many).is_err());
    }
}
