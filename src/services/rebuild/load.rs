//! Laying out in the shadow what was folded, and putting it together once all of the source was read.

use std::time::Instant;

use uuid::Uuid;

use super::{
    context::{RebuildContext, RebuildError},
    fold,
};
use crate::{
    patron::StateDelta,
    store::{
        shadow,
        shadow_load::{self, ShadowTable},
    },
};

/// Entries in one statement.
const STATEMENT_ENTRIES_MAX: usize = 10_000;

/// Ids that are looked for at once.
const SEARCH_IDS_MAX: usize = 1_000_000;

/// How far reading has come with what is laid out.
pub(super) enum ReadPosition {
    /// There is more up to there that is still held back.
    Unchanged,
    Topics(Vec<shadow::ReplayPosition>),
    Inbox(Uuid),
}

/// Adds what was folded to the shadow.
pub(super) async fn load_delta(
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

/// Makes one entry of what was laid out in parts, and has complete snapshots end what they don't hold. May be
/// repeated.
pub(super) async fn merge_parts(context: &RebuildContext) -> Result<(), RebuildError> {
    context.progress.start_stage("merging", 0);
    let began = Instant::now();
    let mut tx = context.begin().await?;
    shadow_load::create_indexes(&mut tx, &context.shadow).await?;
    context.commit(tx).await?;
    context.throttle.rest_after(began).await;
    merge_rows(context, ShadowTable::Loans).await?;
    merge_rows(context, ShadowTable::Fees).await?;
    let mut tx = context.begin().await?;
    shadow_load::apply_horizons(&mut tx, &context.shadow).await?;
    context.commit(tx).await
}

async fn merge_rows(context: &RebuildContext, table: ShadowTable) -> Result<(), RebuildError> {
    loop {
        let mut tx = context.begin().await?;
        let found = shadow_load::split_ids(&mut tx, &context.shadow, table, SEARCH_IDS_MAX).await?;
        drop(tx);
        for ids in found.chunks(STATEMENT_ENTRIES_MAX) {
            let began = Instant::now();
            let mut tx = context.begin().await?;
            shadow_load::merge_parts(&mut tx, &context.shadow, table, ids).await?;
            context.commit(tx).await?;
            context.throttle.rest_after(began).await;
        }
        if found.len() < SEARCH_IDS_MAX {
            return Ok(());
        }
    }
}
