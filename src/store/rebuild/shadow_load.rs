//! Loading of a shadow. The entries of a source are appended on arrival, because most entries are
//! complete. After the end of reading, the entries that arrived in parts are merged.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    patron::{Fee, Loan, StateDelta},
    store::{
        Error, Schema, Statement, Tx,
        state::{
            merge, patrons,
            rows::{self, SubjectTable},
        },
    },
};

const SELECT_PRUNE_HORIZON: Statement =
    Statement::new("select prune_horizon from {schema}.housekeeping");

/// Creates indexes and statistics, because copied rows have no statistics yet.
const CREATE_INDEXES: [Statement; 4] = [
    Statement::new("create index if not exists shadow_loan_id on {schema}.loan (loan_id)"),
    Statement::new(
        "create index if not exists shadow_fee_fine_id on {schema}.fee_fine (fee_fine_id)",
    ),
    Statement::new("analyze {schema}.loan (loan_id)"),
    Statement::new("analyze {schema}.fee_fine (fee_fine_id)"),
];

/// Closes the loans and fees/fines that the complete snapshots of a patron or of the tenant no longer
/// contain.
const APPLY_HORIZONS: [Statement; 4] = [
    Statement::new(
        "update {schema}.loan l set horizon = h.horizon from {schema}.patron_horizon h
          where h.user_id = l.user_id and l.is_open
            and greatest(l.check_out_stamp, l.snapshot_stamp) < h.horizon",
    ),
    Statement::new(
        "update {schema}.loan l set horizon = greatest(h.horizon, h.loans_horizon)
           from {schema}.tenant_horizon h
          where l.is_open
            and greatest(l.check_out_stamp, l.snapshot_stamp) < greatest(h.horizon, h.loans_horizon)",
    ),
    Statement::new(
        "update {schema}.fee_fine f set horizon = h.horizon from {schema}.patron_horizon h
          where h.user_id = f.user_id and f.is_open and f.balance_stamp < h.horizon",
    ),
    Statement::new(
        "update {schema}.fee_fine f set horizon = h.horizon from {schema}.tenant_horizon h
          where f.is_open and f.balance_stamp < h.horizon",
    ),
];

pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &SELECT_PRUNE_HORIZON,
    &CREATE_INDEXES[0],
    &CREATE_INDEXES[1],
    &CREATE_INDEXES[2],
    &CREATE_INDEXES[3],
    &Loan::SELECT_SPLIT,
    &Fee::SELECT_SPLIT,
    &APPLY_HORIZONS[0],
    &APPLY_HORIZONS[1],
    &APPLY_HORIZONS[2],
    &APPLY_HORIZONS[3],
];

/// Appends a [`StateDelta`] of the source to the shadow.
pub async fn append(tx: &mut Tx, shadow: &Schema, delta: &StateDelta) -> Result<(), Error> {
    let StateDelta { loans, fees, groups, loans_deleted_before: no_loans_before } = delta;
    if let Some(horizon) = no_loans_before {
        merge::record_loans_horizon(tx, shadow, *horizon).await?;
    }
    append_rows(tx, shadow, loans).await?;
    append_rows(tx, shadow, fees).await?;
    if !groups.is_empty() {
        patrons::store_topic_groups(tx, shadow, groups).await?;
    }
    Ok(())
}

/// Appends rows with the prune horizon of the shadow.
async fn append_rows<T: SubjectTable>(
    tx: &mut Tx,
    shadow: &Schema,
    states: &BTreeMap<Uuid, T>,
) -> Result<(), Error> {
    if states.is_empty() {
        return Ok(());
    }
    let pruned: Option<Vec<u8>> = sqlx::query_scalar(shadow.sql(&SELECT_PRUNE_HORIZON))
        .fetch_one(&mut **tx)
        .await
        .map_err(Error::at("read the prune horizon of a shadow"))?;
    let pruned = pruned.as_deref();
    let horizon = pruned.unwrap_or_default();
    let rows = rows::encode(states.iter().map(|(id, state)| (*id, state, pruned, horizon)))?;
    rows::copy::<T>(tx, shadow, rows).await
}

/// Creates the indexes by id after all rows are appended, because earlier indexes would slow the load.
pub async fn create_indexes(tx: &mut Tx, shadow: &Schema) -> Result<(), Error> {
    for statement in &CREATE_INDEXES {
        let made = sqlx::query(shadow.sql(statement)).execute(&mut **tx).await;
        made.map_err(Error::at("create the indexes of a shadow"))?;
    }
    Ok(())
}

/// Returns at most `ids_max` ids with several rows.
pub async fn split_ids<T: SubjectTable>(
    tx: &mut Tx,
    shadow: &Schema,
    ids_max: usize,
) -> Result<Vec<Uuid>, Error> {
    let limit = i64::try_from(ids_max).unwrap_or(i64::MAX);
    let found = sqlx::query_scalar(shadow.sql(&T::SELECT_SPLIT)).bind(limit);
    found.fetch_all(&mut **tx).await.map_err(Error::at("find the ids with several rows"))
}

/// Merges the rows of each id into one row. The ids are adjacent in the index, which the planner does not
/// know. The function disables sequential scans, because the planner would otherwise scan the whole
/// table.
pub async fn merge_parts<T: SubjectTable>(
    tx: &mut Tx,
    shadow: &Schema,
    ids: &[Uuid],
) -> Result<(), Error> {
    let by_index = sqlx::query("select set_config('enable_seqscan', 'off', true)");
    by_index.execute(&mut **tx).await.map_err(Error::at("disable sequential scans"))?;
    let merged = rows::load::<T>(tx, shadow, ids).await?;
    rows::delete::<T>(tx, shadow, ids).await?;
    let states = merged.into_iter().map(|(id, row)| (id, row.state)).collect();
    append_rows(tx, shadow, &states).await
}

/// Closes the loans and fees/fines that complete snapshots no longer contain.
pub async fn apply_horizons(tx: &mut Tx, shadow: &Schema) -> Result<(), Error> {
    for statement in &APPLY_HORIZONS {
        let ended = sqlx::query(shadow.sql(statement)).execute(&mut **tx).await;
        ended.map_err(Error::at("close loans and fees/fines behind a snapshot horizon"))?;
    }
    Ok(())
}
