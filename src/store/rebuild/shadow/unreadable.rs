//! The open loans and fees/fines that the source returned in unreadable records.

use uuid::Uuid;

use crate::store::{Error, Schema, Statement, Tx};

pub(super) const INSERT_UNREADABLE: Statement = Statement::new(
    "insert into {schema}.unreadable_subject select unnest($1::uuid[]) on conflict do nothing",
);

pub(super) const SELECT_UNREADABLE: Statement =
    Statement::new("select subject from {schema}.unreadable_subject where subject = any($1)");

/// Returns whether any unreadable subject would be closed. A loan or fee/fine that is open in the live
/// tables, with evidence at or after the horizon, remains open.
pub(super) const WOULD_CLOSE_UNREADABLE: Statement = Statement::new(
    "select exists (
       select from {schema}.unreadable_subject u,
              (select greatest(
                 (select greatest(horizon, loans_horizon) from {schema}.tenant_horizon),
                 (select horizon from {schema}.patron_horizon order by horizon desc limit 1)) as horizon) snapshot
        where not exists (
                select from {live}.loan l where l.loan_id = u.subject and l.is_open
                   and greatest(l.check_out_stamp, l.snapshot_stamp) >= snapshot.horizon)
          and not exists (
                select from {live}.fee_fine f where f.fee_fine_id = u.subject and f.is_open
                   and f.balance_stamp >= snapshot.horizon))",
);

/// Records that the source contains these subjects as open in unreadable records.
pub async fn record_unreadable(
    tx: &mut Tx,
    shadow: &Schema,
    subjects: &[Uuid],
) -> Result<(), Error> {
    let noted = sqlx::query(shadow.sql(&INSERT_UNREADABLE)).bind(subjects).execute(&mut **tx).await;
    noted.map(|_| ()).map_err(Error::at("record the subjects of unreadable records"))
}

/// Returns the subjects that [`record_unreadable`] recorded, among `subjects`.
pub async fn unreadable_among(
    tx: &mut Tx,
    shadow: &Schema,
    subjects: &[Uuid],
) -> Result<Vec<Uuid>, Error> {
    let found = sqlx::query_scalar(shadow.sql(&SELECT_UNREADABLE))
        .bind(subjects)
        .fetch_all(&mut **tx)
        .await;
    found.map_err(Error::at("read the subjects of unreadable records"))
}

/// Returns whether the shadow's horizon would close, now or later, an open subject from an unreadable
/// record.
pub async fn would_close_unreadable(tx: &mut Tx, shadow: &Schema) -> Result<bool, Error> {
    let would_close =
        sqlx::query_scalar(shadow.sql(&WOULD_CLOSE_UNREADABLE)).fetch_one(&mut **tx).await;
    would_close.map_err(Error::at("find unreadable records behind a horizon"))
}
