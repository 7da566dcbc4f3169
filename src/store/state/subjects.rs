//! Finds what an id belongs to.

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::store::{Error, Schema, Statement};

const SELECT_SUBJECT: Statement = Statement::new(
    "select true as is_loan, user_id from {schema}.loan where loan_id = $1 and user_id is not null
     union all
     select false, user_id from {schema}.fee_fine where fee_fine_id = $1 and user_id is not null
     limit 1",
);

const SELECT_OWNERS: Statement = Statement::new(
    "select user_id from {schema}.loan where loan_id = any($1) and user_id is not null
     union
     select user_id from {schema}.fee_fine where fee_fine_id = any($1) and user_id is not null",
);

/// Selects the patrons that the ids of a dead letter belong to.
const SELECT_PATRONS_OF_DEAD_LETTERS: Statement = Statement::new(
    "select d.dead_letter_id, named.user_id
       from {schema}.dead_letter d cross join lateral (
         select user_id from {schema}.loan where loan_id = any(d.subjects) and user_id is not null
         union
         select user_id from {schema}.fee_fine
          where fee_fine_id = any(d.subjects) and user_id is not null
         union
         select user_id from {schema}.patron_counter where user_id = any(d.subjects)
         union
         select user_id from {schema}.patron where user_id = any(d.subjects)) named
      where d.dead_letter_id = any($1) order by named.user_id",
);

pub(in crate::store) const STATEMENTS: &[&Statement] =
    &[&SELECT_SUBJECT, &SELECT_OWNERS, &SELECT_PATRONS_OF_DEAD_LETTERS];

/// What an id belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A loan.
    Loan {
        /// The patron.
        user: Uuid,
    },
    /// A fee or fine.
    FeeFine {
        /// The patron.
        user: Uuid,
    },
}

/// Finds the loan or fee/fine with an id; `None` if there is none with a known patron.
pub async fn find(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
) -> Result<Option<Subject>, Error> {
    let row: Option<(bool, Uuid)> = sqlx::query_as(schema.sql(&SELECT_SUBJECT))
        .bind(id)
        .fetch_optional(db)
        .await
        .map_err(Error::at("find a loan or a fee/fine"))?;
    Ok(row.map(
        |(is_loan, user)| {
            if is_loan { Subject::Loan { user } } else { Subject::FeeFine { user } }
        },
    ))
}

/// Returns the patrons of these loans and fees/fines.
pub async fn owners(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    subjects: &[Uuid],
) -> Result<Vec<Uuid>, Error> {
    let found = sqlx::query_scalar(schema.sql(&SELECT_OWNERS)).bind(subjects).fetch_all(db).await;
    found.map_err(Error::at("find the patrons of loans and fees/fines"))
}

/// Returns pairs of a dead letter among `letters` and a patron whom it names, directly or by a loan or fee/fine.
pub async fn patrons_of_dead_letters(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    letters: &[Uuid],
) -> Result<Vec<(Uuid, Uuid)>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_PATRONS_OF_DEAD_LETTERS)).bind(letters);
    found.fetch_all(db).await.map_err(Error::at("find the patrons of dead letters"))
}
