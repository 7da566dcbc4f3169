//! The ages from which rows count as old.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{config::HousekeepingConfig, kafka::retention::TopicRetention};

/// Retention beyond the retention of the topics. Modules may publish events late, and the clocks of
/// brokers and instances differ.
const RETENTION_MARGIN: TimeDelta = TimeDelta::days(7);

/// Longest time during which a discarded dead letter can be restored.
const DISCARDED_RETENTION: TimeDelta = TimeDelta::days(7);

/// The times before which rows count as old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Limits of the inbox and of tombstones; `None` while the topic retention is unknown or
    /// unlimited.
    pub cutoffs: Option<Cutoffs>,
    /// Dead letters that were parked earlier count as old.
    pub dead_letters: DateTime<Utc>,
    /// Discarded dead letters that were discarded earlier count as old.
    pub discarded: DateTime<Utc>,
}

/// The limits that depend on the retention of the topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutoffs {
    /// Inbox entries that arrived earlier count as old.
    pub inbox: DateTime<Utc>,
    /// Loans and fees/fines that closed earlier count as old.
    pub tombstones: DateTime<Utc>,
}

impl RetentionLimits {
    /// Computes the limits at `now`. Rows must outlive every record that may be read again: the
    /// records in the topics and, for tombstones, also dead letters that may be retried.
    pub fn at(
        now: DateTime<Utc>,
        config: &HousekeepingConfig,
        retention: Option<&TopicRetention>,
    ) -> Self {
        let cutoffs = match retention {
            None | Some(TopicRetention::Unlimited { .. }) => None,
            Some(TopicRetention::Limited(time)) => {
                let inbox = config.inbox_retention.max(*time + RETENTION_MARGIN);
                let tombstones =
                    config.tombstone_retention.max(config.dead_letter_retention).max(inbox);
                Some(Cutoffs { inbox: now - inbox, tombstones: now - tombstones })
            }
        };
        let dead_letters = now - config.dead_letter_retention;
        // An operator who discards the wrong records finds out within days.
        let discarded = dead_letters.max(now - DISCARDED_RETENTION);
        Self { cutoffs, dead_letters, discarded }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn days(days: i64) -> TimeDelta {
        TimeDelta::days(days)
    }

    fn ages(retention: Option<TopicRetention>) -> Option<(TimeDelta, TimeDelta)> {
        let config = HousekeepingConfig {
            inbox_retention: days(30),
            tombstone_retention: days(60),
            dead_letter_retention: days(50),
            dead_letters_max: 10,
            dead_letters_bytes_max: 1 << 20,
            interval: Duration::from_secs(3600),
            step_pause: Duration::from_millis(100),
            outbox_retention: days(1),
        };
        let now = "2026-09-15T12:00:00Z".parse().unwrap();
        let cutoffs = RetentionLimits::at(now, &config, retention.as_ref()).cutoffs;
        cutoffs.map(|cutoffs| (now - cutoffs.inbox, now - cutoffs.tombstones))
    }

    #[test]
    fn pruning_waits_for_the_topic_retention() {
        assert_eq!(ages(Some(TopicRetention::Limited(days(14)))), Some((days(30), days(60))));
        assert_eq!(ages(Some(TopicRetention::Limited(days(40)))), Some((days(47), days(60))));
        assert_eq!(ages(Some(TopicRetention::Limited(days(80)))), Some((days(87), days(87))));
        assert_eq!(ages(Some(TopicRetention::Unlimited { topic: "t".to_owned() })), None);
        assert_eq!(ages(None), None);
    }
}
