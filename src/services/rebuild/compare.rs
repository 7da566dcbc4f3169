//! Comparison of a source with the stored state: differing rows, wrong counters, and the blocks that change.

use std::time::Instant;

use uuid::Uuid;

use super::{
    block_changes::compare_blocks,
    context::RebuildContext,
    error::RebuildError,
    request::Source,
    target_state::{TargetState, load_complete_shadow, split_loans_and_fees},
};
use crate::store::{
    rebuild::{differences, shadow},
    state::patrons,
};

/// Loans and fees/fines per page.
const CANDIDATE_PAGE_ROWS: i64 = 500;

/// Records the differing rows, the wrong counters and the changed blocks.
pub(super) async fn compare(context: &RebuildContext) -> Result<(), RebuildError> {
    let schema = &context.tenant.schema;
    let mut tx = context.begin().await?;
    let state = load_complete_shadow(&mut tx, context).await?;
    differences::delete(&mut tx, schema, context.id).await?;
    let includes_closed = context.request.source != Source::Storage;
    let candidate_count =
        shadow::find_candidates(&mut tx, &context.shadow, context.request.scope, includes_closed)
            .await?;
    shadow::count_changed_groups(&mut tx, &context.shadow).await?;
    context.commit(tx).await?;
    context.progress.start_stage("comparing", u64::try_from(candidate_count).unwrap_or_default());
    let mut after = Uuid::nil();
    loop {
        let began = Instant::now();
        let mut tx = context.begin().await?;
        // A crash of the database empties the candidates; the reloaded state reveals the crash.
        load_complete_shadow(&mut tx, context).await?;
        let candidates =
            shadow::candidates_page(&mut tx, &context.shadow, after, CANDIDATE_PAGE_ROWS).await?;
        let Some((last, _)) = candidates.last() else { break };
        after = *last;
        let (loans, fees) = split_loans_and_fees(&candidates);
        let targets = TargetState::load(&mut tx, context, &state, &loans, &fees).await?;
        differences::insert(&mut tx, schema, context.id, &targets.differences()).await?;
        context.commit(tx).await?;
        context.progress.add(candidates.len() as u64);
        context.throttle.rest_after(began).await;
    }
    compare_counters(context).await?;
    compare_blocks(context).await
}

async fn compare_counters(context: &RebuildContext) -> Result<(), RebuildError> {
    let mut users = patrons::list_drifted(context.db(), &context.tenant.schema).await?;
    users.retain(|user| context.request.scope.includes(*user));
    if users.is_empty() {
        return Ok(());
    }
    let none = vec![0; users.len()];
    let mut tx = context.begin().await?;
    differences::insert_patrons(
        &mut tx,
        &context.tenant.schema,
        context.id,
        &users,
        (&none, &none),
        true,
    )
    .await?;
    context.commit(tx).await
}
