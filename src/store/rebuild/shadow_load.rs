//! Loading of a shadow. The entries of a source are appended on arrival, because most entries are
//! complete. After the end of reading, the entries that arrived in parts are merged.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    patron::{Fee, Loan, StateDelta},
    store::{
        Error, Schema, Statement, Tx,
        copy::{CopyBuffer, EncodeError},
        state::{
            columns::{FeeColumns, LoanColumns},
            merge, patrons, rows,
        },
    },
};

const COPY_LOANS: Statement = Statement::new(
    "copy {schema}.loan (
       loan_id, check_out_stamp, check_out_user, check_out_due_date,
       grace_duration, grace_interval, grace_minutes, snapshot_stamp, snapshot_user,
       due_stamp, changed_due_date, due_by_recall, lost_stamp, lost_value,
       claimed_stamp, claimed_value, closed_stamp, fallback_user, prune_horizon, horizon)
     from stdin (format binary)",
);

const COPY_FEES: Statement = Statement::new(
    "copy {schema}.fee_fine (
       fee_fine_id, balance_stamp, balance, loan_id, type_stamp, fee_fine_type_id,
       user_stamp, user_id, prune_horizon, horizon)
     from stdin (format binary)",
);

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

const SELECT_SPLIT_LOANS: Statement = Statement::new(
    "select loan_id from {schema}.loan group by loan_id having count(*) > 1 limit $1",
);

const SELECT_SPLIT_FEES: Statement = Statement::new(
    "select fee_fine_id from {schema}.fee_fine group by fee_fine_id having count(*) > 1 limit $1",
);

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
    &COPY_LOANS,
    &COPY_FEES,
    &SELECT_PRUNE_HORIZON,
    &CREATE_INDEXES[0],
    &CREATE_INDEXES[1],
    &CREATE_INDEXES[2],
    &CREATE_INDEXES[3],
    &SELECT_SPLIT_LOANS,
    &SELECT_SPLIT_FEES,
    &APPLY_HORIZONS[0],
    &APPLY_HORIZONS[1],
    &APPLY_HORIZONS[2],
    &APPLY_HORIZONS[3],
];

/// The table of a shadow to process.
#[derive(Debug, Clone, Copy)]
pub enum ShadowTable {
    /// The table of loans.
    Loans,
    /// The table of fees/fines.
    Fees,
}

/// Appends a [`StateDelta`] of the source to the shadow.
pub async fn append(tx: &mut Tx, shadow: &Schema, delta: &StateDelta) -> Result<(), Error> {
    let StateDelta { loans, fees, groups, loans_deleted_before: no_loans_before } = delta;
    if let Some(horizon) = no_loans_before {
        merge::record_loans_horizon(tx, shadow, *horizon).await?;
    }
    append_loans(tx, shadow, loans).await?;
    append_fees(tx, shadow, fees).await?;
    if !groups.is_empty() {
        patrons::store_topic_groups(tx, shadow, groups).await?;
    }
    Ok(())
}

async fn append_loans(
    tx: &mut Tx,
    shadow: &Schema,
    loans: &BTreeMap<Uuid, Loan>,
) -> Result<(), Error> {
    let columns = LoanColumns::from_loans(loans);
    let write = |n: usize, rows: &mut CopyBuffer| columns.write(n, rows);
    copy_rows(tx, shadow, (&COPY_LOANS, 20), columns.len(), write).await
}

async fn append_fees(
    tx: &mut Tx,
    shadow: &Schema,
    fees: &BTreeMap<Uuid, Fee>,
) -> Result<(), Error> {
    let columns = FeeColumns::from_fees(fees);
    let write = |n: usize, rows: &mut CopyBuffer| columns.write(n, rows);
    copy_rows(tx, shadow, (&COPY_FEES, 10), columns.len(), write).await
}

/// Copies rows. The last two columns contain the prune horizon, which is the same for all rows of a
/// shadow.
async fn copy_rows(
    tx: &mut Tx,
    shadow: &Schema,
    (statement, columns): (&Statement, i16),
    count: usize,
    write: impl Fn(usize, &mut CopyBuffer) -> Result<(), EncodeError>,
) -> Result<(), Error> {
    if count == 0 {
        return Ok(());
    }
    let failed = || Error::at("copy rows to a shadow");
    let pruned: Option<Vec<u8>> = sqlx::query_scalar(shadow.sql(&SELECT_PRUNE_HORIZON))
        .fetch_one(&mut **tx)
        .await
        .map_err(failed())?;
    let mut rows = CopyBuffer::new(columns);
    for n in 0..count {
        rows.begin_row();
        write(n, &mut rows)
            .and_then(|()| rows.push(pruned.as_deref()))
            .and_then(|()| rows.push(pruned.as_deref().unwrap_or_default()))
            .map_err(|error| failed()(sqlx::Error::Encode(error)))?;
    }
    rows.send(tx, &shadow.sql(statement).0).await.map_err(failed())
}

/// Creates the indexes by id after all rows are appended, because earlier indexes would slow the load.
pub async fn create_indexes(tx: &mut Tx, shadow: &Schema) -> Result<(), Error> {
    for statement in &CREATE_INDEXES {
        let made = sqlx::query(shadow.sql(statement)).execute(&mut **tx).await;
        made.map_err(Error::at("create the indexes of a shadow"))?;
    }
    Ok(())
}

/// Returns at most `most` ids with several rows.
pub async fn split_ids(
    tx: &mut Tx,
    shadow: &Schema,
    of: ShadowTable,
    most: usize,
) -> Result<Vec<Uuid>, Error> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let statement = match of {
        ShadowTable::Loans => &SELECT_SPLIT_LOANS,
        ShadowTable::Fees => &SELECT_SPLIT_FEES,
    };
    let found = sqlx::query_scalar(shadow.sql(statement)).bind(most);
    found.fetch_all(&mut **tx).await.map_err(Error::at("find the ids with several rows"))
}

/// Merges the rows of each id into one row. The ids are adjacent in the index, which the planner does not
/// know. The function disables sequential scans, because the planner would otherwise scan the whole
/// table.
pub async fn merge_parts(
    tx: &mut Tx,
    shadow: &Schema,
    of: ShadowTable,
    ids: &[Uuid],
) -> Result<(), Error> {
    let by_index = sqlx::query("select set_config('enable_seqscan', 'off', true)");
    by_index.execute(&mut **tx).await.map_err(Error::at("disable sequential scans"))?;
    match of {
        ShadowTable::Loans => {
            let joined = rows::load_loans(tx, shadow, ids).await?;
            rows::remove_loans(tx, shadow, ids).await?;
            let joined = joined.into_iter().map(|(id, row)| (id, row.state)).collect();
            append_loans(tx, shadow, &joined).await
        }
        ShadowTable::Fees => {
            let joined = rows::load_fees(tx, shadow, ids).await?;
            rows::remove_fees(tx, shadow, ids).await?;
            let joined = joined.into_iter().map(|(id, row)| (id, row.state)).collect();
            append_fees(tx, shadow, &joined).await
        }
    }
}

/// Closes the loans and fees/fines that complete snapshots no longer contain.
pub async fn apply_horizons(tx: &mut Tx, shadow: &Schema) -> Result<(), Error> {
    for statement in &APPLY_HORIZONS {
        let ended = sqlx::query(shadow.sql(statement)).execute(&mut **tx).await;
        ended.map_err(Error::at("close loans and fees/fines behind a snapshot horizon"))?;
    }
    Ok(())
}
