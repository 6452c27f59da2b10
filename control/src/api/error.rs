//! How a refusal leaves by REST and by gRPC. Nothing of our inside goes out with it.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidegate_control_core::domain::{ErrorCode, Refusal};
use tidegate_control_core::ports::StoreError;
use tidegate_proto::v1::PushError;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// What callers are told instead of what went wrong inside.
const INTERNAL_MESSAGE: &str = "something went wrong on our side";

/// An answer that is no success.
#[derive(Debug)]
pub struct ApiError {
    refusal: Box<Refusal>,
    /// More exact than the code's own status, where HTTP has a word for it.
    status: Option<StatusCode>,
    problems: Vec<FieldProblem>,
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldProblem {
    pub field: String,
    pub problem: String,
}

impl FieldProblem {
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> FieldProblem {
        FieldProblem { field: field.into(), problem: problem.into() }
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorObject<'a>,
}

/// The error object of the protocol.
#[derive(Serialize)]
pub struct ErrorObject<'a> {
    code: &'static str,
    message: &'a str,
    retry: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
    #[serde(skip_serializing_if = "<[FieldProblem]>::is_empty")]
    problems: &'a [FieldProblem],
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<Box<str>>) -> ApiError {
        Refusal::new(code, message).into()
    }

    /// A request that is not well formed; every problem is listed.
    pub fn problems(problems: Vec<FieldProblem>) -> ApiError {
        let refusal = Refusal::new(ErrorCode::BadRequest, sentence(&problems));
        ApiError { refusal: Box::new(refusal), status: None, problems }
    }

    pub fn problem(field: &'static str, problem: impl Into<String>) -> ApiError {
        ApiError::problems(vec![FieldProblem::new(field, problem)])
    }

    pub fn with_status(mut self, status: StatusCode) -> ApiError {
        self.status = Some(status);
        self
    }

    pub fn code(&self) -> ErrorCode {
        self.refusal.code
    }

    pub fn message(&self) -> &str {
        public_message(&self.refusal)
    }

    fn status(&self) -> StatusCode {
        self.status.unwrap_or(match self.refusal.code {
            ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
            ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::Overloaded | ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Expired => StatusCode::CONFLICT,
            ErrorCode::Rejected => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorCode::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        })
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        ApiError { refusal: Box::new(refusal), status: None, problems: Vec::new() }
    }
}

impl From<StoreError> for ApiError {
    /// A look-up failed: worth another try, and its reason is for the log.
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a look-up failed");
        ApiError::new(ErrorCode::Unavailable, "the store cannot answer now")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = object(&self.refusal, &self.problems);
        let mut response = (self.status(), Json(ErrorBody { error })).into_response();
        if matches!(self.refusal.code, ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::RateLimited) {
            // Whole seconds, rounded up: the header knows nothing finer.
            let seconds = self.refusal.retry_after_ms.unwrap_or(1_000).div_ceil(1_000).max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.refusal.code == ErrorCode::Unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        status(&error.refusal)
    }
}

/// The gRPC status of a refusal; `retry-after-ms` stands in its metadata.
pub fn status(refusal: &Refusal) -> Status {
    let code = match refusal.code {
        ErrorCode::BadRequest => Code::InvalidArgument,
        ErrorCode::Unauthenticated => Code::Unauthenticated,
        ErrorCode::Forbidden => Code::PermissionDenied,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::TooLarge => Code::OutOfRange,
        ErrorCode::RateLimited | ErrorCode::Overloaded => Code::ResourceExhausted,
        ErrorCode::Unavailable => Code::Unavailable,
        ErrorCode::Expired | ErrorCode::Rejected => Code::FailedPrecondition,
        ErrorCode::Unimplemented => Code::Unimplemented,
        ErrorCode::Internal => Code::Internal,
    };
    let mut status = Status::new(code, public_message(refusal));
    if let Some(ms) = refusal.retry_after_ms {
        status.metadata_mut().insert("retry-after-ms", MetadataValue::from(ms));
    }
    status
}

/// A refusal inside the result of one target.
pub fn push_error(refusal: &Refusal) -> PushError {
    PushError {
        code: refusal.code.as_str().to_owned(),
        message: public_message(refusal).to_owned(),
        retry: refusal.code.retry(),
        retry_after_ms: refusal.retry_after_ms,
    }
}

/// The error object of a refusal.
pub fn object<'a>(refusal: &'a Refusal, problems: &'a [FieldProblem]) -> ErrorObject<'a> {
    ErrorObject {
        code: refusal.code.as_str(),
        message: public_message(refusal),
        retry: refusal.code.retry(),
        retry_after_ms: refusal.retry_after_ms,
        epoch: refusal.stands.map(|stands| stands.epoch.to_string()),
        head: refusal.stands.map(|stands| stands.head.0),
        first: refusal.stands.map(|stands| stands.first.0),
        problems,
    }
}

/// What may be said outside.
pub fn public_message(refusal: &Refusal) -> &str {
    if refusal.code == ErrorCode::Internal { INTERNAL_MESSAGE } else { &refusal.message }
}

/// All problems in one line, for answers that have no list.
pub fn sentence(problems: &[FieldProblem]) -> String {
    let each: Vec<String> = problems.iter().map(|p| format!("`{}` {}", p.field, p.problem)).collect();
    each.join("; ")
}
