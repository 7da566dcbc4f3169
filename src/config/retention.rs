//! Settings of housekeeping.

use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;

use super::InvalidSettings;

/// The settings as text, before validation.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Retention")]
pub struct HousekeepingSettings {
    /// Days of the events of closed loans and fees/fines; at least the retention time of the topics plus 7
    /// days
    #[arg(long, env = "INBOX_DAYS", default_value = "30", global = true)]
    pub inbox_days: String,
    /// Days of closed loans and paid fees/fines; at least INBOX_DAYS, and never shorter than events and
    /// dead letters
    #[arg(long, env = "TOMBSTONE_DAYS", default_value = "60", global = true)]
    pub tombstone_days: String,
    /// Days of dead letters, the records that could not be applied
    #[arg(long, env = "DEAD_LETTER_DAYS", default_value = "90", global = true)]
    pub dead_letter_days: String,
    /// Dead letters per tenant, at most; housekeeping deletes the oldest
    #[arg(long, env = "DEAD_LETTERS_MAX", default_value = "100000", global = true)]
    pub dead_letters_max: String,
    /// Size of the dead letters of a tenant in MiB, at most; housekeeping deletes the oldest
    #[arg(long, env = "DEAD_LETTERS_MIB", default_value = "1024", global = true)]
    pub dead_letters_mib: String,
    /// Hours of sent messages
    #[arg(long, env = "OUTBOX_HOURS", default_value = "24", global = true)]
    pub outbox_hours: String,
    /// Interval of housekeeping per tenant, in seconds
    #[arg(long, env = "HOUSEKEEPING_INTERVAL_SECONDS", default_value = "3600", global = true)]
    pub housekeeping_interval: String,
    /// Shortest pause between two steps of housekeeping, in milliseconds
    #[arg(long, env = "HOUSEKEEPING_PAUSE_MS", default_value = "100", global = true)]
    pub housekeeping_pause: String,
}

/// The validated retention times and the pace of housekeeping.
#[derive(Debug, Clone)]
pub struct HousekeepingConfig {
    /// Retention of events about closed loans and fees/fines, 1 to 3650 days.
    pub inbox_retention: TimeDelta,
    /// Retention of closed loans and paid fees/fines; at least `inbox_retention`.
    pub tombstone_retention: TimeDelta,
    /// Retention of dead letters, 1 to 3650 days.
    pub dead_letter_retention: TimeDelta,
    /// Dead letters per tenant, at most.
    pub dead_letters_max: i64,
    /// Size of the dead letters of a tenant in bytes, at most.
    pub dead_letters_bytes_max: i64,
    /// Retention of sent messages, 1 to 8760 hours.
    pub outbox_retention: TimeDelta,
    /// Time from one housekeeping of a tenant to the next, 10 to 604,800 seconds.
    pub interval: Duration,
    /// Shortest pause between two steps.
    pub step_pause: Duration,
}

impl HousekeepingSettings {
    pub(super) fn validate(&self, problems: &mut InvalidSettings) -> HousekeepingConfig {
        let mut days = |variable, text| {
            let rule = "must be a number of days from 1 to 3650";
            TimeDelta::days(problems.number(variable, text, rule, 1..=3650))
        };
        let inbox = days("INBOX_DAYS", &self.inbox_days);
        let tombstones = days("TOMBSTONE_DAYS", &self.tombstone_days);
        let dead_letters = days("DEAD_LETTER_DAYS", &self.dead_letter_days);
        if !tombstones.is_zero() {
            problems.parse(
                "TOMBSTONE_DAYS",
                &self.tombstone_days,
                "must not be less than INBOX_DAYS",
                |_| (tombstones >= inbox).then_some(()),
            );
        }
        HousekeepingConfig {
            inbox_retention: inbox,
            tombstone_retention: tombstones,
            dead_letter_retention: dead_letters,
            dead_letters_max: problems.number(
                "DEAD_LETTERS_MAX",
                &self.dead_letters_max,
                "must be a number from 1 to 10000000",
                1..=10_000_000,
            ),
            dead_letters_bytes_max: 1_048_576
                * problems.number(
                    "DEAD_LETTERS_MIB",
                    &self.dead_letters_mib,
                    "must be a number of MiB from 16 to 1048576",
                    16..=1_048_576,
                ),
            outbox_retention: TimeDelta::hours(problems.number(
                "OUTBOX_HOURS",
                &self.outbox_hours,
                "must be a number of hours from 1 to 8760",
                1..=8760,
            )),
            interval: Duration::from_secs(problems.number(
                "HOUSEKEEPING_INTERVAL_SECONDS",
                &self.housekeeping_interval,
                "must be a number of seconds from 10 to 604800",
                10..=604_800,
            )),
            step_pause: problems.milliseconds("HOUSEKEEPING_PAUSE_MS", &self.housekeeping_pause),
        }
    }
}
