use std::collections::BTreeMap;
use std::time::Duration;

use domain::{Ending, ErrorClass, ExecuteId, Failure, Payload, State};

use crate::envelope::{HeaderValue, RawMessage, header};
use crate::{Problem, ProblemCode};

/// How an execution ended, sent to whoever waits. A hint: the row is the truth, and a reply is sent only once the row
/// says the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Which execution.
    pub execute_id: ExecuteId,
    /// The attempt that ended it.
    pub attempt: i32,
    /// How it ended.
    pub ending: Ending,
    /// How long the script ran in that attempt.
    pub run: Duration,
}

/// The message is no reply of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the message is no reply: {0}")]
pub struct InvalidReply(&'static str);

impl Reply {
    /// The media type of the body of a reply that brings no result.
    pub const PROBLEM: &'static str = "application/problem+json";

    /// The message that says this to the caller with this `correlation_id`. The body is the result itself, or the
    /// problem as JSON.
    #[must_use]
    pub fn to_message(&self, correlation_id: String) -> RawMessage {
        let integer = |n: i64| HeaderValue::Integer(n);
        let headers = BTreeMap::from([
            (header::STATE.to_owned(), HeaderValue::Text(self.ending.state().label().to_owned())),
            (header::ATTEMPT.to_owned(), integer(self.attempt.into())),
            (header::RUN_US.to_owned(), integer(i64::try_from(self.run.as_micros()).unwrap_or(i64::MAX))),
        ]);
        let (content_type, body) = match (self.ending.result(), self.ending.failure()) {
            (Some(payload), _) => (payload.content_type.to_string(), payload.bytes.clone()),
            (None, failure) => {
                let internal = Failure::new(ErrorClass::Internal, "ended without a reason");
                let failure = failure.unwrap_or(&internal);
                let state = self.ending.state();
                let problem = Problem::of_failure(self.execute_id, state, self.attempt, failure, Vec::new());
                (Self::PROBLEM.to_owned(), serde_json::to_vec(&problem).unwrap_or_default().into())
            }
        };
        RawMessage {
            message_id: Some(self.execute_id.to_string()),
            content_type: Some(content_type),
            correlation_id: Some(correlation_id),
            headers,
            body,
            ..RawMessage::default()
        }
    }

    /// The message that tells the sender of `bad` why it was rejected.
    #[must_use]
    pub fn rejection(message_id: Option<String>, correlation_id: String, reason: &str) -> RawMessage {
        let problem = Problem::new(ProblemCode::Parameter, reason);
        RawMessage {
            message_id,
            content_type: Some(Self::PROBLEM.to_owned()),
            correlation_id: Some(correlation_id),
            headers: BTreeMap::from([(header::STATE.to_owned(), HeaderValue::Text("rejected".to_owned()))]),
            body: serde_json::to_vec(&problem).unwrap_or_default().into(),
            ..RawMessage::default()
        }
    }

    /// Reads the reply in `message`.
    ///
    /// # Errors
    /// [`InvalidReply`] if it is none of ours: drop it, the row has the answer.
    pub fn parse(message: RawMessage) -> Result<Self, InvalidReply> {
        let execute_id = message.message_id.as_deref().and_then(|id| id.parse().ok());
        let execute_id = execute_id.ok_or(InvalidReply("its message_id is no execute_id"))?;
        let integer = |name| match message.headers.get(name) {
            Some(HeaderValue::Integer(n)) => Some(*n),
            Some(HeaderValue::Text(_) | HeaderValue::Bool(_) | HeaderValue::Other) | None => None,
        };
        let state = match message.headers.get(header::STATE) {
            Some(HeaderValue::Text(label)) => label.parse::<State>().ok(),
            Some(HeaderValue::Integer(_) | HeaderValue::Bool(_) | HeaderValue::Other) | None => None,
        };
        let state = state.ok_or(InvalidReply("it has no state"))?;
        let attempt = integer(header::ATTEMPT).and_then(|n| i32::try_from(n).ok());
        let run = Duration::from_micros(integer(header::RUN_US).and_then(|n| n.try_into().ok()).unwrap_or(0));
        let (result, failure) = if state == State::Succeeded {
            let content_type = message.content_type.as_deref().unwrap_or(Payload::JSON);
            (Some(Payload::new(content_type, message.body)), None)
        } else {
            let problem: Problem =
                serde_json::from_slice(&message.body).map_err(|_| InvalidReply("its body is no problem"))?;
            let failure = Failure {
                class: problem.error_class.unwrap_or(ErrorClass::Internal),
                message: problem.detail,
                exit_code: problem.exit_code,
                signal: problem.signal,
            };
            (None, Some(failure))
        };
        Ok(Self {
            execute_id,
            attempt: attempt.ok_or(InvalidReply("it has no attempt"))?,
            ending: Ending::from_parts(state, result, failure)
                .ok_or(InvalidReply("its state is not terminal"))?,
            run,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_read_back_as_they_were_written() {
        let failure = Failure { exit_code: Some(3), ..Failure::new(ErrorClass::Script, "exit code 3") };
        for ending in [
            Ending::Succeeded(Payload::new("text/csv", &b"a,b"[..])),
            Ending::Failed(failure),
            Ending::Cancelled(Failure::new(ErrorClass::Cancelled, "cancelled by its caller")),
        ] {
            let reply = Reply {
                execute_id: ExecuteId::new(1_700_000_000_000),
                attempt: 2,
                ending,
                run: Duration::from_micros(1_234),
            };
            assert_eq!(Reply::parse(reply.to_message("c".to_owned())), Ok(reply));
        }
    }

    #[test]
    fn a_stranger_is_no_reply() {
        assert!(Reply::parse(RawMessage::default()).is_err());
        assert!(Reply::parse(Reply::rejection(None, "c".to_owned(), "empty")).is_err());
    }
}
