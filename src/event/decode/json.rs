//! Raw JSON: members as text, and the objects around them.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, de::Visitor};
use serde_json::value::RawValue;

use crate::event::{Reason, Reject};

/// The raw JSON text of a member.
pub(crate) type RawMember<'a> = Option<&'a RawValue>;

/// Returns whether a value is an object.
pub(super) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// Returns the text of a JSON string; `None` for another type or an invalid Unicode escape.
pub(super) fn string_value<'a>(raw: &'a RawValue) -> Option<Cow<'a, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'a>>(raw.get()).ok().map(|text| text.0)
}

/// Returns the text of a JSON string with invalid Unicode replaced; `None` for another type.
pub(super) fn string_lossy<'a>(raw: &'a RawValue) -> Option<Cow<'a, str>> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }
    let replaced = || serde_json::Deserializer::from_str(raw.get()).deserialize_bytes(Bytes).ok();
    string_value(raw).or_else(|| replaced().map(Cow::Owned))
}

/// Parses an object that is the value of `field`, or the whole value of a record. The reject omits the
/// parser's message, because the message quotes the payload and may contain personal data.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(
    field: Option<&'static str>,
    text: &'a str,
) -> Result<T, Reject> {
    let reject = |rule: &str| {
        let subject = if field.is_none() { "the value " } else { "" };
        Reject::new(Reason::MalformedJson, field, format!("{subject}{rule}"))
    };
    // serde accepts an array as the members of a struct, in order.
    if !text.trim_start().starts_with('{') {
        return Err(reject("is not a JSON object"));
    }
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let rule = if error.is_data() { "holds a member twice" } else { "is not valid JSON" };
        reject(&format!("{rule} (line {line}, column {column})"))
    })
}
