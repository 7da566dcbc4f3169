//! Decodes storage events: the state of a loan or a user after a change, or its deletion
//! (docs/contract/events.md#43-change, docs/contract/events.md#8-storage). Loans are from
//! mod-circulation-storage, users from mod-users.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use serde::Deserialize;
use uuid::Uuid;

use super::{
    envelope::{self, ChangeEnvelope, Envelope},
    fields::{self, required},
    json::{self, RawMember, is_object},
};
use crate::event::{Fact, Kind, Reason, Reject};

/// The known members of a loan or a user. `null` counts as absent, and other members are allowed.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Entity<'a> {
    #[serde(borrow)]
    id: RawMember<'a>,

    // Members of a loan.
    #[serde(borrow)]
    user_id: RawMember<'a>,
    #[serde(borrow)]
    status: RawMember<'a>,
    #[serde(borrow)]
    item_status: RawMember<'a>,
    #[serde(borrow)]
    due_date: RawMember<'a>,
    #[serde(borrow)]
    due_date_changed_by_recall: RawMember<'a>,

    // Members of a user.
    #[serde(borrow)]
    patron_group: RawMember<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status<'a> {
    #[serde(borrow)]
    name: RawMember<'a>,
}

/// The operation of a change, with the state of the entity.
enum EntityChange<'a> {
    /// The entity has this state after the change.
    Saved(Entity<'a>),
    /// The entity had this state before its deletion.
    Deleted(Entity<'a>),
    /// All entities of the tenant are deleted.
    AllDeleted,
    /// An unknown operation, which changes no known state.
    Unknown,
}

/// Decodes a change into its envelope and its fact. The fact is `None` if the type of the change is
/// unknown; an unknown type is no error.
pub(super) fn decode_change(
    kind: Kind,
    value: &[u8],
) -> (Envelope<'_>, Result<Option<Fact>, Reject>) {
    let (envelope, change) = envelope::open_change(value);
    let fact = change.and_then(|change| parse_change(&change)).and_then(|change| match kind {
        Kind::StoredLoan => loan_fact(&change),
        Kind::StoredUser => user_fact(&change),
        _ => Ok(None),
    });
    (envelope, fact)
}

/// Returns the reject of an entity without an envelope, which lacks the type of the change.
pub(super) fn missing_type() -> Reject {
    Reject::new(Reason::MissingField, Some("type"), "is required")
}

/// Parses the operation; the two variants of the envelope have different names for it.
fn parse_change<'a>(change: &ChangeEnvelope<'a>) -> Result<EntityChange<'a>, Reject> {
    match &*required("type", fields::non_blank_string("type", change.type_)?)? {
        "CREATED" | "CREATE" | "UPDATED" | "UPDATE" => {
            parse_entity("new", change.new).map(EntityChange::Saved)
        }
        "DELETED" | "DELETE" => parse_entity("old", change.old).map(EntityChange::Deleted),
        "ALL_DELETED" | "DELETE_ALL" => Ok(EntityChange::AllDeleted),
        _ => Ok(EntityChange::Unknown),
    }
}

fn parse_entity<'a>(name: &'static str, raw: RawMember<'a>) -> Result<Entity<'a>, Reject> {
    let bad = |reason, rule| Reject::new(reason, Some(name), rule);
    match raw {
        Some(raw) if is_object(raw) => json::parse_object(Some(name), raw.get()),
        Some(_) => Err(bad(Reason::BadField, "must be an object")),
        None => Err(bad(Reason::MissingField, "is required in an envelope of a change")),
    }
}

fn entity_id(entity: &Entity<'_>) -> Result<Uuid, Reject> {
    required("id", fields::uuid("id", entity.id)?)
}

/// Returns the fact of a changed loan. An open loan needs a user and a due date. A closed or deleted loan
/// needs only its id, because its user may be anonymised (docs/contract/events.md#8-storage).
fn loan_fact(change: &EntityChange<'_>) -> Result<Option<Fact>, Reject> {
    let entity = match change {
        EntityChange::Saved(entity) => entity,
        EntityChange::Deleted(entity) => {
            return Ok(Some(Fact::LoanSnapshotClosed { loan: entity_id(entity)? }));
        }
        EntityChange::AllDeleted => return Ok(Some(Fact::AllLoansDeleted)),
        EntityChange::Unknown => return Ok(None),
    };
    let loan = entity_id(entity)?;
    if !is_open(entity)? {
        return Ok(Some(Fact::LoanSnapshotClosed { loan }));
    }
    loan_snapshot(entity).map(Some)
}

/// Returns the snapshot of an open loan.
pub(super) fn loan_snapshot(entity: &Entity<'_>) -> Result<Fact, Reject> {
    // An invalid item status does not reject the loan; the flags of the item stay unknown.
    let item = fields::non_blank_string("itemStatus", entity.item_status)
        .ok()
        .map(Option::unwrap_or_default);
    let item = item.as_deref();
    // The recall flag and the due date are one register, so an invalid flag rejects the loan.
    let by_recall = fields::boolean("dueDateChangedByRecall", entity.due_date_changed_by_recall)?;
    Ok(Fact::LoanSnapshot {
        loan: entity_id(entity)?,
        user: required("userId", fields::uuid("userId", entity.user_id)?)?,
        due_date: required("dueDate", fields::date_time("dueDate", entity.due_date)?)?,
        by_recall: by_recall.unwrap_or(false),
        lost: item.map(|item| matches!(item, "Declared lost" | "Aged to lost")),
        claimed_returned: item.map(|item| item.eq_ignore_ascii_case("Claimed returned")),
    })
}

fn is_open(loan: &Entity<'_>) -> Result<bool, Reject> {
    const NAME: &str = "status.name";
    let status: Status<'_> = match loan.status {
        Some(raw) if is_object(raw) => json::parse_object(Some("status"), raw.get())?,
        Some(_) => return Err(Reject::new(Reason::BadField, Some("status"), "must be an object")),
        None => Status::default(),
    };
    let name = required(NAME, fields::non_blank_string(NAME, status.name)?)?;
    Ok(name.eq_ignore_ascii_case("Open"))
}

/// Returns the patron group of a changed user: none for a deleted user or a user without a group.
fn user_fact(change: &EntityChange<'_>) -> Result<Option<Fact>, Reject> {
    let (entity, group) = match change {
        EntityChange::Saved(entity) => {
            (entity, fields::non_blank_string("patronGroup", entity.patron_group)?)
        }
        EntityChange::Deleted(entity) => (entity, None),
        EntityChange::AllDeleted | EntityChange::Unknown => return Ok(None),
    };
    // PostgreSQL can't store NUL in a text, and a rebuild with such a text could not finish.
    if group.as_ref().is_some_and(|group| group.contains('\0')) {
        let rule = "must not have a NUL character";
        return Err(Reject::new(Reason::BadField, Some("patronGroup"), rule));
    }
    Ok(Some(Fact::PatronGroupChanged {
        user: entity_id(entity)?,
        group: group.map(|group| group.into_owned()),
    }))
}
