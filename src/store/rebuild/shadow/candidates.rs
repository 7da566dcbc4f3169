//! The rows that differ between the live tables and a shadow.

use uuid::Uuid;

use crate::{
    patron::Scope,
    store::{Error, Schema, Statement, Tx},
};

/// Inserts the rows that differ in any column. `reconcile` decides later which rows change, because
/// events may have arrived since the source was read. A rebuild of one patron has read only that patron's
/// events. If another patron owns the live row by now, the row remains.
pub(super) const FIND_CANDIDATES: Statement = Statement::new(
    "insert into {schema}.candidate (subject, is_loan)
     select coalesce(l.loan_id, s.loan_id), true
       from {live}.loan l full join {schema}.loan s on s.loan_id = l.loan_id
      where ($1::uuid is null or l.user_id = $1
             or (s.user_id = $1 and (l.user_id is null or not $2)))
        and ($2 or s.loan_id is not null or l.is_open)
        and (l.check_out_stamp, l.check_out_user, l.check_out_due_date, l.grace_duration, l.grace_interval,
             l.snapshot_stamp, l.snapshot_user, l.due_stamp, l.changed_due_date, l.due_by_recall,
             l.lost_stamp, l.lost_value, l.claimed_stamp, l.claimed_value, l.closed_stamp, l.is_open)
            is distinct from
            (s.check_out_stamp, s.check_out_user, s.check_out_due_date, s.grace_duration, s.grace_interval,
             s.snapshot_stamp, s.snapshot_user, s.due_stamp, s.changed_due_date, s.due_by_recall,
             s.lost_stamp, s.lost_value, s.claimed_stamp, s.claimed_value, s.closed_stamp, s.is_open)
     union all
     select coalesce(l.fee_fine_id, s.fee_fine_id), false
       from {live}.fee_fine l full join {schema}.fee_fine s on s.fee_fine_id = l.fee_fine_id
      where ($1::uuid is null or l.user_id = $1
             or (s.user_id = $1 and (l.user_id is null or not $2)))
        and ($2 or s.fee_fine_id is not null or l.is_open)
        and (l.balance_stamp, l.balance, l.loan_id, l.type_stamp, l.fee_fine_type_id, l.user_stamp, l.user_id,
             l.is_open)
            is distinct from
            (s.balance_stamp, s.balance, s.loan_id, s.type_stamp, s.fee_fine_type_id, s.user_stamp, s.user_id,
             s.is_open)",
);

pub(super) const DELETE_CANDIDATES: Statement = Statement::new("delete from {schema}.candidate");

pub(super) const SELECT_CANDIDATES_PAGE: Statement = Statement::new(
    "select subject, is_loan from {schema}.candidate where subject > $1 order by subject limit $2",
);

pub(super) const COUNT_CANDIDATES: Statement =
    Statement::new("select count(*) from {schema}.candidate");

/// Finds the rows that differ between the live tables and the shadow, of one patron or of all patrons.
/// Returns the number of rows. If the source contains no closed records, `includes_closed` is `false` and
/// closed rows are ignored.
pub async fn find_candidates(
    tx: &mut Tx,
    shadow: &Schema,
    of: Scope,
    includes_closed: bool,
) -> Result<i64, Error> {
    let step = "read the candidates of a shadow";
    let none = sqlx::query(shadow.sql(&DELETE_CANDIDATES)).execute(&mut **tx).await;
    none.map_err(Error::at(step))?;
    sqlx::query(shadow.sql(&FIND_CANDIDATES))
        .bind(of.patron())
        .bind(includes_closed)
        .execute(&mut **tx)
        .await
        .map_err(Error::at(step))?;
    let counted = sqlx::query_scalar(shadow.sql(&COUNT_CANDIDATES)).fetch_one(&mut **tx).await;
    counted.map_err(Error::at(step))
}

/// Returns the next candidates after a subject; `true` marks a loan, `false` a fee/fine.
pub async fn candidates_page(
    tx: &mut Tx,
    shadow: &Schema,
    after: Uuid,
    most: i64,
) -> Result<Vec<(Uuid, bool)>, Error> {
    sqlx::query_as(shadow.sql(&SELECT_CANDIDATES_PAGE))
        .bind(after)
        .bind(most)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("read the candidates of a shadow"))
}
