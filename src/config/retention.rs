//! Settings of housekeeping.

use std::time::Duration;

use chrono::TimeDelta;
use clap::{Args, builder::TypedValueParser as _};

use super::parse::{bounded, days, mib, number, seconds, wait};

/// The retention times and the pace of housekeeping.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Retention")]
pub struct HousekeepingConfig {
    /// Days of the events of closed loans and fees/fines; at least the retention time of the topics plus 7
    /// days
    #[arg(long = "inbox-days", env = "INBOX_DAYS", default_value = "30", value_parser = days())]
    pub inbox_retention: TimeDelta,
    /// Days of closed loans and paid fees/fines; at least INBOX_DAYS, and never shorter than events and
    /// dead letters
    #[arg(long = "tombstone-days", env = "TOMBSTONE_DAYS")]
    #[arg(default_value = "60", value_parser = days())]
    pub tombstone_retention: TimeDelta,
    /// Days of dead letters, the records that could not be applied
    #[arg(long = "dead-letter-days", env = "DEAD_LETTER_DAYS")]
    #[arg(default_value = "90", value_parser = days())]
    pub dead_letter_retention: TimeDelta,
    /// Dead letters per tenant, at most; housekeeping deletes the oldest
    #[arg(long, env = "DEAD_LETTERS_MAX")]
    #[arg(default_value = "100000", value_parser = number::<i64>(1..=10_000_000))]
    pub dead_letters_max: i64,
    /// Size of the dead letters of a tenant in MiB, at most; housekeeping deletes the oldest
    #[arg(long = "dead-letters-mib", env = "DEAD_LETTERS_MIB")]
    #[arg(default_value = "1024", value_parser = mib::<i64>(16..=1_048_576).map(|mib| mib << 20))]
    pub dead_letters_bytes_max: i64,
    /// Hours of sent messages
    #[arg(long = "outbox-hours", env = "OUTBOX_HOURS")]
    #[arg(default_value = "24")]
    #[arg(value_parser = bounded("number of hours", 1..=8760, "").map(TimeDelta::hours))]
    pub outbox_retention: TimeDelta,
    /// Interval of housekeeping per tenant, in seconds
    #[arg(long = "housekeeping-interval", env = "HOUSEKEEPING_INTERVAL_SECONDS")]
    #[arg(default_value = "3600", value_parser = seconds(10..=604_800))]
    pub interval: Duration,
    /// Shortest pause between two steps of housekeeping, in milliseconds
    #[arg(long = "housekeeping-pause", env = "HOUSEKEEPING_PAUSE_MS")]
    #[arg(default_value = "100", value_parser = wait())]
    pub step_pause: Duration,
}
