use bootstrap::{Entry, defaults};

use super::Configuration;
use super::keys::{KEYS, Key, SECTIONS};

/// The reference of all keys, as it stands in `docs/configuration.md`.
pub fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    let defaults = defaults::<Configuration>();
    for (section, about) in SECTIONS {
        text.push_str(&format!(
            "\n## `[{section}]`\n\n{about}\n\n| Key | Default | Meaning |\n|---|---|---|\n"
        ));
        for key in KEYS.iter().filter(|key| key.name.split('.').next() == Some(section)) {
            text.push_str(&row(key, &defaults));
        }
    }
    text
}

fn row(key: &Key, defaults: &[Entry]) -> String {
    let name = key.name.split_once('.').map_or(key.name, |(_, name)| name);
    let default = defaults.iter().find(|entry| entry.key == key.name).map(|entry| entry.value.as_str());
    let default = match (key.default, default) {
        (Some(words), _) => words.to_owned(),
        (None, None | Some("" | "\"\"" | "[]")) => "none".to_owned(),
        (None, Some(value)) => format!("`{value}`"),
    };
    let range = key
        .range
        .as_ref()
        .map_or_else(String::new, |range| format!(" ({} to {})", range.start(), range.end()));
    format!("| `{name}` | {default} | {}{range} |\n", key.help)
}

const INTRODUCTION: &str = "\
# Configuration

Made by `gantry config --reference`; a test keeps it current.

Every process reads one TOML file (`--config FILE`, or the file that `GANTRY_CONFIG` names) and the environment. A file that
all share is fine: each process uses its own section and those of the servers. Every key can be set by an environment
variable, which wins over the file: `[worker] slots` is `GANTRY_WORKER__SLOTS`. In a variable, lists are separated by commas.

An unknown key, a value of the wrong type or out of range stops the process with exit code 78; the message names the
line or the variable, the key, and what would be right. `gantry config` prints what would be used and where each value
comes from, without secrets.

A key that holds a secret (`url`, `password`, `access_key`, `secret_key`) can be given as a file instead: `url_file` and so on. That file
must not be readable by others than its owner and group.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_described_and_no_other() {
        let mut known: Vec<_> = defaults::<Configuration>().into_iter().map(|entry| entry.key).collect();
        let mut described: Vec<_> = KEYS.iter().map(|key| key.name.to_owned()).collect();
        known.sort();
        described.sort();
        assert_eq!(described, known);
    }

    #[test]
    fn the_reference_in_the_documentation_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == reference(), "run `gantry config --reference > docs/configuration.md`");
    }
}
