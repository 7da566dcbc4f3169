//! Circulation at the desk: check-outs, check-ins, due dates, and lost items.

use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;

use super::actions::{FeeKind, LoanAction, PlannedAction};
use super::daily_pattern::DailyPattern;
use super::event::{Fact, StatusChange};
use super::library::Library;
use super::policy::{Interval, Material, Period, policy};
use super::random::{new_id, weighted_index};
use super::storage::{Loan, LoanState};

/// The days overdue after which the nightly job ages an item to lost: without and with a recall.
const AGED_TO_LOST_DAYS: (i64, i64) = (14, 9);

impl Library {
    /// Performs a planned action, if it is still possible.
    pub(super) fn perform(&mut self, act: PlannedAction) {
        match act {
            PlannedAction::DayBegins => self.plan_day(),
            PlannedAction::NightlyJobs => self.nightly_jobs(),
            PlannedAction::CheckOut(person) => self.check_out(person),
            PlannedAction::ReturnItem(person) => self.return_item(person),
            PlannedAction::Pay(person) => self.pay_oldest_fee(person),
            PlannedAction::Charge(person) => self.charge_patron(person),
            PlannedAction::Recall => self.recall(),
            PlannedAction::Hold => self.hold(),
            PlannedAction::Reschedule => self.reschedule(),
            PlannedAction::Edit => self.edit(),
            PlannedAction::Fee(fee, settlement) => self.perform_fee_action(fee, settlement),
            PlannedAction::Loan(loan, action, plan) => {
                if self.storage.loans[loan].plan == plan && self.storage.is_open(loan) {
                    self.perform_loan_action(loan, action);
                }
            }
        }
    }

    fn perform_loan_action(&mut self, loan: usize, action: LoanAction) {
        match action {
            LoanAction::CheckIn => self.check_in(loan),
            LoanAction::Renew => self.renew(loan),
            LoanAction::ClaimReturned => self.claim_returned(loan),
            LoanAction::DeclareLost => self.declare_lost(loan),
        }
    }

    /// Checks out one more item, unless the patron has too many.
    pub(super) fn check_out(&mut self, person: usize) {
        let borrower = &self.storage.people[person];
        let (group, patron, has) =
            (borrower.habits.group, borrower.patron.id, borrower.loans.len());
        let enough = borrower.habits.loan_target.max(1);
        // Staff sometimes make an exception, so a patron can exceed a limit.
        if has >= enough + 2 || has >= enough && !self.random_bool(0.3) {
            return;
        }
        let policy = policy(group, self.material());
        let due = self.due_after(self.now, policy.period);
        let (id, item) = (new_id(&mut self.id_rng), new_id(&mut self.id_rng));
        let grace = policy.grace;
        let loan = self.storage.add_loan(Loan {
            id,
            person,
            policy,
            due,
            recalled: false,
            state: LoanState::CheckedOut,
            renewals: 0,
            reminder_charged: false,
            lost_item_fees: vec![],
            plan: 0,
        });
        self.emit(Fact::CheckedOut { loan: id, patron, item, due, grace });
        self.plan_loan(loan);
    }

    fn material(&mut self) -> Material {
        // A loan of hours in the history would be long overdue on the first day.
        let short = if self.is_history(self.now) { 0 } else { 6 };
        match weighted_index(&mut self.rng, &[82, 8, short, short]) {
            0 => Material::Book,
            1 => Material::Film,
            2 => Material::CourseReserve,
            _ => Material::Laptop,
        }
    }

    /// Returns the due date. A period of days ends with its last day, a period of hours at its exact
    /// minute.
    pub(super) fn due_after(&self, from: DateTime<Utc>, period: Period) -> DateTime<Utc> {
        match period {
            Period::Hours(_) => from + period.length(),
            Period::Days(days) => {
                self.midnight_before(from) + TimeDelta::days(days + 1) - TimeDelta::seconds(1)
            }
        }
    }

    /// Checks in the checked-out item of the patron with the earliest due date.
    pub(super) fn return_item(&mut self, person: usize) {
        let loans = self.storage.people[person].loans.iter().copied();
        let first = loans
            .filter(|loan| self.storage.loans[*loan].state == LoanState::CheckedOut)
            .min_by_key(|loan| self.storage.loans[*loan].due);
        if let Some(loan) = first {
            self.check_in(loan);
        }
    }

    /// Checks in an item, also if it is overdue, lost or claimed returned.
    pub(super) fn check_in(&mut self, loan: usize) {
        let (id, patron) = self.ids(loan);
        // An item in the book drop counts as returned before the book drop is emptied.
        let in_book_drop = self.random_bool(0.2);
        let returned = self.now - TimeDelta::minutes(if in_book_drop { 30 } else { 0 });
        let late = self.is_overdue(loan);
        let previous_state = self.storage.loans[loan].state;
        self.storage.close_loan(loan);
        self.emit(Fact::CheckedIn { loan: id, patron, returned });
        if previous_state == LoanState::Lost {
            self.cancel_lost_item_fees(loan);
        } else if late && previous_state == LoanState::CheckedOut && self.random_bool(0.4) {
            self.charge_loan(loan, FeeKind::Overdue);
        }
    }

    /// Renews a loan. A renewed lost item is found again.
    pub(super) fn renew(&mut self, loan: usize) {
        let period = self.storage.loans[loan].policy.period;
        let due = self.due_after(self.now.max(self.storage.loans[loan].due), period);
        let renewed = &mut self.storage.loans[loan];
        renewed.renewals += 1;
        self.set_due(loan, due, false);
        self.plan_loan(loan);
    }

    /// Sets the due date and emits the event.
    pub(super) fn set_due(&mut self, at: usize, due: DateTime<Utc>, by_recall: bool) {
        let loan = &mut self.storage.loans[at];
        loan.due = due;
        loan.recalled = by_recall;
        if !by_recall && loan.state == LoanState::Lost {
            loan.state = LoanState::CheckedOut;
        }
        let (loan, patron) = self.ids(at);
        self.emit(Fact::DueDateChanged { loan, patron, due, by_recall });
    }

    /// Recalls a random item on loan; its borrower gets a few days.
    pub(super) fn recall(&mut self) {
        let Some(loan) = self.random_loan() else { return };
        let days = self.rng.random_range(2..=6);
        let due = self.due_after(self.now, Period::Days(days)).min(self.storage.loans[loan].due);
        self.set_due(loan, due, true);
        if self.storage.loans[loan].state == LoanState::CheckedOut {
            self.plan_loan(loan);
        }
    }

    /// Places a hold. The due date is unchanged, yet FOLIO publishes it again.
    pub(super) fn hold(&mut self) {
        let Some(loan) = self.random_loan() else { return };
        let Loan { due, recalled, state: whereabouts, .. } = self.storage.loans[loan];
        // A patron cannot request a lost item.
        if whereabouts == LoanState::CheckedOut {
            self.set_due(loan, due, recalled);
        }
    }

    /// Moves a due date by some days, which also ends a recall.
    pub(super) fn reschedule(&mut self) {
        let Some(loan) = self.random_loan() else { return };
        let days = self.rng.random_range(-3..=10);
        let due = self.storage.loans[loan].due + TimeDelta::days(days);
        self.set_due(loan, due, false);
        self.plan_loan(loan);
    }

    fn random_loan(&mut self) -> Option<usize> {
        let open = self.storage.open_loans.len();
        (open > 0).then(|| self.storage.open_loans[self.rng.random_range(0..open)])
    }

    /// Claims that the item was returned. Staff charge a fee for some searches.
    pub(super) fn claim_returned(&mut self, loan: usize) {
        self.storage.loans[loan].state = LoanState::ClaimedReturned;
        self.change_status(loan, StatusChange::ClaimedReturned);
        if self.random_bool(0.1) {
            self.charge_loan(loan, FeeKind::Search);
        }
        self.plan_missing_item(loan);
    }

    fn declare_lost(&mut self, loan: usize) {
        // If there is nothing to pay, FOLIO closes the loan instead of declaring the item lost.
        if self.random_bool(0.08) {
            self.storage.close_loan(loan);
            return self.change_status(loan, StatusChange::LoanClosed);
        }
        self.storage.loans[loan].state = LoanState::Lost;
        self.change_status(loan, StatusChange::DeclaredLost);
        self.charge_loan(loan, FeeKind::LostItem);
        self.charge_loan(loan, FeeKind::LostItemProcessing);
        self.plan_missing_item(loan);
    }

    /// Closes the loan of a lost item after the payment of its fees.
    pub(super) fn close_paid(&mut self, loan: usize) {
        self.storage.close_loan(loan);
        self.change_status(loan, StatusChange::LoanClosed);
    }

    fn change_status(&mut self, loan: usize, change: StatusChange) {
        let (loan, patron) = self.ids(loan);
        self.emit(Fact::StatusChanged { loan, patron, change });
    }

    /// Processes overdue loans: some get a reminder fee, the oldest age to lost.
    fn nightly_jobs(&mut self) {
        for loan in self.storage.open_loans.clone() {
            let Loan { due, recalled, state: whereabouts, reminder_charged: reminded, .. } =
                self.storage.loans[loan];
            if whereabouts != LoanState::CheckedOut || !self.is_overdue(loan) {
                continue;
            }
            let (usual_days, recalled_days) = AGED_TO_LOST_DAYS;
            let limit = TimeDelta::days(if recalled { recalled_days } else { usual_days });
            if self.now - due > limit && self.random_bool(0.4) {
                self.age_to_lost(loan);
            } else if !reminded && self.random_bool(0.15) {
                self.storage.loans[loan].reminder_charged = true;
                self.charge_loan(loan, FeeKind::Reminder);
            }
        }
    }

    fn age_to_lost(&mut self, at: usize) {
        self.storage.loans[at].state = LoanState::Lost;
        let (loan, patron) = self.ids(at);
        self.emit_nightly(Fact::StatusChanged { loan, patron, change: StatusChange::AgedToLost });
        if self.random_bool(0.8) {
            self.charge_loan(at, FeeKind::LostItem);
        }
        self.plan_missing_item(at);
    }

    /// Returns true if the loan is overdue beyond its grace period, in the precision of the staff.
    fn is_overdue(&self, loan: usize) -> bool {
        let loan = &self.storage.loans[loan];
        let grace = loan.policy.grace.map_or(TimeDelta::zero(), |grace| match grace.interval_id {
            Interval::Minutes => TimeDelta::minutes(grace.duration),
            Interval::Hours => TimeDelta::hours(grace.duration),
            Interval::Days => TimeDelta::days(grace.duration),
            Interval::Weeks => TimeDelta::weeks(grace.duration),
            Interval::Months => TimeDelta::days(31 * grace.duration),
        });
        self.now - loan.due > grace
    }

    /// Returns the ids of a loan and of its borrower.
    pub(super) fn ids(&self, loan: usize) -> (uuid::Uuid, uuid::Uuid) {
        let loan = &self.storage.loans[loan];
        (loan.id, self.storage.people[loan.person].patron.id)
    }

    /// Returns a time on a later day during the staff's hours.
    pub(super) fn staff_time_in_days(&mut self, days: i64) -> DateTime<Utc> {
        let at = self.time_on(self.now + TimeDelta::days(days), DailyPattern::StaffWork);
        at.max(self.now + TimeDelta::minutes(1))
    }
}
