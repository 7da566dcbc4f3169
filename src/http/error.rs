//! The error type of the HTTP interface (docs/contract/http-api.md#14-errors). Causes are logged and never
//! sent.

use std::{fmt, sync::Arc};

use actix_web::{
    HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{ContentType, RETRY_AFTER},
    },
};
use serde::Serialize;
use tracing::{error, warn};
use utoipa::ToSchema;

use crate::{event::TenantId, logging::ErrorChain, services::operator_actions::ActError, store};

/// Seconds after which a client may retry a request that returned 503.
const RETRY_AFTER_SECONDS: u32 = 1;

/// An error response.
#[derive(Debug)]
pub enum ApiError {
    /// A plain text with a status.
    Text(StatusCode, String),
    /// Status 422 with an errors object.
    Invalid(Violation),
    /// Status 500, because the database failed.
    Store(Arc<store::Error>),
}

/// One violated rule of a request body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Description of the violation, in the wording that clients know.
    pub message: String,
    /// `-1` for the module's own rules, otherwise the key of the schema's rule.
    pub code: &'static str,
    /// Name of the member, or the key that docs/contract/http-api.md#14-errors names.
    pub key: String,
    /// The rejected value; `"null"` if the member is missing.
    pub value: String,
}

impl Violation {
    /// Creates the violation of one of the module's own rules (code `-1`).
    pub fn custom(message: impl Into<String>, key: &str, value: impl Into<String>) -> Self {
        Self { message: message.into(), code: "-1", key: key.to_owned(), value: value.into() }
    }

    /// Creates the violation of a required member that is missing or null.
    pub fn missing(key: &str) -> Self {
        Self {
            message: "must not be null".to_owned(),
            code: "jakarta.validation.constraints.NotNull.message",
            key: key.to_owned(),
            value: "null".to_owned(),
        }
    }

    /// Creates the violation of a member that is not a UUID.
    pub fn not_a_uuid(key: &str, value: &str) -> Self {
        Self {
            message: format!("must match \"{UUID_PATTERN}\""),
            code: "jakarta.validation.constraints.Pattern.message",
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }
}

/// The violated rules.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Errors<'a> {
    errors: Vec<ErrorEntry<'a>>,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ErrorEntry<'a> {
    message: &'a str,
    r#type: &'static str,
    /// `-1`, or the key of the schema's rule.
    code: &'static str,
    parameters: Vec<ErrorParameter<'a>>,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ErrorParameter<'a> {
    key: &'a str,
    value: &'a str,
}

impl<'a> From<&'a Violation> for Errors<'a> {
    fn from(Violation { message, code, key, value }: &'a Violation) -> Self {
        let parameters = vec![ErrorParameter { key, value }];
        Self { errors: vec![ErrorEntry { message, r#type: "1", code, parameters }] }
    }
}

/// The pattern that every UUID in a body matches.
pub(super) const UUID_PATTERN: &str =
    "^[a-fA-F0-9]{8}-[a-fA-F0-9]{4}-[1-5][a-fA-F0-9]{3}-[89abAB][a-fA-F0-9]{3}-[a-fA-F0-9]{12}$";

/// The response to a path with an id that is not a UUID.
pub(super) const NOT_A_UUID: &str = "Invalid UUID format of id, should be \
    xxxxxxxx-xxxx-Mxxx-Nxxx-xxxxxxxxxxxx where M is 1-5 and N is 8, 9, a, b, A or B and \
    x is 0-9, a-f or A-F.";

impl ApiError {
    /// Creates a response with status 400 and a text.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::Text(StatusCode::BAD_REQUEST, text.into())
    }

    /// Creates a response with status 400 that names a disabled tenant.
    pub fn tenant_not_enabled(tenant: &TenantId) -> Self {
        Self::bad_request(format!("Tenant {tenant} is not enabled for this module"))
    }

    /// Creates a response with status 503: the number of concurrent requests has reached the limit.
    pub fn overloaded() -> Self {
        Self::Text(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once".to_owned())
    }

    /// Returns the error with its causes, for the log.
    pub fn cause(&self) -> String {
        match self {
            Self::Store(error) => ErrorChain(&**error).to_string(),
            other => other.to_string(),
        }
    }

    /// Converts a rejection of a record by the database. JSON permits a NUL character in a text and any
    /// number of digits; PostgreSQL rejects some of these values.
    pub fn from_record_error(error: store::Error) -> Self {
        match error.verdict() {
            store::Verdict::Refused => {
                warn!(error = %ErrorChain(&error), "http: the database rejected a record of a client");
                Self::bad_request("the record contains a text or a number that cannot be stored")
            }
            store::Verdict::Retry | store::Verdict::Unusable => error.into(),
        }
    }

    /// Creates a response with status 404 and a text.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::Text(StatusCode::NOT_FOUND, text.into())
    }
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        // Another instance, or this instance after the migration, serves the tenant. Until then every
        // evaluation fails, even if failures are configured to return no blocks.
        if error.is_schema_outdated() {
            return Self::Text(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        }
        Self::Store(Arc::new(error))
    }
}

impl ActError for ApiError {
    fn hides_the_end(&self) -> bool {
        matches!(self, Self::Store(error) if error.hides_the_end())
    }
}

impl From<Violation> for ApiError {
    fn from(violation: Violation) -> Self {
        Self::Invalid(violation)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_, text) => f.write_str(text),
            Self::Invalid(violation) => f.write_str(&violation.message),
            Self::Store(error) => write!(f, "{error}"),
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Text(status, _) => *status,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if self.status_code() == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        match self {
            Self::Text(_, text) => {
                response.content_type(ContentType::plaintext()).body(text.clone())
            }
            Self::Invalid(violation) => response.json(Errors::from(violation)),
            Self::Store(error) => {
                error!(error = %ErrorChain(&**error), "http: request failed");
                response.content_type(ContentType::plaintext()).body(error.to_string())
            }
        }
    }
}
