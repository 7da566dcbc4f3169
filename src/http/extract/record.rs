//! JSON records that clients write. Every member is stored, unknown members included.

use actix_web::{HttpRequest, http::header::CONTENT_TYPE};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    clock,
    event::parse_uuid,
    http::{ApiError, error::Violation},
};

/// A JSON object of a client, with typed access to its members.
pub(crate) struct Record(pub(in crate::http) Map<String, Value>);

impl Record {
    /// Returns a record with these members.
    pub(crate) fn from_members(members: Map<String, Value>) -> Self {
        Self(members)
    }

    /// Parses a body. A body without a content type counts as JSON; another content type is rejected
    /// (docs/contract/http-api.md#12-bodies).
    pub(in crate::http) fn read(request: &HttpRequest, body: &[u8]) -> Result<Self, ApiError> {
        require_json(request)?;
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(_) => Err(ApiError::bad_request("the body must be a JSON object")),
            Err(error) => {
                Err(ApiError::bad_request(format!("the body is not valid JSON: {error}")))
            }
        }
    }

    /// Rejects a record with a number, at any depth, that is not a double or has too many characters.
    /// PostgreSQL stores and prints all digits: `1e131000` would be a hundred kilobytes.
    pub(in crate::http) fn require_storable(&self) -> Result<(), ApiError> {
        match self.0.values().all(is_storable) {
            true => Ok(()),
            false => Err(ApiError::bad_request(NUMBER_RULE)),
        }
    }

    /// Returns a member that is present and not null.
    pub(in crate::http) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn required(&self, name: &str) -> Result<&Value, ApiError> {
        self.get(name).ok_or_else(|| Violation::missing(name).into())
    }

    /// Returns a required string.
    pub(in crate::http) fn string(&self, name: &str) -> Result<&str, ApiError> {
        self.required(name)?.as_str().ok_or_else(|| wrong_type(name, "a string"))
    }

    /// Returns an optional string.
    pub(in crate::http) fn optional_string(&self, name: &str) -> Result<Option<&str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type(name, "a string")),
        }
    }

    /// Returns an optional boolean.
    pub(in crate::http) fn optional_boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| wrong_type(name, "true or false"))
    }

    /// Checks an optional list of objects.
    pub(in crate::http) fn optional_objects(&self, name: &str) -> Result<(), ApiError> {
        let objects =
            |list: &Value| list.as_array().is_some_and(|l| l.iter().all(Value::is_object));
        if self.get(name).is_none_or(objects) {
            Ok(())
        } else {
            Err(wrong_type(name, "a list of objects"))
        }
    }

    /// Returns a required boolean.
    pub(in crate::http) fn boolean(&self, name: &str) -> Result<bool, ApiError> {
        self.required(name)?.as_bool().ok_or_else(|| wrong_type(name, "true or false"))
    }

    /// Returns a required UUID.
    pub(in crate::http) fn uuid(&self, name: &str) -> Result<Uuid, ApiError> {
        let text = self.string(name)?;
        parse_uuid(text).ok_or_else(|| Violation::not_a_uuid(name, text).into())
    }

    /// Returns a required number. Replaces a numeric string in the record with a number.
    pub(in crate::http) fn number(&mut self, name: &str) -> Result<f64, ApiError> {
        let (number, was_text) = match self.required(name)? {
            Value::Number(number) => (number.as_f64(), false),
            Value::String(text) => (text.trim().parse().ok(), true),
            _ => (None, false),
        };
        let number = number.filter(|number: &f64| number.is_finite());
        let number = number.ok_or_else(|| wrong_type(name, "a number"))?;
        if was_text {
            self.0.insert(name.to_owned(), json!(number));
        }
        Ok(number)
    }

    /// Replaces the client's metadata with the server's metadata (docs/contract/http-api.md#15-metadata). The
    /// creation date and its user stay as stored.
    pub(in crate::http) fn set_metadata(
        &mut self,
        stored: Option<&Value>,
        by: Option<&str>,
        now: DateTime<Utc>,
    ) {
        let now = clock::format_instant(now);
        let created = stored.and_then(|stored| stored.get("metadata")?.as_object());
        let created_at = created.and_then(|created| created.get("createdDate")).cloned();
        let created_by = match created_at {
            Some(_) => created.and_then(|created| created.get("createdByUserId")).cloned(),
            None => by.map(Value::from),
        };
        let mut metadata = Map::new();
        metadata.insert("createdDate".to_owned(), created_at.unwrap_or_else(|| json!(now)));
        metadata.insert("updatedDate".to_owned(), json!(now));
        metadata.extend(created_by.map(|by| ("createdByUserId".to_owned(), by)));
        metadata.extend(by.map(|by| ("updatedByUserId".to_owned(), json!(by))));
        self.0.insert("metadata".to_owned(), Value::Object(metadata));
    }

    /// Returns the record as it is stored and returned to clients: members that are null are omitted.
    pub(in crate::http) fn into_value(mut self) -> Value {
        self.0.retain(|_, value| !value.is_null());
        Value::Object(self.0)
    }
}

/// Maximum length of a number in characters; a double needs far fewer.
const NUMBER_CHARS_MAX: usize = 40;

/// Maximum exponent of a number: the smallest positive double is 5e-324, and a smaller exponent adds only
/// zeros.
const EXPONENT_MAX: u16 = 324;

const NUMBER_RULE: &str = "the record contains a number that cannot be stored; a number must be a double of \
    at most 40 characters";

/// Returns `true` if PostgreSQL prints each number of a value in a few hundred characters. The parser limits
/// the depth.
fn is_storable(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            let written = number.as_str();
            let exponent = written.split_once(['e', 'E']).map_or("0", |(_, exponent)| exponent);
            let digits = exponent.trim_start_matches(['+', '-']);
            number.as_f64().is_some_and(f64::is_finite)
                && written.len() <= NUMBER_CHARS_MAX
                && digits.parse::<u16>().is_ok_and(|size| size <= EXPONENT_MAX)
        }
        Value::Array(values) => values.iter().all(is_storable),
        Value::Object(members) => members.values().all(is_storable),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// Rejects a body with a content type other than JSON.
pub(in crate::http) fn require_json(request: &HttpRequest) -> Result<(), ApiError> {
    let sent = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let media_type = sent.and_then(|sent| sent.split(';').next()).map(str::trim);
    if media_type.is_none_or(|media| media.eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    let sent = sent.unwrap_or_default();
    let rule = "Content-type header must be [\"application/json\"] but it is";
    Err(ApiError::bad_request(format!("{rule} \"{sent}\"")))
}

fn wrong_type(name: &str, rule: &str) -> ApiError {
    ApiError::bad_request(format!("{name} must be {rule}"))
}
