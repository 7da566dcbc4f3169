//! JSON in the shapes of the producers: known members as raw text, and the envelopes around them.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    fields,
    json::{self, RawMember, is_object, parse_object},
};
use crate::event::{Reason, Reject};

/// The known members of a payload or an envelope. Raw text preserves the digits of numbers and lets an
/// error name its member. `null` counts as absent, and unknown members are allowed everywhere
/// (docs/contract/events.md#7-events).
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

    // Members of envelopes, under every name that producers use (docs/contract/events.md#42-envelope to
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

    // The wrapper that a plain serialiser adds around mod-circulation's `data`
    // (docs/contract/events.md#42-envelope).
    #[serde(borrow)]
    map: RawMember<'a>,
    #[serde(borrow)]
    empty: RawMember<'a>,

    // Members of a record of mod-pubsub (docs/contract/events.md#44-pubsub).
    #[serde(borrow)]
    event_type: RawMember<'a>,
    #[serde(borrow)]
    event_payload: RawMember<'a>,
    #[serde(borrow)]
    event_metadata: RawMember<'a>,
    #[serde(borrow)]
    tenant_id: RawMember<'a>,

    // Optional metadata of an HTTP call (docs/contract/events.md#64-clocks).
    #[serde(borrow)]
    metadata: RawMember<'a>,
    #[serde(borrow)]
    created_date: RawMember<'a>,
}

/// The members of the envelopes around a payload; empty for shape A.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Envelope<'a> {
    /// Id of the envelope; shape D's own id wins over the id of the shape inside.
    pub(super) id: RawMember<'a>,
    /// Time of sending; shape D has none.
    pub(super) timestamp: RawMember<'a>,
    /// The tenant in shapes B and C.
    pub(super) tenant: RawMember<'a>,
    /// The tenant in shape D.
    pub(super) pubsub_tenant: RawMember<'a>,
    /// Kind of event; only shape D has one.
    pub(super) event_type: RawMember<'a>,
}

/// The envelope, which is valid even if the payload is not, and the flat payload.
pub(super) type OpenedEnvelope<'a> = (Envelope<'a>, Result<Members<'a>, Reject>);

/// Removes the envelopes of a value, in the order of docs/contract/events.md#46-detection. `inner` stores
/// the text that shape D contains as a string.
pub(super) fn open<'a>(value: &'a [u8], inner: &'a mut String) -> OpenedEnvelope<'a> {
    match parse_flat(value) {
        Ok(top) if top.is_pubsub() => open_pubsub(top, inner),
        Ok(top) => open_envelope(top),
        Err(reject) => (Envelope::default(), Err(reject)),
    }
}

/// The envelope of an entity change: shape C in its two variants.
pub(super) struct ChangeEnvelope<'a> {
    /// Type of the change.
    pub(super) type_: RawMember<'a>,
    /// The entity before.
    pub(super) old: RawMember<'a>,
    /// The entity after.
    pub(super) new: RawMember<'a>,
}

/// Removes the envelope of an entity change (docs/contract/events.md#43-change). Entity topics contain only
/// shape C.
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

/// Parses the flat payload of an HTTP call, which is always shape A.
pub(super) fn parse_flat(value: &[u8]) -> Result<Members<'_>, Reject> {
    let text = std::str::from_utf8(value)
        .map_err(|_| Reject::new(Reason::MalformedJson, None, "the value is not UTF-8"))?;
    parse_members(None, text)
}

/// Returns the creation time in the metadata of an HTTP call, if it is valid.
pub(super) fn created_at(members: &Members<'_>) -> Option<DateTime<Utc>> {
    let metadata = members.metadata.filter(|raw| is_object(raw))?;
    let metadata = parse_nested("metadata", metadata).ok()?;
    fields::date_time("createdDate", metadata.created_date).ok()?.filter(fields::in_calendar)
}

/// Opens shape D, which may contain any other shape.
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
    let Some(text) = top.event_payload.and_then(json::string_lossy) else {
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

/// Opens shapes B, C, C's older variant, and A. An object with a loan id or a fee/fine id is a payload,
/// whatever its other members are.
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

/// Returns the flat payload of an envelope's `data`: the data, its wrapper's content, or the new state of
/// an entity.
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

/// Returns the state after a change.
fn extract_new_state<'a>(change: &Members<'a>) -> Result<Members<'a>, Reject> {
    let bad = |reason, rule| Reject::new(reason, Some("new"), rule);
    match change.new {
        Some(new) if is_object(new) => parse_nested("new", new),
        Some(_) => Err(bad(Reason::BadField, "must be an object")),
        None => Err(bad(Reason::MissingField, "is required in an envelope of a change")),
    }
}

impl<'a> Members<'a> {
    /// Returns the envelope members, under every name that producers use.
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

    /// Returns the member `name` if it is one of the id members of a payload.
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

fn parse_nested<'a>(field: &'static str, value: &'a RawValue) -> Result<Members<'a>, Reject> {
    parse_members(Some(field), value.get())
}

fn parse_members<'a>(field: Option<&'static str>, text: &'a str) -> Result<Members<'a>, Reject> {
    parse_object(field, text)
}
