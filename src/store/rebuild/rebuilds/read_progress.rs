//! The read progress of a rebuild: the numbers of records, and the problems.

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::store::{Error, Tx};

/// The number of stored problems at which no further problem is stored. Skipped records are still
/// counted.
const PROBLEMS_MAX: i32 = 1000;

const STEP: &str = "record the progress of storage reads";

/// Adds to the numbers of loans and fees/fines that the storage modules returned, and adds the problems
/// of skipped records.
pub async fn record_read(
    tx: &mut Tx,
    id: Uuid,
    (loans, fees): (usize, usize),
    problems: &[String],
) -> Result<(), Error> {
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    sqlx::query(
        "update mod_patron_blocks.job
            set loans_read = loans_read + $2, fees_fines_read = fees_fines_read + $3, token_refusals = 0,
                skipped_records = skipped_records + $6,
                messages = case when jsonb_array_length(messages) < $5 then messages || $4 else messages end
          where id = $1",
    )
    .bind(id)
    .bind(number(loans))
    .bind(number(fees))
    .bind(sqlx::types::Json(problems))
    .bind(PROBLEMS_MAX)
    .bind(number(problems.len()))
    .execute(&mut **tx)
    .await
    .map_err(Error::at(STEP))?;
    Ok(())
}

/// Adds a problem that the requester has to know, without counting a skipped record.
pub async fn record_problem(tx: &mut Tx, id: Uuid, problem: &str) -> Result<(), Error> {
    let add =
        "update mod_patron_blocks.job set messages = messages || to_jsonb($2::text) where id = $1";
    let added = sqlx::query(add).bind(id).bind(problem).execute(&mut **tx).await;
    added.map(|_| ()).map_err(Error::at("record a problem of a rebuild"))
}

/// Resets the numbers and the problems, because the storage modules are read from the beginning.
pub async fn reset_read(tx: &mut Tx, id: Uuid) -> Result<(), Error> {
    let set = "update mod_patron_blocks.job
                  set loans_read = 0, fees_fines_read = 0, skipped_records = 0, messages = '[]' where id = $1";
    let done = sqlx::query(set).bind(id).execute(&mut **tx).await;
    done.map(|_| ()).map_err(Error::at(STEP))
}

/// Returns the number of skipped records of the storage modules.
pub async fn count_skipped_records(db: impl PgExecutor<'_>, id: Uuid) -> Result<i32, Error> {
    let read = "select skipped_records from mod_patron_blocks.job where id = $1";
    let read = sqlx::query_scalar(read).bind(id).fetch_optional(db).await;
    Ok(read.map_err(Error::at("count skipped records"))?.unwrap_or_default())
}
