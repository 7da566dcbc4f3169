//! The shapes of values (docs/contract/events.md#4-shapes) and the order of their detection
//! (docs/contract/events.md#46-detection).

use patron_blocks::event::{Fact, Kind, Record};

use super::{LOAN, event, outcome, record};

const USER: &str = "7b1f0c52-9a3e-4d0e-8f66-2c4f5a9d1e01";
const ID: &str = "f1d0a9c4-7e25-4b3a-8c61-0b9d2e5f7a66";

/// Outcomes as text: the source of the key and of the time.
const POSITION_AND_RECORD: &str = "northlib: key by position, time by record";
const POSITION_AND_ENVELOPE: &str = "northlib: key by position, time by envelope";
const ENVELOPE: &str = "northlib: key by envelope, time by envelope";
const ENVELOPE_AND_RECORD: &str = "northlib: key by envelope_and_time, time by record";
const NO_LOAN: &str = "northlib: missing_field loanId";

/// Returns a record of `LOAN_CLOSED`. In `value`, `<P>` is a flat payload, `<Q>` the same payload as
/// text, `<ID>` an id and `<T>` a timestamp.
fn loan_closed_record(value: &str) -> Record {
    let flat = format!(r#"{{"userId":"{USER}","loanId":"{LOAN}"}}"#);
    let value = value
        .replace("<P>", &flat)
        .replace("<Q>", &serde_json::to_string(&flat).unwrap())
        .replace("<ID>", &format!("\"{ID}\""))
        .replace("<T>", "1788300000123");
    record(Kind::LoanClosed, "northlib", value.as_bytes())
}

fn assert_outcomes(rows: &[(&str, &str)]) {
    for (value, expected) in rows {
        assert_eq!(outcome(&loan_closed_record(value)), *expected, "{value}");
    }
}

#[test]
fn flat_payload_is_decoded() {
    assert_outcomes(&[
        ("<P>", POSITION_AND_RECORD),
        (" \n\t<P>", POSITION_AND_RECORD),
        ("{}", NO_LOAN),
        // The value names its loan, so it is no envelope, whatever other members it has.
        (r#"{"loanId":null,"data":<P>}"#, NO_LOAN),
    ]);
}

#[test]
fn mod_circulation_envelope_is_decoded() {
    assert_outcomes(&[
        (
            r#"{"id":<ID>,"type":"CREATED","tenant":"northlib","timestamp":<T>,"data":<P>}"#,
            ENVELOPE,
        ),
        (
            r#"{"data":<P>,"timestamp":<T>,"tenant":"northlib","type":"UPDATED","id":<ID>}"#,
            ENVELOPE,
        ),
        (r#"{"id":<ID>,"type":"CREATED","timestamp":"1788300000123","data":<P>}"#, ENVELOPE),
        // Null counts as absent.
        (r#"{"id":<ID>,"type":null,"tenant":null,"timestamp":<T>,"data":<P>}"#, ENVELOPE),
        (r#"{"id":null,"type":"CREATED","timestamp":<T>,"data":<P>}"#, POSITION_AND_ENVELOPE),
        (r#"{"id":<ID>,"type":"CREATED","timestamp":null,"data":<P>}"#, ENVELOPE_AND_RECORD),
        // A value with type or timestamp is an envelope; a value with neither is not.
        (r#"{"id":<ID>,"timestamp":<T>,"data":<P>}"#, ENVELOPE),
        (r#"{"id":<ID>,"type":"CREATED","data":<P>}"#, ENVELOPE_AND_RECORD),
        (r#"{"type":"CREATED","data":<P>}"#, POSITION_AND_RECORD),
        (r#"{"id":<ID>,"data":<P>}"#, NO_LOAN),
        // An id that identifies nothing, and a time that is invalid.
        (
            r#"{"id":"00000000-0000-0000-0000-000000000000","timestamp":<T>,"data":<P>}"#,
            POSITION_AND_ENVELOPE,
        ),
        (r#"{"id":"7","timestamp":<T>,"data":<P>}"#, POSITION_AND_ENVELOPE),
        (r#"{"id":7,"timestamp":<T>,"data":<P>}"#, POSITION_AND_ENVELOPE),
        (r#"{"id":<ID>,"timestamp":"today","data":<P>}"#, ENVELOPE_AND_RECORD),
        // The id is only compared, so any version is valid.
        (r#"{"id":"019a4d7e-51b2-7c3f-9a10-6d2e8b7f4a11","timestamp":<T>,"data":<P>}"#, ENVELOPE),
        // No content.
        (r#"{"id":<ID>,"type":"ALL_DELETED","timestamp":<T>,"data":{}}"#, NO_LOAN),
        (r#"{"id":<ID>,"type":"CREATED","timestamp":<T>,"data":null}"#, NO_LOAN),
        (r#"{"id":<ID>,"type":"CREATED","timestamp":<T>,"data":"text"}"#, NO_LOAN),
        (r#"{"id":<ID>,"type":"CREATED","timestamp":<T>,"data":[<P>]}"#, NO_LOAN),
        (r#"{"id":<ID>,"id":<ID>,"timestamp":<T>,"data":<P>}"#, "northlib: malformed_json -"),
        (
            r#"{"id":<ID>,"timestamp":<T>,"data":{"loanId":"0","loanId":"0"}}"#,
            "northlib: malformed_json data",
        ),
    ]);
}

#[test]
fn plain_serializer_envelope_is_decoded() {
    assert_outcomes(&[
        (
            r#"{"id":<ID>,"type":"CREATED","timestamp":<T>,"data":{"map":<P>,"empty":false}}"#,
            ENVELOPE,
        ),
        (
            r#"{"id":<ID>,"type":"CREATED","timestamp":<T>,"data":{"empty":true,"map":<P>}}"#,
            ENVELOPE,
        ),
        (r#"{"id":<ID>,"type":"CREATED","timestamp":<T>,"data":{"map":<P>}}"#, NO_LOAN),
        (
            r#"{"id":<ID>,"type":"CREATED","timestamp":<T>,"data":{"map":<P>,"empty":"no"}}"#,
            NO_LOAN,
        ),
        (r#"{"id":<ID>,"type":"CREATED","timestamp":<T>,"data":{"map":7,"empty":false}}"#, NO_LOAN),
        (r#"{"id":<ID>,"type":"CREATED","timestamp":<T>,"data":{"map":{},"empty":true}}"#, NO_LOAN),
    ]);
    // A value that names its loan is the payload itself, whatever other members it has.
    let named = format!(r#"{{"userId":"{USER}","loanId":"{LOAN}","map":{{}},"empty":true}}"#);
    let value = format!(r#"{{"id":"{ID}","timestamp":1788300000123,"data":{named}}}"#);
    assert_eq!(outcome(&record(Kind::LoanClosed, "northlib", value.as_bytes())), ENVELOPE);
}

#[test]
fn change_envelope_is_decoded() {
    const NO_NEW: &str = "northlib: missing_field new";
    const BAD_NEW: &str = "northlib: bad_field new";
    assert_outcomes(&[
        (r#"{"id":<ID>,"type":"UPDATED","timestamp":<T>,"data":{"old":{},"new":<P>}}"#, ENVELOPE),
        (r#"{"id":<ID>,"type":"CREATED","timestamp":<T>,"data":{"new":<P>}}"#, ENVELOPE),
        (r#"{"id":<ID>,"type":"CREATED","data":{"old":null,"new":<P>}}"#, ENVELOPE_AND_RECORD),
        (r#"{"type":"CREATED","timestamp":<T>,"data":{"new":<P>}}"#, POSITION_AND_ENVELOPE),
        (r#"{"id":<ID>,"type":"DELETED","timestamp":<T>,"data":{"old":<P>}}"#, NO_NEW),
        (r#"{"id":<ID>,"type":"DELETED","timestamp":<T>,"data":{"old":<P>,"new":null}}"#, NO_NEW),
        (
            r#"{"id":<ID>,"type":"UPDATED","timestamp":<T>,"data":{"old":<P>,"new":"text"}}"#,
            BAD_NEW,
        ),
        (r#"{"id":<ID>,"type":"UPDATED","timestamp":<T>,"data":{"old":<P>,"new":[<P>]}}"#, BAD_NEW),
        (r#"{"id":<ID>,"type":"UPDATED","timestamp":<T>,"data":{"old":<P>,"new":{}}}"#, NO_LOAN),
        (
            r#"{"id":<ID>,"timestamp":<T>,"data":{"new":{"userId":"","userId":""}}}"#,
            "northlib: malformed_json new",
        ),
        // The older variant has the entities at the top, and other names for the id and the time.
        (
            r#"{"eventId":<ID>,"type":"UPDATE","tenant":"northlib","eventTs":<T>,"old":{},"new":<P>}"#,
            ENVELOPE,
        ),
        (r#"{"eventId":<ID>,"type":"CREATE","ts":"1788300000123","new":<P>}"#, ENVELOPE),
        (r#"{"id":<ID>,"timestamp":<T>,"new":<P>}"#, ENVELOPE),
        (r#"{"eventId":<ID>,"type":"CREATE","new":<P>}"#, ENVELOPE_AND_RECORD),
        (r#"{"new":<P>}"#, POSITION_AND_RECORD),
        (r#"{"eventId":<ID>,"type":"DELETE","eventTs":<T>,"old":<P>}"#, NO_NEW),
        (r#"{"eventId":<ID>,"type":"UPDATE","eventTs":<T>,"old":<P>,"new":7}"#, BAD_NEW),
        (r#"{"eventId":<ID>,"type":"DELETE_ALL","eventTs":<T>}"#, NO_LOAN),
    ]);
}

#[test]
fn mod_pubsub_stored_event_is_decoded() {
    const BAD_TYPE: &str = "northlib: bad_field eventType";
    const BAD_PAYLOAD: &str = "northlib: malformed_json eventPayload";
    assert_outcomes(&[
        (
            r#"{"id":<ID>,"eventType":"LOAN_CLOSED","eventMetadata":{"tenantId":"northlib","eventTTL":1},"eventPayload":<Q>}"#,
            ENVELOPE_AND_RECORD,
        ),
        (r#"{"id":<ID>,"eventType":"LOAN_CLOSED","eventPayload":<Q>}"#, ENVELOPE_AND_RECORD),
        (r#"{"eventType":"LOAN_CLOSED","eventPayload":<Q>}"#, POSITION_AND_RECORD),
        (
            r#"{"eventType":"LOAN_CLOSED","eventMetadata":"none","eventPayload":<Q>}"#,
            POSITION_AND_RECORD,
        ),
        // The event type must equal the kind of the topic.
        (r#"{"id":<ID>,"eventType":"ITEM_CHECKED_IN","eventPayload":<Q>}"#, BAD_TYPE),
        (r#"{"id":<ID>,"eventType":"LOG_RECORD","eventPayload":"{}"}"#, BAD_TYPE),
        (r#"{"id":<ID>,"eventType":"","eventPayload":<Q>}"#, BAD_TYPE),
        (r#"{"id":<ID>,"eventType":"loan_closed","eventPayload":<Q>}"#, BAD_TYPE),
        // Both members must be text in this shape.
        (r#"{"id":<ID>,"eventType":7,"eventPayload":<Q>}"#, NO_LOAN),
        (r#"{"id":<ID>,"eventType":"LOAN_CLOSED","eventPayload":<P>}"#, NO_LOAN),
        (r#"{"id":<ID>,"eventPayload":<Q>}"#, NO_LOAN),
        // The text of the payload.
        (r#"{"id":<ID>,"eventType":"LOAN_CLOSED","eventPayload":"{}"}"#, NO_LOAN),
        (r#"{"id":<ID>,"eventType":"LOAN_CLOSED","eventPayload":""}"#, BAD_PAYLOAD),
        (r#"{"id":<ID>,"eventType":"LOAN_CLOSED","eventPayload":"closed"}"#, BAD_PAYLOAD),
        (r#"{"id":<ID>,"eventType":"LOAN_CLOSED","eventPayload":"[]"}"#, BAD_PAYLOAD),
        (r#"{"id":<ID>,"eventType":"LOAN_CLOSED","eventPayload":"\ud800"}"#, BAD_PAYLOAD),
        // An invalid character inside the text is accepted in a member that the decoder ignores.
        (
            r#"{"id":<ID>,"eventType":"LOAN_CLOSED","eventPayload":"{\"title\":\"\ud800\",\"userId\":\"7b1f0c52-9a3e-4d0e-8f66-2c4f5a9d1e01\",\"loanId\":\"0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11\"}"}"#,
            ENVELOPE_AND_RECORD,
        ),
        (
            r#"{"eventType":"LOAN_CLOSED","eventMetadata":{"tenantId":"a","tenantId":"b"},"eventPayload":<Q>}"#,
            "northlib: malformed_json eventMetadata",
        ),
    ]);
}

#[test]
fn mod_pubsub_stored_event_may_contain_any_other_shape() {
    let flat = format!(r#"{{"userId":"{USER}","loanId":"{LOAN}"}}"#);
    let stored = |id: &str, content: &str| {
        let payload = serde_json::to_string(content).unwrap();
        let value = format!(r#"{{{id}"eventType":"LOAN_CLOSED","eventPayload":{payload}}}"#);
        record(Kind::LoanClosed, "northlib", value.as_bytes())
    };
    let outer = r#""id":"6a3c9d15-2f84-4e07-9b5a-d1e8f0c27b99","#;
    let enveloped = format!(r#"{{"id":"{ID}","timestamp":1788300000123,"data":{flat}}}"#);
    // The key comes from the outer id, and the time from the inner envelope.
    let event = event(&stored(outer, &enveloped));
    assert_eq!(event.key.to_string(), "6a3c9d15-2f84-4e07-9b5a-d1e8f0c27b99");
    assert_eq!(event.occurred_at.timestamp_millis(), 1_788_300_000_123);
    assert_eq!(outcome(&stored("", &enveloped)), ENVELOPE);
    let changed = format!(r#"{{"type":"UPDATED","data":{{"new":{flat}}}}}"#);
    assert_eq!(outcome(&stored(outer, &changed)), ENVELOPE_AND_RECORD);
    // A stored event must not contain another stored event.
    let again = stored(outer, &flat).payload.unwrap();
    assert_eq!(outcome(&stored(outer, std::str::from_utf8(&again).unwrap())), NO_LOAN);
}

/// The shape does not change the fact.
#[test]
fn all_shapes_decode_to_the_same_fact() {
    let user = USER.parse().unwrap();
    let fact = Fact::LoanClosed { loan: LOAN.parse().unwrap(), user };
    for value in [
        "<P>",
        r#"{"type":"CREATED","data":<P>}"#,
        r#"{"type":"CREATED","data":{"map":<P>,"empty":false}}"#,
        r#"{"type":"CREATED","data":{"old":{},"new":<P>}}"#,
        r#"{"type":"CREATE","old":{},"new":<P>}"#,
        r#"{"eventType":"LOAN_CLOSED","eventPayload":<Q>}"#,
    ] {
        assert_eq!(event(&loan_closed_record(value)).fact, fact, "{value}");
    }
}
