//! Plans the actions of a day and the further actions on a loan.

use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;

use super::actions::{LoanAction, PlannedAction};
use super::daily_pattern::DailyPattern;
use super::library::Library;
use super::policy::Period;
use super::random::weighted_index;
use super::storage::LoanState;

/// Visits per patron and day.
const VISITS_PER_PATRON_DAY: f64 = 0.8;

/// Requests per loan and day: recalls before the first day, then recalls and holds.
const HISTORY_RECALLS_PER_LOAN_DAY: f64 = 0.0015;
const RECALLS_PER_LOAN_DAY: f64 = 0.006;
const HOLDS_PER_LOAN_DAY: f64 = 0.03;

/// Due dates that staff set, per loan and day.
const RESCHEDULES_PER_LOAN_DAY: f64 = 0.002;

/// Edits in storage, per loan and day.
const EDITS_PER_LOAN_DAY: f64 = 0.02;

/// The probability that an action after the last day is an edit.
const EDIT_PROBABILITY: f64 = 0.1;

/// Fees without a loan, per patron and day.
const CHARGES_PER_PATRON_DAY: f64 = 0.004;

impl Library {
    /// Plans the visits, requests and charges of the day.
    pub(super) fn plan_day(&mut self) {
        let day = self.now;
        let people = self.storage.people.len() as f64;
        let open_loans = self.storage.open_loans.len() as f64;
        let history = self.is_history(day);
        let activity = if history { 1.0 } else { self.settings.activity };

        self.plan_many(
            open_loans * RESCHEDULES_PER_LOAN_DAY * activity,
            day,
            DailyPattern::StaffWork,
            |_| PlannedAction::Reschedule,
        );
        self.plan_many(
            people * CHARGES_PER_PATRON_DAY * activity,
            day,
            DailyPattern::StaffWork,
            |library| PlannedAction::Charge(library.random_patron()),
        );
        if self.settings.edits {
            self.plan_many(
                open_loans * EDITS_PER_LOAN_DAY * activity,
                day,
                DailyPattern::StaffWork,
                |_| PlannedAction::Edit,
            );
        }
        if history {
            return self.plan_many(
                open_loans * HISTORY_RECALLS_PER_LOAN_DAY,
                day,
                DailyPattern::Online,
                |_| PlannedAction::Recall,
            );
        }
        self.plan_many(
            open_loans * RECALLS_PER_LOAN_DAY * activity,
            day,
            DailyPattern::Online,
            |_| PlannedAction::Recall,
        );
        self.plan_many(
            open_loans * HOLDS_PER_LOAN_DAY * activity,
            day,
            DailyPattern::Online,
            |_| PlannedAction::Hold,
        );
        for _ in 0..self.random_count(people * VISITS_PER_PATRON_DAY * activity) {
            let at = self.time_on(day, DailyPattern::Lending);
            self.plan_visit(at);
        }
    }

    /// Plans about `expected` actions on a day.
    fn plan_many(
        &mut self,
        expected: f64,
        day: DateTime<Utc>,
        rhythm: DailyPattern,
        act: impl Fn(&mut Self) -> PlannedAction,
    ) {
        for _ in 0..self.random_count(expected) {
            let (at, act) = (self.time_on(day, rhythm), act(self));
            self.plan(at, act);
        }
    }

    /// Plans a visit: returns if the patron has many loans, check-outs, and perhaps a payment.
    fn plan_visit(&mut self, at: DateTime<Utc>) {
        let visitor = self.random_visitor();
        let person = &self.storage.people[visitor];
        let full = person.loans.len() >= person.habits.loan_target.max(1);
        let back = if full { self.rng.random_range(0..=2) } else { self.random_count(0.25) };
        let out = self.rng.random_range(1..=3);
        let pays = self.random_count(0.15);

        let steps =
            [(back, PlannedAction::ReturnItem(visitor)), (out, PlannedAction::CheckOut(visitor))];
        let mut at = at;
        for (times, act) in steps.into_iter().chain([(pays, PlannedAction::Pay(visitor))]) {
            for _ in 0..times {
                self.plan(at, act);
                at += TimeDelta::milliseconds(self.rng.random_range(2_000..9_000));
            }
        }
    }

    /// Returns a random patron, weighted by the number of wanted loans.
    fn random_visitor(&mut self) -> usize {
        let all = self.visit_weights.last().copied().expect("a library has patrons");
        let ticket = self.rng.random_range(0..all);
        self.visit_weights.partition_point(|sum| *sum <= ticket)
    }

    /// Returns a random patron, all with equal probability.
    pub(super) fn random_patron(&mut self) -> usize {
        self.rng.random_range(0..self.storage.people.len())
    }

    /// Plans the next action on a loan with a new due date.
    pub(super) fn plan_loan(&mut self, at: usize) {
        let loan = &self.storage.loans[at];
        let (due, period) = (loan.due, loan.policy.period);
        let may_renew = loan.renewals < loan.policy.renewals && !loan.recalled;
        let careful = self.random_bool(self.storage.people[loan.person].habits.punctuality);

        let (when, action) = if careful {
            let renews = may_renew && (self.is_history(due) || self.random_bool(0.4));
            let when = self.time_before_due(due, period, renews);
            (when, if renews { LoanAction::Renew } else { LoanAction::CheckIn })
        } else {
            let late = self.time_after_due(due, period);
            match weighted_index(&mut self.rng, &[50, 12, 12, 8, 18]) {
                0 => (late, LoanAction::CheckIn),
                1 => (late, LoanAction::ClaimReturned),
                2 => (late, LoanAction::DeclareLost),
                3 if may_renew => (late, LoanAction::Renew),
                _ => return self.cancel_plan(at),
            }
        };
        self.plan_loan_action(at, when, action);
    }

    /// Plans the next action on a lost or claimed-returned item.
    pub(super) fn plan_missing_item(&mut self, at: usize) {
        let days = self.rng.random_range(1..=12);
        let when = self.staff_time_in_days(days);
        let claimed = self.storage.loans[at].state == LoanState::ClaimedReturned;
        match weighted_index(&mut self.rng, &[25, 8, 10, 57]) {
            0 => self.plan_loan_action(at, when, LoanAction::CheckIn),
            1 => self.plan_loan_action(at, when, LoanAction::Renew),
            2 if claimed => self.plan_loan_action(at, when, LoanAction::DeclareLost),
            2 => self.plan_loan_action(at, when, LoanAction::ClaimReturned),
            _ => self.cancel_plan(at),
        }
    }

    /// Cancels all planned actions on the loan.
    fn cancel_plan(&mut self, at: usize) {
        self.storage.loans[at].plan += 1;
    }

    fn plan_loan_action(&mut self, at: usize, when: DateTime<Utc>, action: LoanAction) {
        // The initial loans must not be returned before the first day.
        let first_day = self.first_day;
        let when = if action == LoanAction::CheckIn && when < first_day {
            let days = self.rng.random_range(0..=6);
            self.time_on(first_day + TimeDelta::days(days), DailyPattern::Returns)
        } else {
            when
        };
        self.cancel_plan(at);
        let plan = self.storage.loans[at].plan;
        self.plan(when, PlannedAction::Loan(at, action, plan));
    }

    /// Returns the time of a punctual patron: a renewal in the last days, a return at any time before the
    /// due date.
    fn time_before_due(
        &mut self,
        due: DateTime<Utc>,
        period: Period,
        renews: bool,
    ) -> DateTime<Utc> {
        let left = (due - self.now).max(TimeDelta::minutes(2)).num_milliseconds();
        let from = match (period, renews) {
            (Period::Days(_), true) => left - left.min(TimeDelta::days(3).num_milliseconds()),
            (Period::Days(_), false) => 0,
            (Period::Hours(_), _) => left / 3,
        };
        let any = self.now + TimeDelta::milliseconds(self.rng.random_range(from..left));
        let rhythm = if renews { DailyPattern::Online } else { DailyPattern::Returns };
        let usual = self.time_on(any, rhythm);
        // A loan of hours, or a usual hour outside the loan period, gives the random time.
        let suits = matches!(period, Period::Days(_)) && self.now < usual && usual < due;
        if suits { usual } else { any }
    }

    /// Returns the time of a late patron: days or hours after the due date.
    fn time_after_due(&mut self, due: DateTime<Utc>, period: Period) -> DateTime<Utc> {
        let due = due.max(self.now);
        match period {
            Period::Hours(_) => due + TimeDelta::seconds(self.rng.random_range(60..60_000)),
            Period::Days(_) => {
                let days = self.rng.random_range(1..=16);
                self.time_on(due + TimeDelta::days(days), DailyPattern::Returns)
            }
        }
    }

    /// Performs a random action now.
    pub(super) fn perform_random_action(&mut self) {
        if self.settings.edits && self.random_bool(EDIT_PROBABILITY) {
            return self.edit();
        }
        let patron = self.random_visitor();
        match weighted_index(&mut self.rng, &[40, 28, 8, 3, 8, 2, 8, 3]) {
            0 => self.check_out(patron),
            1 => self.return_item(patron),
            2 => {
                if let Some(loan) = self.storage.people[patron].loans.first().copied() {
                    self.renew(loan);
                }
            }
            3 => self.recall(),
            4 => self.hold(),
            5 => self.reschedule(),
            6 => self.pay_oldest_fee(patron),
            _ => self.charge_patron(patron),
        }
    }
}
