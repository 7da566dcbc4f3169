//! What a request asks of a collection: `query`, `offset`, `limit`
//! (docs/contract/http-api.md#16-collections).

use actix_web::{HttpRequest, web};

use super::ApiError;
use crate::cql::{self, Query};

/// The page that is asked for when the request doesn't say.
const LIMIT_DEFAULT: i64 = 10;

/// Records that a page of operators' own lists has at most, whatever `limit` says.
pub(super) const PAGE_RECORDS_MAX: i64 = 1000;

/// Which records, and the part of them that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) query: Query,
    pub(super) offset: i64,
    pub(super) limit: i64,
}

impl Page {
    /// Unknown parameters are ignored. The total is always exact, whatever is asked for.
    pub(super) fn from_request(request: &HttpRequest) -> Result<Self, ApiError> {
        let total = parameter(request, "totalRecords")?;
        if !matches!(total.as_deref(), None | Some("exact" | "estimated" | "none" | "auto")) {
            let rule = "totalRecords must be exact, estimated, none or auto";
            return Err(ApiError::bad_request(rule));
        }
        let query = query(request)?;
        let (limit, offset) = limit_and_offset(request)?;
        Ok(Self { query, offset, limit })
    }

    /// The same, with so many records at most.
    pub(super) fn capped_at(self, max: i64) -> Self {
        Self { limit: self.limit.min(max), ..self }
    }
}

/// The request's query, or all records where it has none.
pub(super) fn query(request: &HttpRequest) -> Result<Query, ApiError> {
    let text = parameter(request, "query")?.unwrap_or_default();
    cql::parse(&text).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// A parameter of the query string; of one that is given twice the first counts.
pub(super) fn parameter(request: &HttpRequest, name: &str) -> Result<Option<String>, ApiError> {
    let parameters = web::Query::<Vec<(String, String)>>::from_query(request.query_string())
        .map_err(|_| ApiError::bad_request("the query string is not valid"))?;
    Ok(parameters.into_inner().into_iter().find(|(key, _)| key == name).map(|(_, value)| value))
}

/// A number from a parameter.
pub(super) fn number(name: &str, text: Option<String>, default: i64) -> Result<i64, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (0..=i64::from(i32::MAX)).contains(number));
    number.ok_or_else(|| {
        let text = text.escape_default();
        ApiError::bad_request(format!("{name} must be from 0 to 2147483647, but it is \"{text}\""))
    })
}

/// Which part of a list is given: how many at most, and from which on.
pub(super) fn list_range(request: &HttpRequest) -> Result<(i64, i64), ApiError> {
    let (limit, offset) = limit_and_offset(request)?;
    Ok((limit.min(PAGE_RECORDS_MAX), offset))
}

fn limit_and_offset(request: &HttpRequest) -> Result<(i64, i64), ApiError> {
    let limit = number("limit", parameter(request, "limit")?, LIMIT_DEFAULT)?;
    Ok((limit, number("offset", parameter(request, "offset")?, 0)?))
}
