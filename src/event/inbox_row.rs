//! Events as the inbox keeps them, read again for a rebuild.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Event, IdentifiedBy, Kind, Stamp, TimedBy,
    decode::{self, Reason, Reject},
};

/// An event as the inbox keeps it.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq))]
pub struct InboxRow {
    /// Its key.
    pub key: Uuid,
    /// By which rule it got that, by name.
    pub identified_by: String,
    /// Its kind, by name.
    pub kind: String,
    /// The bytes of its stamp.
    pub stamp: Vec<u8>,
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
    /// By which rule that was found, by name.
    pub timed_by: String,
    /// The record's value, or the body of the call.
    pub payload: Vec<u8>,
}

impl InboxRow {
    /// The event; none where its payload was not kept, as a user's is not. Fails only where the row was not
    /// written by us, or by a version that understood more.
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
