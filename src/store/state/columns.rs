//! The columns of loans and fees/fines, each list declared once. From a list follow the array parameters of the
//! merge, the rows of a `COPY`, the rows of a query, and the statements on the table.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::{
    FromRow, Postgres, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use super::rows::{SubjectRow, SubjectTable};
use crate::{
    event::{Grace, GraceUnit, Stamp, stamp::Horizon},
    patron::{Balance, CheckOut, DueDate, Fee, Loan, Register},
    store::{
        Statement,
        copy::{CopyBuffer, EncodeError},
    },
};

type BoundQuery<'q> = Query<'q, Postgres, PgArguments>;

/// The Rust type of a value to write, by its SQL type.
macro_rules! borrowed {
    (bytea) => { &'a [u8] };
    (text) => { &'static str };
    ($fixed:ident) => { owned!($fixed) };
}

/// The Rust type of a value that a query returns, by its SQL type.
macro_rules! owned {
    (bytea) => { Vec<u8> };
    (text) => { String };
    (uuid) => { Uuid };
    (timestamptz) => { DateTime<Utc> };
    (int4) => { i32 };
    (int8) => { i64 };
    (bool) => { bool };
    (numeric) => { Decimal };
}

/// Declares the columns of the table of a subject, a loan or a fee/fine. Each column except the key may be
/// null. The prune horizon and the horizon follow in every row.
macro_rules! columns {
    (
        $(#[$columns_doc:meta])* $Columns:ident;
        $(#[$row_doc:meta])* $Row:ident;
        table $table:ident of $Subject:ty, key $key:ident;
        $subject:ident => { $($column:ident: $sql:ident = $value:expr,)* }
    ) => {
        $(#[$columns_doc])*
        #[derive(Default)]
        pub(in crate::store) struct $Columns<'a> {
            $key: Vec<Uuid>,
            $($column: Vec<Option<borrowed!($sql)>>,)*
        }

        impl<'a> $Columns<'a> {
            pub(in crate::store) fn new(subjects: &'a BTreeMap<Uuid, $Subject>) -> Self {
                let mut columns = Self::default();
                for (id, $subject) in subjects {
                    columns.$key.push(*id);
                    $(columns.$column.push($value);)*
                }
                columns
            }

            /// Binds the columns as the next parameters, in the order of the list.
            pub(in crate::store) fn bind<'q>(&'q self, query: BoundQuery<'q>) -> BoundQuery<'q> {
                query.bind(&self.$key)$(.bind(&self.$column))*
            }
        }

        $(#[$row_doc])*
        #[allow(dead_code, reason = "grace_minutes follows from the grace period and is only written")]
        pub struct $Row {
            $key: Uuid,
            $($column: Option<owned!($sql)>,)*
            prune_horizon: Option<Vec<u8>>,
            horizon: Vec<u8>,
        }

        impl FromRow<'_, PgRow> for $Row {
            fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
                Ok(Self {
                    $key: row.try_get(stringify!($key))?,
                    $($column: row.try_get(stringify!($column))?,)*
                    prune_horizon: row.try_get("prune_horizon")?,
                    horizon: row.try_get("horizon")?,
                })
            }
        }

        impl SubjectTable for $Subject {
            type Row = $Row;

            const COLUMNS: usize = 1 + [$(stringify!($column)),*].len() + 2;
            const SELECT: Statement = Statement::new(concat!(
                "select ", stringify!($key), $(", ", stringify!($column),)* ", prune_horizon, horizon from {schema}.",
                stringify!($table), " where ", stringify!($key), " = any($1)",
            ));
            const COPY: Statement = Statement::new(concat!(
                "copy {schema}.", stringify!($table), " (", stringify!($key), $(", ", stringify!($column),)*
                ", prune_horizon, horizon) from stdin (format binary)",
            ));
            const DELETE: Statement = Statement::new(concat!(
                "delete from {schema}.", stringify!($table), " where ", stringify!($key), " = any($1)",
            ));
            const SELECT_SPLIT: Statement = Statement::new(concat!(
                "select ", stringify!($key), " from {schema}.", stringify!($table), " group by ", stringify!($key),
                " having count(*) > 1 limit $1",
            ));

            fn write(&self, id: Uuid, rows: &mut CopyBuffer) -> Result<(), EncodeError> {
                let $subject = self;
                rows.push(id)?;
                $(rows.push($value)?;)*
                Ok(())
            }

            fn merge(self, other: Self) -> Self {
                self.merge(other)
            }
        }
    };
}

columns! {
    /// The columns of many loans. All columns have the same length; PostgreSQL would silently fill a shorter
    /// array with nulls.
    LoanColumns;
    /// A row of the table of loans.
    LoanRow;
    table loan of Loan, key loan_id;
    loan => {
        check_out_stamp: bytea = stamp_bytes(&loan.check_out),
        check_out_user: uuid = loan.check_out.map(|(_, check_out)| check_out.user),
        check_out_due_date: timestamptz = loan.check_out.map(|(_, check_out)| check_out.due_date),
        grace_duration: int4 = grace(loan).map(|grace| grace.duration),
        grace_interval: text = grace(loan).map(|grace| grace.unit.name()),
        grace_minutes: int8 = grace(loan).map(|grace| grace.minutes()),
        snapshot_stamp: bytea = stamp_bytes(&loan.snapshot),
        snapshot_user: uuid = loan.snapshot.map(|(_, user)| user),
        due_stamp: bytea = stamp_bytes(&loan.due),
        changed_due_date: timestamptz = loan.due.map(|(_, due)| due.date),
        due_by_recall: bool = loan.due.map(|(_, due)| due.by_recall),
        lost_stamp: bytea = stamp_bytes(&loan.lost),
        lost_value: bool = loan.lost.map(|(_, lost)| lost),
        claimed_stamp: bytea = stamp_bytes(&loan.claimed_returned),
        claimed_value: bool = loan.claimed_returned.map(|(_, claimed)| claimed),
        closed_stamp: bytea = loan.closed.as_ref().map(Stamp::as_bytes),
        fallback_user: uuid = loan.fallback_user,
    }
}

columns! {
    /// The columns of many fees/fines.
    FeeColumns;
    /// A row of the table of fees/fines.
    FeeRow;
    table fee_fine of Fee, key fee_fine_id;
    fee => {
        balance_stamp: bytea = stamp_bytes(&fee.balance),
        balance: numeric = fee.balance.map(|(_, balance)| balance.amount),
        loan_id: uuid = fee.balance.and_then(|(_, balance)| balance.loan),
        type_stamp: bytea = stamp_bytes(&fee.fee_fine_type),
        fee_fine_type_id: uuid = fee.fee_fine_type.map(|(_, fee_fine_type)| fee_fine_type),
        user_stamp: bytea = stamp_bytes(&fee.user),
        user_id: uuid = fee.user.map(|(_, user)| user),
    }
}

fn stamp_bytes<T>(register: &Register<T>) -> Option<&[u8]> {
    register.as_ref().map(|(stamp, _)| stamp.as_bytes())
}

fn grace(loan: &Loan) -> Option<Grace> {
    loan.check_out.and_then(|(_, check_out)| check_out.grace)
}

fn register<T>(stamp: Option<Vec<u8>>, value: Option<T>) -> Register<T> {
    Some((Stamp::from_bytes(&stamp?)?, value?))
}

fn subject_row<T>(state: T, prune_horizon: Option<Vec<u8>>, horizon: &[u8]) -> SubjectRow<T> {
    let prune_horizon = prune_horizon.and_then(|bytes| Horizon::from_bytes(&bytes));
    SubjectRow { state, prune_horizon, horizon: Horizon::from_bytes(horizon) }
}

impl From<LoanRow> for (Uuid, SubjectRow<Loan>) {
    fn from(row: LoanRow) -> Self {
        let unit = row.grace_interval.as_deref().and_then(GraceUnit::parse);
        let grace = row.grace_duration.zip(unit).map(|(duration, unit)| Grace { duration, unit });
        let check_out = row.check_out_user.zip(row.check_out_due_date);
        let check_out = check_out.map(|(user, due_date)| CheckOut { user, due_date, grace });
        let due = row.changed_due_date.zip(row.due_by_recall);
        let due = due.map(|(date, by_recall)| DueDate { date, by_recall });
        let loan = Loan {
            check_out: register(row.check_out_stamp, check_out),
            snapshot: register(row.snapshot_stamp, row.snapshot_user),
            due: register(row.due_stamp, due),
            lost: register(row.lost_stamp, row.lost_value),
            claimed_returned: register(row.claimed_stamp, row.claimed_value),
            closed: row.closed_stamp.and_then(|stamp| Stamp::from_bytes(&stamp)),
            fallback_user: row.fallback_user,
        };
        (row.loan_id, subject_row(loan, row.prune_horizon, &row.horizon))
    }
}

impl From<FeeRow> for (Uuid, SubjectRow<Fee>) {
    fn from(row: FeeRow) -> Self {
        let balance = row.balance.map(|amount| Balance { amount, loan: row.loan_id });
        let fee = Fee {
            balance: register(row.balance_stamp, balance),
            fee_fine_type: register(row.type_stamp, row.fee_fine_type_id),
            user: register(row.user_stamp, row.user_id),
        };
        (row.fee_fine_id, subject_row(fee, row.prune_horizon, &row.horizon))
    }
}
