//! Serves `/loan-storage/loans` and `/accounts`, the sources of a rebuild.

use actix_web::HttpResponse;
use actix_web::web::{Data, Query};
use chrono::{DateTime, SecondsFormat, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{Caller, FolioState, query, refuse};
use crate::model::{FeeFine, ItemStatus, Loan};

/// The requested page of a collection.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default = "ten")]
    limit: usize,
    #[serde(default)]
    offset: usize,
    query: String,
}

fn ten() -> usize {
    10
}

pub(super) async fn loans(
    caller: Caller,
    page: Query<Page>,
    folio: Data<FolioState>,
) -> HttpResponse {
    if let Some(refusal) = refuse(&caller, &folio, folio.behavior().storage).await {
        return refusal;
    }
    answer("loans", &page, |query| {
        let truth = folio.truth.read();
        let loans = truth.loans_after(query.after);
        let wanted = loans.filter(|(_, patron, _)| query.patron.is_none_or(|who| who == *patron));
        cut(wanted, &page, |(id, patron, loan)| LoanRecord::new(id, patron, loan))
    })
}

pub(super) async fn accounts(
    caller: Caller,
    page: Query<Page>,
    folio: Data<FolioState>,
) -> HttpResponse {
    if let Some(refusal) = refuse(&caller, &folio, folio.behavior().storage).await {
        return refusal;
    }
    answer("accounts", &page, |query| {
        let truth = folio.truth.read();
        let fees = truth.fees_after(query.after);
        let wanted = fees.filter(|(_, patron, _)| query.patron.is_none_or(|who| who == *patron));
        cut(wanted, &page, |(id, patron, fee)| AccountRecord::new(id, patron, fee))
    })
}

fn answer<R: Serialize>(
    collection: &str,
    page: &Page,
    find: impl FnOnce(query::Query) -> (Vec<R>, usize),
) -> HttpResponse {
    match query::parse(&page.query) {
        Err(why) => HttpResponse::BadRequest().body(why),
        Ok(query) => {
            let (records, total) = find(query);
            HttpResponse::Ok().json(json!({ collection: records, "totalRecords": total }))
        }
    }
}

/// Returns the records of a page and the total number of records.
fn cut<T, R>(
    all: impl Iterator<Item = T>,
    page: &Page,
    record: impl Fn(T) -> R,
) -> (Vec<R>, usize) {
    let (mut records, mut total) = (vec![], 0);
    for (place, one) in all.enumerate() {
        total += 1;
        if place >= page.offset && records.len() < page.limit {
            records.push(record(one));
        }
    }
    (records, total)
}

#[derive(Serialize)]
struct Status {
    name: &'static str,
}

const OPEN: Status = Status { name: "Open" };

/// An open loan, as storage returns it and publishes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoanRecord {
    id: Uuid,
    user_id: Uuid,
    item_id: Uuid,
    status: Status,
    loan_date: String,
    due_date: String,
    /// Omitted if false, as in most loans.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    due_date_changed_by_recall: bool,
    item_status: ItemStatus,
    action: &'static str,
    is_dcb: bool,
}

impl LoanRecord {
    pub(crate) fn new(id: Uuid, user_id: Uuid, loan: &Loan) -> Self {
        Self {
            id,
            user_id,
            item_id: loan.item_id,
            status: OPEN,
            loan_date: date(loan.loan_date),
            due_date: date(loan.due_date),
            due_date_changed_by_recall: loan.recall,
            item_status: loan.item_status,
            action: match loan.item_status {
                ItemStatus::CheckedOut => "checkedout",
                ItemStatus::DeclaredLost => "declaredLost",
                ItemStatus::AgedToLost => "itemAgedToLost",
                ItemStatus::ClaimedReturned => "claimedReturned",
            },
            is_dcb: false,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccountRecord {
    id: Uuid,
    user_id: Uuid,
    fee_fine_id: Uuid,
    status: Status,
    payment_status: Status,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    amount: Decimal,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    remaining: Decimal,
    #[serde(skip_serializing_if = "Option::is_none")]
    loan_id: Option<String>,
}

impl AccountRecord {
    fn new(id: Uuid, user_id: Uuid, fee: &FeeFine) -> Self {
        // Fees/fines of staff often have the loan id 0 instead of none.
        let by_hand = id.as_u128().is_multiple_of(2);
        let loan_id = fee.loan_id.map(|id| id.to_string()).or(by_hand.then(|| "0".to_owned()));
        Self {
            id,
            user_id,
            fee_fine_id: fee.fee_fine_type_id,
            status: OPEN,
            payment_status: Status { name: "Outstanding" },
            amount: fee.balance,
            remaining: fee.balance,
            loan_id,
        }
    }
}

/// Returns a time in the format of storage modules.
fn date(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, false)
}
