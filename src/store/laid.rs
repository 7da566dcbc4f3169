//! What a source says on its way into a shadow: appended as it comes, since most of it is said whole, and put
//! together where it was not once all was read.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    Error, Schema, Statement, Tx,
    merge::{self, FeeColumns, LoanColumns},
    patrons, rows,
};
use crate::patron::{Fee, Loan, Said};

/// How far was pruned holds for all rows of a shadow.
const LAY_LOANS: Statement = Statement::new(
    "insert into {schema}.loan (
       loan_id, check_out_stamp, check_out_user, check_out_due_date,
       grace_duration, grace_interval, grace_minutes, snapshot_stamp, snapshot_user,
       due_stamp, changed_due_date, changed_by_recall, lost_stamp, said_lost,
       claimed_stamp, said_claimed, closed_stamp, named_user, pruned_horizon, horizon)
     select x.*, pruned_before, coalesce(pruned_before, '')
       from unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::timestamptz[], $5::int4[], $6::text[],
                   $7::int8[], $8::bytea[], $9::uuid[], $10::bytea[], $11::timestamptz[],
                   $12::bool[], $13::bytea[], $14::bool[], $15::bytea[], $16::bool[],
                   $17::bytea[], $18::uuid[]) as x
      cross join {schema}.housekeeping",
);

const LAY_FEES: Statement = Statement::new(
    "insert into {schema}.fee_fine (
       fee_fine_id, balance_stamp, balance, loan_id, type_stamp, fee_fine_type_id,
       user_stamp, user_id, pruned_horizon, horizon)
     select x.*, pruned_before, coalesce(pruned_before, '')
       from unnest($1::uuid[], $2::bytea[], $3::numeric[], $4::uuid[], $5::bytea[], $6::uuid[], $7::bytea[],
                   $8::uuid[]) as x
      cross join {schema}.housekeeping",
);

const FIND: [Statement; 4] = [
    Statement::new("create index if not exists laid_loan on {schema}.loan (loan_id)"),
    Statement::new("create index if not exists laid_fee_fine on {schema}.fee_fine (fee_fine_id)"),
    Statement::new("analyze {schema}.loan"),
    Statement::new("analyze {schema}.fee_fine"),
];

const LOANS_IN_PARTS: Statement = Statement::new(
    "select loan_id from {schema}.loan where loan_id > $1
      group by loan_id having count(*) > 1 order by loan_id limit $2",
);

const FEES_IN_PARTS: Statement = Statement::new(
    "select fee_fine_id from {schema}.fee_fine where fee_fine_id > $1
      group by fee_fine_id having count(*) > 1 order by fee_fine_id limit $2",
);

/// What complete snapshots end, of a patron or of everybody.
const END: [Statement; 4] = [
    Statement::new(
        "update {schema}.loan l set horizon = greatest(h.horizon, h.loans_horizon)
           from {schema}.horizon h
          where h.user_id = l.user_id and l.is_open
            and greatest(l.check_out_stamp, l.snapshot_stamp) < greatest(h.horizon, h.loans_horizon)",
    ),
    Statement::new(
        "update {schema}.loan l set horizon = greatest(h.horizon, h.loans_horizon)
           from {schema}.horizon h
          where h.user_id = '00000000-0000-0000-0000-000000000000' and l.is_open
            and greatest(l.check_out_stamp, l.snapshot_stamp) < greatest(h.horizon, h.loans_horizon)",
    ),
    Statement::new(
        "update {schema}.fee_fine f set horizon = h.horizon from {schema}.horizon h
          where h.user_id = f.user_id and f.is_open and f.balance_stamp < h.horizon",
    ),
    Statement::new(
        "update {schema}.fee_fine f set horizon = h.horizon from {schema}.horizon h
          where h.user_id = '00000000-0000-0000-0000-000000000000' and f.is_open
            and f.balance_stamp < h.horizon",
    ),
];

pub(super) const STATEMENTS: &[&Statement] = &[
    &LAY_LOANS,
    &LAY_FEES,
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
    if loans.is_empty() {
        return Ok(());
    }
    let columns = LoanColumns::of(loans);
    let added = columns.bind(sqlx::query(shadow.sql(&LAY_LOANS))).execute(&mut **tx).await;
    added.map(|_| ()).map_err(Error::at("lay out loans"))
}

async fn add_fees(tx: &mut Tx, shadow: &Schema, fees: &BTreeMap<Uuid, Fee>) -> Result<(), Error> {
    if fees.is_empty() {
        return Ok(());
    }
    let columns = FeeColumns::of(fees);
    let added = columns.bind(sqlx::query(shadow.sql(&LAY_FEES))).execute(&mut **tx).await;
    added.map(|_| ()).map_err(Error::at("lay out fees/fines"))
}

/// Has what was laid out be found by its id, which is only worth its while once all is there.
pub async fn make_findable(tx: &mut Tx, shadow: &Schema) -> Result<(), Error> {
    for statement in &FIND {
        let made = sqlx::query(shadow.sql(statement)).execute(&mut **tx).await;
        made.map_err(Error::at("have what was laid out be found"))?;
    }
    Ok(())
}

/// Makes one row of those loans of which several were laid out, so many of them after an id. Gives the last.
pub async fn join_loans(
    tx: &mut Tx,
    shadow: &Schema,
    after: Uuid,
    most: i64,
) -> Result<Option<Uuid>, Error> {
    let ids = in_parts(tx, shadow, &LOANS_IN_PARTS, after, most).await?;
    let joined = rows::loans(tx, shadow, &ids).await?;
    rows::remove_loans(tx, shadow, &ids).await?;
    let joined = joined.into_iter().map(|(id, row)| (id, row.known)).collect();
    add_loans(tx, shadow, &joined).await?;
    Ok(ids.last().copied())
}

/// As [`join_loans`], of fees/fines.
pub async fn join_fees(
    tx: &mut Tx,
    shadow: &Schema,
    after: Uuid,
    most: i64,
) -> Result<Option<Uuid>, Error> {
    let ids = in_parts(tx, shadow, &FEES_IN_PARTS, after, most).await?;
    let joined = rows::fees(tx, shadow, &ids).await?;
    rows::remove_fees(tx, shadow, &ids).await?;
    let joined = joined.into_iter().map(|(id, row)| (id, row.known)).collect();
    add_fees(tx, shadow, &joined).await?;
    Ok(ids.last().copied())
}

async fn in_parts(
    tx: &mut Tx,
    shadow: &Schema,
    statement: &Statement,
    after: Uuid,
    most: i64,
) -> Result<Vec<Uuid>, Error> {
    let found = sqlx::query_scalar(shadow.sql(statement)).bind(after).bind(most);
    found.fetch_all(&mut **tx).await.map_err(Error::at("look what was laid out in parts"))
}

/// Ends what complete snapshots don't hold any more.
pub async fn end(tx: &mut Tx, shadow: &Schema) -> Result<(), Error> {
    for statement in &END {
        let ended = sqlx::query(shadow.sql(statement)).execute(&mut **tx).await;
        ended.map_err(Error::at("end what snapshots don't hold"))?;
    }
    Ok(())
}
