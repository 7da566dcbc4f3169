//! The library as a sequence of events: it performs the planned actions of an agenda in time order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use super::actions::{FeeAction, PlannedAction};
use super::daily_pattern::DailyPattern;
use super::event::{Event, Fact, Transaction};
use super::people::{self, Patron};
use super::random::{SeededRng, new_id};
use super::settings::Settings;
use super::storage::{Person, Storage};

/// The age of the oldest loans before the first day.
const HISTORY_LENGTH: TimeDelta = TimeDelta::days(60);

/// The time of the nightly jobs after midnight.
const NIGHTLY_JOBS_OFFSET: TimeDelta = TimeDelta::minutes(10);

/// The number of staff members.
const STAFF_COUNT: usize = 12;

/// A simulated library: an iterator over its events in time order. No event is later than
/// [`Settings::end`].
#[derive(Debug)]
pub struct Library {
    pub(super) settings: Settings,
    pub(super) rng: SeededRng,
    pub(super) id_rng: SeededRng,
    pub(super) storage: Storage,
    /// The instant of the performed action.
    pub(super) now: DateTime<Utc>,
    pub(super) first_day: DateTime<Utc>,
    midnight: DateTime<Utc>,
    /// The cumulative weights of the patrons' visits.
    pub(super) visit_weights: Vec<u64>,
    staff: Vec<Uuid>,
    /// The instant of the newest event.
    last_event_at: DateTime<Utc>,
    agenda: BinaryHeap<Reverse<(DateTime<Utc>, u64, PlannedAction)>>,
    plan_count: u64,
    pending_events: VecDeque<Event>,
}

impl Library {
    /// Creates a library with an agenda of the initial check-outs and the days.
    pub fn new(settings: &Settings) -> Self {
        let (first_day, midnight) = (settings.first_day(), settings.midnight());
        let opened = first_day - HISTORY_LENGTH;
        let mut library = Self {
            settings: settings.clone(),
            rng: SeededRng::seed_from_u64(settings.seed),
            id_rng: id_rng(settings),
            storage: Storage::default(),
            now: opened,
            first_day,
            midnight,
            visit_weights: Vec::new(),
            staff: Vec::new(),
            last_event_at: opened,
            agenda: BinaryHeap::new(),
            plan_count: 0,
            pending_events: VecDeque::new(),
        };
        library.staff = (0..=STAFF_COUNT).map(|_| new_id(&mut library.id_rng)).collect();
        library.register_patrons();
        library.fill_agenda();
        library
    }

    /// Returns all patrons.
    pub fn patrons(&self) -> impl Iterator<Item = &Patron> {
        self.storage.people.iter().map(|person| &person.patron)
    }

    /// Returns the settings of the library.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Performs a random action at `now`, after the last day of the library. Returns its events, possibly
    /// none. They are in time order and later than all earlier events.
    pub fn advance_to(&mut self, now: DateTime<Utc>) -> Vec<Event> {
        self.now = now;
        if !self.storage.people.is_empty() {
            self.perform_random_action();
        }
        self.pending_events.drain(..).collect()
    }

    /// Performs a transaction at `now`, after the last day of the library. Returns its events: none if the loan or
    /// the fee/fine is not open. They are in time order and later than all earlier events.
    pub fn perform_transaction(
        &mut self,
        transaction: Transaction,
        now: DateTime<Utc>,
    ) -> Vec<Event> {
        self.now = now;
        match transaction {
            Transaction::CheckIn(loan) => {
                if let Some(loan) = self.storage.find_open_loan(loan) {
                    self.check_in(loan);
                }
            }
            Transaction::Pay(fee) => {
                if let Some(fee) = self.storage.find_fee(fee) {
                    self.perform_fee_action(fee, FeeAction::Pay);
                }
            }
        }
        self.pending_events.drain(..).collect()
    }

    fn register_patrons(&mut self) {
        let mut sum = 0;
        for number in 0..self.settings.patrons {
            let (patron, habits) = people::patron(number, &mut self.rng, &mut self.id_rng);
            sum += habits.loan_target as u64 * 2 + 1;
            self.visit_weights.push(sum);
            self.storage.people.push(Person { patron, habits, loans: vec![], fees: vec![] });
        }
    }

    /// Plans the days, and the initial check-outs that precede them.
    fn fill_agenda(&mut self) {
        let first_day = self.first_day;
        for person in 0..self.storage.people.len() {
            for _ in 0..self.storage.people[person].habits.loan_target {
                let days = self.rng.random_range(1..=HISTORY_LENGTH.num_days());
                let at = self.time_on(first_day - TimeDelta::days(days), DailyPattern::Lending);
                self.plan(at, PlannedAction::CheckOut(person));
            }
        }
        let mut day = first_day - HISTORY_LENGTH;
        while day < self.midnight {
            self.plan(day, PlannedAction::DayBegins);
            self.plan(day + NIGHTLY_JOBS_OFFSET, PlannedAction::NightlyJobs);
            day += TimeDelta::days(1);
        }
    }

    /// Adds an action to the agenda.
    pub(super) fn plan(&mut self, at: DateTime<Utc>, act: PlannedAction) {
        self.plan_count += 1;
        self.agenda.push(Reverse((at, self.plan_count, act)));
    }

    /// Emits an event of the performed action, by a random member of staff.
    pub(super) fn emit(&mut self, fact: Fact) {
        let staff = self.staff[self.rng.random_range(1..=STAFF_COUNT)];
        self.emit_by(staff, fact);
    }

    /// Emits an event of a nightly job, by the account of the nightly jobs.
    pub(super) fn emit_nightly(&mut self, fact: Fact) {
        self.emit_by(self.staff[0], fact);
    }

    fn emit_by(&mut self, staff: Uuid, fact: Fact) {
        let at = self.now.max(self.last_event_at + TimeDelta::milliseconds(1));
        self.last_event_at = at;
        self.pending_events.push_back(Event { at, staff, fact });
    }

    /// Returns true if the instant is before the first day, while the initial loans arise.
    pub(super) fn is_history(&self, at: DateTime<Utc>) -> bool {
        at < self.first_day
    }

    /// Returns the last local midnight before this instant.
    pub(super) fn midnight_before(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        let day = TimeDelta::days(1).num_milliseconds();
        let days = (at - self.midnight).num_milliseconds().div_euclid(day);
        self.midnight + TimeDelta::days(days)
    }

    /// Returns a random time on the day of this instant, by the pattern.
    pub(super) fn time_on(&mut self, day: DateTime<Utc>, rhythm: DailyPattern) -> DateTime<Utc> {
        self.midnight_before(day) + rhythm.time_of_day(&mut self.rng)
    }

    /// Returns true with this probability.
    pub(super) fn random_bool(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    /// Returns a whole number near `expected`, with `expected` as its mean.
    pub(super) fn random_count(&mut self, expected: f64) -> usize {
        let whole = expected.floor();
        whole as usize + usize::from(self.random_bool(expected - whole))
    }
}

impl Iterator for Library {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending_events.pop_front() {
                // The last action may emit more events than there are milliseconds before the end.
                return (event.at <= self.settings.end).then_some(event);
            }
            let Reverse((at, _, act)) = *self.agenda.peek()?;
            if at >= self.midnight {
                return None;
            }
            self.agenda.pop();
            self.now = at;
            self.perform(act);
        }
    }
}

/// Returns the generator of ids, seeded by the seed and by [`Settings::end`].
fn id_rng(settings: &Settings) -> SeededRng {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&settings.seed.to_le_bytes());
    seed[8..16].copy_from_slice(&settings.end.timestamp_millis().to_le_bytes());
    SeededRng::from_seed(seed)
}
