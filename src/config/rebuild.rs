//! Settings of rebuilds.

use clap::Args;

use super::InvalidSettings;
use crate::services::rebuild::{ApprovalThreshold, RebuildConfig};

/// The settings as they come.
#[derive(Debug, Clone, Args)]
pub struct RebuildSettings {
    /// Share of the time that a rebuild may keep its connection to the database busy, in percent
    #[arg(long, env = "REBUILD_DB_SHARE_PERCENT", default_value = "50", global = true)]
    pub rebuild_db_share_percent: String,
    /// What a rebuild may hold in memory before it goes to the database, in MiB
    #[arg(long, env = "REBUILD_MEMORY_MIB", default_value = "64", global = true)]
    pub rebuild_memory: String,
    /// Rebuilds that an instance works on at once, each with a connection more to the database, and one more from the
    /// storage modules; 0 leaves them to other instances
    #[arg(long, env = "REBUILD_CONCURRENCY", default_value = "2", global = true)]
    pub rebuild_concurrency: String,
    /// Share of a tenant's open loans, fees/fines, or blocked patrons, in percent: a rebuild that would close or unblock
    /// more of them waits for an operator; 100 applies whatever it would change
    #[arg(long, env = "REBUILD_CLOSE_LIMIT_PERCENT", default_value = "25", global = true)]
    pub rebuild_close_limit_percent: String,
    /// So many loans and fees/fines are closed, and so many patrons unblocked, without an operator, whatever share of
    /// all that is
    #[arg(long, env = "REBUILD_CLOSE_LIMIT_MIN", default_value = "20", global = true)]
    pub rebuild_close_limit_min: String,
    /// How long a page of the storage modules may take with all tries, in seconds, before a rebuild from them
    /// fails
    #[arg(long, env = "STORAGE_PAGE_TIMEOUT_SECONDS", default_value = "60", global = true)]
    pub storage_page_timeout_seconds: String,
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
