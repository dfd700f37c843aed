use std::borrow::Cow;

use domain::{ErrorClass, ExecuteId, Failure, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An error as RFC 9457 has it: `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` tells problems apart.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: Cow<'static, str>,
    /// The stable code: programs match on this.
    pub code: ProblemCode,
    /// The HTTP status.
    pub status: u16,
    /// What kind of problem it is, in words.
    pub title: Cow<'static, str>,
    /// What exactly is wrong, where, and what is allowed.
    pub detail: String,
    /// The execution it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub execute_id: Option<ExecuteId>,
    /// The state the execution ended in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub state: Option<State>,
    /// Why the execution did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub error_class: Option<ErrorClass>,
    /// The attempt that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// What the script exited with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal the script died of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The script's last log lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

fn about_blank() -> Cow<'static, str> {
    Cow::Borrowed("about:blank")
}

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $status:literal, $title:literal;)*) => {
        /// The stable codes of problems. A code never changes its meaning or status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum ProblemCode {
            $($(#[$doc])* $code,)*
        }

        impl ProblemCode {
            /// The HTTP status it comes with.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$code => $status,)* }
            }

            /// What kind of problem it is, in words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)* }
            }
        }
    };
}

codes! {
    /// The request's body is empty.
    BodyMissing = 400, "The body is missing";
    /// The body is no JSON.
    JsonSyntax = 400, "The body is no JSON";
    /// A name breaks its rule.
    Name = 400, "Not a name";
    /// A parameter or header cannot be understood.
    Parameter = 400, "A parameter cannot be understood";
    /// The bundle cannot be unpacked.
    BundleCorrupt = 400, "The bundle cannot be unpacked";
    /// A path in the bundle leaves it or is not allowed.
    BundlePath = 400, "A path in the bundle is not allowed";
    /// The bundle holds a link.
    BundleLink = 400, "The bundle holds a link";
    /// The bundle holds something that is neither file nor directory.
    BundleType = 400, "The bundle holds a special file";
    /// The bundle has too many entries.
    BundleCount = 400, "The bundle has too many entries";
    /// The bundle is too large, packed or unpacked.
    BundleSize = 413, "The bundle is too large";
    /// The bundle grows too much when unpacked.
    BundleRatio = 400, "The bundle grows too much when unpacked";
    /// The manifest is missing or wrong.
    BundleManifest = 400, "The manifest is missing or wrong";
    /// No such route.
    RouteNotFound = 404, "No such route";
    /// No such model.
    ModelNotFound = 404, "No such model";
    /// No such version or alias.
    VersionNotFound = 404, "No such version";
    /// No such execution.
    ExecutionNotFound = 404, "No such execution";
    /// No such node.
    NodeNotFound = 404, "No such node";
    /// The route does not know this method.
    MethodNotAllowed = 405, "Method not allowed";
    /// The body came too slowly.
    BodyTimeout = 408, "The body came too slowly";
    /// The execution has not ended.
    NotFinished = 409, "The execution has not ended";
    /// The execution has ended already: it cannot be taken back.
    AlreadyEnded = 409, "The execution has already ended";
    /// The execution was cancelled.
    ExecutionCancelled = 409, "The execution was cancelled";
    /// Too few nodes have the version for the alias to move to it.
    NotReady = 409, "Not enough nodes are ready";
    /// The alias does not point where it was expected to.
    AliasDiffers = 409, "The alias points elsewhere";
    /// The lines of the execution's log were dropped: they were older than they are kept.
    LogDropped = 410, "The log was dropped";
    /// The body is too large.
    TooLarge = 413, "The body is too large";
    /// The media type is not one of the accepted ones.
    MediaType = 415, "The media type is not accepted";
    /// The key was used with another input.
    IdempotencyKeyReused = 422, "The idempotency key was used with another input";
    /// The input lacks what the model's lock or limits are named after.
    Input = 422, "The input does not fit the model";
    /// The script failed.
    ExecutionFailed = 422, "The execution failed";
    /// The execution's deadline passed before it could start.
    ExecutionExpired = 504, "The execution expired before it could start";
    /// The script ran longer than it may.
    ExecutionTimedOut = 504, "The execution ran longer than it may";
    /// Gantry gave up on the execution.
    ExecutionDead = 500, "The execution is dead";
    /// Too much is going on; come back later.
    Overloaded = 503, "Too busy";
    /// A server Gantry stands on is away; nothing was accepted.
    Unavailable = 503, "Temporarily unavailable";
    /// A mistake of ours.
    Internal = 500, "Internal error";
}

impl Problem {
    /// The problem `code`, with `detail` saying what exactly is wrong, where, and what is allowed.
    #[must_use]
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self {
            kind: about_blank(),
            code,
            status: code.status(),
            title: Cow::Borrowed(code.title()),
            detail: detail.into(),
            execute_id: None,
            state: None,
            error_class: None,
            attempt: None,
            exit_code: None,
            signal: None,
            last_lines: Vec::new(),
        }
    }

    /// The problem that an execution which ended in `state` with `failure` is to its caller.
    #[must_use]
    pub fn of_failure(
        execute_id: ExecuteId,
        state: State,
        attempt: i32,
        failure: &Failure,
        last_lines: Vec<String>,
    ) -> Self {
        let code = match state {
            State::TimedOut => ProblemCode::ExecutionTimedOut,
            State::Cancelled => ProblemCode::ExecutionCancelled,
            State::Expired => ProblemCode::ExecutionExpired,
            State::Dead => ProblemCode::ExecutionDead,
            State::Failed | State::Queued | State::Delayed | State::Running | State::Succeeded => {
                ProblemCode::ExecutionFailed
            }
        };
        Self {
            execute_id: Some(execute_id),
            state: Some(state),
            error_class: Some(failure.class),
            attempt: Some(attempt),
            exit_code: failure.exit_code,
            signal: failure.signal,
            last_lines,
            ..Self::new(code, failure.message.clone())
        }
    }
}
