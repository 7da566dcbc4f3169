//! Load of accumulated entries into the shadow, and the merge of their parts after the read.

use std::time::Instant;

use uuid::Uuid;

use super::fold;
use crate::{
    patron::{Fee, Loan, StateDelta},
    services::rebuild::{context::RebuildContext, error::RebuildError},
    store::{
        rebuild::{shadow, shadow_load},
        state::rows::SubjectTable,
    },
};

/// Maximum number of entries per statement.
const STATEMENT_ENTRIES_MAX: usize = 10_000;

/// Maximum number of ids per search.
const SEARCH_IDS_MAX: usize = 1_000_000;

/// The read position that a load commits.
pub(in crate::services::rebuild) enum ReadPosition {
    /// The stored position stays, because memory still contains entries of earlier records.
    Unchanged,
    Topics(Vec<shadow::ReplayPosition>),
    Inbox(Uuid),
}

/// Appends `delta` to the shadow and commits the read position.
pub(in crate::services::rebuild) async fn load_delta(
    context: &RebuildContext,
    mut delta: StateDelta,
    position: ReadPosition,
) -> Result<(), RebuildError> {
    let mut tx = context.begin().await?;
    while let Some(chunk) = fold::take_entries(&mut delta, STATEMENT_ENTRIES_MAX) {
        let began = Instant::now();
        shadow_load::append(&mut tx, &context.shadow, &chunk).await?;
        context.throttle.rest_after(began).await;
    }
    match position {
        ReadPosition::Unchanged => {}
        ReadPosition::Topics(positions) => {
            shadow::save_replay_positions(&mut tx, &context.shadow, &positions).await?
        }
        ReadPosition::Inbox(key) => {
            shadow::record_scan_position(&mut tx, &context.shadow, "inbox", Some(key)).await?
        }
    }
    context.commit(tx).await
}

/// Merges the parts of each loan and fee/fine into one row, then closes rows that complete snapshots do not
/// contain. The function is repeatable.
pub(in crate::services::rebuild) async fn merge_parts(
    context: &RebuildContext,
) -> Result<(), RebuildError> {
    context.progress.start_stage("merging", 0);
    let began = Instant::now();
    let mut tx = context.begin().await?;
    shadow_load::create_indexes(&mut tx, &context.shadow).await?;
    context.commit(tx).await?;
    context.throttle.rest_after(began).await;
    merge_rows::<Loan>(context).await?;
    merge_rows::<Fee>(context).await?;
    let mut tx = context.begin().await?;
    shadow_load::apply_horizons(&mut tx, &context.shadow).await?;
    context.commit(tx).await
}

async fn merge_rows<T: SubjectTable>(context: &RebuildContext) -> Result<(), RebuildError> {
    loop {
        let mut tx = context.begin().await?;
        let found = shadow_load::split_ids::<T>(&mut tx, &context.shadow, SEARCH_IDS_MAX).await?;
        drop(tx);
        for ids in found.chunks(STATEMENT_ENTRIES_MAX) {
            let began = Instant::now();
            let mut tx = context.begin().await?;
            shadow_load::merge_parts::<T>(&mut tx, &context.shadow, ids).await?;
            context.commit(tx).await?;
            context.throttle.rest_after(began).await;
        }
        if found.len() < SEARCH_IDS_MAX {
            return Ok(());
        }
    }
}
