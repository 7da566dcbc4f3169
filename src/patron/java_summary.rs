//! Reads a patron's summary from the Java module: the open loans and open fees/fines.
//!
//! Parsing never fails. It skips unusable parts and reports them as defects, so that the Java switch can
//! count them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{OpenFee, OpenLoan};
use crate::event::{
    Reject,
    decode::{
        fields::{boolean, date_time, decimal, grace, uuid},
        json::RawMember,
    },
};

/// The open loans and open fees/fines of one summary.
#[derive(Debug, Default, PartialEq)]
pub struct Summary {
    /// The patron; without one the whole summary is unusable.
    pub user: Option<Uuid>,
    /// Open loans.
    pub loans: BTreeMap<Uuid, OpenLoan>,
    /// Open fees/fines.
    pub fees: BTreeMap<Uuid, OpenFee>,
    /// The skipped parts.
    pub defects: Vec<SummaryDefect>,
}

/// An unusable part of a summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SummaryDefect {
    /// The summary is not an object with lists, or names no patron; it is skipped.
    Summary,
    /// A loan without a valid id; the loan is skipped.
    Loan,
    /// A loan without a valid due date; the loan counts, and is never overdue until an event sets the due
    /// date.
    DueDate,
    /// A flag that is neither true nor false; it counts as false.
    Flag,
    /// A fee/fine without a valid id or balance; the fee/fine is skipped.
    Fee,
    /// An invalid loan id or type id of a fee/fine; the id is skipped, and the fee/fine counts.
    Link,
}

impl SummaryDefect {
    /// Returns the text for the report of the Java switch; a number precedes it.
    pub fn description(self) -> &'static str {
        match self {
            Self::Summary => "summaries without a valid patron, omitted",
            Self::Loan => "loans without a valid id, omitted",
            Self::DueDate => "loans without a valid due date, stored as never overdue",
            Self::Flag => "flags of loans with a value other than true or false, stored as false",
            Self::Fee => "fees/fines without a valid id or balance, omitted",
            Self::Link => "invalid loan or type ids of fees/fines, omitted",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SummaryMembers<'a> {
    #[serde(borrow, default)]
    user_id: RawMember<'a>,
    #[serde(borrow, default)]
    open_loans: RawMember<'a>,
    #[serde(borrow, default)]
    open_fees_fines: RawMember<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LoanMembers<'a> {
    #[serde(borrow)]
    loan_id: RawMember<'a>,
    #[serde(borrow)]
    due_date: RawMember<'a>,
    #[serde(borrow)]
    recall: RawMember<'a>,
    #[serde(borrow)]
    item_lost: RawMember<'a>,
    #[serde(borrow)]
    item_claimed_returned: RawMember<'a>,
    #[serde(borrow)]
    grace_period: RawMember<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FeeMembers<'a> {
    #[serde(borrow)]
    fee_fine_id: RawMember<'a>,
    #[serde(borrow)]
    fee_fine_type_id: RawMember<'a>,
    #[serde(borrow)]
    loan_id: RawMember<'a>,
    #[serde(borrow)]
    balance: RawMember<'a>,
}

/// Parses the JSON of a summary.
pub fn parse(json: &str) -> Summary {
    let mut summary = Summary::default();
    let members = serde_json::from_str::<SummaryMembers<'_>>(json).ok();
    let user = members.as_ref().and_then(|m| uuid("userId", m.user_id).ok().flatten());
    let (Some(members), Some(user)) = (members, user) else {
        summary.defects.push(SummaryDefect::Summary);
        return summary;
    };
    summary.user = Some(user);
    for raw in summary.elements(members.open_loans) {
        summary.add_loan(user, raw);
    }
    for raw in summary.elements(members.open_fees_fines) {
        summary.add_fee(user, raw);
    }
    summary
}

impl Summary {
    /// Returns the elements of a list; none if it is missing. Another type is a defect.
    fn elements<'a>(&mut self, raw: RawMember<'a>) -> Vec<&'a RawValue> {
        let Some(raw) = raw else { return Vec::new() };
        serde_json::from_str(raw.get()).unwrap_or_else(|_| {
            self.defects.push(SummaryDefect::Summary);
            Vec::new()
        })
    }

    /// Returns the value, or `None` if it is absent; an invalid value is a defect.
    fn value_or_defect<T>(
        &mut self,
        value: Result<Option<T>, Reject>,
        defect: SummaryDefect,
    ) -> Option<T> {
        value.unwrap_or_else(|_| {
            self.defects.push(defect);
            None
        })
    }

    fn add_loan(&mut self, user: Uuid, raw: &RawValue) {
        let members: LoanMembers<'_> = serde_json::from_str(raw.get()).unwrap_or_default();
        let Ok(Some(id)) = uuid("loanId", members.loan_id) else {
            return self.defects.push(SummaryDefect::Loan);
        };
        let due_date = date_time("dueDate", members.due_date).ok().flatten();
        if due_date.is_none() {
            self.defects.push(SummaryDefect::DueDate);
        }
        let mut flag = |name, raw| {
            self.value_or_defect(boolean(name, raw), SummaryDefect::Flag).unwrap_or(false)
        };
        let loan = OpenLoan {
            user,
            due_date,
            grace: grace(members.grace_period),
            recall: flag("recall", members.recall),
            lost: flag("itemLost", members.item_lost),
            claimed_returned: flag("itemClaimedReturned", members.item_claimed_returned),
        };
        self.loans.insert(id, loan);
    }

    fn add_fee(&mut self, user: Uuid, raw: &RawValue) {
        let members: FeeMembers<'_> = serde_json::from_str(raw.get()).unwrap_or_default();
        let id = uuid("feeFineId", members.fee_fine_id);
        let (Ok(Some(id)), Ok(Some(balance))) = (id, decimal("balance", members.balance)) else {
            return self.defects.push(SummaryDefect::Fee);
        };
        let fee = OpenFee {
            user,
            balance,
            loan: self.value_or_defect(uuid("loanId", members.loan_id), SummaryDefect::Link),
            fee_fine_type: self.value_or_defect(
                uuid("feeFineTypeId", members.fee_fine_type_id),
                SummaryDefect::Link,
            ),
        };
        self.fees.insert(id, fee);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::event::{Grace, GraceUnit};

    const USER: &str = "7b1f0c52-9a3e-4d0e-8f66-2c4f5a9d1e01";
    const LOAN: &str = "0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11";
    const FEE: &str = "a41c7e90-3b5d-4f68-92c7-8e0d5b1a6f33";

    fn id(text: &str) -> Uuid {
        text.parse().unwrap()
    }

    #[test]
    fn summary_is_read_completely() {
        let summary = parse(
            &json!({
                "id": FEE, "_version": 7, "userId": USER.to_uppercase(),
                "openLoans": [{
                    "loanId": LOAN, "dueDate": "2026-09-14T21:59:59.000+00:00", "recall": true,
                    "itemLost": true, "itemClaimedReturned": false,
                    "gracePeriod": { "duration": 2, "intervalId": "Days" },
                }],
                "openFeesFines": [{
                    "feeFineId": FEE, "feeFineTypeId": LOAN, "loanId": LOAN, "balance": 12.55,
                }],
                "numberOfLostItems": 1,
            })
            .to_string(),
        );
        let loan = OpenLoan {
            user: id(USER),
            due_date: Some("2026-09-14T21:59:59Z".parse().unwrap()),
            grace: Some(Grace { duration: 2, unit: GraceUnit::Days }),
            recall: true,
            lost: true,
            claimed_returned: false,
        };
        let fee = OpenFee {
            user: id(USER),
            balance: "12.55".parse().unwrap(),
            loan: Some(id(LOAN)),
            fee_fine_type: Some(id(LOAN)),
        };
        assert_eq!(summary.user, Some(id(USER)));
        assert_eq!(summary.loans, BTreeMap::from([(id(LOAN), loan)]));
        assert_eq!(summary.fees, BTreeMap::from([(id(FEE), fee)]));
        assert_eq!(summary.defects, []);
    }

    #[test]
    fn unusable_values_are_named_and_the_rest_is_used() {
        let summary = parse(
            &json!({
                "userId": USER,
                "openLoans": [
                    { "loanId": "0", "dueDate": "2026-09-14T21:59:59.000Z" },
                    { "loanId": LOAN, "itemLost": "perhaps", "extra": [] },
                    7,
                ],
                "openFeesFines": [
                    { "feeFineId": FEE, "loanId": "0", "balance": "3.50" },
                    { "feeFineId": LOAN },
                ],
            })
            .to_string(),
        );
        let loan = summary.loans[&id(LOAN)];
        assert_eq!((loan.due_date, loan.lost, summary.loans.len()), (None, false, 1));
        let fee = summary.fees[&id(FEE)];
        assert_eq!((fee.balance, fee.loan), ("3.5".parse().unwrap(), None));
        use SummaryDefect::{DueDate, Fee, Flag, Link, Loan};
        assert_eq!(summary.defects, [Loan, DueDate, Flag, Loan, Link, Fee]);
    }

    #[test]
    fn balance_is_rounded_to_15_decimals() {
        let fee = |balance: &str| {
            let json = format!(
                r#"{{"userId":"{USER}","openFeesFines":[{{"feeFineId":"{FEE}","balance":{balance}}}]}}"#
            );
            let summary = parse(&json);
            assert_eq!(summary.defects, [], "{balance}");
            summary.fees[&id(FEE)].balance.to_string()
        };
        assert_eq!(fee("4.996003610813204e-16"), "0");
        assert_eq!(fee("7.25000000000000044408920985006"), "7.25");
    }

    #[test]
    fn summary_without_patron_or_lists_does_not_fail() {
        for json in ["7", "{}", "[]", "{\"userId\": \"0\"}", "{\"userId\": null}"] {
            let summary = parse(json);
            assert_eq!(
                (summary.user, summary.defects),
                (None, vec![SummaryDefect::Summary]),
                "{json}"
            );
        }
        let bare = parse(&json!({ "userId": USER, "openLoans": null }).to_string());
        assert_eq!((bare.user, bare.defects), (Some(id(USER)), vec![]));
        let wrong = parse(&json!({ "userId": USER, "openLoans": "none" }).to_string());
        assert_eq!((wrong.user, wrong.defects), (Some(id(USER)), vec![SummaryDefect::Summary]));
    }

    #[test]
    fn each_skipped_row_has_its_own_text() {
        use SummaryDefect::{DueDate, Fee, Flag, Link, Loan, Summary};
        let descriptions =
            [Summary, Loan, DueDate, Flag, Fee, Link].map(SummaryDefect::description);
        assert_eq!(BTreeSet::from(descriptions).len(), descriptions.len());
    }
}
