//! Whether partitions that are read come on, and whether their logs are the ones that they were. What is seen
//! is compared with what was seen before; nothing here asks anybody.

use std::collections::{BTreeMap, HashMap};

use super::assignment::{Era, Landmark, Watched};
use crate::flow::takeover::Span;

/// So many polls in a row brought nothing before a partition with records counts as standing still: as long as
/// others have records, it may have to wait for its turn.
pub const IDLE: u64 = 20;

/// A topic's name and a partition.
pub type Place = (String, i32);

/// What was seen when it was looked last.
#[derive(Debug, Default)]
pub struct Progress {
    seen: HashMap<Place, Seen>,
    /// When an older record was looked for last, in looks.
    searched: HashMap<Place, u64>,
    /// Where partitions stood still, and how often in a row.
    stalls: HashMap<Place, (i64, u32)>,
    looks: u64,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    era: Era,
    next: i64,
    end: i64,
    idle: u64,
}

/// What a look at logs shows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Partitions that show that their topics were made anew.
    pub remade: Vec<Watched>,
    /// Partitions that were read no further although they seem to hold more.
    pub standing: Vec<Watched>,
    /// Partitions whose older record is to be looked for.
    pub to_search: Vec<Watched>,
    /// Partitions whose older record was taken by retention.
    pub outlived: Vec<Watched>,
}

impl Progress {
    /// Compares with what was seen last. `idle` counts polls that brought nothing; of so many topics older
    /// records are looked for, in turns.
    pub fn compare(
        &mut self,
        watched: Vec<Watched>,
        spans: impl Fn(&Watched) -> Option<Span>,
        idle: u64,
        topics: usize,
    ) -> Shown {
        self.looks += 1;
        let mut shown = Shown::default();
        let mut last = std::mem::take(&mut self.seen);
        let mut to_search: BTreeMap<String, (u64, Watched)> = BTreeMap::new();
        for watched in watched {
            let Some(span) = spans(&watched) else { continue };
            let place = (watched.topic.clone(), watched.partition);
            let now = Seen { era: watched.era, next: watched.next, end: span.end, idle };
            let before = last.remove(&place);
            self.seen.insert(place.clone(), now);
            // A leader that has just taken over may know of less for a moment, and may hold more than the one
            // before: another copy's retention has other bounds.
            let ends_before = now.ends_before() && before.is_some_and(Seen::ends_before);
            let begins_before = span.start < watched.log_start && watched.older.is_none();
            if ends_before || begins_before {
                shown.remade.push(watched);
                continue;
            }
            if before.is_some_and(|before| before.stands_still(now)) {
                shown.standing.push(watched.clone());
            }
            let Some(older) = watched.older else { continue };
            if older.offset < span.start {
                shown.outlived.push(watched);
                continue;
            }
            let searched = self.searched.get(&place).copied().unwrap_or_default();
            let of_topic = to_search.entry(watched.topic.clone());
            let chosen = of_topic.or_insert_with(|| (searched, watched.clone()));
            if searched < chosen.0 {
                *chosen = (searched, watched);
            }
        }
        self.searched.retain(|place, _| self.seen.contains_key(place));
        self.stalls.retain(|place, _| self.seen.contains_key(place));
        let mut to_search: Vec<_> = to_search.into_values().collect();
        to_search.sort_by_key(|(searched, _)| *searched);
        for (_, watched) in to_search.into_iter().take(topics) {
            self.searched.insert((watched.topic.clone(), watched.partition), self.looks);
            shown.to_search.push(watched);
        }
        shown
    }

    /// A partition stands still: how often it was found so at this offset.
    pub fn note_stall(&mut self, watched: &Watched) -> u32 {
        let place = (watched.topic.clone(), watched.partition);
        let (next, times) = self.stalls.entry(place).or_insert((watched.next, 0));
        if *next != watched.next {
            (*next, *times) = (watched.next, 0);
        }
        *times += 1;
        *times
    }
}

impl Seen {
    fn ends_before(self) -> bool {
        self.end < self.next
    }

    /// Records were there all the time, and the client had nothing else to give.
    fn stands_still(self, now: Self) -> bool {
        self.era == now.era
            && self.next == now.next
            && self.end > self.next
            && now.end > now.next
            && now.idle.saturating_sub(self.idle) >= IDLE
    }
}

/// Whether the log is the one in which a record was read before, by the first one that stands there now or
/// later; `None` where that is unknown.
pub fn is_same_log(older: Landmark, found: &[Landmark]) -> Option<bool> {
    let first = found.first()?;
    match first.offset.cmp(&older.offset) {
        std::cmp::Ordering::Equal => Some(first.at == older.at),
        // It was compacted away, or retention has taken it meanwhile.
        std::cmp::Ordering::Greater => Some(true),
        // The log ends before it.
        std::cmp::Ordering::Less => Some(false),
    }
}
