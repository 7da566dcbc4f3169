//! What people will do: the plan of a day, and what becomes of a loan once it is out.

use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;

use super::desk::Deed;
use super::library::{Act, Library};
use super::people::share;
use super::policy::Period;
use super::rhythm::Rhythm;
use super::shelf::Whereabouts;

/// Visits of a day for each patron.
const VISITS: f64 = 0.8;

/// Requests of a day for each loan: recalls before the days begin, then recalls and holds.
const OLD_RECALLS: f64 = 0.0015;
const RECALLS: f64 = 0.006;
const HOLDS: f64 = 0.03;

/// Due dates set by hand on a day, for each loan.
const RESCHEDULED: f64 = 0.002;

/// Edits of a day in storage, for each loan.
const EDITS: f64 = 0.02;

/// In how many of a hundred moments after the days something is edited.
const EDITED: f64 = 0.1;

/// Charges of a day that have to do with no loan, for each patron.
const CHARGES: f64 = 0.004;

impl Library {
    /// Puts the day's visits, requests and charges on the agenda.
    pub(super) fn plan_the_day(&mut self) {
        let day = self.now;
        let people = self.shelf.people.len() as f64;
        let out = self.shelf.out.len() as f64;
        let history = self.is_history(day);
        let busy = if history { 1.0 } else { self.settings.activity };

        self.scatter(out * RESCHEDULED * busy, day, Rhythm::Desk, |_| Act::Reschedule);
        self.scatter(people * CHARGES * busy, day, Rhythm::Desk, |library| {
            Act::Charge(library.anybody())
        });
        if self.settings.edits {
            self.scatter(out * EDITS * busy, day, Rhythm::Desk, |_| Act::Edit);
        }
        if history {
            return self.scatter(out * OLD_RECALLS, day, Rhythm::Online, |_| Act::Recall);
        }
        self.scatter(out * RECALLS * busy, day, Rhythm::Online, |_| Act::Recall);
        self.scatter(out * HOLDS * busy, day, Rhythm::Online, |_| Act::Hold);
        for _ in 0..self.about(people * VISITS * busy) {
            let at = self.time_on(day, Rhythm::Lending);
            self.plan_visit(at);
        }
    }

    /// Puts about `expected` acts on the agenda of a day.
    fn scatter(
        &mut self,
        expected: f64,
        day: DateTime<Utc>,
        rhythm: Rhythm,
        act: impl Fn(&mut Self) -> Act,
    ) {
        for _ in 0..self.about(expected) {
            let (at, act) = (self.time_on(day, rhythm), act(self));
            self.plan(at, act);
        }
    }

    /// Somebody comes in: brings things back if the bag is full, takes others, pays perhaps.
    fn plan_visit(&mut self, at: DateTime<Utc>) {
        let visitor = self.visitor();
        let person = &self.shelf.people[visitor];
        let full = person.loans.len() >= person.habits.appetite.max(1);
        let back = if full { self.story.random_range(0..=2) } else { self.about(0.25) };
        let out = self.story.random_range(1..=3);
        let pays = self.about(0.15);

        let steps = [(back, Act::BringBack(visitor)), (out, Act::CheckOut(visitor))];
        let mut at = at;
        for (times, act) in steps.into_iter().chain([(pays, Act::Pay(visitor))]) {
            for _ in 0..times {
                self.plan(at, act);
                at += TimeDelta::milliseconds(self.story.random_range(2_000..9_000));
            }
        }
    }

    /// A visitor, the likelier the larger the appetite.
    fn visitor(&mut self) -> usize {
        let all = self.footfall.last().copied().expect("a library has patrons");
        let ticket = self.story.random_range(0..all);
        self.footfall.partition_point(|sum| *sum <= ticket)
    }

    /// Any patron.
    pub(super) fn anybody(&mut self) -> usize {
        self.story.random_range(0..self.shelf.people.len())
    }

    /// Decides what becomes of a loan that has just got a due date.
    pub(super) fn plan_for(&mut self, at: usize) {
        let loan = &self.shelf.loans[at];
        let (due, period) = (loan.due, loan.policy.period);
        let may_renew = loan.renewals < loan.policy.renewals && !loan.recalled;
        let careful = self.chance(self.shelf.people[loan.person].habits.care);

        let (when, deed) = if careful {
            let renews = may_renew && (self.is_history(due) || self.chance(0.4));
            let when = self.moment_before(due, period, renews);
            (when, if renews { Deed::Renew } else { Deed::CheckIn })
        } else {
            let late = self.moment_after(due, period);
            match share(&mut self.story, &[50, 12, 12, 8, 18]) {
                0 => (late, Deed::CheckIn),
                1 => (late, Deed::ClaimReturned),
                2 => (late, Deed::DeclareLost),
                3 if may_renew => (late, Deed::Renew),
                _ => return self.forget(at),
            }
        };
        self.plan_deed(at, when, deed);
    }

    /// Decides what becomes of an item that is lost or claimed returned.
    pub(super) fn plan_for_missing(&mut self, at: usize) {
        let days = self.story.random_range(1..=12);
        let when = self.at_the_desk_in(days);
        let claimed = self.shelf.loans[at].whereabouts == Whereabouts::ClaimedReturned;
        match share(&mut self.story, &[25, 8, 10, 57]) {
            0 => self.plan_deed(at, when, Deed::CheckIn),
            1 => self.plan_deed(at, when, Deed::Renew),
            2 if claimed => self.plan_deed(at, when, Deed::DeclareLost),
            2 => self.plan_deed(at, when, Deed::ClaimReturned),
            _ => self.forget(at),
        }
    }

    /// Nothing is planned for the loan any more.
    fn forget(&mut self, at: usize) {
        self.shelf.loans[at].plan += 1;
    }

    fn plan_deed(&mut self, at: usize, when: DateTime<Utc>, deed: Deed) {
        // The stock on loan when the days begin must not have come back before.
        let first_day = self.first_day;
        let when = if deed == Deed::CheckIn && when < first_day {
            let days = self.story.random_range(0..=6);
            self.time_on(first_day + TimeDelta::days(days), Rhythm::Returns)
        } else {
            when
        };
        self.forget(at);
        let plan = self.shelf.loans[at].plan;
        self.plan(when, Act::Loan(at, deed, plan));
    }

    /// When a careful patron acts: in the last days to renew, at any time before to return.
    fn moment_before(&mut self, due: DateTime<Utc>, period: Period, renews: bool) -> DateTime<Utc> {
        let left = (due - self.now).max(TimeDelta::minutes(2)).num_milliseconds();
        let from = match (period, renews) {
            (Period::Days(_), true) => left - left.min(TimeDelta::days(3).num_milliseconds()),
            (Period::Days(_), false) => 0,
            (Period::Hours(_), _) => left / 3,
        };
        let any = self.now + TimeDelta::milliseconds(self.story.random_range(from..left));
        let rhythm = if renews { Rhythm::Online } else { Rhythm::Returns };
        let usual = self.time_on(any, rhythm);
        // Somebody who would come at an hour that suits neither past nor due date comes when due.
        let suits = matches!(period, Period::Days(_)) && self.now < usual && usual < due;
        if suits { usual } else { any }
    }

    /// When a careless patron acts: days or hours late.
    fn moment_after(&mut self, due: DateTime<Utc>, period: Period) -> DateTime<Utc> {
        let due = due.max(self.now);
        match period {
            Period::Hours(_) => due + TimeDelta::seconds(self.story.random_range(60..60_000)),
            Period::Days(_) => {
                let days = self.story.random_range(1..=16);
                self.time_on(due + TimeDelta::days(days), Rhythm::Returns)
            }
        }
    }

    /// Something that could happen at any moment of a day, happens now.
    pub(super) fn anything(&mut self) {
        if self.settings.edits && self.chance(EDITED) {
            return self.edit();
        }
        let someone = self.visitor();
        match share(&mut self.story, &[40, 28, 8, 3, 8, 2, 8, 3]) {
            0 => self.check_out(someone),
            1 => self.bring_back(someone),
            2 => {
                if let Some(loan) = self.shelf.people[someone].loans.first().copied() {
                    self.renew(loan);
                }
            }
            3 => self.recall(),
            4 => self.hold(),
            5 => self.reschedule(),
            6 => self.pay_something(someone),
            _ => self.charge_something(someone),
        }
    }
}
