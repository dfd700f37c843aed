//! How columns are read back into our types, and how lists become the arrays of a statement.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use domain::{Attributes, Ending, ErrorClass, ExecuteId, Failure, Payload, State, VersionNumber, limits};
use protocol::ReplyAddress;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use super::fail::corrupt;
use crate::{Conclusion, StoreError};

/// The columns of an execution's row, by name.
pub(super) struct Columns<'a>(pub &'a Row);

impl<'a> Columns<'a> {
    /// The value of a column.
    pub fn get<T: FromSql<'a>>(&self, column: &'static str) -> Result<T, StoreError> {
        self.0.try_get(column).map_err(|error| corrupt("a table", error))
    }

    /// A name, state, class, ... in a text column.
    pub fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, column: &'static str) -> Result<T, StoreError> {
        parse(self.get(column)?)
    }

    /// The same where it may be null.
    pub fn maybe<T: FromStr<Err: std::fmt::Display>>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        self.get::<Option<&str>>(column)?.map(parse).transpose()
    }

    /// A value that Serde knows in a jsonb column.
    pub fn json<T: serde::de::DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        let value = self.get::<serde_json::Value>(column)?;
        serde_json::from_value(value).map_err(|error| corrupt("a table", error))
    }

    /// The labels its caller gave it.
    pub fn attributes(&self) -> Result<Attributes, StoreError> {
        match self.get::<Option<serde_json::Value>>("attributes")? {
            None => Ok(Attributes::default()),
            Some(value) => serde_json::from_value(value).map_err(|error| corrupt("execution", error)),
        }
    }

    pub fn execute_id(&self) -> Result<ExecuteId, StoreError> {
        self.get::<Uuid>("execute_id")?.try_into().map_err(|error| corrupt("execution", error))
    }

    pub fn version(&self) -> Result<Option<VersionNumber>, StoreError> {
        Ok(self.get::<Option<i32>>("version")?.map(VersionNumber))
    }

    /// `<name>_type` and `<name>`: an input or a result.
    pub fn payload(
        &self,
        content_type: &'static str,
        bytes: &'static str,
    ) -> Result<Option<Payload>, StoreError> {
        let Some(content_type) = self.get::<Option<&str>>(content_type)? else { return Ok(None) };
        let bytes = Bytes::copy_from_slice(self.get(bytes)?);
        Ok(Some(Payload::new(content_type, bytes)))
    }

    /// How it ended; `None` if it has not.
    pub fn ending(&self) -> Result<Option<Ending>, StoreError> {
        let state: State = self.parsed("state")?;
        if !state.is_terminal() {
            return Ok(None);
        }
        let failure = match self.maybe::<ErrorClass>("error_class")? {
            Some(class) => Some(Failure {
                class,
                message: self.get("error")?,
                exit_code: self.get("exit_code")?,
                signal: self.get("signal")?,
            }),
            None => None,
        };
        let result = self.payload("result_type", "result")?;
        Ending::from_parts(state, result, failure)
            .map(Some)
            .ok_or_else(|| corrupt("execution", format!("{state} without its result or failure")))
    }

    pub fn reply_addresses(&self) -> Result<Vec<ReplyAddress>, StoreError> {
        let reply_to: Vec<String> = self.get("reply_to")?;
        let correlation_id: Vec<String> = self.get("correlation_id")?;
        let pairs = reply_to.into_iter().zip(correlation_id);
        Ok(pairs.map(|(reply_to, correlation_id)| ReplyAddress { reply_to, correlation_id }).collect())
    }

    /// The row as it stands: `execute_id`, `attempt`, the columns of its ending, its reply addresses.
    pub fn conclusion(&self) -> Result<Conclusion, StoreError> {
        Ok(Conclusion {
            execute_id: self.execute_id()?,
            attempt: self.get("attempt")?,
            ending: self.ending()?,
            reply_addresses: self.reply_addresses()?,
        })
    }
}

/// Attributes as a jsonb column has them; `None` if there are none.
pub(super) fn attributes_json(attributes: &Attributes) -> Option<serde_json::Value> {
    let pairs = || attributes.iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    (!attributes.is_empty()).then(|| serde_json::Value::Object(pairs()))
}

pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error| corrupt("a table", format!("{text:?}: {error}")))
}

pub(super) fn conclusions(rows: &[Row]) -> Result<Vec<Conclusion>, StoreError> {
    rows.iter().map(|row| Columns(row).conclusion()).collect()
}

/// The parts of a list, one array each: `columns!(batch => |item| item.a, item.b)` is `(Vec<_>, Vec<_>)`.
macro_rules! columns {
    ($batch:expr => |$item:ident| $($value:expr),+ $(,)?) => {
        ($($batch.iter().map(|$item| $value).collect::<Vec<_>>()),+)
    };
}
pub(super) use columns;

/// Seconds, as `make_interval` takes them.
pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// A wait, as far as one may lie ahead.
pub(super) fn delay_seconds(delay: Duration) -> f64 {
    seconds(delay.min(limits::DELAY_MAX))
}

/// How far an id may be dated from now, in seconds: back and ahead.
pub(super) fn window() -> [f64; 2] {
    [seconds(limits::EXECUTE_ID_AGE_MAX), seconds(limits::EXECUTE_ID_AHEAD_MAX)]
}
