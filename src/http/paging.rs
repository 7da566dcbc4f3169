//! `offset`, `limit` and `query` of a collection (http contract 1.6).

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
    /// Unknown parameters are ignored; of one that is given twice the first counts.
    pub(super) fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        let parameters = Query::<Vec<(String, String)>>::from_query(request.query_string())
            .map_err(|_| ApiError::bad_request("the query string is not valid"))?;
        let value = |name: &str| {
            parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
        };
        if let Some(query) = value("query") {
            all_records(query)?;
        }
        Ok(Self {
            offset: number("offset", value("offset"), 0)?,
            limit: number("limit", value("limit"), LIMIT)?,
        })
    }
}

fn number(name: &str, text: Option<&str>, default: i64) -> Result<i64, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (0..=i64::from(i32::MAX)).contains(number));
    number.ok_or_else(|| {
        let text = text.escape_default();
        ApiError::bad_request(format!("{name} must be from 0 to 2147483647, but it is \"{text}\""))
    })
}

/// All that clients ask of these collections today is all records, sorted by name or not.
fn all_records(query: &str) -> Result<(), ApiError> {
    let words: Vec<String> = query.split_whitespace().map(str::to_ascii_lowercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["cql.allrecords=1"] | ["sortby", "name"] | ["cql.allrecords=1", "sortby", "name"] => {
            Ok(())
        }
        _ => Err(ApiError::bad_request(
            "query must be cql.allRecords=1, alone or with sortby name: other CQL is not supported",
        )),
    }
}
