//! What a source says on its way into a shadow: appended as it comes, since most of it is said whole, and put
//! together where it was not once all was read.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    Error, Schema, Statement, Tx,
    columns::{FeeColumns, LoanColumns},
    copy::{Rows, Unwritable},
    merge, patrons, rows,
};
use crate::patron::{Fee, Loan, Said};

const COPY_LOANS: Statement = Statement::new(
    "copy {schema}.loan (
       loan_id, check_out_stamp, check_out_user, check_out_due_date,
       grace_duration, grace_interval, grace_minutes, snapshot_stamp, snapshot_user,
       due_stamp, changed_due_date, changed_by_recall, lost_stamp, said_lost,
       claimed_stamp, said_claimed, closed_stamp, named_user, pruned_horizon, horizon)
     from stdin (format binary)",
);

const COPY_FEES: Statement = Statement::new(
    "copy {schema}.fee_fine (
       fee_fine_id, balance_stamp, balance, loan_id, type_stamp, fee_fine_type_id,
       user_stamp, user_id, pruned_horizon, horizon)
     from stdin (format binary)",
);

const PRUNED: Statement = Statement::new("select pruned_before from {schema}.housekeeping");

/// What has just been copied has no statistics yet.
const FIND: [Statement; 4] = [
    Statement::new("create index if not exists laid_loan on {schema}.loan (loan_id)"),
    Statement::new("create index if not exists laid_fee_fine on {schema}.fee_fine (fee_fine_id)"),
    Statement::new("analyze {schema}.loan (loan_id)"),
    Statement::new("analyze {schema}.fee_fine (fee_fine_id)"),
];

const LOANS_IN_PARTS: Statement = Statement::new(
    "select loan_id from {schema}.loan group by loan_id having count(*) > 1 limit $1",
);

const FEES_IN_PARTS: Statement = Statement::new(
    "select fee_fine_id from {schema}.fee_fine group by fee_fine_id having count(*) > 1 limit $1",
);

/// What complete snapshots end, of a patron or of everybody.
const END: [Statement; 4] = [
    Statement::new(
        "update {schema}.loan l set horizon = h.horizon from {schema}.horizon h
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
        "update {schema}.fee_fine f set horizon = h.horizon from {schema}.horizon h
          where h.user_id = f.user_id and f.is_open and f.balance_stamp < h.horizon",
    ),
    Statement::new(
        "update {schema}.fee_fine f set horizon = h.horizon from {schema}.tenant_horizon h
          where f.is_open and f.balance_stamp < h.horizon",
    ),
];

pub(super) const STATEMENTS: &[&Statement] = &[
    &COPY_LOANS,
    &COPY_FEES,
    &PRUNED,
    &FIND[0],
    &FIND[1],
    &FIND[2],
    &FIND[3],
    &LOANS_IN_PARTS,
    &FEES_IN_PARTS,
    &END[0],
    &END[1],
    &END[2],
    &END[3],
];

/// Which of the tables.
#[derive(Debug, Clone, Copy)]
pub enum Laid {
    /// That of loans.
    Loans,
    /// That of fees/fines.
    Fees,
}

/// Appends what a source says.
pub async fn add(tx: &mut Tx, shadow: &Schema, said: &Said) -> Result<(), Error> {
    let Said { loans, fees, groups, no_loans_before } = said;
    if let Some(horizon) = no_loans_before {
        merge::keep_no_loans(tx, shadow, *horizon).await?;
    }
    add_loans(tx, shadow, loans).await?;
    add_fees(tx, shadow, fees).await?;
    if !groups.is_empty() {
        patrons::tell_groups(tx, shadow, groups).await?;
    }
    Ok(())
}

async fn add_loans(
    tx: &mut Tx,
    shadow: &Schema,
    loans: &BTreeMap<Uuid, Loan>,
) -> Result<(), Error> {
    let columns = LoanColumns::of(loans);
    let write = |n: usize, rows: &mut Rows| columns.write(n, rows);
    copy(tx, shadow, (&COPY_LOANS, 20), columns.len(), write).await
}

async fn add_fees(tx: &mut Tx, shadow: &Schema, fees: &BTreeMap<Uuid, Fee>) -> Result<(), Error> {
    let columns = FeeColumns::of(fees);
    let write = |n: usize, rows: &mut Rows| columns.write(n, rows);
    copy(tx, shadow, (&COPY_FEES, 10), columns.len(), write).await
}

/// Copies rows, each with how far was pruned, which holds for all of a shadow: the last two columns.
async fn copy(
    tx: &mut Tx,
    shadow: &Schema,
    (statement, columns): (&Statement, i16),
    many: usize,
    write: impl Fn(usize, &mut Rows) -> Result<(), Unwritable>,
) -> Result<(), Error> {
    if many == 0 {
        return Ok(());
    }
    let failed = || Error::at("lay out what a source says");
    let pruned: Option<Vec<u8>> =
        sqlx::query_scalar(shadow.sql(&PRUNED)).fetch_one(&mut **tx).await.map_err(failed())?;
    let mut rows = Rows::new(columns);
    for n in 0..many {
        rows.begin();
        write(n, &mut rows)
            .and_then(|()| rows.put(pruned.as_deref()))
            .and_then(|()| rows.put(pruned.as_deref().unwrap_or_default()))
            .map_err(|error| failed()(sqlx::Error::Encode(error)))?;
    }
    rows.send(tx, &shadow.sql(statement).0).await.map_err(failed())
}

/// Has what was laid out be found by its id, which is only worth its while once all is there.
pub async fn make_findable(tx: &mut Tx, shadow: &Schema) -> Result<(), Error> {
    for statement in &FIND {
        let made = sqlx::query(shadow.sql(statement)).execute(&mut **tx).await;
        made.map_err(Error::at("have what was laid out be found"))?;
    }
    Ok(())
}

/// What several rows were laid out of, at most so many.
pub async fn in_parts(
    tx: &mut Tx,
    shadow: &Schema,
    of: Laid,
    most: usize,
) -> Result<Vec<Uuid>, Error> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let statement = match of {
        Laid::Loans => &LOANS_IN_PARTS,
        Laid::Fees => &FEES_IN_PARTS,
    };
    let found = sqlx::query_scalar(shadow.sql(statement)).bind(most);
    found.fetch_all(&mut **tx).await.map_err(Error::at("look what was laid out in parts"))
}

/// Makes one row of each of these. They lie together in the index, which the planner doesn't know: it would read
/// all of the table for so many.
pub async fn join(tx: &mut Tx, shadow: &Schema, of: Laid, ids: &[Uuid]) -> Result<(), Error> {
    let by_index = sqlx::query("select set_config('enable_seqscan', 'off', true)");
    by_index.execute(&mut **tx).await.map_err(Error::at("have an index used"))?;
    match of {
        Laid::Loans => {
            let joined = rows::loans(tx, shadow, ids).await?;
            rows::remove_loans(tx, shadow, ids).await?;
            let joined = joined.into_iter().map(|(id, row)| (id, row.known)).collect();
            add_loans(tx, shadow, &joined).await
        }
        Laid::Fees => {
            let joined = rows::fees(tx, shadow, ids).await?;
            rows::remove_fees(tx, shadow, ids).await?;
            let joined = joined.into_iter().map(|(id, row)| (id, row.known)).collect();
            add_fees(tx, shadow, &joined).await
        }
    }
}

/// Ends what complete snapshots don't hold any more.
pub async fn end(tx: &mut Tx, shadow: &Schema) -> Result<(), Error> {
    for statement in &END {
        let ended = sqlx::query(shadow.sql(statement)).execute(&mut **tx).await;
        ended.map_err(Error::at("end what snapshots don't hold"))?;
    }
    Ok(())
}
