//! The registers of a loan, their merge, and the open loan that results.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Register, latest, overdue_from, stamp_of};
use crate::event::{Event, Fact, Grace, Stamp, stamp::Horizon};

/// The registers of one loan. The same kinds of event set each register as in the system that this service
/// replaces (docs/contract/events.md#9-transitions). A tombstone of docs/contract/events.md#10-hazards is a
/// row with `closed`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loan {
    /// The newest check-out.
    pub check_out: Register<CheckOut>,
    /// The owner in the newest *open* snapshot of a storage module.
    pub snapshot: Register<Uuid>,
    /// Due date and recall flag of due-date changes and snapshots. If set, it outranks the check-out's due
    /// date, whatever the times (docs/contract/events.md#10-hazards, H3).
    pub due: Register<DueDate>,
    /// A loss sets `true`, a claim or a renewal `false`, and a snapshot the value of loan storage.
    pub lost: Register<bool>,
    /// A claim sets `true`, a loss `false`, and a snapshot the value of loan storage.
    pub claimed_returned: Register<bool>,
    /// The newest evidence that the loan is closed; final for business events.
    pub closed: Option<Stamp>,
    /// The greatest id among the patrons of events that do not determine the owner.
    pub fallback_user: Option<Uuid>,
}

/// The content of a check-out. Due date and grace period of one check-out belong together, so they are one
/// register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOut {
    /// The borrower.
    pub user: Uuid,
    /// The due date at check-out.
    pub due_date: DateTime<Utc>,
    /// The grace period of the loan policy.
    pub grace: Option<Grace>,
}

/// The content of a due-date change. Every such event has the two members, so they are one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueDate {
    /// The due date.
    pub date: DateTime<Utc>,
    /// Whether a recall set it.
    pub by_recall: bool,
}

/// An open loan, the input of evaluation and of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenLoan {
    /// The borrower.
    pub user: Uuid,
    /// The due date; `None` only if the source had none, and then the loan is never overdue.
    pub due_date: Option<DateTime<Utc>>,
    /// The grace period, if a check-out named one.
    pub grace: Option<Grace>,
    /// Whether the due date was set by a recall.
    pub recall: bool,
    /// Whether the item is lost.
    pub lost: bool,
    /// Whether the patron claims to have returned the item.
    pub claimed_returned: bool,
}

impl Loan {
    /// Returns the registers that one event sets; `None` for an event about another subject.
    pub fn from_event(event: &Event) -> Option<(Uuid, Self)> {
        Self::from_fact(event.stamp, &event.fact)
    }

    /// Returns the registers that a fact sets; `None` for a fact about another subject.
    pub fn from_fact(stamp: Stamp, fact: &Fact) -> Option<(Uuid, Self)> {
        let mut loan = Self::default();
        match *fact {
            Fact::CheckedOut { user, due_date, grace, .. } => {
                loan.check_out = Some((stamp, CheckOut { user, due_date, grace }));
            }
            Fact::CheckedIn { user, .. } => {
                loan.closed = Some(stamp);
                loan.fallback_user = user;
            }
            Fact::LoanClosed { user, .. } => {
                loan.closed = Some(stamp);
                loan.fallback_user = Some(user);
            }
            Fact::Lost { user, .. } => {
                loan.lost = Some((stamp, true));
                loan.claimed_returned = Some((stamp, false));
                loan.fallback_user = Some(user);
            }
            Fact::ClaimedReturned { user, .. } => {
                loan.lost = Some((stamp, false));
                loan.claimed_returned = Some((stamp, true));
                loan.fallback_user = Some(user);
            }
            Fact::DueDateChanged { user, due_date, by_recall, .. } => {
                loan.due = Some((stamp, DueDate { date: due_date, by_recall }));
                // A recall leaves the item lost, a renewal does not
                // (docs/contract/traps.md#t3-recall-and-lost). A claim survives a recall and a renewal.
                loan.lost = (!by_recall).then_some((stamp, false));
                loan.fallback_user = Some(user);
            }
            Fact::LoanSnapshot { user, due_date, by_recall, lost, claimed_returned, .. } => {
                // Loan storage knows every property of an open loan except its grace period. If the item
                // status is unreadable, the flags stay unchanged.
                loan.snapshot = Some((stamp, user));
                loan.due = Some((stamp, DueDate { date: due_date, by_recall }));
                loan.lost = lost.map(|lost| (stamp, lost));
                loan.claimed_returned = claimed_returned.map(|claimed| (stamp, claimed));
            }
            Fact::LoanSnapshotClosed { .. } => loan.closed = Some(stamp),
            Fact::BalanceChanged { .. }
            | Fact::AllLoansDeleted
            | Fact::PatronGroupChanged { .. } => {
                return None;
            }
        }
        Some((fact.subject()?, loan))
    }

    /// Returns the registers of an open loan of another module, such as the Java module. `opened_stamp` is
    /// the time of the check-out, so a later closing counts. `snapshot_stamp` is the time of that module's
    /// last write. The module's due date outranks the check-out's; the grace period is the check-out's.
    pub fn from_snapshot(open: &OpenLoan, opened_stamp: Stamp, snapshot_stamp: Stamp) -> Self {
        let OpenLoan { user, due_date, grace, recall, lost, claimed_returned } = *open;
        let check_out = |due_date| (opened_stamp, CheckOut { user, due_date, grace });
        let due = |date| (snapshot_stamp, DueDate { date, by_recall: recall });
        Self {
            check_out: due_date.map(check_out),
            snapshot: Some((opened_stamp, user)),
            due: due_date.map(due),
            lost: Some((snapshot_stamp, lost)),
            claimed_returned: Some((snapshot_stamp, claimed_returned)),
            closed: None,
            fallback_user: None,
        }
    }

    /// Returns the merge of two states: commutative, associative, idempotent.
    pub fn merge(mut self, other: Self) -> Self {
        self.merge_from(&other);
        self
    }

    /// Merges `other` in place, like [`Loan::merge`].
    pub fn merge_from(&mut self, other: &Self) {
        self.check_out = latest(self.check_out, other.check_out);
        self.snapshot = latest(self.snapshot, other.snapshot);
        self.due = latest(self.due, other.due);
        self.lost = latest(self.lost, other.lost);
        self.claimed_returned = latest(self.claimed_returned, other.claimed_returned);
        self.closed = self.closed.max(other.closed);
        self.fallback_user = self.fallback_user.max(other.fallback_user);
    }

    /// Returns the stamps of the registers.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + use<> {
        let registers = [stamp_of(&self.check_out), stamp_of(&self.snapshot), stamp_of(&self.due)];
        let states = [stamp_of(&self.lost), stamp_of(&self.claimed_returned), self.closed];
        registers.into_iter().chain(states).flatten()
    }

    /// Returns the newest stamp of all registers.
    pub fn newest_stamp(&self) -> Option<Stamp> {
        self.stamps().max()
    }

    /// Returns whether pruning may delete the loan: it is not open, and all its stamps are before
    /// `prune_horizon`. If a later event recreates the row, the prune horizon applies to the row.
    pub fn is_prunable(&self, horizon: Option<Horizon>, prune_horizon: Horizon) -> bool {
        self.as_open(horizon).is_none()
            && self.newest_stamp().is_some_and(|stamp| !prune_horizon.admits(&stamp))
    }

    /// Returns the owner and the stamp of the newest check-out or open snapshot.
    pub fn opening(&self) -> Register<Uuid> {
        let check_out = self.check_out.map(|(stamp, check_out)| (stamp, check_out.user));
        latest(check_out, self.snapshot)
    }

    /// Returns the loan if it counts for its patron: a check-out or snapshot admitted by the horizon opened
    /// it, and it is not closed. Facts about a loan that nothing has opened wait
    /// (docs/contract/events.md#10-hazards, H1, H3).
    pub fn as_open(&self, horizon: Option<Horizon>) -> Option<OpenLoan> {
        let check_out = self.check_out.as_ref();
        let (opened, user) = self.opening()?;
        let reopened = |closed: Stamp| self.snapshot.is_some_and(|(stamp, _)| stamp > closed);
        if self.closed.is_some_and(|closed| !reopened(closed)) {
            return None;
        }
        if horizon.is_some_and(|horizon| !horizon.admits(&opened)) {
            return None;
        }
        Some(OpenLoan {
            user,
            due_date: self.due.map(|(_, due)| due.date).or(check_out.map(|(_, c)| c.due_date)),
            grace: check_out.and_then(|(_, c)| c.grace),
            recall: self.due.is_some_and(|(_, due)| due.by_recall),
            lost: self.lost.is_some_and(|(_, lost)| lost),
            claimed_returned: self.claimed_returned.is_some_and(|(_, claimed)| claimed),
        })
    }
}

impl OpenLoan {
    /// Returns the instant from which the loan is overdue; `None` without a due date.
    pub fn overdue_from(&self) -> Option<DateTime<Utc>> {
        self.due_date.map(|due_date| overdue_from(due_date, self.grace))
    }
}
