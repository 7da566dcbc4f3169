//! The merge in SQL: what a batch says of loans and fees/fines, into their rows, and the counters of
//! the patrons they belong to, in one statement.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::{Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx, patrons};
use crate::{
    event::{Stamp, stamp::Horizon},
    patron::{Fee, Loan, Said},
};

/// The rows. Parameters are the columns of [`LoanColumns`] and [`FeeColumns`].
macro_rules! rows {
    () => {
        "with said_of_loans as (
       insert into {schema}.loan as t (
         loan_id, check_out_stamp, check_out_user, check_out_due_date,
         grace_duration, grace_interval, grace_minutes, snapshot_stamp, snapshot_user,
         due_stamp, changed_due_date, changed_by_recall, lost_stamp, said_lost,
         claimed_stamp, said_claimed, closed_stamp, named_user, pruned_horizon, horizon)
       select x.*, pruned.horizon, coalesce(greatest(h.horizon, pruned.horizon, spoken.horizon), '')
         from unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::timestamptz[], $5::int4[], $6::text[],
                     $7::int8[], $8::bytea[], $9::uuid[], $10::bytea[], $11::timestamptz[],
                     $12::bool[], $13::bytea[], $14::bool[], $15::bytea[], $16::bool[],
                     $17::bytea[], $18::uuid[])
           as x (loan_id, check_out_stamp, check_out_user, check_out_due_date, grace_duration,
                 grace_interval, grace_minutes, snapshot_stamp, snapshot_user, due_stamp,
                 changed_due_date, changed_by_recall, lost_stamp, said_lost, claimed_stamp,
                 said_claimed, closed_stamp, named_user)
         left join {schema}.horizon h on h.user_id =
              case when x.snapshot_stamp > coalesce(x.check_out_stamp, '') then x.snapshot_user
                   else x.check_out_user end
        cross join (select (select pruned_before from {schema}.housekeeping) as horizon) pruned
        cross join (select (select greatest(horizon, loans_horizon) from {schema}.horizon
                     where user_id = '00000000-0000-0000-0000-000000000000') as horizon) spoken
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
         changed_by_recall = case when excluded.due_stamp > coalesce(t.due_stamp, '')
                               then excluded.changed_by_recall else t.changed_by_recall end,
         said_lost = case when excluded.lost_stamp > coalesce(t.lost_stamp, '')
                               then excluded.said_lost else t.said_lost end,
         said_claimed = case when excluded.claimed_stamp > coalesce(t.claimed_stamp, '')
                               then excluded.said_claimed else t.said_claimed end,
         check_out_stamp = greatest(t.check_out_stamp, excluded.check_out_stamp),
         snapshot_stamp = greatest(t.snapshot_stamp, excluded.snapshot_stamp),
         due_stamp = greatest(t.due_stamp, excluded.due_stamp),
         lost_stamp = greatest(t.lost_stamp, excluded.lost_stamp),
         claimed_stamp = greatest(t.claimed_stamp, excluded.claimed_stamp),
         closed_stamp = greatest(t.closed_stamp, excluded.closed_stamp),
         named_user = greatest(t.named_user, excluded.named_user),
         horizon = coalesce(greatest(t.pruned_horizon,
           (select greatest(horizon, loans_horizon) from {schema}.horizon
             where user_id = '00000000-0000-0000-0000-000000000000'),
           case when (select count(*) > 0 from {schema}.horizon
                       where user_id <> '00000000-0000-0000-0000-000000000000')
                then (select h.horizon from {schema}.horizon h where h.user_id =
                        case when greatest(t.snapshot_stamp, excluded.snapshot_stamp)
                                  > coalesce(greatest(t.check_out_stamp, excluded.check_out_stamp), '')
                             then case when excluded.snapshot_stamp > coalesce(t.snapshot_stamp, '')
                                       then excluded.snapshot_user else t.snapshot_user end
                             else case when excluded.check_out_stamp > coalesce(t.check_out_stamp, '')
                                       then excluded.check_out_user else t.check_out_user end
                        end) end), ''),
         counted_user = t.user_id,
         counted_open = t.is_open,
         counted_lost = t.is_open and t.lost and not t.claimed_returned,
         counted_claimed = t.is_open and t.claimed_returned,
         counted_recall = t.is_open and t.recall and not t.claimed_returned
       returning t.user_id, t.is_open, t.lost, t.claimed_returned, t.recall, t.counted_user,
         t.counted_open, t.counted_lost, t.counted_claimed, t.counted_recall
     ), said_of_fees as (
       insert into {schema}.fee_fine as t (
         fee_fine_id, balance_stamp, balance, loan_id, type_stamp, fee_fine_type_id,
         user_stamp, user_id, pruned_horizon, horizon)
       select x.*, pruned.horizon, coalesce(greatest(h.horizon, pruned.horizon, spoken.horizon), '')
         from unnest($19::uuid[], $20::bytea[], $21::numeric[], $22::uuid[], $23::bytea[],
                     $24::uuid[], $25::bytea[], $26::uuid[])
           as x (fee_fine_id, balance_stamp, balance, loan_id, type_stamp, fee_fine_type_id,
                 user_stamp, user_id)
         left join {schema}.horizon h on h.user_id = x.user_id
        cross join (select (select pruned_before from {schema}.housekeeping) as horizon) pruned
        cross join (select (select horizon from {schema}.horizon
                     where user_id = '00000000-0000-0000-0000-000000000000') as horizon) spoken
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
         horizon = coalesce(greatest(t.pruned_horizon,
           (select horizon from {schema}.horizon where user_id = '00000000-0000-0000-0000-000000000000'),
           case when (select count(*) > 0 from {schema}.horizon
                       where user_id <> '00000000-0000-0000-0000-000000000000')
                then (select h.horizon from {schema}.horizon h where h.user_id =
                        case when excluded.user_stamp > coalesce(t.user_stamp, '')
                             then excluded.user_id else t.user_id end) end), ''),
         counted_user = t.user_id,
         counted_open = t.is_open,
         counted_balance = case when t.is_open then t.balance else 0 end
       returning t.user_id, t.is_open, t.balance, t.counted_user, t.counted_open,
         t.counted_balance"
    };
}

/// Registers take the greater stamp; what follows is generated by the tables; the counters move by the
/// difference between what a row counted for before (the `counted_` columns, set from the old row) and
/// what it counts for now. Rows go in key order, so that two writers can't deadlock. How far was pruned
/// holds where a row is made, and only there: a loan that is open since before stays open. How far complete
/// snapshots spoke is looked up for whoever is the owner after the merge, so that batching can't matter.
const MERGE: Statement = Statement::new(concat!(
    rows!(),
    "), delta as (
       select user_id, 1 as loans, (lost and not claimed_returned)::int as lost,
              claimed_returned::int as claimed, (recall and not claimed_returned)::int as recalled,
              0 as fees, 0::numeric as balance
         from said_of_loans where is_open
       union all
       select counted_user, -1, -counted_lost::int, -counted_claimed::int, -counted_recall::int, 0, 0
         from said_of_loans where counted_open
       union all
       select user_id, 0, 0, 0, 0, 1, balance from said_of_fees where is_open
       union all
       select counted_user, 0, 0, 0, 0, -1, -counted_balance from said_of_fees where counted_open
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
       fee_fine_balance = p.fee_fine_balance + excluded.fee_fine_balance"
));

/// Into a shadow, where nobody counts.
const LAY_OUT: Statement = Statement::new(concat!(rows!(), ") select 1"));

/// A tenant of whom no snapshot spoke has a horizon before all times.
const KEEP_NO_LOANS: Statement = Statement::new(
    "insert into {schema}.horizon as t (user_id, horizon, loans_horizon)
     values ('00000000-0000-0000-0000-000000000000', '\\x0000000000000000', $1)
     on conflict (user_id) do update set
       loans_horizon = greatest(t.loans_horizon, excluded.loans_horizon)",
);

/// A row that isn't open takes the horizon when it is written to the next time, before it could open.
const END_LOANS: Statement = Statement::new(
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

const END_FEES: Statement = Statement::new(
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

pub(super) const STATEMENTS: &[&Statement] =
    &[&MERGE, &LAY_OUT, &KEEP_NO_LOANS, &END_LOANS, &END_FEES];

/// Ends all loans that were opened before: those that are there, and those of which only old events are
/// still to come. Nobody else may write the tenant's loans meanwhile.
async fn end_loans_before(tx: &mut Tx, schema: &Schema, horizon: Horizon) -> Result<(), Error> {
    let kept = sqlx::query(schema.sql(&KEEP_NO_LOANS)).bind(horizon.as_bytes());
    kept.execute(&mut **tx).await.map_err(Error::at("end all loans"))?;
    end_loans(tx, schema, None, horizon).await
}

/// Ends the loans of a patron, or of all, that were opened before, as a complete snapshot says.
pub(super) async fn end_loans(
    tx: &mut Tx,
    schema: &Schema,
    user: Option<Uuid>,
    horizon: Horizon,
) -> Result<(), Error> {
    let ended = sqlx::query(schema.sql(&END_LOANS)).bind(horizon.as_bytes()).bind(user);
    ended.execute(&mut **tx).await.map(|_| ()).map_err(Error::at("end loans"))
}

/// The same of fees/fines.
pub(super) async fn end_fees(
    tx: &mut Tx,
    schema: &Schema,
    user: Option<Uuid>,
    horizon: Horizon,
) -> Result<(), Error> {
    let ended = sqlx::query(schema.sql(&END_FEES)).bind(horizon.as_bytes()).bind(user);
    ended.execute(&mut **tx).await.map(|_| ()).map_err(Error::at("end fees/fines"))
}

/// Merges all that a batch says.
pub async fn hear(tx: &mut Tx, schema: &Schema, said: &Said) -> Result<(), Error> {
    put(tx, schema, said, &MERGE).await
}

/// Merges what a source says into a shadow. Its counters are nobody's.
pub async fn lay_out(tx: &mut Tx, shadow: &Schema, said: &Said) -> Result<(), Error> {
    put(tx, shadow, said, &LAY_OUT).await
}

async fn put(
    tx: &mut Tx,
    schema: &Schema,
    said: &Said,
    statement: &Statement,
) -> Result<(), Error> {
    let Said { loans, fees, groups, no_loans_before } = said;
    // First, so that it holds for the rows that are made now.
    if let Some(horizon) = no_loans_before {
        end_loans_before(tx, schema, *horizon).await?;
    }
    if !loans.is_empty() || !fees.is_empty() {
        put_rows(tx, schema, loans, fees, statement).await?;
    }
    if !groups.is_empty() {
        patrons::tell_groups(tx, schema, groups).await?;
    }
    Ok(())
}

/// Merges what is said of loans and fees/fines, folded to one entry each (a `BTreeMap`, so that every
/// writer goes through the rows in the same order).
pub async fn merge(
    tx: &mut Tx,
    schema: &Schema,
    loans: &BTreeMap<Uuid, Loan>,
    fees: &BTreeMap<Uuid, Fee>,
) -> Result<(), Error> {
    put_rows(tx, schema, loans, fees, &MERGE).await
}

async fn put_rows(
    tx: &mut Tx,
    schema: &Schema,
    loans: &BTreeMap<Uuid, Loan>,
    fees: &BTreeMap<Uuid, Fee>,
    statement: &Statement,
) -> Result<(), Error> {
    let (loans, fees) = (LoanColumns::of(loans), FeeColumns::of(fees));
    fees.bind(loans.bind(sqlx::query(schema.sql(statement))))
        .execute(&mut **tx)
        .await
        .map_err(Error::at("merge loans and fees/fines"))?;
    Ok(())
}

type Filled<'q> = Query<'q, Postgres, PgArguments>;

/// The columns of many loans, one push each per loan, so that they are of one length: PostgreSQL would
/// fill a shorter array up with nulls and say nothing.
#[derive(Default)]
pub(super) struct LoanColumns<'a> {
    loan_id: Vec<Uuid>,
    check_out_stamp: Vec<Option<&'a [u8]>>,
    check_out_user: Vec<Option<Uuid>>,
    check_out_due_date: Vec<Option<DateTime<Utc>>>,
    grace_duration: Vec<Option<i32>>,
    grace_interval: Vec<Option<&'static str>>,
    grace_minutes: Vec<Option<i64>>,
    snapshot_stamp: Vec<Option<&'a [u8]>>,
    snapshot_user: Vec<Option<Uuid>>,
    due_stamp: Vec<Option<&'a [u8]>>,
    changed_due_date: Vec<Option<DateTime<Utc>>>,
    changed_by_recall: Vec<Option<bool>>,
    lost_stamp: Vec<Option<&'a [u8]>>,
    said_lost: Vec<Option<bool>>,
    claimed_stamp: Vec<Option<&'a [u8]>>,
    said_claimed: Vec<Option<bool>>,
    closed_stamp: Vec<Option<&'a [u8]>>,
    named_user: Vec<Option<Uuid>>,
}

impl<'a> LoanColumns<'a> {
    pub(super) fn of(loans: &'a BTreeMap<Uuid, Loan>) -> Self {
        let mut columns = Self::default();
        for (id, loan) in loans {
            columns.push(*id, loan);
        }
        columns
    }

    /// Binds them as the next parameters, in the order of the fields.
    pub(super) fn bind<'q>(&'q self, query: Filled<'q>) -> Filled<'q> {
        query
            .bind(&self.loan_id)
            .bind(&self.check_out_stamp)
            .bind(&self.check_out_user)
            .bind(&self.check_out_due_date)
            .bind(&self.grace_duration)
            .bind(&self.grace_interval)
            .bind(&self.grace_minutes)
            .bind(&self.snapshot_stamp)
            .bind(&self.snapshot_user)
            .bind(&self.due_stamp)
            .bind(&self.changed_due_date)
            .bind(&self.changed_by_recall)
            .bind(&self.lost_stamp)
            .bind(&self.said_lost)
            .bind(&self.claimed_stamp)
            .bind(&self.said_claimed)
            .bind(&self.closed_stamp)
            .bind(&self.named_user)
    }

    fn push(&mut self, id: Uuid, loan: &'a Loan) {
        let check_out = loan.check_out.as_ref().map(|(_, check_out)| check_out);
        let grace = check_out.and_then(|check_out| check_out.grace);
        self.loan_id.push(id);
        self.check_out_stamp.push(stamp(&loan.check_out));
        self.check_out_user.push(check_out.map(|check_out| check_out.user));
        self.check_out_due_date.push(check_out.map(|check_out| check_out.due_date));
        self.grace_duration.push(grace.map(|grace| grace.duration));
        self.grace_interval.push(grace.map(|grace| grace.unit.name()));
        self.grace_minutes.push(grace.map(|grace| grace.minutes()));
        self.snapshot_stamp.push(stamp(&loan.snapshot));
        self.snapshot_user.push(loan.snapshot.map(|(_, user)| user));
        self.due_stamp.push(stamp(&loan.due));
        self.changed_due_date.push(loan.due.map(|(_, due)| due.date));
        self.changed_by_recall.push(loan.due.map(|(_, due)| due.by_recall));
        self.lost_stamp.push(stamp(&loan.lost));
        self.said_lost.push(loan.lost.map(|(_, lost)| lost));
        self.claimed_stamp.push(stamp(&loan.claimed_returned));
        self.said_claimed.push(loan.claimed_returned.map(|(_, claimed)| claimed));
        self.closed_stamp.push(loan.closed.as_ref().map(Stamp::as_bytes));
        self.named_user.push(loan.named);
    }
}

/// The columns of many fees/fines.
#[derive(Default)]
pub(super) struct FeeColumns<'a> {
    fee_fine_id: Vec<Uuid>,
    balance_stamp: Vec<Option<&'a [u8]>>,
    balance: Vec<Option<Decimal>>,
    loan_id: Vec<Option<Uuid>>,
    type_stamp: Vec<Option<&'a [u8]>>,
    fee_fine_type_id: Vec<Option<Uuid>>,
    user_stamp: Vec<Option<&'a [u8]>>,
    user_id: Vec<Option<Uuid>>,
}

impl<'a> FeeColumns<'a> {
    pub(super) fn of(fees: &'a BTreeMap<Uuid, Fee>) -> Self {
        let mut columns = Self::default();
        for (id, fee) in fees {
            columns.fee_fine_id.push(*id);
            columns.balance_stamp.push(stamp(&fee.balance));
            columns.balance.push(fee.balance.map(|(_, balance)| balance.amount));
            columns.loan_id.push(fee.balance.and_then(|(_, balance)| balance.loan));
            columns.type_stamp.push(stamp(&fee.fee_fine_type));
            columns.fee_fine_type_id.push(fee.fee_fine_type.map(|(_, fee_type)| fee_type));
            columns.user_stamp.push(stamp(&fee.user));
            columns.user_id.push(fee.user.map(|(_, user)| user));
        }
        columns
    }

    /// Binds them as the next parameters, in the order of the fields.
    pub(super) fn bind<'q>(&'q self, query: Filled<'q>) -> Filled<'q> {
        query
            .bind(&self.fee_fine_id)
            .bind(&self.balance_stamp)
            .bind(&self.balance)
            .bind(&self.loan_id)
            .bind(&self.type_stamp)
            .bind(&self.fee_fine_type_id)
            .bind(&self.user_stamp)
            .bind(&self.user_id)
    }
}

fn stamp<T>(register: &Option<(Stamp, T)>) -> Option<&[u8]> {
    register.as_ref().map(|(stamp, _)| stamp.as_bytes())
}
