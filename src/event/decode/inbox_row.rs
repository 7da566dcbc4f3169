//! Rows of the inbox, and their decoding for a rebuild.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::event::{Event, IdentifiedBy, Kind, Reason, Reject, Stamp, TimedBy, decode};

/// An event as the inbox stores it.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq))]
pub struct InboxRow {
    /// Key of the event.
    pub key: Uuid,
    /// Name of the rule that produced the key.
    pub identified_by: String,
    /// Name of the kind.
    pub kind: String,
    /// Bytes of the stamp.
    pub stamp: Vec<u8>,
    /// Time of the event.
    pub occurred_at: DateTime<Utc>,
    /// Name of the rule that produced the time.
    pub timed_by: String,
    /// Value of the record, or body of the HTTP call.
    pub payload: Vec<u8>,
}

impl InboxRow {
    /// Returns the event, or `None` if the inbox did not store the payload, as for users. Fails only for a
    /// row of a later version or of another program.
    pub fn decode(&self) -> Result<Option<Event>, Reject> {
        let unknown = |field| move || Reject::new(Reason::BadField, Some(field), "is not known");
        let kind = Kind::from_name(&self.kind).ok_or_else(unknown("kind"))?;
        if self.payload.is_empty() {
            return Ok(None);
        }
        let mut inner = String::new();
        let Some(fact) = decode::decode_payload(kind, &self.payload, &mut inner).1? else {
            return Ok(None);
        };
        Ok(Some(Event {
            key: self.key,
            identified_by: IdentifiedBy::from_name(&self.identified_by)
                .ok_or_else(unknown("identified_by"))?,
            occurred_at: self.occurred_at,
            timed_by: TimedBy::from_name(&self.timed_by).ok_or_else(unknown("timed_by"))?,
            stamp: Stamp::from_bytes(&self.stamp).ok_or_else(unknown("stamp"))?,
            fact,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Fact;

    #[test]
    fn row_of_the_inbox_is_the_event_again() {
        let id = Uuid::from_u128(0x7b1f_0c52_9a3e_4d0e_8f66_2c4f_5a9d_1e01);
        let at = DateTime::from_timestamp_millis(5).unwrap();
        let stamp = Stamp::from_envelope(at, Kind::LoanClosed, id);
        let row = InboxRow {
            key: id,
            identified_by: IdentifiedBy::Envelope.name().to_owned(),
            kind: Kind::LoanClosed.name().to_owned(),
            stamp: stamp.as_bytes().to_vec(),
            occurred_at: at,
            timed_by: TimedBy::Record.name().to_owned(),
            payload: format!(r#"{{"loanId":"{id}","userId":"{id}"}}"#).into_bytes(),
        };
        let event = row.decode().unwrap().unwrap();
        assert_eq!((event.key, event.stamp, event.occurred_at), (id, stamp, at));
        assert_eq!(event.identified_by, IdentifiedBy::Envelope);
        assert_eq!(event.timed_by, TimedBy::Record);
        assert_eq!(event.fact, Fact::LoanClosed { loan: id, user: id });
        let without_payload = InboxRow { payload: Vec::new(), ..row.clone() };
        assert_eq!(without_payload.decode().unwrap(), None);
        for (unknown, field) in [
            (InboxRow { kind: "x".to_owned(), ..row.clone() }, "kind"),
            (InboxRow { identified_by: "x".to_owned(), ..row.clone() }, "identified_by"),
            (InboxRow { timed_by: "x".to_owned(), ..row.clone() }, "timed_by"),
            (InboxRow { stamp: vec![0], ..row }, "stamp"),
        ] {
            assert_eq!(unknown.decode().unwrap_err().field, Some(field));
        }
    }
}
