//! A loan: what was said about it, merged, and what follows.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Grace, Register, latest, overdue_from, stamp_of};
use crate::event::{Event, Fact, Stamp, stamp::Horizon};

/// All that is known of one loan. Each register is set by exactly the kinds of event that set it in
/// the system this replaces (docs/contract/events.md#9-transitions); what
/// docs/contract/events.md#10-hazards calls a tombstone is a row whose `closed` is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loan {
    /// Said by a check-out; the newest counts.
    pub check_out: Register<CheckOut>,
    /// The owner that the newest *open* snapshot of a storage module named.
    pub snapshot: Register<Uuid>,
    /// Due date and recall flag, said by due-date changes and snapshots. Where it is set it outranks
    /// the check-out's due date, whatever the times (docs/contract/events.md#10-hazards, H3).
    pub due: Register<DueDate>,
    /// Declared or aged to lost, and taken back by a claim, a renewal or a snapshot.
    pub lost: Register<bool>,
    /// Claimed returned, and taken back by a loss or a snapshot.
    pub claimed_returned: Register<bool>,
    /// The newest evidence that the loan has ended: final for business events.
    pub closed: Option<Stamp>,
    /// A patron named by an event that does not decide the owner; of several, the greatest id.
    pub fallback_user: Option<Uuid>,
}

/// What a check-out says of its loan. One register: the due date and the grace period of one
/// check-out belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOut {
    /// The borrower.
    pub user: Uuid,
    /// Due date at check-out.
    pub due_date: DateTime<Utc>,
    /// Grace period of the loan policy.
    pub grace: Option<Grace>,
}

/// What a due-date change says. Both members come with every such event, so they are one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueDate {
    /// The due date.
    pub date: DateTime<Utc>,
    /// Whether a recall set it.
    pub by_recall: bool,
}

/// An open loan, as evaluation and summary see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenLoan {
    /// Who has it.
    pub user: Uuid,
    /// Unknown only where storage had none; then it is never overdue.
    pub due_date: Option<DateTime<Utc>>,
    /// Grace period, where a check-out named one.
    pub grace: Option<Grace>,
    /// Whether the due date was set by a recall.
    pub recall: bool,
    /// Whether the item is lost.
    pub lost: bool,
    /// Whether the patron claims to have returned it.
    pub claimed_returned: bool,
}

impl Loan {
    /// What one event says of its loan; `None` for an event about anything else.
    pub fn from_event(event: &Event) -> Option<(Uuid, Self)> {
        Self::from_fact(event.stamp, &event.fact)
    }

    /// What a fact says of its loan; `None` for one about anything else.
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
                // Lost survives a recall, not a renewal
                // (docs/contract/traps.md#t3-recall-and-lost); a claim survives both.
                loan.lost = (!by_recall).then_some((stamp, false));
                loan.fallback_user = Some(user);
            }
            Fact::LoanSnapshot { user, due_date, by_recall, lost, claimed_returned, .. } => {
                // Storage knows all of an open loan but its grace period. What it says of the item may be
                // unreadable: then nothing is taken back.
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

    /// What a module that kept loans before us held of an open one: `opened` is when it heard of the
    /// check-out, so that a later closing counts, and `known` when it last wrote. A due date as it held
    /// it outranks the check-out's; the grace period is the check-out's.
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

    /// What is known after both were heard: commutative, associative, idempotent.
    pub fn merge(mut self, other: Self) -> Self {
        self.merge_from(&other);
        self
    }

    /// As [`Loan::merge`], in place.
    pub fn merge_from(&mut self, other: &Self) {
        self.check_out = latest(self.check_out, other.check_out);
        self.snapshot = latest(self.snapshot, other.snapshot);
        self.due = latest(self.due, other.due);
        self.lost = latest(self.lost, other.lost);
        self.claimed_returned = latest(self.claimed_returned, other.claimed_returned);
        self.closed = self.closed.max(other.closed);
        self.fallback_user = self.fallback_user.max(other.fallback_user);
    }

    /// The stamps of its registers.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + use<> {
        let registers = [stamp_of(&self.check_out), stamp_of(&self.snapshot), stamp_of(&self.due)];
        let states = [stamp_of(&self.lost), stamp_of(&self.claimed_returned), self.closed];
        registers.into_iter().chain(states).flatten()
    }

    /// The newest stamp of all that was said.
    pub fn newest_stamp(&self) -> Option<Stamp> {
        self.stamps().max()
    }

    /// Whether pruning may forget the loan: it is not open, and all that was said of it is older than
    /// `before`. Whoever hears of it again holds what was said to that horizon.
    pub fn is_prunable(&self, horizon: Option<Horizon>, prune_horizon: Horizon) -> bool {
        self.as_open(horizon).is_none()
            && self.newest_stamp().is_some_and(|stamp| !prune_horizon.admits(&stamp))
    }

    /// The newest evidence that it was opened, and whose it is by that.
    pub fn opening(&self) -> Register<Uuid> {
        let check_out = self.check_out.map(|(stamp, check_out)| (stamp, check_out.user));
        latest(check_out, self.snapshot)
    }

    /// The loan as it counts for its patron, if it does: there is evidence that it was opened, not
    /// older than the horizon, and it is not closed. Facts about a loan that nothing has opened yet
    /// wait (docs/contract/events.md#10-hazards, H1, H3).
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
    /// The instant from which it is overdue.
    pub fn overdue_from(&self) -> Option<DateTime<Utc>> {
        self.due_date.map(|due_date| overdue_from(due_date, self.grace))
    }
}
