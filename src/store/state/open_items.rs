//! The open loans and fees/fines of one patron, for explanations.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    blocks::OpenItems,
    event::{Grace, GraceUnit},
    patron::{OpenFee, OpenLoan},
    store::{Connection, Error, Schema, Statement},
};

/// Selects the first loans in the order of an explanation: earliest due date first.
const SELECT_OPEN_LOANS: Statement = Statement::new(
    "select loan_id, due_date, grace_duration, grace_interval, recall, lost, claimed_returned
       from {schema}.loan where user_id = $1 and is_open
      order by due_date nulls last, loan_id limit $2",
);

/// Selects the first fees/fines in the order of an explanation: greatest balance first.
const SELECT_OPEN_FEES: Statement = Statement::new(
    "select fee_fine_id, balance, loan_id, fee_fine_type_id
       from {schema}.fee_fine where user_id = $1 and is_open
      order by balance desc, fee_fine_id limit $2",
);

pub(in crate::store) const STATEMENTS: &[&Statement] = &[&SELECT_OPEN_LOANS, &SELECT_OPEN_FEES];

#[derive(sqlx::FromRow)]
struct LoanRow {
    loan_id: Uuid,
    due_date: Option<DateTime<Utc>>,
    grace_duration: Option<i32>,
    grace_interval: Option<String>,
    recall: bool,
    lost: bool,
    claimed_returned: bool,
}

#[derive(sqlx::FromRow)]
struct FeeRow {
    fee_fine_id: Uuid,
    balance: Decimal,
    loan_id: Option<Uuid>,
    fee_fine_type_id: Option<Uuid>,
}

/// Loads at most `most` open loans and `most` open fees/fines of a patron. Both reads should share a snapshot.
pub async fn load(
    connection: &mut Connection,
    schema: &Schema,
    user: Uuid,
    most: i64,
) -> Result<OpenItems, Error> {
    let loans = load_loans(&mut *connection, schema, user, most).await?;
    let fees = load_fees(connection, schema, user, most).await?;
    let open_loan = |row: LoanRow| {
        let unit = row.grace_interval.as_deref().and_then(GraceUnit::parse);
        let grace = row.grace_duration.zip(unit);
        let loan = OpenLoan {
            user,
            due_date: row.due_date,
            grace: grace.map(|(duration, unit)| Grace { duration, unit }),
            recall: row.recall,
            lost: row.lost,
            claimed_returned: row.claimed_returned,
        };
        (row.loan_id, loan)
    };
    let open_fee = |row: FeeRow| {
        let FeeRow { balance, loan_id: loan, fee_fine_type_id: fee_fine_type, .. } = row;
        (row.fee_fine_id, OpenFee { user, balance, loan, fee_fine_type })
    };
    Ok(OpenItems {
        loans: loans.into_iter().map(open_loan).collect(),
        fees: fees.into_iter().map(open_fee).collect(),
    })
}

async fn load_loans(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    user: Uuid,
    most: i64,
) -> Result<Vec<LoanRow>, Error> {
    let rows = sqlx::query_as(schema.sql(&SELECT_OPEN_LOANS)).bind(user).bind(most);
    rows.fetch_all(db).await.map_err(Error::at("read a patron's open loans"))
}

async fn load_fees(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    user: Uuid,
    most: i64,
) -> Result<Vec<FeeRow>, Error> {
    let rows = sqlx::query_as(schema.sql(&SELECT_OPEN_FEES)).bind(user).bind(most);
    rows.fetch_all(db).await.map_err(Error::at("read a patron's open fees/fines"))
}
