//! The blocks that a rebuild changes: the open items of patrons before and after it, evaluated.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    context::RebuildContext,
    error::RebuildError,
    target_state::{TargetState, load_complete_shadow, split_loans_and_fees},
};
use crate::{
    blocks::{self, OpenItems},
    services::evaluation::policy::Policy,
    store::{
        Tx,
        rebuild::differences,
        state::{patrons, rows},
    },
};

/// Patrons per page.
const PATRON_PAGE_ROWS: i64 = 200;

/// Records the blocking conditions before and after the rebuild, for each patron with a difference.
pub(super) async fn compare_blocks(context: &RebuildContext) -> Result<(), RebuildError> {
    let mut tx = context.begin().await?;
    let policy = Policy::load(&mut tx, &context.tenant.schema).await?;
    drop(tx);
    let (no_items, mut offset) = (OpenItems::default(), 0);
    loop {
        let began = Instant::now();
        let mut tx = context.begin().await?;
        let schema = &context.tenant.schema;
        load_complete_shadow(&mut tx, context).await?;
        let page =
            differences::list_patrons(&mut *tx, schema, context.id, PATRON_PAGE_ROWS, offset)
                .await?;
        if page.is_empty() {
            return Ok(());
        }
        let users: Vec<Uuid> = page.iter().map(|patron| patron.user_id).collect();
        let now = context.clock.now();
        let groups: HashMap<Uuid, String> = patrons::load_groups(&mut *tx, schema, &users).await?;
        let (before, after) = load_open_items(&mut tx, context, &users).await?;
        let evaluate_patron = |user: Uuid| {
            let group = groups.get(&user).map(|group| &**group);
            let summarize = |items: &OpenItemsByPatron| {
                to_block_summary(items.get(&user).unwrap_or(&no_items), &policy, group, now)
            };
            (user, summarize(&before), summarize(&after))
        };
        let block_summaries: Vec<_> = users.into_iter().map(evaluate_patron).collect();
        differences::set_block_summaries(&mut tx, schema, context.id, &block_summaries).await?;
        context.commit(tx).await?;
        offset += PATRON_PAGE_ROWS;
        context.throttle.rest_after(began).await;
    }
}

/// Returns the open loans and the blocks for the report. If the patron group is unknown, the blocks are
/// unknown: only the API requests groups from mod-users.
fn to_block_summary(
    items: &OpenItems,
    policy: &Policy,
    group: Option<&str>,
    now: DateTime<Utc>,
) -> differences::BlockSummary {
    let blocked = group.map(|group| blocking_conditions(items, policy, group, now));
    differences::BlockSummary { open_loans: items.loans.len(), blocked }
}

/// Returns the conditions that block at least one action.
fn blocking_conditions(
    items: &OpenItems,
    policy: &Policy,
    group: &str,
    now: DateTime<Utc>,
) -> Vec<String> {
    let limits = policy.limits_of(group);
    let findings = blocks::evaluate(&items.measures(now), limits, &policy.conditions);
    let blocking = findings.iter().filter(|finding| !finding.blocked.is_empty());
    let names: BTreeSet<String> =
        blocking.map(|finding| finding.condition.id.to_string()).collect();
    names.into_iter().collect()
}

type OpenItemsByPatron = BTreeMap<Uuid, OpenItems>;

/// Loads the open items of `users`: the current items first, then the target items.
async fn load_open_items(
    tx: &mut Tx,
    context: &RebuildContext,
    users: &[Uuid],
) -> Result<(OpenItemsByPatron, OpenItemsByPatron), RebuildError> {
    let schema = &context.tenant.schema;
    let state = load_complete_shadow(tx, context).await?;
    let mut subjects = rows::open_subjects(tx, schema, users).await?;
    let differing = differences::list_significant(tx, schema, context.id, users).await?;
    subjects.extend(differing.iter());
    subjects.sort();
    subjects.dedup();
    let differing_ids: BTreeSet<Uuid> = differing.iter().map(|(subject, _)| *subject).collect();
    let (loans, fees) = split_loans_and_fees(&subjects);
    let targets = TargetState::load(tx, context, &state, &loans, &fees).await?;
    let (mut before, mut after) = (OpenItemsByPatron::new(), OpenItemsByPatron::new());
    for (id, pair) in &targets.loans {
        let current_loan = pair.current.open_loan();
        // A row without a significant difference counts the same before and after the rebuild.
        let target_loan =
            if differing_ids.contains(id) { pair.target.open_loan() } else { current_loan };
        for (open, items) in [(current_loan, &mut before), (target_loan, &mut after)] {
            if let Some(open) = open {
                items.entry(open.user).or_default().loans.insert(*id, open);
            }
        }
    }
    for (id, pair) in &targets.fees {
        let current_fee = pair.current.open_fee();
        let target_fee =
            if differing_ids.contains(id) { pair.target.open_fee() } else { current_fee };
        for (open, items) in [(current_fee, &mut before), (target_fee, &mut after)] {
            if let Some(open) = open {
                items.entry(open.user).or_default().fees.insert(*id, open);
            }
        }
    }
    Ok((before, after))
}
