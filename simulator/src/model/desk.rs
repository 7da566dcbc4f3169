//! At the desk: items go out and come back, due dates move, things get lost and are found.

use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;

use super::event::{Mark, What};
use super::library::{Act, Library, new_id};
use super::people::share;
use super::policy::{Interval, Material, Period, policy};
use super::rhythm::Rhythm;
use super::shelf::{Loan, Whereabouts};
use super::till::FeeKind;

/// What can be done to a loan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    /// The item comes back.
    CheckIn,
    /// Lent for another period; staff can do so even for a lost item.
    Renew,
    /// The patron says it was returned.
    ClaimReturned,
    /// The patron says it is lost.
    DeclareLost,
}

/// Overdue by so many days the nightly job gives an item up, and sooner when it is wanted.
const AGES_TO_LOST: (i64, i64) = (14, 9);

impl Library {
    /// Does what the agenda says, if it can still be done.
    pub(super) fn perform(&mut self, act: Act) {
        match act {
            Act::DayBegins => self.plan_the_day(),
            Act::NightlyJobs => self.nightly_jobs(),
            Act::CheckOut(person) => self.check_out(person),
            Act::BringBack(person) => self.bring_back(person),
            Act::Pay(person) => self.pay_something(person),
            Act::Charge(person) => self.charge_something(person),
            Act::Recall => self.recall(),
            Act::Hold => self.hold(),
            Act::Reschedule => self.reschedule(),
            Act::Edit => self.edit(),
            Act::Fee(fee, settlement) => self.settle(fee, settlement),
            Act::Loan(loan, deed, plan) => {
                if self.shelf.loans[loan].plan == plan && self.shelf.is_open(loan) {
                    self.perform_deed(loan, deed);
                }
            }
        }
    }

    fn perform_deed(&mut self, loan: usize, deed: Deed) {
        match deed {
            Deed::CheckIn => self.check_in(loan),
            Deed::Renew => self.renew(loan),
            Deed::ClaimReturned => self.claim_returned(loan),
            Deed::DeclareLost => self.declare_lost(loan),
        }
    }

    /// Lends one more item, unless the patron has more than enough.
    pub(super) fn check_out(&mut self, person: usize) {
        let someone = &self.shelf.people[person];
        let (group, patron, has) = (someone.habits.group, someone.patron.id, someone.loans.len());
        let enough = someone.habits.appetite.max(1);
        // Staff sometimes turn a blind eye; that is how a patron gets beyond a limit.
        if has >= enough + 2 || has >= enough && !self.chance(0.3) {
            return;
        }
        let policy = policy(group, self.material());
        let due = self.due_after(self.now, policy.period);
        let (id, item) = (new_id(&mut self.ids), new_id(&mut self.ids));
        let grace = policy.grace;
        let loan = self.shelf.lend(Loan {
            id,
            person,
            policy,
            due,
            recalled: false,
            whereabouts: Whereabouts::WithPatron,
            renewals: 0,
            reminded: false,
            lost_fees: vec![],
            plan: 0,
        });
        self.tell(What::CheckedOut { loan: id, patron, item, due, grace });
        self.plan_for(loan);
    }

    fn material(&mut self) -> Material {
        // What is lent for hours would be long overdue by the time the days begin.
        let short = if self.is_history(self.now) { 0 } else { 6 };
        match share(&mut self.story, &[82, 8, short, short]) {
            0 => Material::Book,
            1 => Material::Film,
            2 => Material::CourseReserve,
            _ => Material::Laptop,
        }
    }

    /// A period of days ends with its last day, one of hours at its very minute.
    pub(super) fn due_after(&self, from: DateTime<Utc>, period: Period) -> DateTime<Utc> {
        match period {
            Period::Hours(_) => from + period.length(),
            Period::Days(days) => {
                self.midnight_before(from) + TimeDelta::days(days + 1) - TimeDelta::seconds(1)
            }
        }
    }

    /// The patron brings back what is due first of what can be brought back.
    pub(super) fn bring_back(&mut self, person: usize) {
        let held = self.shelf.people[person].loans.iter().copied();
        let first = held
            .filter(|loan| self.shelf.loans[*loan].whereabouts == Whereabouts::WithPatron)
            .min_by_key(|loan| self.shelf.loans[*loan].due);
        if let Some(loan) = first {
            self.check_in(loan);
        }
    }

    /// The item is back, be it late, lost or claimed returned.
    pub(super) fn check_in(&mut self, loan: usize) {
        let (id, patron) = self.names(loan);
        // What was dropped into the box overnight counts from then.
        let dropped = self.chance(0.2);
        let returned = self.now - TimeDelta::minutes(if dropped { 30 } else { 0 });
        let late = self.is_overdue(loan);
        let was = self.shelf.loans[loan].whereabouts;
        self.shelf.settle_loan(loan);
        self.tell(What::CheckedIn { loan: id, patron, returned });
        if was == Whereabouts::Lost {
            self.forgive_lost_item(loan);
        } else if late && was == Whereabouts::WithPatron && self.chance(0.4) {
            self.charge_for(loan, FeeKind::Overdue);
        }
    }

    /// Lends for another period. Whoever had lost the item evidently has it again.
    pub(super) fn renew(&mut self, loan: usize) {
        let period = self.shelf.loans[loan].policy.period;
        let due = self.due_after(self.now.max(self.shelf.loans[loan].due), period);
        let renewed = &mut self.shelf.loans[loan];
        renewed.renewals += 1;
        self.set_due(loan, due, false);
        self.plan_for(loan);
    }

    /// Tells the due date as it is from now on.
    pub(super) fn set_due(&mut self, at: usize, due: DateTime<Utc>, by_recall: bool) {
        let loan = &mut self.shelf.loans[at];
        loan.due = due;
        loan.recalled = by_recall;
        if !by_recall && loan.whereabouts == Whereabouts::Lost {
            loan.whereabouts = Whereabouts::WithPatron;
        }
        let (loan, patron) = self.names(at);
        self.tell(What::DueDateChanged { loan, patron, due, by_recall });
    }

    /// Any item that is out is wanted by somebody else; its borrower gets a few days.
    pub(super) fn recall(&mut self) {
        let Some(loan) = self.any_loan() else { return };
        let days = self.story.random_range(2..=6);
        let due = self.due_after(self.now, Period::Days(days)).min(self.shelf.loans[loan].due);
        self.set_due(loan, due, true);
        if self.shelf.loans[loan].whereabouts == Whereabouts::WithPatron {
            self.plan_for(loan);
        }
    }

    /// A request that changes nothing, yet FOLIO tells the due date again.
    pub(super) fn hold(&mut self) {
        let Some(loan) = self.any_loan() else { return };
        let Loan { due, recalled, whereabouts, .. } = self.shelf.loans[loan];
        // Lost items can't be requested.
        if whereabouts == Whereabouts::WithPatron {
            self.set_due(loan, due, recalled);
        }
    }

    /// Staff move a due date a little, which also ends a recall.
    pub(super) fn reschedule(&mut self) {
        let Some(loan) = self.any_loan() else { return };
        let days = self.story.random_range(-3..=10);
        let due = self.shelf.loans[loan].due + TimeDelta::days(days);
        self.set_due(loan, due, false);
        self.plan_for(loan);
    }

    fn any_loan(&mut self) -> Option<usize> {
        let out = self.shelf.out.len();
        (out > 0).then(|| self.shelf.out[self.story.random_range(0..out)])
    }

    fn claim_returned(&mut self, loan: usize) {
        self.shelf.loans[loan].whereabouts = Whereabouts::ClaimedReturned;
        self.mark(loan, Mark::ClaimedReturned);
        self.plan_for_missing(loan);
    }

    fn declare_lost(&mut self, loan: usize) {
        // Nothing to pay: FOLIO closes the loan instead of calling it lost.
        if self.chance(0.08) {
            self.shelf.settle_loan(loan);
            return self.mark(loan, Mark::LoanClosed);
        }
        self.shelf.loans[loan].whereabouts = Whereabouts::Lost;
        self.mark(loan, Mark::DeclaredLost);
        self.charge_for(loan, FeeKind::LostItem);
        self.charge_for(loan, FeeKind::LostItemProcessing);
        self.plan_for_missing(loan);
    }

    /// The lost item is paid for.
    pub(super) fn close_paid(&mut self, loan: usize) {
        self.shelf.settle_loan(loan);
        self.mark(loan, Mark::LoanClosed);
    }

    fn mark(&mut self, loan: usize, mark: Mark) {
        let (loan, patron) = self.names(loan);
        self.tell(What::Marked { loan, patron, mark });
    }

    /// Overdue loans: some are reminded for a fee, the oldest are given up.
    fn nightly_jobs(&mut self) {
        for loan in self.shelf.out.clone() {
            let Loan { due, recalled, whereabouts, reminded, .. } = self.shelf.loans[loan];
            if whereabouts != Whereabouts::WithPatron || !self.is_overdue(loan) {
                continue;
            }
            let (ordinary, wanted) = AGES_TO_LOST;
            let patience = TimeDelta::days(if recalled { wanted } else { ordinary });
            if self.now - due > patience && self.chance(0.4) {
                self.age_to_lost(loan);
            } else if !reminded && self.chance(0.15) {
                self.shelf.loans[loan].reminded = true;
                self.charge_for(loan, FeeKind::Reminder);
            }
        }
    }

    fn age_to_lost(&mut self, at: usize) {
        self.shelf.loans[at].whereabouts = Whereabouts::Lost;
        let (loan, patron) = self.names(at);
        self.tell_nightly(What::Marked { loan, patron, mark: Mark::AgedToLost });
        if self.chance(0.8) {
            self.charge_for(at, FeeKind::LostItem);
        }
        self.plan_for_missing(at);
    }

    /// Whether the loan is overdue beyond its grace period, to the staff's precision.
    fn is_overdue(&self, loan: usize) -> bool {
        let loan = &self.shelf.loans[loan];
        let grace = loan.policy.grace.map_or(TimeDelta::zero(), |grace| match grace.interval_id {
            Interval::Minutes => TimeDelta::minutes(grace.duration),
            Interval::Hours => TimeDelta::hours(grace.duration),
            Interval::Days => TimeDelta::days(grace.duration),
            Interval::Weeks => TimeDelta::weeks(grace.duration),
            Interval::Months => TimeDelta::days(31 * grace.duration),
        });
        self.now - loan.due > grace
    }

    /// The ids of a loan and of its borrower.
    pub(super) fn names(&self, loan: usize) -> (uuid::Uuid, uuid::Uuid) {
        let loan = &self.shelf.loans[loan];
        (loan.id, self.shelf.people[loan.person].patron.id)
    }

    /// A time on a later day when staff are at their desks.
    pub(super) fn at_the_desk_in(&mut self, days: i64) -> DateTime<Utc> {
        let at = self.time_on(self.now + TimeDelta::days(days), Rhythm::Desk);
        at.max(self.now + TimeDelta::minutes(1))
    }
}
