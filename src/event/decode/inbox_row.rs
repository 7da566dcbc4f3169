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
