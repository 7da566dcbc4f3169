//! The merge in SQL. One statement applies the loans and fees/fines of a [`StateDelta`] to their rows and
//! adjusts the counters of the patrons.

use std::{collections::BTreeMap, ops::RangeInclusive};

use uuid::Uuid;

use super::{
    columns::{FeeColumns, LoanColumns},
    patrons,
};
use crate::{
    event::stamp::Horizon,
    patron::{Fee, Loan, Scope, StateDelta},
    store::{Error, Schema, Statement, Tx},
};

/// Merges registers, horizons and counters.
const MERGE: Statement = Statement::new(include_str!("merge.sql"));

/// If the tenant has no snapshot horizon, the insert sets `horizon` to the smallest value, before all
/// times.
const RECORD_LOANS_HORIZON: Statement = Statement::new(
    "insert into {schema}.tenant_horizon as t (horizon, loans_horizon) values ('\\x0000000000000000', $1)
     on conflict (singleton) do update set
       loans_horizon = greatest(t.loans_horizon, excluded.loans_horizon)",
);

/// Closes at most `$4` open loans of the patrons `$2` to `$3` that were opened before the horizon `$1`, and
/// returns their number. A row that is not open receives the horizon at its next write, before the row could
/// open.
const CLOSE_LOANS: Statement = Statement::new(
    "with ended as (
       update {schema}.loan set horizon = $1
        where loan_id in (
          select loan_id from {schema}.loan
           where is_open and user_id between $2 and $3
             and greatest(check_out_stamp, snapshot_stamp) < $1
           limit $4)
       returning user_id, lost, claimed_returned, recall
     ), delta as (
       select user_id, count(*) as loans,
              count(*) filter (where lost and not claimed_returned) as lost,
              count(*) filter (where claimed_returned) as claimed,
              count(*) filter (where recall and not claimed_returned) as recalled
         from ended group by user_id
     ), counters as (
       update {schema}.patron_counter p set
         version = p.version + 1,
         open_loans = p.open_loans - d.loans,
         lost_loans = p.lost_loans - d.lost,
         claimed_returned_loans = p.claimed_returned_loans - d.claimed,
         recalled_loans = p.recalled_loans - d.recalled
         from delta d where p.user_id = d.user_id
     )
     select count(*) from ended",
);

const CLOSE_FEES: Statement = Statement::new(
    "with ended as (
       update {schema}.fee_fine set horizon = $1
        where is_open and ($2::uuid is null or user_id = $2) and balance_stamp < $1
       returning user_id, balance
     ), delta as (
       select user_id, count(*) as fees, sum(balance) as balance from ended group by user_id
     )
     update {schema}.patron_counter p set
       version = p.version + 1,
       open_fees_fines = p.open_fees_fines - d.fees,
       fee_fine_balance = p.fee_fine_balance - d.balance
       from delta d where p.user_id = d.user_id",
);

/// Records the horizon of a complete snapshot of one patron, unless a newer horizon is stored. Returns the newer one.
const RECORD_PATRON_HORIZON: Statement = Statement::new(
    "insert into {schema}.patron_horizon as t (user_id, horizon) values ($1, $2)
     on conflict (user_id) do update set horizon = greatest(t.horizon, excluded.horizon)
     returning horizon",
);

/// Selects the patron of the `$2`-th open loan, counted in patron order from patron `$1`. An index alone
/// serves the query.
const SELECT_LAST_PATRON_OF_STEP: Statement = Statement::new(
    "select user_id from {schema}.loan where is_open and user_id >= $1
      order by user_id offset $2 - 1 limit 1",
);

pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &MERGE,
    &RECORD_LOANS_HORIZON,
    &RECORD_PATRON_HORIZON,
    &CLOSE_LOANS,
    &CLOSE_FEES,
    &SELECT_LAST_PATRON_OF_STEP,
];

/// Closes the loans that were opened before `horizon`, one step per call. A step processes the patrons
/// from `from` on, in id order, and about `loans_max` loans. Returns the patron at which the next step
/// starts, or `None` after the last.
///
/// Each step records the loans horizon permanently, so a later insert or update of an older loan closes
/// that loan too. A caller may repeat steps, and other transactions may write between steps. During a
/// step, the caller needs exclusive write access to the tenant's loans.
pub async fn close_loans_before(
    tx: &mut Tx,
    schema: &Schema,
    horizon: Horizon,
    from: Uuid,
    loans_max: usize,
) -> Result<Option<Uuid>, Error> {
    record_loans_horizon(tx, schema, horizon).await?;
    let limit = i64::try_from(loans_max.max(1)).unwrap_or(i64::MAX);
    let last: Option<Uuid> = sqlx::query_scalar(schema.sql(&SELECT_LAST_PATRON_OF_STEP))
        .bind(from)
        .bind(limit)
        .fetch_optional(&mut **tx)
        .await
        .map_err(Error::at("find the next loans to close"))?;
    let patrons = from..=last.unwrap_or(Uuid::max());
    let closed = close_loans_of(tx, schema, horizon, patrons, limit).await?;
    if closed >= limit {
        // The range may contain more open loans. The same step, repeated, finds them.
        return Ok(Some(from));
    }
    Ok(last.and_then(|last| last.as_u128().checked_add(1)).map(Uuid::from_u128))
}

/// Records that every loan opened before `horizon` is closed.
pub(in crate::store) async fn record_loans_horizon(
    tx: &mut Tx,
    schema: &Schema,
    horizon: Horizon,
) -> Result<(), Error> {
    let result = sqlx::query(schema.sql(&RECORD_LOANS_HORIZON)).bind(horizon.as_bytes());
    result
        .execute(&mut **tx)
        .await
        .map(|_| ())
        .map_err(Error::at("record the horizon of closed loans"))
}

/// Closes the open loans of one patron, or of all patrons, that were opened before the horizon of a
/// complete snapshot.
pub(in crate::store) async fn close_loans(
    tx: &mut Tx,
    schema: &Schema,
    of: Scope,
    horizon: Horizon,
) -> Result<(), Error> {
    let patrons = of.patron().map_or(Uuid::nil()..=Uuid::max(), |user| user..=user);
    close_loans_of(tx, schema, horizon, patrons, i64::MAX).await.map(|_| ())
}

/// Closes at most `loans_max` open loans of a range of patrons. Returns the number of closed loans.
async fn close_loans_of(
    tx: &mut Tx,
    schema: &Schema,
    horizon: Horizon,
    patrons: RangeInclusive<Uuid>,
    loans_max: i64,
) -> Result<i64, Error> {
    let closed = sqlx::query_scalar(schema.sql(&CLOSE_LOANS))
        .bind(horizon.as_bytes())
        .bind(patrons.start())
        .bind(patrons.end())
        .bind(loans_max)
        .fetch_one(&mut **tx)
        .await;
    closed.map_err(Error::at("close loans"))
}

/// Closes the open fees/fines of one patron, or of all patrons, that are older than the horizon of a
/// complete snapshot.
pub(in crate::store) async fn close_fees(
    tx: &mut Tx,
    schema: &Schema,
    of: Scope,
    horizon: Horizon,
) -> Result<(), Error> {
    let ended = sqlx::query(schema.sql(&CLOSE_FEES)).bind(horizon.as_bytes()).bind(of.patron());
    ended.execute(&mut **tx).await.map(|_| ()).map_err(Error::at("close fees/fines"))
}

/// Applies a complete snapshot of one patron: merges its loans and fees/fines, and closes the older ones that it
/// lacks. The caller needs exclusive write access to the tenant's rows.
pub async fn apply_patron_snapshot(
    tx: &mut Tx,
    schema: &Schema,
    user: Uuid,
    horizon: Horizon,
    snapshot: &StateDelta,
) -> Result<(), Error> {
    let step = "record the horizon of a patron's snapshot";
    let recorded: Vec<u8> = sqlx::query_scalar(schema.sql(&RECORD_PATRON_HORIZON))
        .bind(user)
        .bind(horizon.as_bytes())
        .fetch_one(&mut **tx)
        .await
        .map_err(Error::at(step))?;
    let horizon = Horizon::from_bytes(&recorded).unwrap_or(horizon);
    // The merge applies the recorded horizon to the rows that it writes.
    apply(tx, schema, snapshot).await?;
    close_loans(tx, schema, Scope::Patron(user), horizon).await?;
    close_fees(tx, schema, Scope::Patron(user), horizon).await
}

/// Applies a [`StateDelta`]. If the delta sets `loans_deleted_before`, the caller has already closed the
/// existing older loans with [`close_loans_before`].
pub async fn apply(tx: &mut Tx, schema: &Schema, delta: &StateDelta) -> Result<(), Error> {
    let StateDelta { loans, fees, groups, loans_deleted_before: no_loans_before } = delta;
    // The horizon is recorded first, so the horizon applies to the rows that the merge inserts.
    if let Some(horizon) = no_loans_before {
        record_loans_horizon(tx, schema, *horizon).await?;
    }
    if !loans.is_empty() || !fees.is_empty() {
        merge(tx, schema, loans, fees).await?;
    }
    if !groups.is_empty() {
        patrons::store_topic_groups(tx, schema, groups).await?;
    }
    Ok(())
}

/// Merges loans and fees/fines, folded to one entry per id. A `BTreeMap` makes every writer process the
/// rows in the same order.
pub async fn merge(
    tx: &mut Tx,
    schema: &Schema,
    loans: &BTreeMap<Uuid, Loan>,
    fees: &BTreeMap<Uuid, Fee>,
) -> Result<(), Error> {
    let (loans, fees) = (LoanColumns::new(loans), FeeColumns::new(fees));
    fees.bind(loans.bind(sqlx::query(schema.sql(&MERGE))))
        .execute(&mut **tx)
        .await
        .map_err(Error::at("merge loans and fees/fines"))?;
    Ok(())
}
