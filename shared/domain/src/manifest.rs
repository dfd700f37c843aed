//! `gantry.toml` of a bundle: how its model is run.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{
    ATTEMPTS_MAX, EXCLUSIVE_WAIT_TIMEOUT_DEFAULT, EXCLUSIVE_WAIT_TIMEOUT_MAX, GRACE_DEFAULT,
    LIMITS_OF_MODEL_MAX, MANIFEST_BYTES_MAX, MAX_RUNNING_MAX, RUN_TIMEOUT_DEFAULT, RUN_TIMEOUT_MAX,
};
use crate::{KeyTemplate, LimitName, LockKey, ModelName, Payload, QueueName, RetryPolicy};

/// What `gantry.toml` at the root of a bundle says. Unknown keys are refused.
///
/// ```toml
/// runtime = "process"
/// command = ["python3", "predict.py"]
///
/// [result]
/// from = "last_line"
///
/// [limits]
/// run_timeout_ms = 10000
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// How it is run.
    pub runtime: Runtime,
    /// `process`: program and arguments, relative to the bundle or found on `PATH`. No shell is involved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// `builtin`: which one; only `echo`, which returns its input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builtin: Option<String>,
    /// The queue its executions go to.
    #[serde(default)]
    pub queue: QueueName,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Executions that share this lock key run one at a time, in the order they arrived at the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<KeyTemplate>,
    /// How long an execution may wait for its lock and its limits, in milliseconds; then it is `expired`.
    #[serde(default = "exclusive_wait_timeout_ms")]
    pub exclusive_wait_timeout_ms: u64,
    /// How many executions of the model run at once at most, on all nodes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    /// Further limits that its executions count for.
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "limit")]
    pub named_limits: Vec<NamedLimit>,
    /// Where the result comes from.
    #[serde(default)]
    pub result: ResultFrom,
    /// What one attempt may use.
    #[serde(default)]
    pub limits: RunLimits,
    /// When a failed attempt is followed by another.
    #[serde(default)]
    pub retry: RetryPolicy,
}

/// A `[[limit]]` table: a cluster-wide limit that may be shared by several models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedLimit {
    /// Its name, which may depend on the input: one limit for each name that comes out.
    pub name: KeyTemplate,
    /// How many executions run at once at most.
    pub max_running: u32,
}

const fn exclusive_wait_timeout_ms() -> u64 {
    EXCLUSIVE_WAIT_TIMEOUT_DEFAULT.as_millis() as u64
}

/// How a bundle is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// Inside the worker: for canaries and load tests.
    Builtin,
    /// One process tree per execution.
    Process,
}

/// The `[result]` table: where the result comes from and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResultFrom {
    /// What the script writes the result to.
    pub from: ResultSource,
    /// The media type of the result.
    pub content_type: String,
}

/// What the script writes the result to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultSource {
    /// File descriptor 3; its number is also in `GANTRY_RESULT_FD`.
    Descriptor,
    /// The last line of stdout, which then is no log line.
    LastLine,
}

impl Default for ResultFrom {
    fn default() -> Self {
        Self { from: ResultSource::Descriptor, content_type: Payload::JSON.to_owned() }
    }
}

/// The `[limits]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunLimits {
    /// How long one attempt may run, in milliseconds: 1 to 24 hours.
    pub run_timeout_ms: u64,
    /// From SIGTERM to the kill of the whole tree, in milliseconds: 0 to 60 s.
    pub grace_ms: u64,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            run_timeout_ms: RUN_TIMEOUT_DEFAULT.as_millis() as u64,
            grace_ms: GRACE_DEFAULT.as_millis() as u64,
        }
    }
}

impl RunLimits {
    /// How long one attempt may run.
    #[must_use]
    pub const fn run_timeout(&self) -> Duration {
        Duration::from_millis(self.run_timeout_ms)
    }

    /// From SIGTERM to the kill of the whole tree.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
}

/// The manifest cannot be used; the message says what, where and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("gantry.toml{}: {message}", .at.map(|(line, column)| format!(" line {line}, column {column}")).unwrap_or_default())]
pub struct InvalidManifest {
    /// Line and column, counted from 1, where the text itself is wrong.
    pub at: Option<(usize, usize)>,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl InvalidManifest {
    fn rule(message: impl Into<String>) -> Self {
        Self { at: None, message: message.into() }
    }
}

impl Manifest {
    /// Parses and checks the text of a `gantry.toml`.
    ///
    /// # Errors
    /// [`InvalidManifest`] with line and column if the text is no TOML, has an unknown key or a value of the wrong
    /// type; without them if values do not go together or are out of range.
    pub fn parse(text: &str) -> Result<Self, InvalidManifest> {
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(InvalidManifest::rule(format!("more than {MANIFEST_BYTES_MAX} bytes")));
        }
        let manifest: Self = toml::from_str(text).map_err(|error| InvalidManifest {
            at: error.span().map(|span| position(text, span.start)),
            message: error.message().to_owned(),
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The lock an execution with this input needs; `None` if its model is not exclusive.
    ///
    /// # Errors
    /// A sentence for the caller if the input has no such key.
    pub fn lock_key(&self, input: &Payload) -> Result<Option<LockKey>, String> {
        let Some(template) = &self.exclusive else { return Ok(None) };
        let key = template.render(input)?.parse().map_err(|error: crate::InvalidKey| error.to_string())?;
        Ok(Some(key))
    }

    /// The limits an execution of `model` with this input counts for, by name, each once: the one of its model
    /// (`model:<name>`) and the named ones. The order is the same for all executions, so that they cannot wait for one
    /// another in a circle.
    ///
    /// # Errors
    /// A sentence for the caller if the input has no such name.
    pub fn limits_of(&self, model: &ModelName, input: &Payload) -> Result<Vec<(LimitName, u32)>, String> {
        let mut limits = std::collections::BTreeMap::new();
        let mut add = |name: String, max: u32| {
            let name: LimitName = name.parse().map_err(|error: crate::InvalidKey| error.to_string())?;
            let known = limits.entry(name).or_insert(max);
            *known = max.min(*known);
            Ok::<_, String>(())
        };
        if let Some(max) = self.max_running {
            add(format!("model:{model}"), max)?;
        }
        for limit in &self.named_limits {
            add(limit.name.render(input)?, limit.max_running)?;
        }
        Ok(limits.into_iter().collect())
    }

    /// How long an execution may wait for its lock and its limits.
    #[must_use]
    pub const fn exclusive_wait_timeout(&self) -> Duration {
        Duration::from_millis(self.exclusive_wait_timeout_ms)
    }

    fn check(&self) -> Result<(), InvalidManifest> {
        let rule = |message: String| Err(InvalidManifest::rule(message));
        match (self.runtime, self.command.first(), self.builtin.as_deref()) {
            (Runtime::Process, Some(program), None) if !program.is_empty() => {}
            (Runtime::Process, _, None) => {
                return rule(r#"runtime "process" needs `command`, as ["python3", "predict.py"]"#.to_owned());
            }
            (Runtime::Process, _, Some(_)) => {
                return rule(r#"`builtin` belongs to runtime "builtin""#.to_owned());
            }
            (Runtime::Builtin, None, Some("echo")) => {}
            (Runtime::Builtin, None, _) => {
                return rule(r#"runtime "builtin" needs `builtin = "echo"`"#.to_owned());
            }
            (Runtime::Builtin, Some(_), _) => {
                return rule(r#"`command` belongs to runtime "process""#.to_owned());
            }
        }
        if self.command.iter().any(|argument| argument.contains('\0')) {
            return rule("`command` contains a NUL".to_owned());
        }
        if self.command.first().is_some_and(|program| program.split('/').any(|part| part == "..")) {
            return rule("`command` leaves the bundle: `..` is not allowed in the program".to_owned());
        }
        let longest = RUN_TIMEOUT_MAX.as_millis() as u64;
        if !(1..=longest).contains(&self.limits.run_timeout_ms) {
            return rule(format!("limits.run_timeout_ms is 1 to {longest}"));
        }
        if self.limits.grace_ms > 60_000 {
            return rule("limits.grace_ms is 0 to 60000".to_owned());
        }
        if !(1..=ATTEMPTS_MAX).contains(&self.retry.attempts) {
            return rule(format!("retry.attempts is 1 to {ATTEMPTS_MAX}"));
        }
        let longest = EXCLUSIVE_WAIT_TIMEOUT_MAX.as_millis() as u64;
        if !(1..=longest).contains(&self.exclusive_wait_timeout_ms) {
            return rule(format!("exclusive_wait_timeout_ms is 1 to {longest}"));
        }
        let counts = self.max_running.iter().chain(self.named_limits.iter().map(|limit| &limit.max_running));
        if !counts.into_iter().all(|count| (1..=MAX_RUNNING_MAX).contains(count)) {
            return rule(format!("max_running is 1 to {MAX_RUNNING_MAX}"));
        }
        if self.named_limits.len() > LIMITS_OF_MODEL_MAX {
            return rule(format!("at most {LIMITS_OF_MODEL_MAX} [[limit]] tables"));
        }
        let media_type = &self.result.content_type;
        if !media_type.contains('/')
            || media_type.len() > 127
            || !media_type.bytes().all(|b| (32..127).contains(&b))
        {
            return rule("result.content_type is a media type, as \"text/csv\"".to_owned());
        }
        Ok(())
    }
}

/// Line and column of byte `at`, counted from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IRIS: &str = "runtime = \"process\"\ncommand = [\"python3\", \"iris.py\"]\n";

    #[test]
    fn what_is_left_out_has_a_default() {
        let manifest = Manifest::parse(IRIS).unwrap();
        assert_eq!(manifest.queue, QueueName::default());
        assert_eq!(manifest.result.from, ResultSource::Descriptor);
        assert_eq!(manifest.limits.run_timeout(), RUN_TIMEOUT_DEFAULT);
        assert_eq!(manifest.retry.attempts, 1);
    }

    #[test]
    fn an_unknown_key_is_refused_with_line_and_column() {
        let error = Manifest::parse(&format!("{IRIS}[limits]\n  run_timout_ms = 5\n")).unwrap_err();
        assert_eq!(error.at, Some((4, 3)));
        assert!(error.to_string().contains("run_timeout_ms"), "{error}");
    }

    #[test]
    fn locks_and_limits_depend_on_the_input_and_come_in_one_order() {
        let text = format!(
            "{IRIS}exclusive = \"account:{{input.id}}\"\nmax_running = 3\n\
             [[limit]]\nname = \"gpu-{{input.zone}}\"\nmax_running = 2\n[[limit]]\nname = \"gpu-a\"\nmax_running = 1\n"
        );
        let manifest = Manifest::parse(&text).unwrap();
        let input = Payload::new(Payload::JSON, r#"{"id": 7, "zone": "a"}"#.as_bytes().to_vec());
        assert_eq!(manifest.lock_key(&input).unwrap().unwrap().as_str(), "account:7");
        let limits = manifest.limits_of(&"iris".parse().unwrap(), &input).unwrap();
        let limits: Vec<_> = limits.iter().map(|(name, max)| (name.as_str(), *max)).collect();
        assert_eq!(limits, [("gpu-a", 1), ("model:iris", 3)]);
        let empty = Payload::new(Payload::JSON, b"{}".to_vec());
        assert!(manifest.lock_key(&empty).unwrap_err().contains("input.id"));
        assert!(manifest.limits_of(&"iris".parse().unwrap(), &empty).is_err());
    }

    #[test]
    fn values_that_cannot_work_are_refused() {
        for (text, part) in [
            ("runtime = \"process\"", "command"),
            ("runtime = \"builtin\"", "echo"),
            ("runtime = \"builtin\"\nbuiltin = \"echo\"\ncommand = [\"x\"]", "command"),
            ("runtime = \"wasm\"", "wasm"),
            ("runtime = \"process\"\ncommand = [\"../x\"]", ".."),
            ("runtime = \"process\"\ncommand = [\"a\\u0000b\"]", "NUL"),
            ("runtime = \"process\"\ncommand = [\"x\"]\n[limits]\nrun_timeout_ms = 0", "run_timeout_ms"),
            ("runtime = \"process\"\ncommand = [\"x\"]\n[retry]\nattempts = 0", "attempts"),
            ("runtime = \"process\"\ncommand = [\"x\"]\nqueue = \"A b\"", "queue"),
            ("runtime = \"process\"\ncommand = [\"x\"]\n[result]\ncontent_type = \"json\"", "content_type"),
            ("runtime = \"process\"\ncommand = [\"x\"]\nexclusive = \"{output.a}\"", "input"),
            (
                "runtime = \"process\"\ncommand = [\"x\"]\nexclusive_wait_timeout_ms = 0",
                "exclusive_wait_timeout_ms",
            ),
            ("runtime = \"process\"\ncommand = [\"x\"]\nmax_running = 0", "max_running"),
            (
                "runtime = \"process\"\ncommand = [\"x\"]\n[[limit]]\nname = \"gpu\"\nmax_running = 0",
                "max_running",
            ),
            ("runtime = ", ""),
        ] {
            let error = Manifest::parse(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
