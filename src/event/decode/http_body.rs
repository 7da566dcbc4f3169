//! Decodes an event that arrives over HTTP: mod-pubsub's callback, with the flat payload as its body
//! (docs/contract/events.md#41-flat).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::borrow::Cow;

use chrono::{DateTime, SubsecRound, Utc};
use uuid::Uuid;

use super::{
    CLOCK_SKEW_MAX,
    envelope::{self, Members},
    fields, json,
};
use crate::event::{
    Event, Fact, IdentifiedBy, Kind, Record, RecordPosition, Reject, Stamp, TimedBy, decode,
};

/// The decoded body of a call. The time of receipt is added later, from the clock that all instances share.
#[derive(Debug, Clone)]
pub struct HttpEvent {
    kind: Kind,
    fact: Fact,
    created_at: Option<DateTime<Utc>>,
    body: Vec<u8>,
}

/// Decodes the body of a call for an event of this kind. Without a creation time, a repeated call looks
/// like a second event with equal content; merging is idempotent, so a repeat is harmless.
pub fn decode_body(kind: Kind, body: &[u8]) -> Result<HttpEvent, Reject> {
    let members = envelope::parse_flat(body)?;
    let fact = decode::decode_fact(kind, &members)?;
    check_ids(kind, &members)?;
    let created_at = envelope::created_at(&members);
    Ok(HttpEvent { kind, fact, created_at, body: body.to_vec() })
}

impl HttpEvent {
    /// Returns the event of a call that arrived at `received_at`, cut to milliseconds.
    pub fn to_event(&self, received_at: DateTime<Utc>) -> Event {
        let received_at = received_at.trunc_subsecs(3);
        let is_usable = |at: &DateTime<Utc>| *at - received_at <= CLOCK_SKEW_MAX;
        let (occurred_at, timed_by) = match self.created_at.filter(is_usable) {
            Some(created_at) => (created_at, TimedBy::Metadata),
            None => (received_at, TimedBy::Receipt),
        };
        let at = occurred_at.timestamp_millis().to_be_bytes();
        let name = [self.kind.name().as_bytes(), &at, &self.body];
        Event {
            key: Uuid::new_v5(&Uuid::NAMESPACE_URL, &name.concat()),
            identified_by: IdentifiedBy::Content,
            occurred_at,
            timed_by,
            stamp: Stamp::from_http(occurred_at, &self.fact, &self.body),
            fact: self.fact.clone(),
        }
    }

    /// Returns the call as a record for a dead letter; partition and offset are -1, because no log contains
    /// it.
    pub fn to_record(&self, received_at: DateTime<Utc>) -> Record {
        Record {
            position: RecordPosition {
                topic: self.kind.http_path().into(),
                partition: -1,
                offset: -1,
            },
            timestamp: Some(received_at),
            key: None,
            headers: Vec::new(),
            payload: Some(self.body.clone()),
        }
    }
}

/// Checks the ids of a call against the schema (docs/contract/http-api.md#6-handlers), because a caller
/// receives the error. A record of the log is not rejected for an invalid optional id.
fn check_ids(kind: Kind, members: &Members<'_>) -> Result<(), Reject> {
    if kind != Kind::FeeFineBalanceChanged {
        return fields::required("userId", fields::uuid("userId", members.user_id)?).map(drop);
    }
    for name in ["userId", "feeFineTypeId", "loanId"] {
        fields::uuid(name, members.id_member(name))?;
    }
    Ok(())
}

/// Returns the text of an id member, for the error response.
pub fn raw_id(body: &[u8], name: &str) -> Option<String> {
    let sent = envelope::parse_flat(body).ok()?.id_member(name)?;
    json::string_value(sent).map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::event::{Fact, Reason};

    const USER: &str = "7b1f0c52-9a3e-4d0e-8f66-2c4f5a9d1e01";

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(ms).unwrap()
    }

    #[test]
    fn record_of_a_call_has_no_position_in_a_log() {
        let body = loan_closed_body("");
        let call = decode_body(Kind::LoanClosed, body.as_bytes()).unwrap();
        let record = call.to_record(at(7));
        assert_eq!((record.position.partition, record.position.offset), (-1, -1));
        assert_eq!(&*record.position.topic, Kind::LoanClosed.http_path());
        assert_eq!((record.timestamp, record.payload), (Some(at(7)), Some(body.into_bytes())));
    }

    #[test]
    fn errors_quote_the_id_as_the_caller_wrote_it() {
        let body = br#"{"userId":"u","loanId":"l","feeFineId":"f","feeFineTypeId":"t","id":"i"}"#;
        for (name, id) in
            [("userId", "u"), ("loanId", "l"), ("feeFineId", "f"), ("feeFineTypeId", "t")]
        {
            assert_eq!(raw_id(body, name).as_deref(), Some(id), "{name}");
        }
        assert_eq!(raw_id(body, "id"), None);
        assert_eq!(raw_id(b"{}", "userId"), None);
        assert_eq!(raw_id(b"[", "userId"), None);
    }

    fn loan_closed_body(metadata: &str) -> String {
        format!(r#"{{"userId":"{USER}","loanId":"{USER}"{metadata}}}"#)
    }

    #[test]
    fn sender_time_counts_unless_it_is_ahead() {
        let now = at(1_790_000_000_000);
        let event_with = |metadata: &str| {
            decode_body(Kind::LoanClosed, loan_closed_body(metadata).as_bytes())
                .unwrap()
                .to_event(now)
        };
        let with_created_date = |at: DateTime<Utc>| {
            event_with(&format!(r#","metadata":{{"createdDate":"{}"}}"#, at.to_rfc3339()))
        };
        for (event, time, by) in [
            (event_with(""), now, TimedBy::Receipt),
            (event_with(r#","metadata":null"#), now, TimedBy::Receipt),
            (event_with(r#","metadata":{"createdDate":"soon"}"#), now, TimedBy::Receipt),
            (with_created_date(at(5)), at(5), TimedBy::Metadata),
            (with_created_date(now + CLOCK_SKEW_MAX), now + CLOCK_SKEW_MAX, TimedBy::Metadata),
            (
                with_created_date(now + CLOCK_SKEW_MAX + TimeDelta::milliseconds(1)),
                now,
                TimedBy::Receipt,
            ),
        ] {
            assert_eq!((event.occurred_at, event.timed_by), (time, by));
        }
    }

    /// HTTP rejects an invalid optional id; the log accepts the event without it.
    #[test]
    fn invalid_optional_id_is_rejected_and_named() {
        let fee = |member: &str| format!(r#"{{"feeFineId":"{USER}","balance":1,"{member}":"0"}}"#);
        for member in ["userId", "feeFineTypeId", "loanId"] {
            let reject = decode_body(Kind::FeeFineBalanceChanged, fee(member).as_bytes());
            let reject = reject.unwrap_err();
            assert_eq!((reject.reason, reject.field), (Reason::BadField, Some(member)));
        }
        let loan = format!(r#"{{"loanId":"{USER}","userId":"0"}}"#);
        let reject = decode_body(Kind::ItemCheckedIn, loan.as_bytes()).unwrap_err();
        assert_eq!((reject.reason, reject.field), (Reason::BadField, Some("userId")));
    }

    #[test]
    fn same_call_at_the_same_time_is_the_same_event() {
        let key =
            |kind, ms, body: &str| decode_body(kind, body.as_bytes()).unwrap().to_event(at(ms)).key;
        let body = loan_closed_body("");
        let first = key(Kind::LoanClosed, 7, &body);
        assert_eq!(first, key(Kind::LoanClosed, 7, &body));
        assert_ne!(first, key(Kind::LoanClosed, 8, &body));
        assert_ne!(first, key(Kind::ItemCheckedIn, 7, &body));
        assert_ne!(first, key(Kind::LoanClosed, 7, &loan_closed_body(r#","more":1"#)));
    }

    #[test]
    fn patron_is_required_except_for_fees_fines() {
        let loan = format!(r#"{{"loanId":"{USER}"}}"#);
        let reject = decode_body(Kind::ItemCheckedIn, loan.as_bytes()).unwrap_err();
        assert_eq!((reject.reason, reject.field), (Reason::MissingField, Some("userId")));
        let deleted = format!(r#"{{"feeFineId":"{USER}","balance":0.0}}"#);
        let event =
            decode_body(Kind::FeeFineBalanceChanged, deleted.as_bytes()).unwrap().to_event(at(0));
        assert!(matches!(event.fact, Fact::BalanceChanged { user: None, .. }));
    }
}
