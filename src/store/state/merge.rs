//! The merge in SQL. One statement applies the loans and fees/fines of a [`StateDelta`] to their rows and
//! adjusts the counters of the patrons.

use std::collections::BTreeMap;

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
///
/// Each register stores the value with the greater stamp. The tables generate the derived columns. The
/// `previous_` columns receive the values of the old row. The counters change by the difference between
/// the old and the new row. The statement writes rows in key order, so two writers cannot deadlock.
///
/// The prune horizon applies only to the insertion of a row, so an older loan that is already open
/// remains open. The statement looks up the snapshot horizons for the owner after the merge, so the
/// division into batches has no influence on the result.
const MERGE: Statement = Statement::new(
    "with merged_loans as (
       insert into {schema}.loan as t (
         loan_id, check_out_stamp, check_out_user, check_out_due_date,
         grace_duration, grace_interval, grace_minutes, snapshot_stamp, snapshot_user,
         due_stamp, changed_due_date, due_by_recall, lost_stamp, lost_value,
         claimed_stamp, claimed_value, closed_stamp, fallback_user, prune_horizon, horizon)
       select x.*, prune.horizon, coalesce(greatest(h.horizon, prune.horizon, snapshot.horizon), '')
         from unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::timestamptz[], $5::int4[], $6::text[],
                     $7::int8[], $8::bytea[], $9::uuid[], $10::bytea[], $11::timestamptz[],
                     $12::bool[], $13::bytea[], $14::bool[], $15::bytea[], $16::bool[],
                     $17::bytea[], $18::uuid[])
           as x (loan_id, check_out_stamp, check_out_user, check_out_due_date, grace_duration,
                 grace_interval, grace_minutes, snapshot_stamp, snapshot_user, due_stamp,
                 changed_due_date, due_by_recall, lost_stamp, lost_value, claimed_stamp,
                 claimed_value, closed_stamp, fallback_user)
         left join {schema}.patron_horizon h on h.user_id =
              case when x.snapshot_stamp > coalesce(x.check_out_stamp, '') then x.snapshot_user
                   else x.check_out_user end
        cross join (select (select prune_horizon from {schema}.housekeeping) as horizon) prune
        cross join (select (select greatest(horizon, loans_horizon)
                                    from {schema}.tenant_horizon) as horizon) snapshot
        order by x.loan_id
       on conflict (loan_id) do update set
         check_out_user = case when excluded.check_out_stamp > coalesce(t.check_out_stamp, '')
                               then excluded.check_out_user else t.check_out_user end,
         check_out_due_date = case when excluded.check_out_stamp > coalesce(t.check_out_stamp, '')
                               then excluded.check_out_due_date else t.check_out_due_date end,
         grace_duration = case when excluded.check_out_stamp > coalesce(t.check_out_stamp, '')
                               then excluded.grace_duration else t.grace_duration end,
         grace_interval = case when excluded.check_out_stamp > coalesce(t.check_out_stamp, '')
                               then excluded.grace_interval else t.grace_interval end,
         grace_minutes = case when excluded.check_out_stamp > coalesce(t.check_out_stamp, '')
                               then excluded.grace_minutes else t.grace_minutes end,
         snapshot_user = case when excluded.snapshot_stamp > coalesce(t.snapshot_stamp, '')
                               then excluded.snapshot_user else t.snapshot_user end,
         changed_due_date = case when excluded.due_stamp > coalesce(t.due_stamp, '')
                               then excluded.changed_due_date else t.changed_due_date end,
         due_by_recall = case when excluded.due_stamp > coalesce(t.due_stamp, '')
                               then excluded.due_by_recall else t.due_by_recall end,
         lost_value = case when excluded.lost_stamp > coalesce(t.lost_stamp, '')
                               then excluded.lost_value else t.lost_value end,
         claimed_value = case when excluded.claimed_stamp > coalesce(t.claimed_stamp, '')
                               then excluded.claimed_value else t.claimed_value end,
         check_out_stamp = greatest(t.check_out_stamp, excluded.check_out_stamp),
         snapshot_stamp = greatest(t.snapshot_stamp, excluded.snapshot_stamp),
         due_stamp = greatest(t.due_stamp, excluded.due_stamp),
         lost_stamp = greatest(t.lost_stamp, excluded.lost_stamp),
         claimed_stamp = greatest(t.claimed_stamp, excluded.claimed_stamp),
         closed_stamp = greatest(t.closed_stamp, excluded.closed_stamp),
         fallback_user = greatest(t.fallback_user, excluded.fallback_user),
         horizon = coalesce(greatest(t.prune_horizon,
           (select greatest(horizon, loans_horizon) from {schema}.tenant_horizon),
           case when exists (select from {schema}.patron_horizon)
                then (select h.horizon from {schema}.patron_horizon h where h.user_id =
                        case when greatest(t.snapshot_stamp, excluded.snapshot_stamp)
                                  > coalesce(greatest(t.check_out_stamp, excluded.check_out_stamp), '')
                             then case when excluded.snapshot_stamp > coalesce(t.snapshot_stamp, '')
                                       then excluded.snapshot_user else t.snapshot_user end
                             else case when excluded.check_out_stamp > coalesce(t.check_out_stamp, '')
                                       then excluded.check_out_user else t.check_out_user end
                        end) end), ''),
         previous_user = t.user_id,
         previous_open = t.is_open,
         previous_lost = t.is_open and t.lost and not t.claimed_returned,
         previous_claimed = t.is_open and t.claimed_returned,
         previous_recall = t.is_open and t.recall and not t.claimed_returned
       returning t.user_id, t.is_open, t.lost, t.claimed_returned, t.recall, t.previous_user,
         t.previous_open, t.previous_lost, t.previous_claimed, t.previous_recall
     ), merged_fees as (
       insert into {schema}.fee_fine as t (
         fee_fine_id, balance_stamp, balance, loan_id, type_stamp, fee_fine_type_id,
         user_stamp, user_id, prune_horizon, horizon)
       select x.*, prune.horizon, coalesce(greatest(h.horizon, prune.horizon, snapshot.horizon), '')
         from unnest($19::uuid[], $20::bytea[], $21::numeric[], $22::uuid[], $23::bytea[],
                     $24::uuid[], $25::bytea[], $26::uuid[])
           as x (fee_fine_id, balance_stamp, balance, loan_id, type_stamp, fee_fine_type_id,
                 user_stamp, user_id)
         left join {schema}.patron_horizon h on h.user_id = x.user_id
        cross join (select (select prune_horizon from {schema}.housekeeping) as horizon) prune
        cross join (select (select horizon from {schema}.tenant_horizon) as horizon) snapshot
        order by x.fee_fine_id
       on conflict (fee_fine_id) do update set
         balance = case when excluded.balance_stamp > coalesce(t.balance_stamp, '')
                        then excluded.balance else t.balance end,
         loan_id = case when excluded.balance_stamp > coalesce(t.balance_stamp, '')
                        then excluded.loan_id else t.loan_id end,
         fee_fine_type_id = case when excluded.type_stamp > coalesce(t.type_stamp, '')
                        then excluded.fee_fine_type_id else t.fee_fine_type_id end,
         user_id = case when excluded.user_stamp > coalesce(t.user_stamp, '')
                        then excluded.user_id else t.user_id end,
         balance_stamp = greatest(t.balance_stamp, excluded.balance_stamp),
         type_stamp = greatest(t.type_stamp, excluded.type_stamp),
         user_stamp = greatest(t.user_stamp, excluded.user_stamp),
         horizon = coalesce(greatest(t.prune_horizon,
           (select horizon from {schema}.tenant_horizon),
           case when exists (select from {schema}.patron_horizon)
                then (select h.horizon from {schema}.patron_horizon h where h.user_id =
                        case when excluded.user_stamp > coalesce(t.user_stamp, '')
                             then excluded.user_id else t.user_id end) end), ''),
         previous_user = t.user_id,
         previous_open = t.is_open,
         previous_balance = case when t.is_open then t.balance else 0 end
       returning t.user_id, t.is_open, t.balance, t.previous_user, t.previous_open,
         t.previous_balance
     ), delta as (
       select user_id, 1 as loans, (lost and not claimed_returned)::int as lost,
              claimed_returned::int as claimed, (recall and not claimed_returned)::int as recalled,
              0 as fees, 0::numeric as balance
         from merged_loans where is_open
       union all
       select previous_user, -1, -previous_lost::int, -previous_claimed::int, -previous_recall::int, 0, 0
         from merged_loans where previous_open
       union all
       select user_id, 0, 0, 0, 0, 1, balance from merged_fees where is_open
       union all
       select previous_user, 0, 0, 0, 0, -1, -previous_balance from merged_fees where previous_open
     )
     insert into {schema}.patron_counter as p (
       user_id, open_loans, lost_loans, claimed_returned_loans, recalled_loans, open_fees_fines,
       fee_fine_balance)
     select user_id, sum(loans), sum(lost), sum(claimed), sum(recalled), sum(fees), sum(balance)
       from delta group by user_id order by user_id
     on conflict (user_id) do update set
       version = p.version + 1,
       open_loans = p.open_loans + excluded.open_loans,
       lost_loans = p.lost_loans + excluded.lost_loans,
       claimed_returned_loans = p.claimed_returned_loans + excluded.claimed_returned_loans,
       recalled_loans = p.recalled_loans + excluded.recalled_loans,
       open_fees_fines = p.open_fees_fines + excluded.open_fees_fines,
       fee_fine_balance = p.fee_fine_balance + excluded.fee_fine_balance",
);

/// If the tenant has no snapshot horizon, the insert sets `horizon` to the smallest value, before all
/// times.
const RECORD_LOANS_HORIZON: Statement = Statement::new(
    "insert into {schema}.tenant_horizon as t (horizon, loans_horizon) values ('\\x0000000000000000', $1)
     on conflict (singleton) do update set
       loans_horizon = greatest(t.loans_horizon, excluded.loans_horizon)",
);

/// A row that is not open receives the horizon at its next write, before the row could open.
const CLOSE_LOANS: Statement = Statement::new(
    "with ended as (
       update {schema}.loan set horizon = $1
        where is_open and ($2::uuid is null or user_id = $2)
          and greatest(check_out_stamp, snapshot_stamp) < $1
       returning user_id, lost, claimed_returned, recall
     ), delta as (
       select user_id, count(*) as loans,
              count(*) filter (where lost and not claimed_returned) as lost,
              count(*) filter (where claimed_returned) as claimed,
              count(*) filter (where recall and not claimed_returned) as recalled
         from ended group by user_id
     )
     update {schema}.patron_counter p set
       version = p.version + 1,
       open_loans = p.open_loans - d.loans,
       lost_loans = p.lost_loans - d.lost,
       claimed_returned_loans = p.claimed_returned_loans - d.claimed,
       recalled_loans = p.recalled_loans - d.recalled
       from delta d where p.user_id = d.user_id",
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

/// Selects the patron of the `$2`-th open loan, counted in patron order from patron `$1`. An index alone
/// serves the query.
const SELECT_LAST_PATRON_OF_STEP: Statement = Statement::new(
    "select user_id from {schema}.loan where is_open and user_id >= $1
      order by user_id offset $2 - 1 limit 1",
);

/// Does the work of [`CLOSE_LOANS`] for a range of patrons and at most `$4` loans. Returns the number of
/// closed loans.
const CLOSE_LOANS_OF_STEP: Statement = Statement::new(
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
     ), counted as (
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

pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &MERGE,
    &RECORD_LOANS_HORIZON,
    &CLOSE_LOANS,
    &CLOSE_FEES,
    &SELECT_LAST_PATRON_OF_STEP,
    &CLOSE_LOANS_OF_STEP,
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
    let failed = || Error::at("close the next loans");
    let last: Option<Uuid> = sqlx::query_scalar(schema.sql(&SELECT_LAST_PATRON_OF_STEP))
        .bind(from)
        .bind(limit)
        .fetch_optional(&mut **tx)
        .await
        .map_err(failed())?;
    let ended: i64 = sqlx::query_scalar(schema.sql(&CLOSE_LOANS_OF_STEP))
        .bind(horizon.as_bytes())
        .bind(from)
        .bind(last.unwrap_or(Uuid::max()))
        .bind(limit)
        .fetch_one(&mut **tx)
        .await
        .map_err(failed())?;
    if ended >= limit {
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
    let ended = sqlx::query(schema.sql(&CLOSE_LOANS)).bind(horizon.as_bytes()).bind(of.patron());
    ended.execute(&mut **tx).await.map(|_| ()).map_err(Error::at("close loans"))
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
    let (loans, fees) = (LoanColumns::from_loans(loans), FeeColumns::from_fees(fees));
    fees.bind(loans.bind(sqlx::query(schema.sql(&MERGE))))
        .execute(&mut **tx)
        .await
        .map_err(Error::at("merge loans and fees/fines"))?;
    Ok(())
}
