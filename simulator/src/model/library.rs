//! The library as a sequence of events: an agenda of acts, performed in the order of time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use super::event::{Event, What};
use super::people::{self, Patron};
use super::rhythm::Rhythm;
use super::settings::Settings;
use super::shelf::{Person, Shelf};

/// The only source of chance: seeded, and the same on every machine.
pub(super) type Chance = ChaCha8Rng;

/// A version 4 id, the only kind that FOLIO accepts everywhere.
pub(super) fn new_id(ids: &mut Chance) -> Uuid {
    uuid::Builder::from_random_bytes(ids.random()).into_uuid()
}

/// How far back the oldest loans go.
const HISTORY: TimeDelta = TimeDelta::days(60);

/// Nightly jobs run ten minutes into the day, when everybody sleeps.
const NIGHTLY: TimeDelta = TimeDelta::minutes(10);

/// Staff at the desks.
const STAFF: usize = 12;

/// Something that will be done, unless things have changed by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    /// Plan the visits, recalls, holds and charges of the day that begins.
    DayBegins,
    /// Overdue reminders, and loans that age to lost.
    NightlyJobs,
    /// One item is lent to the patron at this place.
    CheckOut(usize),
    /// The patron at this place brings one item back.
    BringBack(usize),
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
    Loan(usize, super::desk::Deed, u32),
    /// What was planned for the fee at this place.
    Fee(usize, super::till::Settlement),
}

/// A made-up library. Iterating tells its events in the order of their time; none is later than
/// [`Settings::end`].
#[derive(Debug)]
pub struct Library {
    pub(super) settings: Settings,
    pub(super) story: Chance,
    pub(super) ids: Chance,
    pub(super) shelf: Shelf,
    /// The instant of the act that is being performed.
    pub(super) now: DateTime<Utc>,
    pub(super) first_day: DateTime<Utc>,
    midnight: DateTime<Utc>,
    /// Patrons' chances to visit, summed up.
    pub(super) footfall: Vec<u64>,
    staff: Vec<Uuid>,
    /// The instant of the newest event.
    latest: DateTime<Utc>,
    agenda: BinaryHeap<Reverse<(DateTime<Utc>, u64, Act)>>,
    planned: u64,
    told: VecDeque<Event>,
}

impl Library {
    /// Opens a library with an empty agenda but for its beginnings.
    pub fn new(settings: &Settings) -> Self {
        let (first_day, midnight) = (settings.first_day(), settings.midnight());
        let opened = first_day - HISTORY;
        let mut library = Self {
            settings: settings.clone(),
            story: Chance::seed_from_u64(settings.seed),
            ids: chance_of_ids(settings),
            shelf: Shelf::default(),
            now: opened,
            first_day,
            midnight,
            footfall: Vec::new(),
            staff: Vec::new(),
            latest: opened,
            agenda: BinaryHeap::new(),
            planned: 0,
            told: VecDeque::new(),
        };
        library.staff = (0..=STAFF).map(|_| new_id(&mut library.ids)).collect();
        library.enrol();
        library.fill_the_agenda();
        library
    }

    /// Everybody with a library card.
    pub fn patrons(&self) -> impl Iterator<Item = &Patron> {
        self.shelf.people.iter().map(|person| &person.patron)
    }

    /// What this library was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Something more happens, now: for a library that goes on after its last day. Returns what
    /// happened, which may be nothing; the events are in time order and later than all before.
    pub fn go_on(&mut self, now: DateTime<Utc>) -> Vec<Event> {
        self.now = now;
        if !self.shelf.people.is_empty() {
            self.anything();
        }
        self.told.drain(..).collect()
    }

    fn enrol(&mut self) {
        let mut sum = 0;
        for number in 0..self.settings.patrons {
            let (patron, habits) = people::patron(number, &mut self.story, &mut self.ids);
            sum += habits.appetite as u64 * 2 + 1;
            self.footfall.push(sum);
            self.shelf.people.push(Person { patron, habits, loans: vec![], fees: vec![] });
        }
    }

    /// The days, and how the stock on loan at their beginning came about.
    fn fill_the_agenda(&mut self) {
        let first_day = self.first_day;
        for person in 0..self.shelf.people.len() {
            for _ in 0..self.shelf.people[person].habits.appetite {
                let days = self.story.random_range(1..=HISTORY.num_days());
                let at = self.time_on(first_day - TimeDelta::days(days), Rhythm::Lending);
                self.plan(at, Act::CheckOut(person));
            }
        }
        let mut day = first_day - HISTORY;
        while day < self.midnight {
            self.plan(day, Act::DayBegins);
            self.plan(day + NIGHTLY, Act::NightlyJobs);
            day += TimeDelta::days(1);
        }
    }

    /// Puts something on the agenda.
    pub(super) fn plan(&mut self, at: DateTime<Utc>, act: Act) {
        self.planned += 1;
        self.agenda.push(Reverse((at, self.planned, act)));
    }

    /// Tells an event of the present act, done by somebody at a desk.
    pub(super) fn tell(&mut self, what: What) {
        let staff = self.staff[self.story.random_range(1..=STAFF)];
        self.tell_by(staff, what);
    }

    /// Tells an event of a nightly job, which runs under an account of its own.
    pub(super) fn tell_nightly(&mut self, what: What) {
        self.tell_by(self.staff[0], what);
    }

    fn tell_by(&mut self, staff: Uuid, what: What) {
        let at = self.now.max(self.latest + TimeDelta::milliseconds(1));
        self.latest = at;
        self.told.push_back(Event { at, staff, what });
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
    pub(super) fn time_on(&mut self, day: DateTime<Utc>, rhythm: Rhythm) -> DateTime<Utc> {
        self.midnight_before(day) + rhythm.time_of_day(&mut self.story)
    }

    /// Yes or no, with this chance of yes.
    pub(super) fn chance(&mut self, of_yes: f64) -> bool {
        self.story.random_bool(of_yes)
    }

    /// A whole number near `expected`, right on average.
    pub(super) fn about(&mut self, expected: f64) -> usize {
        let whole = expected.floor();
        whole as usize + usize::from(self.chance(expected - whole))
    }
}

impl Iterator for Library {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.told.pop_front() {
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
fn chance_of_ids(settings: &Settings) -> Chance {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&settings.seed.to_le_bytes());
    seed[8..16].copy_from_slice(&settings.end.timestamp_millis().to_le_bytes());
    Chance::from_seed(seed)
}
