//! `offset` and `limit` of a collection (http contract 1.6).

use actix_web::{HttpRequest, web::Query};

use super::ApiError;

/// The part of a collection that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) offset: i64,
    pub(super) limit: i64,
}

const LIMIT: i64 = 10;

impl Page {
    /// Unknown parameters are ignored.
    pub(super) fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        Ok(Self {
            offset: number("offset", parameter(request, "offset")?, 0)?,
            limit: number("limit", parameter(request, "limit")?, LIMIT)?,
        })
    }
}

/// A parameter of the query string; of one that is given twice the first counts.
pub(super) fn parameter(request: &HttpRequest, name: &str) -> Result<Option<String>, ApiError> {
    let parameters = Query::<Vec<(String, String)>>::from_query(request.query_string())
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
