//! Compares the service's response about one patron with the truth.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::blocks::Block;
use crate::model::{self, Account, GracePeriod, Patron};

/// One value in which the service and the truth differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The patron of the difference.
    pub patron: Uuid,
    /// The name of the patron, for a human reader.
    pub name: String,
    /// The compared value.
    pub what: String,
    /// The value in the truth.
    pub expected: String,
    /// The value in the service's response.
    pub got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { patron, name, what, expected, got } = self;
        write!(f, "{patron} ({name}), {what}: expected {expected}, got {got}")
    }
}

impl Difference {
    pub(super) fn new(
        patron: &Patron,
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self {
            patron: patron.id,
            name: patron.name(),
            what: what.into(),
            expected: expected.into(),
            got: got.into(),
        }
    }
}

/// A user summary as the service returns it; an unknown or missing member is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Summary {
    /// The id of the summary.
    pub id: Uuid,
    /// A version that grows with each change.
    #[serde(rename = "_version")]
    pub version: u64,
    /// The patron.
    pub user_id: Uuid,
    /// The open loans.
    pub open_loans: Vec<SummaryLoan>,
    /// The open fees/fines.
    pub open_fees_fines: Vec<SummaryFee>,
}

/// An open loan of a summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SummaryLoan {
    /// The loan id.
    pub loan_id: Uuid,
    /// The due date.
    pub due_date: Option<DateTime<Utc>>,
    /// Whether a recall set the due date.
    pub recall: bool,
    /// Whether the item is declared lost or aged to lost.
    pub item_lost: bool,
    /// Whether the item is claimed returned.
    pub item_claimed_returned: bool,
    /// The grace period at check-out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<GracePeriod>,
}

/// An open fee/fine of a summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SummaryFee {
    /// The fee/fine id.
    pub fee_fine_id: Uuid,
    /// The fee/fine type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_fine_type_id: Option<Uuid>,
    /// The loan of the fee/fine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loan_id: Option<Uuid>,
    /// The balance.
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub balance: Decimal,
}

impl SummaryLoan {
    fn of((id, loan): (&Uuid, &model::Loan)) -> Self {
        Self {
            loan_id: *id,
            due_date: Some(loan.due_date),
            recall: loan.recall,
            item_lost: loan.is_lost(),
            item_claimed_returned: loan.is_claimed_returned(),
            grace_period: loan.grace_period,
        }
    }
}

impl SummaryFee {
    fn of((id, fee): (&Uuid, &model::FeeFine)) -> Self {
        Self {
            fee_fine_id: *id,
            fee_fine_type_id: Some(fee.fee_fine_type_id),
            loan_id: fee.loan_id,
            balance: fee.balance,
        }
    }
}

impl Summary {
    /// Returns the correct summary of an account, or `None` if nothing is open.
    pub fn from_account(account: &Account) -> Option<Self> {
        if account.open_loans.is_empty() && account.open_fees_fines.is_empty() {
            return None;
        }
        Some(Self {
            // The judge ignores `id` and `version`.
            id: account.patron.id,
            version: 1,
            user_id: account.patron.id,
            open_loans: account.open_loans.iter().map(SummaryLoan::of).collect(),
            open_fees_fines: account.open_fees_fines.iter().map(SummaryFee::of).collect(),
        })
    }
}

impl fmt::Display for SummaryLoan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let due = self.due_date.map_or("undated".to_owned(), |due| {
            format!("due {}", due.to_rfc3339_opts(SecondsFormat::Millis, true))
        });
        write!(f, "{due}")?;
        for (is_set, flag) in [
            (self.recall, "recalled"),
            (self.item_lost, "lost"),
            (self.item_claimed_returned, "claimed returned"),
        ] {
            if is_set {
                write!(f, ", {flag}")?;
            }
        }
        match self.grace_period {
            Some(grace) => write!(f, ", grace {} {:?}", grace.duration, grace.interval_id),
            None => write!(f, ", no grace"),
        }
    }
}

impl fmt::Display for SummaryFee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |id: Option<Uuid>| id.map_or("none".to_owned(), |id| id.to_string());
        let (balance, loan) = (self.balance, text(self.loan_id));
        write!(f, "balance {balance}, loan {loan}, type {}", text(self.fee_fine_type_id))
    }
}

/// Returns the differences between a summary and an account of the truth.
pub(super) fn compare_summaries(account: &Account, got: Option<&Summary>) -> Vec<Difference> {
    let patron = &account.patron;
    let expected = Summary::from_account(account);
    let (expected, got) = match (&expected, got) {
        (None, None) => return vec![],
        (Some(expected), Some(got)) => (expected, got),
        (expected, got) => {
            let text = |summary: Option<&Summary>| match summary {
                None => "404, nothing open".to_owned(),
                Some(summary) => format!(
                    "{} open loans and {} open fees/fines",
                    summary.open_loans.len(),
                    summary.open_fees_fines.len()
                ),
            };
            return vec![Difference::new(patron, "summary", text(expected.as_ref()), text(got))];
        }
    };
    let mut found = vec![];
    if got.user_id != patron.id {
        let (expected, got) = (patron.id.to_string(), got.user_id.to_string());
        found.push(Difference::new(patron, "summary's user", expected, got));
    }
    let loan = |loan: &SummaryLoan| (loan.loan_id, loan.clone());
    found.extend(compare_lists(patron, "loan", &expected.open_loans, &got.open_loans, loan));
    let fee = |fee: &SummaryFee| (fee.fee_fine_id, fee.clone());
    let (fees, got) = (&expected.open_fees_fines, &got.open_fees_fines);
    found.extend(compare_lists(patron, "fee/fine", fees, got, fee));
    found
}

/// Returns the differences between two lists, regardless of their order.
fn compare_lists<T: PartialEq + fmt::Display>(
    patron: &Patron,
    what: &str,
    expected: &[T],
    got: &[T],
    keyed: impl Fn(&T) -> (Uuid, T),
) -> Vec<Difference> {
    let mut found = vec![];
    let expected: BTreeMap<Uuid, T> = expected.iter().map(&keyed).collect();
    let by_id: BTreeMap<Uuid, T> = got.iter().map(&keyed).collect();
    if by_id.len() != got.len() {
        let (once, got) = (format!("{} of them", by_id.len()), format!("{}", got.len()));
        found.push(Difference::new(patron, format!("repeated {what}"), once, got));
    }
    let text = |entry: Option<&T>| entry.map_or("none".to_owned(), ToString::to_string);
    for (id, entry) in &expected {
        let other = by_id.get(id);
        if other != Some(entry) {
            let what = format!("{what} {id}");
            found.push(Difference::new(patron, what, entry.to_string(), text(other)));
        }
    }
    for (id, other) in by_id.iter().filter(|(id, _)| !expected.contains_key(id)) {
        found.push(Difference::new(patron, format!("{what} {id}"), "none", other.to_string()));
    }
    found
}

/// Returns a difference in the blocks unless the response is right at one of two instants: before the
/// request and after the response.
pub(super) fn compare_blocks(
    patron: &Patron,
    expected: [&[Block]; 2],
    got: &[Block],
) -> Option<Difference> {
    (!expected.contains(&got)).then(|| {
        Difference::new(patron, "blocks", describe_blocks(expected[1]), describe_blocks(got))
    })
}

fn describe_blocks(blocks: &[Block]) -> String {
    let texts = blocks.iter().map(|block| {
        let Block { block_borrowing, block_renewals, block_requests, .. } = block;
        format!(
            "{} {} {block_borrowing}/{block_renewals}/{block_requests} \"{}\"",
            block.id, block.patron_block_condition_id, block.message
        )
    });
    format!("[{}]", texts.collect::<Vec<_>>().join("; "))
}
