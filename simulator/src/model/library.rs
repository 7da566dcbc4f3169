//! The library as a sequence of events: an agenda of acts, performed in the order of time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use super::daily_pattern::DailyPattern;
use super::event::{Event, Fact};
use super::people::{self, Patron};
use super::settings::Settings;
use super::storage::{Person, Storage};

/// The only source of chance: seeded, and the same on every machine.
pub(super) type SeededRng = ChaCha8Rng;

/// A version 4 id, the only kind that FOLIO accepts everywhere.
pub(super) fn new_id(rng: &mut SeededRng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}

/// How far back the oldest loans go.
const HISTORY_LENGTH: TimeDelta = TimeDelta::days(60);

/// Nightly jobs run ten minutes into the day, when everybody sleeps.
const NIGHTLY_JOBS_OFFSET: TimeDelta = TimeDelta::minutes(10);

/// Staff at the desks.
const STAFF_COUNT: usize = 12;

/// Something that will be done, unless things have changed by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PlannedAction {
    /// Plan the visits, recalls, holds and charges of the day that begins.
    DayBegins,
    /// Overdue reminders, and loans that age to lost.
    NightlyJobs,
    /// One item is lent to the patron at this place.
    CheckOut(usize),
    /// The patron at this place brings one item back.
    ReturnItem(usize),
    /// The patron at this place pays a fee.
    Pay(usize),
    /// The patron at this place is charged something that has to do with no loan.
    Charge(usize),
    /// Somebody else wants an item that is out: any.
    Recall,
    /// Somebody places a hold on an item that is out; its due date stays.
    Hold,
    /// Staff set another due date by hand.
    Reschedule,
    /// Something is edited in storage.
    Edit,
    /// What was planned for the loan at this place, if this is still its newest plan.
    Loan(usize, super::circulation::LoanAction, u32),
    /// What was planned for the fee at this place.
    Fee(usize, super::payments::FeeAction),
}

/// A made-up library. Iterating tells its events in the order of their time; none is later than
/// [`Settings::end`].
#[derive(Debug)]
pub struct Library {
    pub(super) settings: Settings,
    pub(super) rng: SeededRng,
    pub(super) id_rng: SeededRng,
    pub(super) storage: Storage,
    /// The instant of the act that is being performed.
    pub(super) now: DateTime<Utc>,
    pub(super) first_day: DateTime<Utc>,
    midnight: DateTime<Utc>,
    /// Patrons' chances to visit, summed up.
    pub(super) visit_weights: Vec<u64>,
    staff: Vec<Uuid>,
    /// The instant of the newest event.
    last_event_at: DateTime<Utc>,
    agenda: BinaryHeap<Reverse<(DateTime<Utc>, u64, PlannedAction)>>,
    plan_count: u64,
    pending_events: VecDeque<Event>,
}

impl Library {
    /// Opens a library with an empty agenda but for its beginnings.
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

    /// Everybody with a library card.
    pub fn patrons(&self) -> impl Iterator<Item = &Patron> {
        self.storage.people.iter().map(|person| &person.patron)
    }

    /// What this library was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Something more happens, now: for a library that goes on after its last day. Returns what
    /// happened, which may be nothing; the events are in time order and later than all before.
    pub fn advance_to(&mut self, now: DateTime<Utc>) -> Vec<Event> {
        self.now = now;
        if !self.storage.people.is_empty() {
            self.perform_random_action();
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

    /// The days, and how the stock on loan at their beginning came about.
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

    /// Puts something on the agenda.
    pub(super) fn plan(&mut self, at: DateTime<Utc>, act: PlannedAction) {
        self.plan_count += 1;
        self.agenda.push(Reverse((at, self.plan_count, act)));
    }

    /// Tells an event of the present act, done by somebody at a desk.
    pub(super) fn emit(&mut self, fact: Fact) {
        let staff = self.staff[self.rng.random_range(1..=STAFF_COUNT)];
        self.emit_by(staff, fact);
    }

    /// Tells an event of a nightly job, which runs under an account of its own.
    pub(super) fn emit_nightly(&mut self, fact: Fact) {
        self.emit_by(self.staff[0], fact);
    }

    fn emit_by(&mut self, staff: Uuid, fact: Fact) {
        let at = self.now.max(self.last_event_at + TimeDelta::milliseconds(1));
        self.last_event_at = at;
        self.pending_events.push_back(Event { at, staff, fact });
    }

    /// Whether the days have not begun yet, so that the stock on loan is still being made.
    pub(super) fn is_history(&self, at: DateTime<Utc>) -> bool {
        at < self.first_day
    }

    /// Local midnight before this instant.
    pub(super) fn midnight_before(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        let day = TimeDelta::days(1).num_milliseconds();
        let days = (at - self.midnight).num_milliseconds().div_euclid(day);
        self.midnight + TimeDelta::days(days)
    }

    /// A time on the day of this instant that suits this kind of doing.
    pub(super) fn time_on(&mut self, day: DateTime<Utc>, rhythm: DailyPattern) -> DateTime<Utc> {
        self.midnight_before(day) + rhythm.time_of_day(&mut self.rng)
    }

    /// Yes or no, with this chance of yes.
    pub(super) fn random_bool(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    /// A whole number near `expected`, right on average.
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
                // An act at the very end may tell more than there are milliseconds left.
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

/// Ids depend on the instant of the play too: see [`Settings::end`].
fn id_rng(settings: &Settings) -> SeededRng {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&settings.seed.to_le_bytes());
    seed[8..16].copy_from_slice(&settings.end.timestamp_millis().to_le_bytes());
    SeededRng::from_seed(seed)
}
