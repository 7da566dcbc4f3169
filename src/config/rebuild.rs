//! Settings of rebuilds.

use std::time::Duration;

use clap::{Args, builder::TypedValueParser as _};

use super::parse::{mib, number, seconds};

/// Settings that limit the load and the changes of rebuilds.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Rebuilds")]
pub struct RebuildConfig {
    /// Share of time in which a rebuild may use its database connection, in percent
    #[arg(long = "rebuild-db-share-percent", env = "REBUILD_DB_SHARE_PERCENT")]
    #[arg(id = "rebuild_db_share_percent", default_value = "50")]
    #[arg(value_parser = number::<u8>(1..=100))]
    pub db_share_percent: u8,
    /// Memory of one rebuild before it spills to the shadow, in MiB
    #[arg(long = "rebuild-memory", env = "REBUILD_MEMORY_MIB")]
    #[arg(default_value = "64", value_parser = mib::<usize>(1..=65_536).map(|mib| mib << 20))]
    pub buffer_bytes: usize,
    /// Rebuilds that an instance works on at the same time, plus one from the storage modules; 0 leaves
    /// rebuilds to other instances. Each rebuild uses an additional database connection
    #[arg(long = "rebuild-concurrency", env = "REBUILD_CONCURRENCY")]
    #[arg(default_value = "2", value_parser = number::<usize>(0..=100))]
    pub concurrency: usize,
    /// Limit of the changes that a rebuild applies without an operator
    #[command(flatten)]
    pub approval_threshold: ApprovalThreshold,
    /// Longest time for one page of a storage module with all retries, in seconds; then the rebuild fails
    #[arg(long = "storage-page-timeout-seconds", env = "STORAGE_PAGE_TIMEOUT_SECONDS")]
    #[arg(default_value = "60", value_parser = seconds(0..=31_536_000))]
    pub page_timeout: Duration,
}

/// The number of closed items or unblocked patrons that needs no operator.
#[derive(Debug, Clone, Copy, Args)]
pub struct ApprovalThreshold {
    /// Share of open loans, open fees/fines or blocked patrons, in percent, that a rebuild closes or
    /// unblocks without an operator; 100 disables the rule
    #[arg(long = "rebuild-close-limit-percent", env = "REBUILD_CLOSE_LIMIT_PERCENT")]
    #[arg(default_value = "25", value_parser = number::<u8>(0..=100))]
    pub percent: u8,
    /// Number of loans and fees/fines that a rebuild closes, and of patrons that it unblocks, without an
    /// operator, whatever the share
    #[arg(long = "rebuild-close-limit-min", env = "REBUILD_CLOSE_LIMIT_MIN")]
    #[arg(default_value = "20", value_parser = number::<u32>(0..=1_000_000_000))]
    pub count: u32,
}
