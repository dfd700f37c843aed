use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use domain::Payload;
use domain::limits::INPUT_BYTES_MAX;

use super::{ClientError, screen};

/// Where an input comes from, as `--input` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The argument itself.
    Text(String),
    /// A file: `@FILE`.
    File(PathBuf),
    /// Standard input: `-` or `@-`.
    Stdin,
}

impl FromStr for Input {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "-" | "@-" => Self::Stdin,
            text => match text.strip_prefix('@') {
                Some(path) => Self::File(path.into()),
                None => Self::Text(text.to_owned()),
            },
        })
    }
}

impl Input {
    /// Reads it and, if it says it is JSON, checks that it is.
    ///
    /// # Errors
    /// [`Exit::Usage`](super::Exit::Usage), which names the file or points at the character.
    pub fn read(&self, content_type: &str) -> Result<Payload, ClientError> {
        let (name, bytes) = match self {
            Self::Text(text) => ("--input".to_owned(), text.clone().into_bytes()),
            Self::File(path) => (path.display().to_string(), read_file(path)?),
            Self::Stdin => {
                let mut bytes = Vec::new();
                let limited =
                    std::io::stdin().lock().take(INPUT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
                limited.map_err(|error| ClientError::usage(format!("read the input from stdin: {error}")))?;
                ("the input on stdin".to_owned(), bytes)
            }
        };
        if bytes.is_empty() {
            return Err(ClientError::usage(format!(
                "{name} is empty; send {{}} if the model takes no input"
            )));
        }
        if bytes.len() > INPUT_BYTES_MAX {
            let most = screen::bytes(INPUT_BYTES_MAX as u64);
            return Err(ClientError::usage(format!(
                "{name} is larger than {most}, the most an input may have"
            )));
        }
        let payload = Payload::new(content_type, bytes);
        if payload.is_json() {
            payload.check_json().map_err(|error| no_json(&name, &payload.bytes, &error))?;
        }
        Ok(payload)
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, ClientError> {
    let read = fs::File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(INPUT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map(|_| bytes)
    });
    read.map_err(|error| ClientError::usage(format!("--input @{}: {error}", path.display())))
}

/// Points at the character where the JSON ends to be JSON.
fn no_json(name: &str, bytes: &[u8], error: &serde_json::Error) -> ClientError {
    /// How much of a long line is shown on either side.
    const AROUND: usize = 30;
    let mut message = format!("{name} is no JSON: {error}");
    let text = String::from_utf8_lossy(bytes);
    if let Some(line) = text.lines().nth(error.line().saturating_sub(1)) {
        // serde_json counts columns in bytes, from 1.
        let before =
            String::from_utf8_lossy(&line.as_bytes()[..line.len().min(error.column().saturating_sub(1))]);
        let column = before.chars().count();
        let start = column.saturating_sub(AROUND);
        let part: String = line.chars().skip(start).take(2 * AROUND).collect();
        message.push_str(&format!("\n  {}\n  {:>2$}", screen::plain(&part), "^", column - start + 1));
    }
    message.push_str("\n  (text that is no JSON needs --content-type, as text/plain)");
    ClientError::usage(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(input: &str) -> String {
        input.parse::<Input>().unwrap().read(Payload::JSON).unwrap_err().message
    }

    #[test]
    fn an_input_that_is_no_json_is_shown_with_the_place() {
        let shown = message("{'bad'");
        assert!(shown.contains("\n  {'bad'\n   ^\n"), "{shown}");
        let long = format!("[{}x]", "1,".repeat(100));
        let caret = message(&long);
        let caret: Vec<_> = caret.lines().collect();
        assert!(caret[1].len() < 80 && caret[1].chars().nth(caret[2].len() - 1) == Some('x'), "{caret:?}");
    }

    #[test]
    fn a_missing_file_is_named() {
        assert!(message("@/nowhere/input.json").contains("/nowhere/input.json: No such file"));
    }

    #[test]
    fn text_of_another_type_is_not_checked() {
        let input = Input::Text("{bad".to_owned());
        assert_eq!(&input.read("text/plain").unwrap().bytes[..], b"{bad");
    }
}
