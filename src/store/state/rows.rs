//! Rows of loans and fees/fines, loaded and replaced as a whole by rebuilds. All other writers use the
//! merge.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::columns::{FeeColumns, LoanColumns};
use crate::{
    event::{Grace, GraceUnit, Stamp, stamp::Horizon},
    patron::{Balance, CheckOut, DueDate, Fee, Loan, Register},
    store::{Error, Schema, Statement, Tx},
};

const SELECT_LOANS: Statement = Statement::new(
    "select loan_id, check_out_stamp, check_out_user, check_out_due_date, grace_duration, grace_interval,
            snapshot_stamp, snapshot_user, due_stamp, changed_due_date, due_by_recall, lost_stamp,
            lost_value, claimed_stamp, claimed_value, closed_stamp, fallback_user, prune_horizon, horizon
       from {schema}.loan where loan_id = any($1)",
);

const SELECT_FEES: Statement = Statement::new(
    "select fee_fine_id, balance_stamp, balance, loan_id, type_stamp, fee_fine_type_id, user_stamp, user_id,
            prune_horizon, horizon
       from {schema}.fee_fine where fee_fine_id = any($1)",
);

/// Writes the same columns as the merge, and overwrites the existing row.
const UPSERT_LOANS: Statement = Statement::new(
    "insert into {schema}.loan as t (
       loan_id, check_out_stamp, check_out_user, check_out_due_date,
       grace_duration, grace_interval, grace_minutes, snapshot_stamp, snapshot_user,
       due_stamp, changed_due_date, due_by_recall, lost_stamp, lost_value,
       claimed_stamp, claimed_value, closed_stamp, fallback_user, prune_horizon, horizon)
     select *
       from unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::timestamptz[], $5::int4[], $6::text[],
                   $7::int8[], $8::bytea[], $9::uuid[], $10::bytea[], $11::timestamptz[],
                   $12::bool[], $13::bytea[], $14::bool[], $15::bytea[], $16::bool[],
                   $17::bytea[], $18::uuid[], $19::bytea[], $20::bytea[]) as x (loan_id)
      order by x.loan_id
     on conflict (loan_id) do update set
       check_out_stamp = excluded.check_out_stamp, check_out_user = excluded.check_out_user,
       check_out_due_date = excluded.check_out_due_date, grace_duration = excluded.grace_duration,
       grace_interval = excluded.grace_interval, grace_minutes = excluded.grace_minutes,
       snapshot_stamp = excluded.snapshot_stamp, snapshot_user = excluded.snapshot_user,
       due_stamp = excluded.due_stamp, changed_due_date = excluded.changed_due_date,
       due_by_recall = excluded.due_by_recall, lost_stamp = excluded.lost_stamp,
       lost_value = excluded.lost_value, claimed_stamp = excluded.claimed_stamp,
       claimed_value = excluded.claimed_value, closed_stamp = excluded.closed_stamp,
       fallback_user = excluded.fallback_user, prune_horizon = excluded.prune_horizon,
       horizon = excluded.horizon",
);

const UPSERT_FEES: Statement = Statement::new(
    "insert into {schema}.fee_fine as t (
       fee_fine_id, balance_stamp, balance, loan_id, type_stamp, fee_fine_type_id,
       user_stamp, user_id, prune_horizon, horizon)
     select *
       from unnest($1::uuid[], $2::bytea[], $3::numeric[], $4::uuid[], $5::bytea[], $6::uuid[], $7::bytea[],
                   $8::uuid[], $9::bytea[], $10::bytea[]) as x (fee_fine_id)
      order by x.fee_fine_id
     on conflict (fee_fine_id) do update set
       balance_stamp = excluded.balance_stamp, balance = excluded.balance, loan_id = excluded.loan_id,
       type_stamp = excluded.type_stamp, fee_fine_type_id = excluded.fee_fine_type_id,
       user_stamp = excluded.user_stamp, user_id = excluded.user_id,
       prune_horizon = excluded.prune_horizon, horizon = excluded.horizon",
);

const DELETE_LOANS: Statement = Statement::new("delete from {schema}.loan where loan_id = any($1)");

const DELETE_FEES: Statement =
    Statement::new("delete from {schema}.fee_fine where fee_fine_id = any($1)");

/// Recounts the rows of these patrons and overwrites the counters. A patron with nothing open receives
/// zeros.
const RECOUNT: Statement = Statement::new(
    "insert into {schema}.patron_counter as p (
       user_id, open_loans, lost_loans, claimed_returned_loans, recalled_loans, open_fees_fines,
       fee_fine_balance)
     select u.user_id, coalesce(sum(loans), 0), coalesce(sum(lost), 0), coalesce(sum(claimed), 0),
            coalesce(sum(recalled), 0), coalesce(sum(fees), 0), coalesce(sum(balance), 0)
       from unnest($1::uuid[]) as u (user_id)
       left join (
         select user_id, 1 as loans, (lost and not claimed_returned)::int as lost,
                claimed_returned::int as claimed, (recall and not claimed_returned)::int as recalled,
                0 as fees, 0 as balance
           from {schema}.loan where user_id = any($1) and is_open
         union all
         select user_id, 0, 0, 0, 0, 1, balance from {schema}.fee_fine
          where user_id = any($1) and is_open) rows on rows.user_id = u.user_id
      group by u.user_id order by u.user_id
     on conflict (user_id) do update set
       version = p.version + 1, open_loans = excluded.open_loans, lost_loans = excluded.lost_loans,
       claimed_returned_loans = excluded.claimed_returned_loans,
       recalled_loans = excluded.recalled_loans, open_fees_fines = excluded.open_fees_fines,
       fee_fine_balance = excluded.fee_fine_balance",
);

const SELECT_SUBJECTS_OF_PATRON: Statement = Statement::new(
    "select loan_id from {schema}.loan where user_id = $1
     union all select fee_fine_id from {schema}.fee_fine where user_id = $1",
);

/// Selects the snapshot horizons of the tenant, without a user id, and of these patrons.
const SELECT_SNAPSHOT_HORIZONS: Statement = Statement::new(
    "select null::uuid, horizon, greatest(horizon, loans_horizon) from {schema}.tenant_horizon
     union all select user_id, horizon, horizon from {schema}.patron_horizon where user_id = any($1)",
);

const SELECT_OPEN_SUBJECTS: Statement = Statement::new(
    "select loan_id, true from {schema}.loan where user_id = any($1) and is_open
     union all select fee_fine_id, false from {schema}.fee_fine where user_id = any($1) and is_open",
);

const COUNT_OPEN: Statement = Statement::new(
    "select (select count(*) from {schema}.loan where is_open) as loans,
            (select count(*) from {schema}.fee_fine where is_open) as fees_fines",
);

pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &SELECT_LOANS,
    &SELECT_FEES,
    &UPSERT_LOANS,
    &UPSERT_FEES,
    &DELETE_LOANS,
    &DELETE_FEES,
    &RECOUNT,
    &SELECT_SUBJECTS_OF_PATRON,
    &SELECT_SNAPSHOT_HORIZONS,
    &SELECT_OPEN_SUBJECTS,
    &COUNT_OPEN,
];

/// The stored state of a loan or a fee/fine, and the horizons of the row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SubjectRow<T> {
    /// The registers.
    pub state: T,
    /// The prune horizon at the insertion of the row.
    pub prune_horizon: Option<Horizon>,
    /// The greater of the prune horizon and the snapshot horizons; older evidence opens nothing.
    pub horizon: Option<Horizon>,
}

/// The snapshot horizons of a tenant and its patrons.
#[derive(Debug, Clone, Default)]
pub struct SnapshotHorizon {
    loans: Option<Horizon>,
    fees: Option<Horizon>,
    patrons: BTreeMap<Uuid, Horizon>,
}

impl SnapshotHorizon {
    /// Returns the snapshot horizon for a loan of this patron.
    pub fn for_loan(&self, owner: Option<Uuid>) -> Option<Horizon> {
        self.loans.max(self.for_patron(owner))
    }

    /// Returns the snapshot horizon for a fee/fine of this patron.
    pub fn for_fee(&self, owner: Option<Uuid>) -> Option<Horizon> {
        self.fees.max(self.for_patron(owner))
    }

    fn for_patron(&self, owner: Option<Uuid>) -> Option<Horizon> {
        self.patrons.get(&owner?).copied()
    }
}

/// Rows by loan id or fee/fine id.
pub type SubjectRows<T> = BTreeMap<Uuid, SubjectRow<T>>;

#[derive(FromRow)]
struct LoanRow {
    loan_id: Uuid,
    check_out_stamp: Option<Vec<u8>>,
    check_out_user: Option<Uuid>,
    check_out_due_date: Option<DateTime<Utc>>,
    grace_duration: Option<i32>,
    grace_interval: Option<String>,
    snapshot_stamp: Option<Vec<u8>>,
    snapshot_user: Option<Uuid>,
    due_stamp: Option<Vec<u8>>,
    changed_due_date: Option<DateTime<Utc>>,
    due_by_recall: Option<bool>,
    lost_stamp: Option<Vec<u8>>,
    lost_value: Option<bool>,
    claimed_stamp: Option<Vec<u8>>,
    claimed_value: Option<bool>,
    closed_stamp: Option<Vec<u8>>,
    fallback_user: Option<Uuid>,
    prune_horizon: Option<Vec<u8>>,
    horizon: Vec<u8>,
}

#[derive(FromRow)]
struct FeeRow {
    fee_fine_id: Uuid,
    balance_stamp: Option<Vec<u8>>,
    balance: Option<Decimal>,
    loan_id: Option<Uuid>,
    type_stamp: Option<Vec<u8>>,
    fee_fine_type_id: Option<Uuid>,
    user_stamp: Option<Vec<u8>>,
    user_id: Option<Uuid>,
    prune_horizon: Option<Vec<u8>>,
    horizon: Vec<u8>,
}

fn stamp(bytes: Option<&Vec<u8>>) -> Option<Stamp> {
    Stamp::from_bytes(bytes?)
}

fn register<T>(bytes: Option<&Vec<u8>>, value: Option<T>) -> Register<T> {
    Some((stamp(bytes)?, value?))
}

fn row<T>(known: T, pruned: Option<Vec<u8>>, horizon: &[u8]) -> SubjectRow<T> {
    let pruned = pruned.and_then(|bytes| Horizon::from_bytes(&bytes));
    SubjectRow { state: known, prune_horizon: pruned, horizon: Horizon::from_bytes(horizon) }
}

impl LoanRow {
    fn into_row(self) -> (Uuid, SubjectRow<Loan>) {
        let unit = self.grace_interval.as_deref().and_then(GraceUnit::parse);
        let grace = self.grace_duration.zip(unit).map(|(duration, unit)| Grace { duration, unit });
        let check_out = self.check_out_user.zip(self.check_out_due_date);
        let check_out = check_out.map(|(user, due_date)| CheckOut { user, due_date, grace });
        let due = self.changed_due_date.zip(self.due_by_recall);
        let due = due.map(|(date, by_recall)| DueDate { date, by_recall });
        let known = Loan {
            check_out: register(self.check_out_stamp.as_ref(), check_out),
            snapshot: register(self.snapshot_stamp.as_ref(), self.snapshot_user),
            due: register(self.due_stamp.as_ref(), due),
            lost: register(self.lost_stamp.as_ref(), self.lost_value),
            claimed_returned: register(self.claimed_stamp.as_ref(), self.claimed_value),
            closed: stamp(self.closed_stamp.as_ref()),
            fallback_user: self.fallback_user,
        };
        (self.loan_id, row(known, self.prune_horizon, &self.horizon))
    }
}

impl FeeRow {
    fn into_row(self) -> (Uuid, SubjectRow<Fee>) {
        let balance = self.balance.map(|amount| Balance { amount, loan: self.loan_id });
        let known = Fee {
            balance: register(self.balance_stamp.as_ref(), balance),
            fee_fine_type: register(self.type_stamp.as_ref(), self.fee_fine_type_id),
            user: register(self.user_stamp.as_ref(), self.user_id),
        };
        (self.fee_fine_id, row(known, self.prune_horizon, &self.horizon))
    }
}

/// Merges rows with the same id. A shadow may contain several rows per id until reading is complete.
fn merge_duplicates<T: Default>(
    rows: impl Iterator<Item = (Uuid, SubjectRow<T>)>,
    merge: fn(T, T) -> T,
) -> SubjectRows<T> {
    let mut joined = SubjectRows::new();
    for (id, row) in rows {
        let known: &mut SubjectRow<T> = joined.entry(id).or_default();
        let before = std::mem::take(&mut known.state);
        *known = SubjectRow { state: merge(before, row.state), ..row };
    }
    joined
}

/// Loads the existing rows of these loans.
pub async fn load_loans(
    tx: &mut Tx,
    schema: &Schema,
    ids: &[Uuid],
) -> Result<SubjectRows<Loan>, Error> {
    let rows: Vec<LoanRow> = sqlx::query_as(schema.sql(&SELECT_LOANS))
        .bind(ids)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("read loans"))?;
    Ok(merge_duplicates(rows.into_iter().map(LoanRow::into_row), Loan::merge))
}

/// Loads the existing rows of these fees/fines.
pub async fn load_fees(
    tx: &mut Tx,
    schema: &Schema,
    ids: &[Uuid],
) -> Result<SubjectRows<Fee>, Error> {
    let rows: Vec<FeeRow> = sqlx::query_as(schema.sql(&SELECT_FEES))
        .bind(ids)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("read fees/fines"))?;
    Ok(merge_duplicates(rows.into_iter().map(FeeRow::into_row), Fee::merge))
}

/// Returns the ids of all loans and fees/fines of a patron, including the closed ones.
pub async fn subjects_of_patron(
    tx: &mut Tx,
    schema: &Schema,
    user: Uuid,
) -> Result<Vec<Uuid>, Error> {
    let found = sqlx::query_scalar(schema.sql(&SELECT_SUBJECTS_OF_PATRON))
        .bind(user)
        .fetch_all(&mut **tx)
        .await;
    found.map_err(Error::at("list the loans and fees/fines of a patron"))
}

/// Replaces rows of loans. A row without any register is deleted.
pub async fn replace_loans(
    tx: &mut Tx,
    schema: &Schema,
    rows: &SubjectRows<Loan>,
) -> Result<(), Error> {
    let UpsertsAndDeletes { upserts: put, prune_horizons: pruned, horizons, deletes: gone } =
        split_rows(rows);
    remove_loans(tx, schema, &gone).await?;
    let columns = LoanColumns::from_loans(&put);
    columns
        .bind(sqlx::query(schema.sql(&UPSERT_LOANS)))
        .bind(pruned)
        .bind(horizons)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("replace loans"))?;
    Ok(())
}

/// Replaces rows of fees/fines. A row without any register is deleted.
pub async fn replace_fees(
    tx: &mut Tx,
    schema: &Schema,
    rows: &SubjectRows<Fee>,
) -> Result<(), Error> {
    let UpsertsAndDeletes { upserts: put, prune_horizons: pruned, horizons, deletes: gone } =
        split_rows(rows);
    remove_fees(tx, schema, &gone).await?;
    let columns = FeeColumns::from_fees(&put);
    columns
        .bind(sqlx::query(schema.sql(&UPSERT_FEES)))
        .bind(pruned)
        .bind(horizons)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("replace fees/fines"))?;
    Ok(())
}

/// The rows to write, with their horizons in the same order, and the ids to delete.
struct UpsertsAndDeletes<'a, T> {
    upserts: BTreeMap<Uuid, T>,
    prune_horizons: Vec<Option<&'a [u8]>>,
    horizons: Vec<&'a [u8]>,
    deletes: Vec<Uuid>,
}

fn split_rows<T: Clone + Default + PartialEq>(rows: &SubjectRows<T>) -> UpsertsAndDeletes<'_, T> {
    let (put, gone) = (BTreeMap::new(), Vec::new());
    let mut divided = UpsertsAndDeletes {
        upserts: put,
        prune_horizons: Vec::new(),
        horizons: Vec::new(),
        deletes: gone,
    };
    for (id, row) in rows {
        if row.state == T::default() {
            divided.deletes.push(*id);
        } else {
            divided.upserts.insert(*id, row.state.clone());
            divided.prune_horizons.push(row.prune_horizon.as_ref().map(Horizon::as_bytes));
            divided.horizons.push(row.horizon.as_ref().map_or(&[], Horizon::as_bytes));
        }
    }
    divided
}

/// Deletes the rows of these loans.
pub(in crate::store) async fn remove_loans(
    tx: &mut Tx,
    schema: &Schema,
    ids: &[Uuid],
) -> Result<(), Error> {
    remove(tx, schema, &DELETE_LOANS, ids).await
}

/// Deletes the rows of these fees/fines.
pub(in crate::store) async fn remove_fees(
    tx: &mut Tx,
    schema: &Schema,
    ids: &[Uuid],
) -> Result<(), Error> {
    remove(tx, schema, &DELETE_FEES, ids).await
}

async fn remove(
    tx: &mut Tx,
    schema: &Schema,
    statement: &Statement,
    ids: &[Uuid],
) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let removed = sqlx::query(schema.sql(statement)).bind(ids).execute(&mut **tx).await;
    removed.map(|_| ()).map_err(Error::at("delete rows without a register"))
}

/// Sets the counters of these patrons to the result of a recount. Returns the number of written rows.
pub async fn recount(tx: &mut Tx, schema: &Schema, users: &[Uuid]) -> Result<u64, Error> {
    let done = sqlx::query(schema.sql(&RECOUNT)).bind(users).execute(&mut **tx).await;
    Ok(done.map_err(Error::at("recount patrons"))?.rows_affected())
}

/// Returns the open loans and fees/fines of these patrons; the flag is `true` for a loan.
pub async fn open_subjects(
    tx: &mut Tx,
    schema: &Schema,
    users: &[Uuid],
) -> Result<Vec<(Uuid, bool)>, Error> {
    let found =
        sqlx::query_as(schema.sql(&SELECT_OPEN_SUBJECTS)).bind(users).fetch_all(&mut **tx).await;
    found.map_err(Error::at("list the open loans and fees/fines of patrons"))
}

/// The numbers of open loans and fees/fines of a tenant.
#[derive(Debug, Clone, Copy, FromRow)]
pub struct OpenCounts {
    /// The number of open loans.
    pub loans: i64,
    /// The number of open fees/fines.
    pub fees_fines: i64,
}

/// Counts the open loans and fees/fines of a tenant.
pub async fn count_open(db: impl PgExecutor<'_>, schema: &Schema) -> Result<OpenCounts, Error> {
    let counted = sqlx::query_as(schema.sql(&COUNT_OPEN)).fetch_one(db).await;
    counted.map_err(Error::at("count open loans and fees/fines"))
}

/// Adds the snapshot horizons of the tenant and of these patrons from one schema to `snapshot_horizon`.
pub async fn load_snapshot_horizon(
    tx: &mut Tx,
    schema: &Schema,
    users: &[Uuid],
    snapshot_horizon: &mut SnapshotHorizon,
) -> Result<(), Error> {
    let rows: Vec<(Option<Uuid>, Vec<u8>, Vec<u8>)> =
        sqlx::query_as(schema.sql(&SELECT_SNAPSHOT_HORIZONS))
            .bind(users)
            .fetch_all(&mut **tx)
            .await
            .map_err(Error::at("read the snapshot horizons"))?;
    for (user, all, loans) in rows {
        let (all, loans) = (Horizon::from_bytes(&all), Horizon::from_bytes(&loans));
        let Some(user) = user else {
            snapshot_horizon.fees = snapshot_horizon.fees.max(all);
            snapshot_horizon.loans = snapshot_horizon.loans.max(loans);
            continue;
        };
        if let Some(all) = all {
            let known = snapshot_horizon.patrons.entry(user).or_insert(all);
            *known = all.max(*known);
        }
    }
    Ok(())
}
