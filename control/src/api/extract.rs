//! What handlers take from a request. Credentials are looked at before a byte of the body is read.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_control_core::domain::ErrorCode;

use super::Api;
use super::auth::Caller;
use super::error::{ApiError, FieldProblem};

/// A body must have come whole after this.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Only backends come this far.
pub struct Backend;

impl FromRequestParts<Arc<Api>> for Backend {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        api.access.backend(parts)?;
        Ok(Backend)
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let params = Params::of(parts)?;
        api.access.caller(parts, params.text("uid"))
    }
}

/// The query.
pub struct Params(HashMap<String, String>);

impl Params {
    fn of(parts: &Parts) -> Result<Params, ApiError> {
        let query = Query::try_from_uri(&parts.uri);
        let Query(params) = query.map_err(|_| ApiError::new(ErrorCode::BadRequest, "the query cannot be read"))?;
        Ok(Params(params))
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn number<T: FromStr>(&self, key: &'static str) -> Result<Option<T>, ApiError> {
        let parse = |text: &str| text.parse().map_err(|_| ApiError::problem(key, "is not a whole number in range"));
        self.text(key).map(parse).transpose()
    }
}

impl FromRequestParts<Arc<Api>> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, ApiError> {
        Params::of(parts)
    }
}

/// Names in the path, checked by their types.
pub struct Names<T>(pub T);

impl<T: for<'de> Deserialize<'de> + Send> FromRequestParts<Arc<Api>> for Names<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let path = Path::<T>::from_request_parts(parts, api).await;
        let Path(names) = path.map_err(|_| ApiError::new(ErrorCode::BadRequest, "the path cannot be read"))?;
        Ok(Names(names))
    }
}

/// Parses a name of the path or body.
pub fn name<T: FromStr>(field: &'static str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| ApiError::problem(field, "is not a valid name"))
}

/// The bytes of an `application/json` body.
pub struct JsonBody(pub Bytes);

impl FromRequest<Arc<Api>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        if !media.eq_ignore_ascii_case("application/json") {
            let error = ApiError::new(ErrorCode::BadRequest, "the body must be application/json");
            return Err(error.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let most = api.limits.body_bytes_max;
        match tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), most)).await {
            Ok(Ok(bytes)) => Ok(JsonBody(bytes)),
            // A body that broke off has nobody waiting for this answer.
            Ok(Err(_)) => Err(ApiError::new(ErrorCode::TooLarge, format!("a body has at most {most} bytes"))),
            Err(_) => {
                let error = ApiError::new(ErrorCode::BadRequest, "the body took too long");
                Err(error.with_status(StatusCode::REQUEST_TIMEOUT))
            }
        }
    }
}

/// The fields of a JSON object, taken one by one; what is wrong gathers in [`Fields::problems`]. Fields that nobody takes are
/// ignored, so that newer callers can talk to older servers; `null` is as good as absent.
pub struct Fields<'a> {
    fields: BTreeMap<Cow<'a, str>, &'a RawValue>,
    /// Where this object stands in the body, with a dot at its end.
    place: &'static str,
    problems: Vec<FieldProblem>,
}

impl<'a> Fields<'a> {
    /// `BAD_REQUEST` if the text is not one JSON object.
    pub fn parse(body: &'a [u8]) -> Result<Fields<'a>, ApiError> {
        let fields = serde_json::from_slice(body).map_err(|error| {
            let place = format!("line {} column {}", error.line(), error.column());
            ApiError::new(ErrorCode::BadRequest, format!("the body is not a JSON object ({place})"))
        })?;
        Ok(Fields { fields, place: "", problems: Vec::new() })
    }

    /// An empty body is an empty object.
    pub fn parse_optional(body: &'a [u8]) -> Result<Fields<'a>, ApiError> {
        if body.is_empty() { Fields::parse(b"{}") } else { Fields::parse(body) }
    }

    /// An object within the body; its problems are named with `place` before them.
    pub fn inner(raw: &'a RawValue, place: &'static str) -> Option<Fields<'a>> {
        let fields = serde_json::from_str(raw.get()).ok()?;
        Some(Fields { fields, place, problems: Vec::new() })
    }

    /// A field as it stands.
    pub fn raw(&mut self, key: &str) -> Option<&'a RawValue> {
        self.fields.remove(key).filter(|raw| raw.get() != "null")
    }

    /// A field of a type, if it is there and is of the type; `must` completes "`key` must be …".
    pub fn take<T: Deserialize<'a>>(&mut self, key: &'static str, must: &str) -> Option<T> {
        let raw = self.raw(key)?;
        match serde_json::from_str(raw.get()) {
            Ok(value) => Some(value),
            Err(_) => {
                self.problem(key, format!("must be {must}"));
                None
            }
        }
    }

    /// One of some words.
    pub fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text: Cow<'a, str> = self.take(key, "a string")?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.problem(key, format!("must be one of {}", known.join(", ")));
        }
        found
    }

    pub fn problem(&mut self, field: &'static str, problem: impl Into<String>) {
        self.problems.push(FieldProblem::new(format!("{}{field}", self.place), problem));
    }

    /// The problems of an inner object count as this one's.
    pub fn adopt(&mut self, problems: Vec<FieldProblem>) {
        self.problems.extend(problems);
    }

    pub fn into_problems(self) -> Vec<FieldProblem> {
        self.problems
    }

    /// `BAD_REQUEST` with every problem, if there is one.
    pub fn finish(self) -> Result<(), ApiError> {
        if self.problems.is_empty() { Ok(()) } else { Err(ApiError::problems(self.problems)) }
    }
}
