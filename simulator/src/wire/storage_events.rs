//! The records of storage modules: a loan or a user before and after a change.

use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Record, RecordWriter};
use crate::folio::{storage::LoanRecord, users};
use crate::model::{Event, Fact, Patron, StatusChange, Truth};

/// The ends of the topic names.
pub(super) const LOANS: &str = "circulation.loan";
pub(super) const USERS: &str = "users.users";

/// An entity of a storage module.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entity {
    Loan(Uuid, Value),
    User(Uuid, Value),
}

impl Entity {
    /// Returns the entity of an event as storage contains it, or `None` for a fee/fine.
    pub(super) fn from_event(event: &Event, truth: &Truth) -> Option<Self> {
        if let Fact::PatronGroupChanged { patron, .. } = event.fact {
            return Some(Self::user(&truth.account(patron)?.patron));
        }
        let id = event.fact.loan()?;
        let (patron, loan) = truth.loan(id)?;
        let record = serde_json::to_value(LoanRecord::new(id, patron, loan));
        Some(Self::Loan(id, record.expect("a loan can be serialized")))
    }

    fn user(patron: &Patron) -> Self {
        Self::User(patron.id, users::record(patron))
    }

    fn id(&self) -> Uuid {
        match self {
            Self::Loan(id, _) | Self::User(id, _) => *id,
        }
    }

    fn record(&self) -> &Value {
        match self {
            Self::Loan(_, record) | Self::User(_, record) => record,
        }
    }
}

impl RecordWriter {
    /// Returns the record of a change, from the entity before and after the event. Storage still contains a
    /// closed loan; only a deletion removes it.
    pub(super) fn stored(
        &mut self,
        event: &Event,
        before: Option<Entity>,
        after: Option<Entity>,
    ) -> Option<Record> {
        let entity = after.clone().or(before.clone())?;
        let (change_type, data) = match (before, after) {
            (None, None) => return None,
            (None, Some(new)) => ("CREATED", json!({ "new": new.record() })),
            (Some(old), Some(new)) => {
                ("UPDATED", json!({ "old": old.record(), "new": new.record() }))
            }
            (Some(old), None) if matches!(event.fact, Fact::LoanDeleted { .. }) => {
                ("DELETED", json!({ "old": old.record() }))
            }
            (Some(old), None) => {
                let closed = self.closed(event, old.record());
                ("UPDATED", json!({ "old": old.record(), "new": closed }))
            }
        };
        Some(self.change(&entity, event.at, event.staff, change_type, data))
    }

    /// Returns the old records of a library's user: the creation and, for an unknown user, the deletion.
    pub(super) fn registration(&mut self, patron: &Patron, at: DateTime<Utc>) -> Vec<Record> {
        let (user, staff) = (Entity::user(patron), Uuid::nil());
        let created = json!({ "new": user.record() });
        let mut records = vec![self.change(&user, at, staff, "CREATED", created)];
        if !patron.known {
            let (at, deleted) = (at + TimeDelta::days(1), json!({ "old": user.record() }));
            records.push(self.change(&user, at, staff, "DELETED", deleted));
        }
        records
    }

    /// Returns the closed loan. Some closed loans have no borrower any more.
    fn closed(&mut self, event: &Event, old: &Value) -> Value {
        let mut loan = old.clone();
        loan["status"]["name"] = json!("Closed");
        let missing =
            matches!(event.fact, Fact::StatusChanged { change: StatusChange::DeclaredMissing, .. });
        (loan["itemStatus"], loan["action"]) = match missing {
            true => (json!("Missing"), json!("missing")),
            false => (json!("Available"), json!("checkedin")),
        };
        if let (true, Some(members)) = (self.rng.random_bool(0.1), loan.as_object_mut()) {
            members.remove("userId");
        }
        loan
    }

    fn change(
        &mut self,
        entity: &Entity,
        at: DateTime<Utc>,
        staff: Uuid,
        change_type: &str,
        data: Value,
    ) -> Record {
        let topic = match entity {
            Entity::Loan(..) => &self.loans,
            Entity::User(..) => &self.users,
        };
        let (topic, timestamp_ms) = (topic.clone(), at.timestamp_millis());
        let envelope = json!({
            "id": self.id(), "type": change_type, "tenant": &*self.tenant, "timestamp": timestamp_ms,
            "data": data,
        });
        Record {
            topic,
            key: entity.id().to_string(),
            headers: self.headers(staff),
            timestamp_ms,
            payload: envelope.to_string().into_bytes(),
        }
    }
}
