use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::ExecuteId;
use protocol::{Problem, ProblemCode, Reply};
use store::{Recovery, StoreError};

use crate::waiters::Full;

/// A problem as an answer.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Problem>);

impl Refusal {
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    /// The record's answer was lost: `execute_id` may be accepted all the same.
    pub fn about_unknown(mut self, execute_id: ExecuteId) -> Self {
        self.0.execute_id = Some(execute_id);
        self.0.detail = format!(
            "the record did not answer in time: whether {execute_id} was accepted is not known; ask for it, or repeat with the same Idempotency-Key"
        );
        self
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<&StoreError> for Refusal {
    /// The cause is logged here and kept from the caller.
    fn from(error: &StoreError) -> Self {
        if matches!(error, StoreError::Overloaded(_)) {
            return Self::new(
                ProblemCode::Overloaded,
                "too many requests are waiting for the record; try again",
            );
        }
        match error.recovery() {
            Recovery::Repeat | Recovery::Unknown => {
                tracing::warn!(error = bootstrap::chain(error), "the record did not answer");
                let detail = "the record is away; try again (with the same Idempotency-Key, if any)";
                Self::new(ProblemCode::Unavailable, detail)
            }
            Recovery::Permanent => {
                tracing::error!(error = bootstrap::chain(error), "the record cannot do what was asked of it");
                Self::new(
                    ProblemCode::Internal,
                    "the record cannot do this; its operator finds the reason in the log",
                )
            }
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<Arc<StoreError>> for Refusal {
    fn from(error: Arc<StoreError>) -> Self {
        Self::from(&*error)
    }
}

impl From<Full> for Refusal {
    fn from(Full: Full) -> Self {
        Self::new(ProblemCode::Overloaded, "too many callers wait at this gateway; try again, or do not wait")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = self.0.code;
        let mut response = (status, Json(self.0)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Reply::PROBLEM));
        if matches!(code, ProblemCode::Overloaded | ProblemCode::Unavailable) {
            // Those who were refused together do not come back together.
            let seconds = HeaderValue::from(rand::random_range(1_u16..=3));
            headers.insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
