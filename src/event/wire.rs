//! JSON exactly as producers send it: the members we know, unparsed, and the envelope around them.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::decode::{Reason, Reject};

/// The members of a payload or an envelope that mean something to us, each as its own JSON text, so
/// that a number keeps its digits and an error can name the member. `null` counts as absent, and
/// unknown members are allowed everywhere (events contract 7).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Members<'a> {
    #[serde(borrow)]
    pub(super) user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) loan_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) due_date: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) grace_period: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) due_date_changed_by_recall: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) fee_fine_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) fee_fine_type_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) balance: Option<&'a RawValue>,

    // Members of an envelope.
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    type_: Option<&'a RawValue>,
    #[serde(borrow)]
    tenant: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,

    // The wrapper that a plain serialiser makes of mod-circulation's `data` (events contract 4.2).
    #[serde(borrow)]
    map: Option<&'a RawValue>,
    #[serde(borrow)]
    empty: Option<&'a RawValue>,
}

/// What an envelope (shape B) says about its content.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Envelope<'a> {
    pub(super) id: Option<&'a RawValue>,
    pub(super) tenant: Option<&'a RawValue>,
    pub(super) timestamp: Option<&'a RawValue>,
}

/// Reads a value in shape A or B (events contract 4.6): the envelope, empty for shape A, and the flat
/// payload.
pub(super) fn open(value: &[u8]) -> Result<(Envelope<'_>, Members<'_>), Reject> {
    let text = std::str::from_utf8(value)
        .map_err(|_| Reject::new(Reason::MalformedJson, None, "the value is not UTF-8"))?;
    let top = members(text)?;
    let Some(data) = top.data.filter(|data| is_object(data) && top.is_envelope()) else {
        return Ok((Envelope::default(), top));
    };
    let envelope = Envelope { id: top.id, tenant: top.tenant, timestamp: top.timestamp };
    let payload = members(data.get())?;
    match payload.map {
        Some(map) if is_object(map) && payload.is_wrapper() => Ok((envelope, members(map.get())?)),
        _ => Ok((envelope, payload)),
    }
}

impl Members<'_> {
    fn is_envelope(&self) -> bool {
        (self.type_.is_some() || self.timestamp.is_some()) && !self.names_a_subject()
    }

    fn is_wrapper(&self) -> bool {
        self.empty.is_some_and(|e| matches!(e.get(), "true" | "false")) && !self.names_a_subject()
    }

    fn names_a_subject(&self) -> bool {
        self.loan_id.is_some() || self.fee_fine_id.is_some()
    }
}

pub(super) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// The parser's own message is not passed on: it quotes the payload, which may hold a person's data.
fn members(text: &str) -> Result<Members<'_>, Reject> {
    let reject = |rule: String| Reject::new(Reason::MalformedJson, None, rule);
    // serde would take an array for a struct's members in order.
    if !text.trim_start().starts_with('{') {
        return Err(reject("the value is not a JSON object".to_owned()));
    }
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        reject(if error.is_data() {
            format!("a member stands twice (line {line}, column {column})")
        } else {
            format!("not valid JSON (line {line}, column {column})")
        })
    })
}
