//! Settings of rebuilds.

use std::time::Duration;

use clap::Args;

use super::InvalidSettings;

/// The settings as text, before validation.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rebuilds")]
pub struct RebuildSettings {
    /// Share of time in which a rebuild may use its database connection, in percent
    #[arg(long, env = "REBUILD_DB_SHARE_PERCENT", default_value = "50", global = true)]
    pub rebuild_db_share_percent: String,
    /// Memory of one rebuild before it spills to the shadow, in MiB
    #[arg(long, env = "REBUILD_MEMORY_MIB", default_value = "64", global = true)]
    pub rebuild_memory: String,
    /// Rebuilds that an instance works on at the same time, plus one from the storage modules; 0 leaves
    /// rebuilds to other instances. Each rebuild uses an additional database connection
    #[arg(long, env = "REBUILD_CONCURRENCY", default_value = "2", global = true)]
    pub rebuild_concurrency: String,
    /// Share of open loans, open fees/fines or blocked patrons, in percent, that a rebuild closes or
    /// unblocks without an operator; 100 disables the rule
    #[arg(long, env = "REBUILD_CLOSE_LIMIT_PERCENT", default_value = "25", global = true)]
    pub rebuild_close_limit_percent: String,
    /// Number of loans and fees/fines that a rebuild closes, and of patrons that it unblocks, without an
    /// operator, whatever the share
    #[arg(long, env = "REBUILD_CLOSE_LIMIT_MIN", default_value = "20", global = true)]
    pub rebuild_close_limit_min: String,
    /// Longest time for one page of a storage module with all retries, in seconds; then the rebuild fails
    #[arg(long, env = "STORAGE_PAGE_TIMEOUT_SECONDS", default_value = "60", global = true)]
    pub storage_page_timeout_seconds: String,
}

/// Settings that limit the load and the changes of rebuilds.
#[derive(Debug, Clone, Copy)]
pub struct RebuildConfig {
    /// Maximum share of time in which a rebuild uses its connection, in percent.
    pub db_share_percent: u8,
    /// Memory for entries that are read and not yet loaded into a shadow, in bytes.
    pub buffer_bytes: usize,
    /// Maximum number of rebuilds that use the database or the processor of one instance at the same time. If
    /// the value is 0, the workers claim no rebuild.
    pub concurrency: usize,
    /// Maximum time for one page of a storage module, including retries.
    pub page_timeout: Duration,
    /// Limit of the changes that a rebuild applies without an operator.
    pub approval_threshold: ApprovalThreshold,
}

/// The number of closed items or unblocked patrons that needs no operator.
#[derive(Debug, Clone, Copy)]
pub struct ApprovalThreshold {
    /// Share of the tenant's open items, or of all blocked patrons, in percent; 100 switches the limit off.
    pub percent: u8,
    /// Number of items or patrons that is always below the limit.
    pub count: u32,
}

impl RebuildSettings {
    pub(super) fn validate(&self, problems: &mut InvalidSettings) -> RebuildConfig {
        let percent = "must be a number from 1 to 100";
        let memory = "must be a number of MiB from 1 to 65536";
        let to_100 = "must be a number from 0 to 100";
        let anyway = "must be a number from 0 to 1000000000";
        RebuildConfig {
            db_share_percent: problems.number(
                "REBUILD_DB_SHARE_PERCENT",
                &self.rebuild_db_share_percent,
                percent,
                1..=100,
            ),
            buffer_bytes: problems.number(
                "REBUILD_MEMORY_MIB",
                &self.rebuild_memory,
                memory,
                1..=65_536_usize,
            ) * 1024
                * 1024,
            concurrency: problems.number(
                "REBUILD_CONCURRENCY",
                &self.rebuild_concurrency,
                to_100,
                0..=100,
            ),
            page_timeout: problems
                .seconds("STORAGE_PAGE_TIMEOUT_SECONDS", &self.storage_page_timeout_seconds)
                .to_std()
                .unwrap_or_default(),
            approval_threshold: ApprovalThreshold {
                percent: problems.number(
                    "REBUILD_CLOSE_LIMIT_PERCENT",
                    &self.rebuild_close_limit_percent,
                    to_100,
                    0..=100,
                ),
                count: problems.number(
                    "REBUILD_CLOSE_LIMIT_MIN",
                    &self.rebuild_close_limit_min,
                    anyway,
                    0..=1_000_000_000,
                ),
            },
        }
    }
}
