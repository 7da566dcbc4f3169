//! The columns of loans and fees/fines, as parameters of a statement or as rows of a `COPY`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::{Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

use crate::{
    event::Stamp,
    patron::{Fee, Loan},
    store::copy::{CopyBuffer, EncodeError},
};

type BoundQuery<'q> = Query<'q, Postgres, PgArguments>;

/// The columns of many loans. Each loan pushes one value to every column, so all columns have the same
/// length; PostgreSQL would silently fill a shorter array with nulls.
#[derive(Default)]
pub(in crate::store) struct LoanColumns<'a> {
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
    due_by_recall: Vec<Option<bool>>,
    lost_stamp: Vec<Option<&'a [u8]>>,
    lost_value: Vec<Option<bool>>,
    claimed_stamp: Vec<Option<&'a [u8]>>,
    claimed_value: Vec<Option<bool>>,
    closed_stamp: Vec<Option<&'a [u8]>>,
    fallback_user: Vec<Option<Uuid>>,
}

impl<'a> LoanColumns<'a> {
    pub(in crate::store) fn from_loans(loans: &'a BTreeMap<Uuid, Loan>) -> Self {
        let mut columns = Self::default();
        for (id, loan) in loans {
            columns.push(*id, loan);
        }
        columns
    }

    /// Binds the columns as the next parameters, in the order of the fields.
    pub(in crate::store) fn bind<'q>(&'q self, query: BoundQuery<'q>) -> BoundQuery<'q> {
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
            .bind(&self.due_by_recall)
            .bind(&self.lost_stamp)
            .bind(&self.lost_value)
            .bind(&self.claimed_stamp)
            .bind(&self.claimed_value)
            .bind(&self.closed_stamp)
            .bind(&self.fallback_user)
    }

    /// Returns the number of loans.
    pub(in crate::store) fn len(&self) -> usize {
        self.loan_id.len()
    }

    /// Writes the loan with index `n`, in the order of the fields.
    pub(in crate::store) fn write(
        &self,
        n: usize,
        rows: &mut CopyBuffer,
    ) -> Result<(), EncodeError> {
        rows.push(self.loan_id[n])?;
        rows.push(self.check_out_stamp[n])?;
        rows.push(self.check_out_user[n])?;
        rows.push(self.check_out_due_date[n])?;
        rows.push(self.grace_duration[n])?;
        rows.push(self.grace_interval[n])?;
        rows.push(self.grace_minutes[n])?;
        rows.push(self.snapshot_stamp[n])?;
        rows.push(self.snapshot_user[n])?;
        rows.push(self.due_stamp[n])?;
        rows.push(self.changed_due_date[n])?;
        rows.push(self.due_by_recall[n])?;
        rows.push(self.lost_stamp[n])?;
        rows.push(self.lost_value[n])?;
        rows.push(self.claimed_stamp[n])?;
        rows.push(self.claimed_value[n])?;
        rows.push(self.closed_stamp[n])?;
        rows.push(self.fallback_user[n])?;
        Ok(())
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
        self.due_by_recall.push(loan.due.map(|(_, due)| due.by_recall));
        self.lost_stamp.push(stamp(&loan.lost));
        self.lost_value.push(loan.lost.map(|(_, lost)| lost));
        self.claimed_stamp.push(stamp(&loan.claimed_returned));
        self.claimed_value.push(loan.claimed_returned.map(|(_, claimed)| claimed));
        self.closed_stamp.push(loan.closed.as_ref().map(Stamp::as_bytes));
        self.fallback_user.push(loan.fallback_user);
    }
}

/// The columns of many fees/fines.
#[derive(Default)]
pub(in crate::store) struct FeeColumns<'a> {
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
    pub(in crate::store) fn from_fees(fees: &'a BTreeMap<Uuid, Fee>) -> Self {
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

    /// Binds the columns as the next parameters, in the order of the fields.
    pub(in crate::store) fn bind<'q>(&'q self, query: BoundQuery<'q>) -> BoundQuery<'q> {
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

    /// Returns the number of fees/fines.
    pub(in crate::store) fn len(&self) -> usize {
        self.fee_fine_id.len()
    }

    /// Writes the fee/fine with index `n`, in the order of the fields.
    pub(in crate::store) fn write(
        &self,
        n: usize,
        rows: &mut CopyBuffer,
    ) -> Result<(), EncodeError> {
        rows.push(self.fee_fine_id[n])?;
        rows.push(self.balance_stamp[n])?;
        rows.push(self.balance[n])?;
        rows.push(self.loan_id[n])?;
        rows.push(self.type_stamp[n])?;
        rows.push(self.fee_fine_type_id[n])?;
        rows.push(self.user_stamp[n])?;
        rows.push(self.user_id[n])?;
        Ok(())
    }
}

fn stamp<T>(register: &Option<(Stamp, T)>) -> Option<&[u8]> {
    register.as_ref().map(|(stamp, _)| stamp.as_bytes())
}
