//! The parameters of a request to a collection: `query`, `offset` and `limit`
//! (docs/contract/http-api.md#16-collections).

use actix_web::{HttpRequest, web};

use crate::{
    cql::{self, Query},
    http::ApiError,
};

/// Records per page if the request has no `limit`.
const LIMIT_DEFAULT: i64 = 10;

/// Maximum number of records per page in operators' lists, whatever the value of `limit`.
pub(in crate::http) const PAGE_RECORDS_MAX: i64 = 1000;

/// The query of a request, and the requested part of the matching records.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) struct Page {
    pub(in crate::http) query: Query,
    pub(in crate::http) offset: i64,
    pub(in crate::http) limit: i64,
}

impl Page {
    /// Parses the parameters and ignores unknown parameters. The total is always exact, whatever
    /// `totalRecords` requests.
    pub(in crate::http) fn from_request(request: &HttpRequest) -> Result<Self, ApiError> {
        let total = parameter(request, "totalRecords")?;
        if !matches!(total.as_deref(), None | Some("exact" | "estimated" | "none" | "auto")) {
            let rule = "totalRecords must be exact, estimated, none or auto";
            return Err(ApiError::bad_request(rule));
        }
        let query = query(request)?;
        let (limit, offset) = limit_and_offset(request)?;
        Ok(Self { query, offset, limit })
    }

    /// Limits the page to `max` records.
    pub(in crate::http) fn capped_at(self, max: i64) -> Self {
        Self { limit: self.limit.min(max), ..self }
    }
}

/// Returns the request's query; without a query, all records match.
pub(crate) fn query(request: &HttpRequest) -> Result<Query, ApiError> {
    let text = parameter(request, "query")?.unwrap_or_default();
    cql::parse(&text).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// Returns a parameter of the query string. If the parameter is repeated, the first value counts.
pub(crate) fn parameter(request: &HttpRequest, name: &str) -> Result<Option<String>, ApiError> {
    let parameters = web::Query::<Vec<(String, String)>>::from_query(request.query_string())
        .map_err(|_| ApiError::bad_request("the query string is not valid"))?;
    Ok(parameters.into_inner().into_iter().find(|(key, _)| key == name).map(|(_, value)| value))
}

/// Parses a number from 0 to 2147483647. An absent or empty parameter gives `default`.
pub(crate) fn number(name: &str, text: Option<String>, default: i64) -> Result<i64, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (0..=i64::from(i32::MAX)).contains(number));
    number.ok_or_else(|| {
        let text = text.escape_default();
        ApiError::bad_request(format!("{name} must be from 0 to 2147483647, but it is \"{text}\""))
    })
}

/// Returns limit and offset of an operators' list.
pub(in crate::http) fn list_range(request: &HttpRequest) -> Result<(i64, i64), ApiError> {
    let (limit, offset) = limit_and_offset(request)?;
    Ok((limit.min(PAGE_RECORDS_MAX), offset))
}

fn limit_and_offset(request: &HttpRequest) -> Result<(i64, i64), ApiError> {
    let limit = number("limit", parameter(request, "limit")?, LIMIT_DEFAULT)?;
    Ok((limit, number("offset", parameter(request, "offset")?, 0)?))
}
