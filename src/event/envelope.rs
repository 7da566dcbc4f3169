//! JSON exactly as producers send it: the members we know, unparsed, and the envelope around them.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    decode::{Reason, Reject},
    fields,
};

/// A member's JSON text.
pub(super) type RawMember<'a> = Option<&'a RawValue>;

/// The members of a payload or an envelope that mean something to us, each as its own JSON text, so
/// that a number keeps its digits and an error can name the member. `null` counts as absent, and
/// unknown members are allowed everywhere (docs/contract/events.md#7-events).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Members<'a> {
    #[serde(borrow)]
    pub(super) user_id: RawMember<'a>,
    #[serde(borrow)]
    pub(super) loan_id: RawMember<'a>,
    #[serde(borrow)]
    pub(super) due_date: RawMember<'a>,
    #[serde(borrow)]
    pub(super) grace_period: RawMember<'a>,
    #[serde(borrow)]
    pub(super) due_date_changed_by_recall: RawMember<'a>,
    #[serde(borrow)]
    pub(super) fee_fine_id: RawMember<'a>,
    #[serde(borrow)]
    pub(super) fee_fine_type_id: RawMember<'a>,
    #[serde(borrow)]
    pub(super) balance: RawMember<'a>,

    // Members of envelopes, under all names that are in use (docs/contract/events.md#42-envelope to
    // docs/contract/events.md#44-pubsub).
    #[serde(borrow)]
    id: RawMember<'a>,
    #[serde(borrow)]
    event_id: RawMember<'a>,
    #[serde(borrow, rename = "type")]
    type_: RawMember<'a>,
    #[serde(borrow)]
    tenant: RawMember<'a>,
    #[serde(borrow)]
    timestamp: RawMember<'a>,
    #[serde(borrow)]
    event_ts: RawMember<'a>,
    #[serde(borrow)]
    ts: RawMember<'a>,
    #[serde(borrow)]
    data: RawMember<'a>,
    #[serde(borrow)]
    old: RawMember<'a>,
    #[serde(borrow)]
    new: RawMember<'a>,

    // The wrapper that a plain serialiser makes of mod-circulation's `data`
    // (docs/contract/events.md#42-envelope).
    #[serde(borrow)]
    map: RawMember<'a>,
    #[serde(borrow)]
    empty: RawMember<'a>,

    // What mod-pubsub stores (docs/contract/events.md#44-pubsub).
    #[serde(borrow)]
    event_type: RawMember<'a>,
    #[serde(borrow)]
    event_payload: RawMember<'a>,
    #[serde(borrow)]
    event_metadata: RawMember<'a>,
    #[serde(borrow)]
    tenant_id: RawMember<'a>,

    // What an HTTP caller may say of its call (docs/contract/events.md#64-clocks).
    #[serde(borrow)]
    metadata: RawMember<'a>,
    #[serde(borrow)]
    created_date: RawMember<'a>,
}

/// What the envelopes around a payload say about it; nothing for shape A.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Envelope<'a> {
    /// Its identity; shape D's own where that is around another shape.
    pub(super) id: RawMember<'a>,
    /// When it was sent; never said by shape D.
    pub(super) timestamp: RawMember<'a>,
    /// The tenant in shapes B and C.
    pub(super) tenant: RawMember<'a>,
    /// The tenant in shape D.
    pub(super) pubsub_tenant: RawMember<'a>,
    /// The kind of event, which shape D alone names.
    pub(super) event_type: RawMember<'a>,
}

/// What the envelopes say, which stands even when the content can't be read, and the flat payload.
pub(super) type OpenedEnvelope<'a> = (Envelope<'a>, Result<Members<'a>, Reject>);

/// Takes a value out of its envelopes, in the order of docs/contract/events.md#46-detection.
/// `inner` is where the text lives that shape D carries as a string.
pub(super) fn open<'a>(value: &'a [u8], inner: &'a mut String) -> OpenedEnvelope<'a> {
    match parse_flat(value) {
        Ok(top) if top.is_pubsub() => open_pubsub(top, inner),
        Ok(top) => open_envelope(top),
        Err(reject) => (Envelope::default(), Err(reject)),
    }
}

/// A change of an entity, as its envelope tells it: shape C in both of its variants.
pub(super) struct ChangeEnvelope<'a> {
    /// What was done to it.
    pub(super) type_: RawMember<'a>,
    /// The entity before.
    pub(super) old: RawMember<'a>,
    /// The entity after.
    pub(super) new: RawMember<'a>,
}

/// Takes a change out of its envelope (docs/contract/events.md#43-change). Nothing else stands in
/// the topics of entities.
pub(super) fn open_change(value: &[u8]) -> (Envelope<'_>, Result<ChangeEnvelope<'_>, Reject>) {
    let top = match parse_flat(value) {
        Ok(top) => top,
        Err(reject) => return (Envelope::default(), Err(reject)),
    };
    let envelope = top.to_envelope();
    let (type_, data) = (top.type_, top.data);
    let states = match data {
        Some(data) if is_object(data) => parse_nested("data", data),
        Some(_) => Err(Reject::new(Reason::BadField, Some("data"), "must be an object")),
        None => Ok(top),
    };
    (envelope, states.map(|of| ChangeEnvelope { type_, old: of.old, new: of.new }))
}

/// The flat payload that a call over HTTP brings: shape A, and nothing else.
pub(super) fn parse_flat(value: &[u8]) -> Result<Members<'_>, Reject> {
    let text = std::str::from_utf8(value)
        .map_err(|_| Reject::new(Reason::MalformedJson, None, "the value is not UTF-8"))?;
    parse_members(None, text)
}

/// When the caller says that it was made, where that makes sense.
pub(super) fn created_at(members: &Members<'_>) -> Option<DateTime<Utc>> {
    let metadata = members.metadata.filter(|raw| is_object(raw))?;
    let metadata = parse_nested("metadata", metadata).ok()?;
    fields::date_time("createdDate", metadata.created_date).ok()?.filter(fields::in_calendar)
}

/// Shape D, whose content may be any of the others.
fn open_pubsub<'a>(top: Members<'a>, inner: &'a mut String) -> OpenedEnvelope<'a> {
    const PAYLOAD: &str = "eventPayload";
    let mut outer = Envelope { id: top.id, event_type: top.event_type, ..Envelope::default() };
    match top
        .event_metadata
        .filter(|raw| is_object(raw))
        .map(|raw| parse_nested("eventMetadata", raw))
    {
        Some(Ok(metadata)) => outer.pubsub_tenant = metadata.tenant_id,
        Some(Err(reject)) => return (outer, Err(reject)),
        None => {}
    }
    let Some(text) = top.event_payload.and_then(fields::string_lossy) else {
        let rule = "must be a string";
        return (outer, Err(Reject::new(Reason::MalformedJson, Some(PAYLOAD), rule)));
    };
    *inner = text.into_owned();
    match parse_members(Some(PAYLOAD), inner).map(open_envelope) {
        Ok((within, payload)) => {
            let Envelope { pubsub_tenant, event_type, .. } = outer;
            (Envelope { id: outer.id.or(within.id), pubsub_tenant, event_type, ..within }, payload)
        }
        Err(reject) => (outer, Err(reject)),
    }
}

/// Shapes B, C, C's older variant, and A. What names its subject is a payload, whatever else it has.
fn open_envelope(top: Members<'_>) -> OpenedEnvelope<'_> {
    if top.has_subject_id() {
        return (Envelope::default(), Ok(top));
    }
    let envelope = top.to_envelope();
    let is_announced = top.type_.or(envelope.timestamp).is_some();
    match top.data.filter(|data| is_object(data) && is_announced) {
        Some(data) => (envelope, parse_nested("data", data).and_then(extract_payload)),
        None if top.is_change() => (envelope, extract_new_state(&top)),
        None => (Envelope::default(), Ok(top)),
    }
}

/// The flat payload in what an envelope carries: itself, in a wrapper, or the new state of an entity.
fn extract_payload(data: Members<'_>) -> Result<Members<'_>, Reject> {
    if data.has_subject_id() {
        return Ok(data);
    }
    match data.map.filter(|map| is_object(map) && data.is_wrapper()) {
        Some(map) => parse_nested("map", map),
        None if data.is_change() => extract_new_state(&data),
        None => Ok(data),
    }
}

/// The state that a change left behind: what an event says is what holds after it.
fn extract_new_state<'a>(change: &Members<'a>) -> Result<Members<'a>, Reject> {
    let bad = |reason, rule| Reject::new(reason, Some("new"), rule);
    match change.new {
        Some(new) if is_object(new) => parse_nested("new", new),
        Some(_) => Err(bad(Reason::BadField, "must be an object")),
        None => Err(bad(Reason::MissingField, "is required where an envelope tells a change")),
    }
}

impl<'a> Members<'a> {
    /// What it says as an envelope, under all names that are in use.
    fn to_envelope(&self) -> Envelope<'a> {
        Envelope {
            id: self.id.or(self.event_id),
            timestamp: self.timestamp.or(self.event_ts).or(self.ts),
            tenant: self.tenant,
            ..Envelope::default()
        }
    }

    fn is_pubsub(&self) -> bool {
        let is_string = |raw: RawMember<'_>| raw.is_some_and(|raw| raw.get().starts_with('"'));
        is_string(self.event_payload) && is_string(self.event_type)
    }

    fn is_wrapper(&self) -> bool {
        self.empty.is_some_and(|e| matches!(e.get(), "true" | "false"))
    }

    fn is_change(&self) -> bool {
        self.old.or(self.new).is_some()
    }

    /// The member of this name that holds an id, if it is one of those.
    pub(super) fn id_member(&self, name: &str) -> RawMember<'a> {
        match name {
            "userId" => self.user_id,
            "loanId" => self.loan_id,
            "feeFineId" => self.fee_fine_id,
            "feeFineTypeId" => self.fee_fine_type_id,
            _ => None,
        }
    }

    fn has_subject_id(&self) -> bool {
        self.loan_id.or(self.fee_fine_id).is_some()
    }
}

pub(super) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

fn parse_nested<'a>(field: &'static str, value: &'a RawValue) -> Result<Members<'a>, Reject> {
    parse_members(Some(field), value.get())
}

fn parse_members<'a>(field: Option<&'static str>, text: &'a str) -> Result<Members<'a>, Reject> {
    parse_object(field, text)
}

/// The members of an object, which is the value of `field` or the whole value of the record. The
/// parser's own message is not passed on: it quotes the payload, which may hold a person's data.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(
    field: Option<&'static str>,
    text: &'a str,
) -> Result<T, Reject> {
    let reject = |rule: &str| {
        let subject = if field.is_none() { "the value " } else { "" };
        Reject::new(Reason::MalformedJson, field, format!("{subject}{rule}"))
    };
    // serde would take an array for a struct's members in order.
    if !text.trim_start().starts_with('{') {
        return Err(reject("is not a JSON object"));
    }
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let rule = if error.is_data() { "holds a member twice" } else { "is not valid JSON" };
        reject(&format!("{rule} (line {line}, column {column})"))
    })
}
