//! What storage modules tell: how a loan or a user is after a change, or that it is gone (events contract
//! 4.3, 8). Loans come from mod-circulation-storage, users from mod-users.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use serde::Deserialize;
use uuid::Uuid;

use super::{
    Fact, Kind, Reject,
    decode::Reason,
    fields::{self, required},
    wire::{self, Change, Envelope, Raw, is_object},
};

/// The members of a loan or of a user that mean something to us; `null` counts as absent, and others are
/// allowed.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Entity<'a> {
    #[serde(borrow)]
    id: Raw<'a>,

    // Of a loan.
    #[serde(borrow)]
    user_id: Raw<'a>,
    #[serde(borrow)]
    status: Raw<'a>,
    #[serde(borrow)]
    item_status: Raw<'a>,
    #[serde(borrow)]
    due_date: Raw<'a>,
    #[serde(borrow)]
    due_date_changed_by_recall: Raw<'a>,

    // Of a user.
    #[serde(borrow)]
    patron_group: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status<'a> {
    #[serde(borrow)]
    name: Raw<'a>,
}

/// What was done.
enum Deed<'a> {
    /// The entity is as this says.
    Is(Entity<'a>),
    /// The entity is no more.
    Gone(Entity<'a>),
    /// None is any more.
    AllGone,
    /// Something that leaves everything as it was, as far as we know.
    Other,
}

/// Reads a change: what its envelope says, and what the change says of its entity; nothing where it is of a
/// type that is not known, which is no error.
pub(super) fn read(kind: Kind, value: &[u8]) -> (Envelope<'_>, Result<Option<Fact>, Reject>) {
    let (envelope, change) = wire::open_change(value);
    let fact = change.and_then(|change| deed(&change)).and_then(|deed| match kind {
        Kind::StoredLoan => loan(&deed),
        Kind::StoredUser => user(&deed),
        _ => Ok(None),
    });
    (envelope, fact)
}

/// Outside of an envelope an entity does not say what was done to it.
pub(super) fn not_flat() -> Reject {
    Reject::new(Reason::MissingField, Some("type"), "is required")
}

/// Both variants of the envelope have names of their own for what was done.
fn deed<'a>(change: &Change<'a>) -> Result<Deed<'a>, Reject> {
    match &*required("type", fields::word("type", change.type_)?)? {
        "CREATED" | "CREATE" | "UPDATED" | "UPDATE" => entity("new", change.new).map(Deed::Is),
        "DELETED" | "DELETE" => entity("old", change.old).map(Deed::Gone),
        "ALL_DELETED" | "DELETE_ALL" => Ok(Deed::AllGone),
        _ => Ok(Deed::Other),
    }
}

fn entity<'a>(name: &'static str, raw: Raw<'a>) -> Result<Entity<'a>, Reject> {
    let bad = |reason, rule| Reject::new(reason, Some(name), rule);
    match raw {
        Some(raw) if is_object(raw) => wire::object(Some(name), raw.get()),
        Some(_) => Err(bad(Reason::BadField, "must be an object")),
        None => Err(bad(Reason::MissingField, "is required where an envelope tells a change")),
    }
}

fn id(entity: &Entity<'_>) -> Result<Uuid, Reject> {
    required("id", fields::uuid("id", entity.id)?)
}

/// An open loan has to say whose it is and when it is due; of one that has ended its id is enough, and its
/// user may have been taken out (events contract 8).
fn loan(deed: &Deed<'_>) -> Result<Option<Fact>, Reject> {
    let entity = match deed {
        Deed::Is(entity) => entity,
        Deed::Gone(entity) => return Ok(Some(Fact::LoanEnded { loan: id(entity)? })),
        Deed::AllGone => return Ok(Some(Fact::AllLoansDeleted)),
        Deed::Other => return Ok(None),
    };
    let loan = id(entity)?;
    if !is_open(entity)? {
        return Ok(Some(Fact::LoanEnded { loan }));
    }
    held(entity).map(Some)
}

/// An open loan as its storage holds it.
pub(super) fn held(entity: &Entity<'_>) -> Result<Fact, Reject> {
    // A status that can't be read is no reason to lose the loan. It says nothing of the item.
    let item = fields::word("itemStatus", entity.item_status).ok().map(Option::unwrap_or_default);
    let item = item.as_deref();
    // The recall flag and the due date are one register. A flag that can't be read leaves no value for it.
    let by_recall = fields::boolean("dueDateChangedByRecall", entity.due_date_changed_by_recall)?;
    Ok(Fact::LoanHeld {
        loan: id(entity)?,
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
        Some(raw) if is_object(raw) => wire::object(Some("status"), raw.get())?,
        Some(_) => return Err(Reject::new(Reason::BadField, Some("status"), "must be an object")),
        None => Status::default(),
    };
    let name = required(NAME, fields::word(NAME, status.name)?)?;
    Ok(name.eq_ignore_ascii_case("Open"))
}

/// A user who is gone has no group; nor has one whose record names none.
fn user(deed: &Deed<'_>) -> Result<Option<Fact>, Reject> {
    let (entity, group) = match deed {
        Deed::Is(entity) => (entity, fields::word("patronGroup", entity.patron_group)?),
        Deed::Gone(entity) => (entity, None),
        Deed::AllGone | Deed::Other => return Ok(None),
    };
    // The database keeps no such text, and a rebuild that met it there could not end.
    if group.as_ref().is_some_and(|group| group.contains('\0')) {
        let rule = "must not have a NUL character";
        return Err(Reject::new(Reason::BadField, Some("patronGroup"), rule));
    }
    Ok(Some(Fact::GroupTold { user: id(entity)?, group: group.map(|group| group.into_owned()) }))
}
