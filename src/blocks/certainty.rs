//! How certain an evaluation is, from the evidence about the events that it rests on
//! (docs/contract/insight.md#6-certainty).

use chrono::{DateTime, TimeDelta, Utc};

/// The certainty of an evaluation, from the best state to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertaintyState {
    /// All events up to a recent instant are applied.
    Certain,
    /// The newest instant up to which all events are applied is too old, or unknown.
    Late,
    /// Events from before the enabling of the tenant may be missing.
    Incomplete,
    /// An event about the patron could not be applied, or the patron group may be outdated.
    Doubtful,
    /// The database failed, so nothing was evaluated.
    Unknown,
}

impl CertaintyState {
    /// All states, from the best to the worst.
    pub const ALL: [Self; 5] =
        [Self::Certain, Self::Late, Self::Incomplete, Self::Doubtful, Self::Unknown];

    /// Returns the name in headers, bodies and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Late => "late",
            Self::Incomplete => "incomplete",
            Self::Doubtful => "doubtful",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known about the events of one patron.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// The instant of the evaluation.
    pub now: DateTime<Utc>,
    /// The instant up to which all events of the tenant are applied, if it is known.
    pub as_of: Option<DateTime<Utc>>,
    /// Whether the events of the tenant are in a log. Without a log, no lag shows a missing event.
    pub has_log: bool,
    /// Events of the tenant before this instant may be missing; `None` for a complete history.
    pub incomplete_before: Option<DateTime<Utc>>,
    /// Whether a partition with events of the tenant waits for an operator.
    pub has_stopped_partition: bool,
    /// Whether the patron group is known from a current source.
    pub is_group_current: bool,
    /// When the newest dead letter that names the patron, or an open loan of the patron, was stored.
    pub dead_letter_at: Option<DateTime<Utc>>,
    /// When a complete snapshot of the patron was last read from the storage modules.
    pub snapshot_at: Option<DateTime<Utc>>,
}

impl Evidence {
    /// Creates the evidence at an instant, with a complete log and no known instant.
    pub fn at(now: DateTime<Utc>) -> Self {
        Self {
            now,
            as_of: None,
            has_log: true,
            incomplete_before: None,
            has_stopped_partition: false,
            is_group_current: true,
            dead_letter_at: None,
            snapshot_at: None,
        }
    }
}

/// A later snapshot is from before a step back of the clock, so its age is unknown.
const SNAPSHOT_SKEW_MAX: TimeDelta = TimeDelta::seconds(5);

/// The certainty of an evaluation, with the instant that the evaluation reflects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certainty {
    /// The state.
    pub state: CertaintyState,
    /// The instant up to which all events are applied, if it is known.
    pub as_of: Option<DateTime<Utc>>,
}

impl Certainty {
    /// The certainty of an answer without an evaluation.
    pub const UNKNOWN: Self = Self { state: CertaintyState::Unknown, as_of: None };

    /// Computes the certainty. An evaluation is late if its instant is more than `late_after` ago. A snapshot
    /// replaces all evidence that is older than the snapshot; it contains no patron group.
    pub fn new(evidence: &Evidence, late_after: TimeDelta) -> Self {
        let Evidence { now, .. } = *evidence;
        let snapshot_at = evidence.snapshot_at.filter(|at| *at <= now + SNAPSHOT_SKEW_MAX);
        let as_of = evidence.as_of.max(snapshot_at);
        let is_recent = |at: Option<DateTime<Utc>>| at.is_some_and(|at| now - at <= late_after);
        let has_recent_snapshot = is_recent(snapshot_at);
        let state = if evidence.dead_letter_at > snapshot_at
            || !evidence.is_group_current
            || evidence.has_stopped_partition && !has_recent_snapshot
        {
            CertaintyState::Doubtful
        } else if evidence.incomplete_before > snapshot_at {
            CertaintyState::Incomplete
        } else if has_recent_snapshot || evidence.has_log && is_recent(as_of) {
            CertaintyState::Certain
        } else {
            CertaintyState::Late
        };
        Self { state, as_of }
    }
}

#[cfg(test)]
mod tests {
    use CertaintyState::{Certain, Doubtful, Incomplete, Late};

    use super::*;

    const LATE_AFTER: TimeDelta = TimeDelta::seconds(60);

    fn now() -> DateTime<Utc> {
        "2026-09-15T12:00:00Z".parse().unwrap()
    }

    fn ago(seconds: i64) -> Option<DateTime<Utc>> {
        Some(now() - TimeDelta::seconds(seconds))
    }

    fn evidence() -> Evidence {
        Evidence { as_of: ago(1), ..Evidence::at(now()) }
    }

    fn state(evidence: Evidence) -> CertaintyState {
        Certainty::new(&evidence, LATE_AFTER).state
    }

    #[test]
    fn states_have_the_names_of_the_contract() {
        let names = CertaintyState::ALL.map(CertaintyState::name);
        assert_eq!(names, ["certain", "late", "incomplete", "doubtful", "unknown"]);
    }

    #[test]
    fn evaluation_is_late_after_the_limit() {
        let of_age = |seconds| state(Evidence { as_of: ago(seconds), ..evidence() });
        assert_eq!([of_age(0), of_age(60), of_age(61)], [Certain, Certain, Late]);
        assert_eq!(state(Evidence { as_of: None, ..evidence() }), Late);
        // The clocks of two machines differ.
        assert_eq!(of_age(-5), Certain);
    }

    #[test]
    fn evaluation_without_a_log_is_late() {
        let callbacks = Evidence { has_log: false, ..evidence() };
        assert_eq!(state(callbacks), Late);
        assert_eq!(state(Evidence { snapshot_at: ago(60), ..callbacks }), Certain);
        assert_eq!(state(Evidence { snapshot_at: ago(61), ..callbacks }), Late);
    }

    #[test]
    fn incomplete_history_needs_a_snapshot_of_the_patron() {
        let incomplete = Evidence { incomplete_before: ago(7200), ..evidence() };
        assert_eq!(state(incomplete), Incomplete);
        assert_eq!(state(Evidence { snapshot_at: ago(7201), ..incomplete }), Incomplete);
        assert_eq!(state(Evidence { snapshot_at: ago(7200), ..incomplete }), Certain);
        let late = Evidence { snapshot_at: ago(3600), as_of: ago(90), ..incomplete };
        assert_eq!(state(late), Late);
    }

    #[test]
    fn dead_letter_counts_until_a_later_snapshot() {
        let named = Evidence { dead_letter_at: ago(100), ..evidence() };
        assert_eq!(state(named), Doubtful);
        assert_eq!(state(Evidence { snapshot_at: ago(101), ..named }), Doubtful);
        assert_eq!(state(Evidence { snapshot_at: ago(100), ..named }), Certain);
    }

    #[test]
    fn stopped_partition_counts_unless_a_snapshot_is_recent() {
        let stopped = Evidence { has_stopped_partition: true, ..evidence() };
        assert_eq!(state(stopped), Doubtful);
        assert_eq!(state(Evidence { snapshot_at: ago(61), ..stopped }), Doubtful);
        assert_eq!(state(Evidence { snapshot_at: ago(60), ..stopped }), Certain);
    }

    #[test]
    fn snapshot_of_the_future_does_not_count() {
        let stopped = Evidence { has_stopped_partition: true, ..evidence() };
        assert_eq!(state(Evidence { snapshot_at: ago(-5), ..stopped }), Certain);
        assert_eq!(state(Evidence { snapshot_at: ago(-6), ..stopped }), Doubtful);
        let late = Evidence { as_of: ago(90), snapshot_at: ago(-3600), ..evidence() };
        assert_eq!(Certainty::new(&late, LATE_AFTER), Certainty { state: Late, as_of: ago(90) });
    }

    #[test]
    fn no_snapshot_makes_the_patron_group_current() {
        let outdated = Evidence { is_group_current: false, snapshot_at: ago(1), ..evidence() };
        assert_eq!(state(outdated), Doubtful);
    }

    #[test]
    fn worst_state_wins_and_the_newest_instant_counts() {
        let worst = Evidence {
            as_of: ago(3600),
            incomplete_before: ago(7200),
            dead_letter_at: ago(10),
            ..evidence()
        };
        assert_eq!(state(worst), Doubtful);
        assert_eq!(state(Evidence { dead_letter_at: None, ..worst }), Incomplete);
        let as_of = |snapshot_at| {
            Certainty::new(&Evidence { snapshot_at, as_of: ago(100), ..worst }, LATE_AFTER).as_of
        };
        assert_eq!([as_of(None), as_of(ago(50)), as_of(ago(200))], [ago(100), ago(50), ago(100)]);
        assert!(CertaintyState::ALL.is_sorted());
    }
}
