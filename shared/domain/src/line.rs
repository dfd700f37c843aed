//! How what a script prints becomes log lines.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{LINE_BYTES_MAX, LINE_CHARS_MAX};

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// Debugging.
    #[serde(rename = "D")]
    Debug,
    /// Information: what stdout says unless it names another level.
    #[serde(rename = "I")]
    Info,
    /// Warning: what stderr says unless it names another level.
    #[serde(rename = "W")]
    Warning,
    /// Error.
    #[serde(rename = "E")]
    Error,
}

impl Level {
    /// The one letter the record keeps.
    #[must_use]
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Debug => "D",
            Self::Info => "I",
            Self::Warning => "W",
            Self::Error => "E",
        }
    }

    /// The letters of this level and of those that matter more.
    #[must_use]
    pub const fn and_above(self) -> &'static str {
        match self {
            Self::Debug => "DIWE",
            Self::Info => "IWE",
            Self::Warning => "WE",
            Self::Error => "E",
        }
    }

    /// The level `line` names with its first word (as in `ERROR: no such file`, `[debug] x`), if it names one.
    #[must_use]
    pub fn named_by(line: &str) -> Option<Self> {
        let line = line.trim_start_matches(['[', '<', ' ']);
        let end = line.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(line.len());
        let (word, rest) = line.split_at(end);
        if !rest.is_empty() && !rest.starts_with([':', ']', '>', ' ', '\t', '-', '|']) {
            return None;
        }
        match word {
            "TRACE" | "DEBUG" | "trace" | "debug" => Some(Self::Debug),
            "INFO" | "NOTICE" | "info" | "notice" => Some(Self::Info),
            "WARN" | "WARNING" | "warn" | "warning" => Some(Self::Warning),
            "ERROR" | "CRITICAL" | "FATAL" | "error" | "critical" | "fatal" => Some(Self::Error),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.letter())
    }
}

/// The text is not one of `D`, `I`, `W`, `E`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a level is one of D, I, W, E")]
pub struct InvalidLevel;

impl FromStr for Level {
    type Err = InvalidLevel;

    fn from_str(text: &str) -> Result<Self, InvalidLevel> {
        match text {
            "D" => Ok(Self::Debug),
            "I" => Ok(Self::Info),
            "W" => Ok(Self::Warning),
            "E" => Ok(Self::Error),
            _ => Err(InvalidLevel),
        }
    }
}

/// One row of the log before it has its `log_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub level: Level,
    /// When it was read, in microseconds after 1970 by the worker's clock: for people, never for decisions.
    pub at_unix_us: i64,
    /// At most [`LINE_CHARS_MAX`] characters without NUL or line end.
    pub text: String,
    /// The printed line goes on in the next row.
    pub continues: bool,
}

/// Cuts one printed line (without its line end) into rows.
///
/// Bytes that are no UTF-8, and NUL, become U+FFFD. A line over [`LINE_BYTES_MAX`] bytes is cut there and ends with a
/// marker that says how many bytes are missing; `dropped` are bytes the reader already threw away. The level is the one
/// the line names, else `default`.
#[must_use]
pub fn rows(printed: &[u8], dropped: usize, default: Level, at_unix_us: i64) -> Vec<LogLine> {
    let kept = &printed[..printed.len().min(LINE_BYTES_MAX)];
    let missing = printed.len() - kept.len() + dropped;
    let mut text = String::from_utf8_lossy(kept).replace('\0', "\u{fffd}");
    if text.ends_with('\r') {
        text.pop();
    }
    let level = Level::named_by(&text).unwrap_or(default);
    if missing > 0 {
        text.push_str(&format!(" [{missing} bytes cut]"));
    }
    let mut rows = Vec::with_capacity(1);
    let mut rest = text.as_str();
    loop {
        let end = rest.char_indices().nth(LINE_CHARS_MAX).map_or(rest.len(), |(at, _)| at);
        let (row, after) = rest.split_at(end);
        rows.push(LogLine { level, at_unix_us, text: row.to_owned(), continues: !after.is_empty() });
        if after.is_empty() {
            return rows;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leading_level_word_decides() {
        for (line, level) in [
            ("ERROR: disk full", Some(Level::Error)),
            ("[WARN] slow", Some(Level::Warning)),
            ("DEBUG", Some(Level::Debug)),
            ("INFO - ready", Some(Level::Info)),
            ("Errors were found", None),
            ("informational", None),
            ("", None),
        ] {
            assert_eq!(Level::named_by(line), level, "{line}");
        }
    }

    #[test]
    fn nul_and_broken_utf8_become_the_replacement_character() {
        let rows = rows(b"a\0b\xffc\r", 0, Level::Info, 7);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].text, "a\u{fffd}b\u{fffd}c");
    }

    #[test]
    fn a_long_line_goes_on_in_marked_rows_and_a_longer_one_is_cut_with_a_marker() {
        let printed = "é".repeat(2_500);
        let rows = rows(printed.as_bytes(), 0, Level::Info, 0);
        assert_eq!(rows.iter().map(|r| r.text.chars().count()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        assert_eq!(rows.iter().map(|r| r.continues).collect::<Vec<_>>(), [true, true, false]);

        let printed = vec![b'x'; LINE_BYTES_MAX + 10];
        let rows = super::rows(&printed, 5, Level::Warning, 0);
        assert!(rows.last().is_some_and(|r| r.text.ends_with("x [15 bytes cut]")), "{:?}", rows.last());
        assert!(rows.iter().all(|r| r.level == Level::Warning));
    }
}
