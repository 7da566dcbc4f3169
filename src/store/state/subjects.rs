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

pub(in crate::store) const STATEMENTS: &[&Statement] = &[&SELECT_SUBJECT];

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
