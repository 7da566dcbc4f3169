//! An event as HTTP brings it: mod-pubsub's callback, whose body is the flat payload alone (events
//! contract 4.1).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::borrow::Cow;

use chrono::{DateTime, SubsecRound, Utc};
use uuid::Uuid;

use super::{
    Event, Fact, IdentifiedBy, Kind, Place, Record, Reject, Stamp, TimedBy,
    decode::{self, CLOCK_TOLERANCE},
    fields,
    wire::{self, Members},
};

/// A call that was understood. When it came is for the clock to say that all instances share.
#[derive(Debug, Clone)]
pub struct Call {
    kind: Kind,
    fact: Fact,
    created_at: Option<DateTime<Utc>>,
    body: Vec<u8>,
}

/// Reads the body of a call for this kind of event. A repeated call can't be told from a second event
/// of the same content, unless its sender says when it was made; merging is idempotent all the same.
pub fn read(kind: Kind, body: &[u8]) -> Result<Call, Reject> {
    let members = wire::flat(body)?;
    let fact = decode::fact(kind, &members)?;
    check_ids(kind, &members)?;
    let created_at = wire::created_at(&members);
    Ok(Call { kind, fact, created_at, body: body.to_vec() })
}

impl Call {
    /// The event of a call that came at this time, to the millisecond.
    pub fn event(&self, received_at: DateTime<Utc>) -> Event {
        let received_at = received_at.trunc_subsecs(3);
        let is_usable = |at: &DateTime<Utc>| *at - received_at <= CLOCK_TOLERANCE;
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
            stamp: Stamp::called(occurred_at, &self.fact, &self.body),
            fact: self.fact.clone(),
        }
    }

    /// The call as a record: in no log, and so at no offset.
    pub fn record(&self, received_at: DateTime<Utc>) -> Record {
        Record {
            place: Place { topic: self.kind.callback().into(), partition: -1, offset: -1 },
            timestamp: Some(received_at),
            key: None,
            headers: Vec::new(),
            payload: Some(self.body.clone()),
        }
    }
}

/// A caller is answered, and so the ids that it may name must fit the schema (http contract 6); what comes
/// from the log is not refused for those that matter less.
fn check_ids(kind: Kind, members: &Members<'_>) -> Result<(), Reject> {
    if kind != Kind::FeeFineBalanceChanged {
        return fields::required("userId", fields::uuid("userId", members.user_id)?).map(drop);
    }
    for name in ["userId", "feeFineTypeId", "loanId"] {
        fields::uuid(name, members.id_named(name))?;
    }
    Ok(())
}

/// The text of a member that is to be an id, for its sender.
pub fn id_sent(body: &[u8], name: &str) -> Option<String> {
    let sent = wire::flat(body).ok()?.id_named(name)?;
    fields::string(sent).map(Cow::into_owned)
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

    fn returned(metadata: &str) -> String {
        format!(r#"{{"userId":"{USER}","loanId":"{USER}"{metadata}}}"#)
    }

    #[test]
    fn the_senders_time_counts_unless_it_runs_ahead() {
        let now = at(1_790_000_000_000);
        let read = |metadata: &str| {
            read(Kind::LoanClosed, returned(metadata).as_bytes()).unwrap().event(now)
        };
        let said = |at: DateTime<Utc>| {
            read(&format!(r#","metadata":{{"createdDate":"{}"}}"#, at.to_rfc3339()))
        };
        for (event, time, by) in [
            (read(""), now, TimedBy::Receipt),
            (read(r#","metadata":null"#), now, TimedBy::Receipt),
            (read(r#","metadata":{"createdDate":"soon"}"#), now, TimedBy::Receipt),
            (said(at(5)), at(5), TimedBy::Metadata),
            (said(now + CLOCK_TOLERANCE), now + CLOCK_TOLERANCE, TimedBy::Metadata),
            (said(now + CLOCK_TOLERANCE + TimeDelta::milliseconds(1)), now, TimedBy::Receipt),
        ] {
            assert_eq!((event.occurred_at, event.timed_by), (time, by));
        }
    }

    /// HTTP holds what it knows to the schema; the log does not lose an event for what matters less.
    #[test]
    fn an_optional_id_that_is_none_is_refused_and_named() {
        let fee = |member: &str| format!(r#"{{"feeFineId":"{USER}","balance":1,"{member}":"0"}}"#);
        for member in ["userId", "feeFineTypeId", "loanId"] {
            let reject = read(Kind::FeeFineBalanceChanged, fee(member).as_bytes());
            let reject = reject.unwrap_err();
            assert_eq!((reject.reason, reject.field), (Reason::BadField, Some(member)));
        }
        let loan = format!(r#"{{"loanId":"{USER}","userId":"0"}}"#);
        let reject = read(Kind::ItemCheckedIn, loan.as_bytes()).unwrap_err();
        assert_eq!((reject.reason, reject.field), (Reason::BadField, Some("userId")));
    }

    #[test]
    fn the_same_call_at_the_same_time_is_the_same_event_and_no_other_is() {
        let key = |kind, ms, body: &str| read(kind, body.as_bytes()).unwrap().event(at(ms)).key;
        let body = returned("");
        let first = key(Kind::LoanClosed, 7, &body);
        assert_eq!(first, key(Kind::LoanClosed, 7, &body));
        assert_ne!(first, key(Kind::LoanClosed, 8, &body));
        assert_ne!(first, key(Kind::ItemCheckedIn, 7, &body));
        assert_ne!(first, key(Kind::LoanClosed, 7, &returned(r#","more":1"#)));
    }

    #[test]
    fn a_patron_is_required_of_all_but_fees_fines() {
        let loan = format!(r#"{{"loanId":"{USER}"}}"#);
        let reject = read(Kind::ItemCheckedIn, loan.as_bytes()).unwrap_err();
        assert_eq!((reject.reason, reject.field), (Reason::MissingField, Some("userId")));
        let deleted = format!(r#"{{"feeFineId":"{USER}","balance":0.0}}"#);
        let event = read(Kind::FeeFineBalanceChanged, deleted.as_bytes()).unwrap().event(at(0));
        assert!(matches!(event.fact, Fact::BalanceChanged { user: None, .. }));
    }
}
