//! Rows of loans and fees/fines, loaded and replaced as a whole by rebuilds. All other writers use the
//! merge.

use std::collections::BTreeMap;

use sqlx::{FromRow, PgExecutor, postgres::PgRow};
use uuid::Uuid;

use crate::{
    event::stamp::Horizon,
    patron::{Fee, Loan},
    store::{
        Connection, Error, Schema, Statement, Tx,
        copy::{CopyBuffer, EncodeError},
    },
};

/// The step that an error of a `COPY` names.
const COPY_STEP: &str = "copy loans or fees/fines";

/// The table of loans or of fees/fines; `columns.rs` declares the columns.
pub trait SubjectTable: Clone + Default + PartialEq {
    /// A row that [`Self::SELECT`] returns.
    type Row: for<'r> FromRow<'r, PgRow> + Into<(Uuid, SubjectRow<Self>)> + Send + Unpin;

    /// The number of columns that [`Self::COPY`] writes.
    const COLUMNS: usize;
    /// Selects the rows with the ids `$1`.
    const SELECT: Statement;
    /// Appends rows.
    const COPY: Statement;
    /// Deletes the rows with the ids `$1`.
    const DELETE: Statement;
    /// Selects at most `$1` ids with several rows, which only a shadow has.
    const SELECT_SPLIT: Statement;

    /// Writes all columns except the last two, the prune horizon and the horizon.
    fn write(&self, id: Uuid, rows: &mut CopyBuffer) -> Result<(), EncodeError>;

    /// Returns the merge of two states.
    fn merge(self, other: Self) -> Self;
}

/// Recounts the rows of these patrons and overwrites the counters. A patron with nothing open receives
/// zeros.
const RECOUNT: Statement = Statement::new(
    "insert into {schema}.patron_counter as p (
       user_id, open_loans, lost_loans, claimed_returned_loans, recalled_loans, open_fees_fines,
       fee_fine_balance)
     select u.user_id, coalesce(sum(loans), 0), coalesce(sum(lost), 0), coalesce(sum(claimed), 0),
            coalesce(sum(recalled), 0), coalesce(sum(fees), 0), coalesce(sum(balance), 0)
       from unnest($1::uuid[]) as u (user_id)
       left join (select * from {schema}.counted where user_id = any($1)) rows on rows.user_id = u.user_id
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
    &Loan::SELECT,
    &Loan::COPY,
    &Loan::DELETE,
    &Fee::SELECT,
    &Fee::COPY,
    &Fee::DELETE,
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

/// Loads the existing rows with these ids, by id. A shadow may contain several rows per id until reading is
/// complete; the result has their merge.
pub async fn load<T: SubjectTable>(
    db: &mut Connection,
    schema: &Schema,
    ids: &[Uuid],
) -> Result<SubjectRows<T>, Error> {
    let rows: Vec<T::Row> = sqlx::query_as(schema.sql(&T::SELECT))
        .bind(ids)
        .fetch_all(db)
        .await
        .map_err(Error::at("read loans or fees/fines"))?;
    let mut merged = SubjectRows::new();
    for row in rows {
        let (id, row): (Uuid, SubjectRow<T>) = row.into();
        let known: &mut SubjectRow<T> = merged.entry(id).or_default();
        let state = std::mem::take(&mut known.state).merge(row.state);
        *known = SubjectRow { state, ..row };
    }
    Ok(merged)
}

/// Returns the ids of all loans and fees/fines of a patron, including the closed ones.
pub async fn subjects_of_patron(
    db: &mut Connection,
    schema: &Schema,
    user: Uuid,
) -> Result<Vec<Uuid>, Error> {
    let found =
        sqlx::query_scalar(schema.sql(&SELECT_SUBJECTS_OF_PATRON)).bind(user).fetch_all(db).await;
    found.map_err(Error::at("list the loans and fees/fines of a patron"))
}

/// Replaces rows. A row without any register is deleted.
pub async fn replace<T: SubjectTable>(
    tx: &mut Tx,
    schema: &Schema,
    rows: &SubjectRows<T>,
) -> Result<(), Error> {
    let ids: Vec<Uuid> = rows.keys().copied().collect();
    delete::<T>(tx, schema, &ids).await?;
    let empty = T::default();
    let rows = encode(rows.iter().filter(|(_, row)| row.state != empty).map(|(id, row)| {
        let horizon = row.horizon.as_ref().map_or(&[][..], Horizon::as_bytes);
        (*id, &row.state, row.prune_horizon.as_ref().map(Horizon::as_bytes), horizon)
    }))?;
    copy::<T>(tx, schema, rows).await
}

/// Deletes the rows with these ids.
pub(in crate::store) async fn delete<T: SubjectTable>(
    tx: &mut Tx,
    schema: &Schema,
    ids: &[Uuid],
) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let deleted = sqlx::query(schema.sql(&T::DELETE)).bind(ids).execute(&mut **tx).await;
    deleted.map(|_| ()).map_err(Error::at("delete loans or fees/fines"))
}

/// Encodes rows for [`copy`]: id, state, prune horizon and horizon.
pub(in crate::store) fn encode<'a, T: SubjectTable + 'a>(
    rows: impl Iterator<Item = (Uuid, &'a T, Option<&'a [u8]>, &'a [u8])>,
) -> Result<CopyBuffer, Error> {
    let mut buffer = CopyBuffer::new(T::COLUMNS);
    for (id, state, prune_horizon, horizon) in rows {
        buffer.begin_row();
        state
            .write(id, &mut buffer)
            .and_then(|()| buffer.push(prune_horizon))
            .and_then(|()| buffer.push(horizon))
            .map_err(|error| Error::at(COPY_STEP)(sqlx::Error::Encode(error)))?;
    }
    Ok(buffer)
}

/// Appends encoded rows.
pub(in crate::store) async fn copy<T: SubjectTable>(
    tx: &mut Tx,
    schema: &Schema,
    rows: CopyBuffer,
) -> Result<(), Error> {
    rows.send(tx, &schema.sql(&T::COPY).0).await.map_err(Error::at(COPY_STEP))
}

/// Sets the counters of these patrons to the result of a recount. Returns the number of written rows.
pub async fn recount(tx: &mut Tx, schema: &Schema, users: &[Uuid]) -> Result<u64, Error> {
    let done = sqlx::query(schema.sql(&RECOUNT)).bind(users).execute(&mut **tx).await;
    Ok(done.map_err(Error::at("recount patrons"))?.rows_affected())
}

/// Returns the open loans and fees/fines of these patrons; the flag is `true` for a loan.
pub async fn open_subjects(
    db: &mut Connection,
    schema: &Schema,
    users: &[Uuid],
) -> Result<Vec<(Uuid, bool)>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_OPEN_SUBJECTS)).bind(users).fetch_all(db).await;
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
