use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::{Problem, ProblemCode, Reply};
use store::StoreError;

use crate::waiters::Full;

/// A problem as an answer.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Problem>);

impl Refusal {
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<StoreError> for Refusal {
    /// The cause is logged here and kept from the caller.
    fn from(error: StoreError) -> Self {
        tracing::warn!(error = bootstrap::chain(&error), "the record did not answer");
        if matches!(error, StoreError::Overloaded(_)) {
            return Self::new(
                ProblemCode::Overloaded,
                "too many requests are waiting for the record; try again",
            );
        }
        Self::new(
            ProblemCode::Unavailable,
            "the record is away; try again (with the same Idempotency-Key, if any)",
        )
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
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
