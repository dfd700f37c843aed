//! What people see: tables, times, colours; and nothing that a script's output could do to their terminal.

use std::time::Duration;

use domain::{Level, State};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use protocol::http::{FoundRow, LogRow};

/// How a stream is written to.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// It is a terminal that shows colours.
    pub colours: bool,
    /// Text goes out as it came, control characters included.
    pub raw: bool,
}

const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RESET: &str = "\x1b[0m";

impl Style {
    fn paint(self, colour: &str, text: &str) -> String {
        if self.colours && !colour.is_empty() { format!("{colour}{text}{RESET}") } else { text.to_owned() }
    }

    /// Emphasised.
    pub fn bold(self, text: &str) -> String {
        self.paint(BOLD, text)
    }

    /// Kept in the background.
    pub fn dim(self, text: &str) -> String {
        self.paint(DIM, text)
    }

    /// A state in its colour.
    pub fn state(self, state: State) -> String {
        let colour = match state {
            State::Succeeded => GREEN,
            State::Failed | State::TimedOut | State::Dead | State::Expired => RED,
            State::Cancelled | State::Delayed => YELLOW,
            State::Queued | State::Running => "",
        };
        self.paint(colour, state.label())
    }

    /// A log line: id, local time, level, text.
    pub fn log_row(self, row: &LogRow) -> String {
        self.row(row, "%H:%M:%S%.3f")
    }

    /// A log line of some execution: whose it is, id, local date and time, level, text.
    pub fn found_row(self, found: &FoundRow) -> String {
        format!("{} {}", self.dim(&found.execute_id.to_string()), self.row(&found.row, "%m-%d %H:%M:%S%.3f"))
    }

    fn row(self, row: &LogRow, time: &str) -> String {
        let time = row.at.to_zoned(TimeZone::system()).strftime(time).to_string();
        let text = if self.raw { row.line.clone() } else { plain(&row.line) };
        let text = match row.level {
            Level::Error => self.paint(RED, &text),
            Level::Warning => self.paint(YELLOW, &text),
            Level::Debug => self.dim(&text),
            Level::Info => text,
        };
        let head = self.dim(&format!("{:>4} {time} {}", row.log_id, row.level));
        format!("{head} {text}")
    }
}

/// `text` without control characters (but for tabs) and without the escape sequences they begin.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\t' => plain.push(c),
            '\x1b' => skip_escape(&mut chars),
            '\u{9b}' => skip_control_sequence(&mut chars),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

/// Skips what follows an ESC: a control sequence, a string up to its terminator, or one character (ECMA-48).
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => skip_control_sequence(chars),
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next() {
                if c == '\x07' || c == '\u{9c}' || (c == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        Some(_) | None => {}
    }
}

fn skip_control_sequence(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
}

/// Columns as wide as their widest cell, two spaces apart; the last one is not padded. Empty rows give the heading alone.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[&str]| {
        let cells = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column + 1 == N { (*cell).to_owned() } else { format!("{cell:<width$}  ") }
        });
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    let mut text = line(&heading);
    for row in rows {
        text.push_str(&line(&row.each_ref().map(String::as_str)));
    }
    text
}

/// As `85 ms`, `3.21 s`, `4 min`, `2 h`, `3 d`.
pub fn span(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ 0..1_000 => format!("{ms} ms"),
        ms @ 1_000..60_000 => format!("{:.2} s", ms as f64 / 1_000.0),
        ms @ 60_000..3_600_000 => format!("{} min", ms / 60_000),
        ms @ 3_600_000..86_400_000 => format!("{} h", ms / 3_600_000),
        ms => format!("{} d", ms / 86_400_000),
    }
}

/// The time from `from` to `to`; zero if they stand the other way round.
pub fn between(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}

/// As `512 B`, `3.4 KiB`, `12.0 MiB`.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_024 => format!("{count} B"),
        1_024..1_048_576 => format!("{:.1} KiB", count as f64 / 1_024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_prints_cannot_move_the_cursor_or_name_the_window() {
        for (printed, shown) in [
            ("\x1b[31mred\x1b[0m\tand\u{7}", "red\tand"),
            ("\x1b]0;title\x07rest", "rest"),
            ("\x1b]8;;http://x\x1b\\link", "link"),
            ("\u{9b}2Jclear", "clear"),
            ("a\rb\x08c\0d", "abcd"),
            ("é 漢 🙂", "é 漢 🙂"),
            ("\x1b", ""),
        ] {
            assert_eq!(plain(printed), shown, "{printed:?}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(table(["ID", "N"], &rows), "ID    N\na     1\nlong\n");
    }
}
