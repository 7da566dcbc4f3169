//! Explanations that are written by hand, right ones and wrong ones.

mod ways_out;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::stub::explain;
use super::{Explanation, check};
use crate::blocks::condition::{
    FEE_FINE_BALANCE as FB, ITEMS_CHARGED_OUT as CO, LOST_ITEMS as LI, OVERDUE_ITEMS as OI,
    RECALL_OVERDUE_DAYS as RD,
};
use crate::blocks::{Condition, Limit, Rules};
use crate::model::{Account, FeeFine, GROUPS, GracePeriod, Interval, ItemStatus, Loan, Patron};

const ALL: [bool; 3] = [true; 3];
const NO_RENEWALS: [bool; 3] = [true, false, true];

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("the text is a time")
}

fn now() -> DateTime<Utc> {
    at("2026-09-15T12:00:00Z")
}

fn loan_id(number: u128) -> Uuid {
    Uuid::from_u128(0x100 + number)
}

fn fee_id(number: u128) -> Uuid {
    Uuid::from_u128(0x900 + number)
}

fn limit_id(number: usize) -> Uuid {
    Uuid::from_u128(0x500 + number as u128)
}

fn patron() -> Patron {
    Patron {
        id: Uuid::from_u128(0x7b1f),
        first_name: "Mara".to_owned(),
        last_name: "Quill".to_owned(),
        username: "quill1".to_owned(),
        barcode: "1".to_owned(),
        active: true,
        patron_group: Some(GROUPS[0].id),
        known: true,
    }
}

fn loan(due: &str, recall: bool, item_status: ItemStatus) -> Loan {
    let due_date = at(&format!("{due}Z"));
    let loan_date = at("2026-08-01T12:00:00Z");
    Loan { item_id: Uuid::nil(), loan_date, due_date, recall, item_status, grace_period: None }
}

fn account(loans: Vec<Loan>, fees: &[(&str, Option<u128>)]) -> Account {
    let fee = |(balance, loan): &(&str, Option<u128>)| FeeFine {
        fee_fine_type_id: Uuid::nil(),
        loan_id: loan.map(loan_id),
        balance: balance.parse().expect("the text is an amount"),
    };
    Account {
        patron: patron(),
        changed: at("2026-09-01T12:00:00Z"),
        open_loans: (1..).map(loan_id).zip(loans).collect(),
        open_fees_fines: (1..).map(fee_id).zip(fees.iter().map(fee)).collect(),
    }
}

/// Returns these limits of the patron's group. A condition has the flags and the message of its first limit.
fn rules(limits: &[(Uuid, &str, [bool; 3], &str)]) -> Rules {
    let mut conditions: BTreeMap<Uuid, Condition> = BTreeMap::new();
    for (id, _, [block_borrowing, block_renewals, block_requests], message) in limits {
        conditions.entry(*id).or_insert(Condition {
            id: *id,
            name: "a condition".to_owned(),
            block_borrowing: *block_borrowing,
            block_renewals: *block_renewals,
            block_requests: *block_requests,
            value_type: "Integer".to_owned(),
            message: (*message).to_owned(),
        });
    }
    let limits = limits.iter().enumerate().map(|(number, (condition_id, value, ..))| Limit {
        id: limit_id(number),
        patron_group_id: GROUPS[0].id.to_string(),
        condition_id: *condition_id,
        value: Some(value.parse().expect("the text is a number")),
    });
    Rules { limits: limits.collect(), conditions: conditions.into_values().collect() }
}

/// A patron with seven loans and three fees/fines.
fn mara() -> Account {
    use ItemStatus::{CheckedOut, ClaimedReturned, DeclaredLost};
    let grace_period = Some(GracePeriod::new(2, Interval::Hours));
    account(
        vec![
            loan("2026-09-10T12:00:00", true, CheckedOut),
            loan("2026-09-14T12:00:00", false, CheckedOut),
            Loan { grace_period, ..loan("2026-09-15T11:00:00", false, CheckedOut) },
            loan("2026-09-20T12:00:00", false, DeclaredLost),
            loan("2026-09-21T12:00:00", false, CheckedOut),
            loan("2026-09-01T12:00:00", false, ClaimedReturned),
            loan("2026-09-22T12:00:00", false, CheckedOut),
        ],
        &[("7.25", None), ("4.5", Some(2)), ("6.00", Some(6))],
    )
}

fn rules_of_mara() -> Rules {
    rules(&[
        (CO, "5", NO_RENEWALS, "{measured} of {limit}: return {toReturn}"),
        (OI, "1", NO_RENEWALS, "Overdue: {overdue}"),
        (RD, "3", ALL, "A recall"),
        (FB, "10", NO_RENEWALS, "{measured} is {toSettle} too much for {limit}, {unknown} {"),
        (LI, "1", ALL, "Lost: {measured}, {toReturn}"),
        (OI, "2", NO_RENEWALS, ""),
    ])
}

fn loans_of_mara() -> Value {
    json!([
        { "loanId": loan_id(6), "dueDate": "2026-09-01T12:00:00.000+00:00",
          "overdueFrom": "2026-09-01T12:01:00.000+00:00", "overdueDays": 14, "recall": false,
          "lost": false, "claimedReturned": true, "countsFor": [],
          "leftOutBecause": "claimed-returned" },
        { "loanId": loan_id(1), "dueDate": "2026-09-10T12:00:00.000+00:00",
          "overdueFrom": "2026-09-10T12:01:00.000+00:00", "overdueDays": 5, "recall": true,
          "lost": false, "claimedReturned": false,
          "countsFor": ["charged-out", "overdue", "overdue-recalls", "recall-overdue-days"] },
        { "loanId": loan_id(2), "dueDate": "2026-09-14T12:00:00.000+00:00",
          "overdueFrom": "2026-09-14T12:01:00.000+00:00", "overdueDays": 1, "recall": false,
          "lost": false, "claimedReturned": false, "countsFor": ["charged-out", "overdue"] },
        { "loanId": loan_id(3), "dueDate": "2026-09-15T11:00:00.000+00:00", "graceMinutes": 120,
          "overdueFrom": "2026-09-15T13:01:00.000+00:00", "overdueDays": 0, "recall": false,
          "lost": false, "claimedReturned": false, "countsFor": ["charged-out"],
          "leftOutBecause": "in-grace" },
        { "loanId": loan_id(4), "dueDate": "2026-09-20T12:00:00.000+00:00",
          "overdueFrom": "2026-09-20T12:01:00.000+00:00", "overdueDays": 0, "recall": false,
          "lost": true, "claimedReturned": false, "countsFor": ["charged-out", "lost"],
          "leftOutBecause": "not-overdue" },
        { "loanId": loan_id(5), "dueDate": "2026-09-21T12:00:00.000+00:00",
          "overdueFrom": "2026-09-21T12:01:00.000+00:00", "overdueDays": 0, "recall": false,
          "lost": false, "claimedReturned": false, "countsFor": ["charged-out"],
          "leftOutBecause": "not-overdue" },
        { "loanId": loan_id(7), "dueDate": "2026-09-22T12:00:00.000+00:00",
          "overdueFrom": "2026-09-22T12:01:00.000+00:00", "overdueDays": 0, "recall": false,
          "lost": false, "claimedReturned": false, "countsFor": ["charged-out"],
          "leftOutBecause": "not-overdue" },
    ])
}

/// Returns a limit of a number of items or days.
fn limit(
    number: usize,
    condition: Uuid,
    measure: &str,
    values: [u32; 3],
    members: &Value,
) -> Value {
    let [limit, at_borrowing, at_others] = values;
    let mut limit = json!({
        "patronBlockLimitId": limit_id(number), "patronBlockConditionId": condition,
        "measure": measure, "limit": f64::from(limit),
        "reachedAt": { "borrowing": at_borrowing, "renewals": at_others, "requests": at_others },
        "reached": [], "blocks": [], "switchedOff": [],
    });
    for (name, value) in members.as_object().expect("the members of a limit") {
        limit[name] = value.clone();
    }
    limit
}

fn limits_of_mara() -> Value {
    let (every, two) =
        (json!(["borrowing", "renewals", "requests"]), json!(["borrowing", "requests"]));
    let none_overdue = json!({ "claimed-returned": 1, "in-grace": 1, "not-overdue": 3 });
    let mut balance = json!({
        "patronBlockLimitId": limit_id(3), "patronBlockConditionId": FB, "measure": "balance",
        "limit": 10.0, "measured": 11.75, "reachedAbove": 10, "reached": every, "blocks": two,
        "switchedOff": ["renewals"], "counted": 2, "leftOut": 1,
        "leftOutBecause": { "loan-claimed-returned": 1 },
    });
    balance["message"] = json!("11.75 is 1.75 too much for 10, {unknown} {");
    json!([
        limit(
            0,
            CO,
            "charged-out",
            [5, 5, 6],
            &json!({
            "measured": 6, "reached": every, "blocks": two, "switchedOff": ["renewals"],
            "counted": 6, "leftOut": 1, "leftOutBecause": { "claimed-returned": 1 },
            "message": "6 of 5: return 2" })
        ),
        limit(
            1,
            OI,
            "overdue",
            [1, 2, 2],
            &json!({
            "measured": 2, "reached": every, "blocks": two, "switchedOff": ["renewals"],
            "counted": 2, "leftOut": 5, "leftOutBecause": none_overdue, "message": "Overdue: 2" })
        ),
        limit(
            2,
            RD,
            "recall-overdue-days",
            [3, 4, 4],
            &json!({
            "measured": 5, "reached": every, "blocks": every, "counted": 1, "leftOut": 6,
            "leftOutBecause": { "claimed-returned": 1, "not-recalled": 5 },
            "message": "A recall" })
        ),
        balance,
        limit(
            4,
            LI,
            "lost",
            [1, 2, 2],
            &json!({
            "measured": 1, "counted": 1, "leftOut": 6,
            "leftOutBecause": { "claimed-returned": 1, "not-lost": 5 }, "message": "Lost: 1, 0" })
        ),
        limit(
            5,
            OI,
            "overdue",
            [2, 3, 3],
            &json!({
            "measured": 2, "switchedOff": ["renewals"], "counted": 2, "leftOut": 5,
            "leftOutBecause": none_overdue, "message": "Overdue: 2" })
        ),
    ])
}

fn explanation_of_mara() -> Value {
    json!({
        "userId": patron().id,
        "evaluatedAt": "2026-09-15T12:00:00.000+00:00",
        "patronGroup": { "id": GROUPS[0].id, "basis": "asked-group",
                         "knownAt": "2026-08-30T06:00:00.000+00:00" },
        "actions": {
            "borrowing": {
                "blocked": true,
                "because": [limit_id(0), limit_id(1), limit_id(2), limit_id(3)],
                "wayOut": {
                    "possible": true,
                    "returnLoans": {
                        "count": 2, "mustInclude": [loan_id(1)],
                        "suggested": [loan_id(1), loan_id(2)],
                        "others": [loan_id(3), loan_id(4), loan_id(5), loan_id(7)],
                        "othersTotal": 4,
                    },
                    "settle": { "amount": 1.75, "suggested": [fee_id(1)] },
                    "caveats": ["late-return-may-charge", "claim-adds-fees"],
                    "oneMoreBlocks": ["charged-out"],
                },
            },
            "renewals": {
                "blocked": true,
                "because": [limit_id(2)],
                "wayOut": {
                    "possible": true,
                    "returnLoans": { "count": 1, "mustInclude": [loan_id(1)],
                        "suggested": [loan_id(1)], "others": [], "othersTotal": 0 },
                    "caveats": ["late-return-may-charge"],
                },
            },
            "requests": {
                "blocked": true,
                "because": [limit_id(0), limit_id(1), limit_id(2), limit_id(3)],
                "wayOut": {
                    "possible": true,
                    "returnLoans": { "count": 1, "mustInclude": [loan_id(1)],
                        "suggested": [loan_id(1)], "others": [], "othersTotal": 0 },
                    "settle": { "amount": 1.75, "suggested": [fee_id(1)] },
                    "caveats": ["late-return-may-charge", "claim-adds-fees"],
                    "oneMoreBlocks": ["charged-out"],
                },
            },
        },
        "limits": limits_of_mara(),
        "loans": loans_of_mara(),
        "feesFines": [
            { "feeFineId": fee_id(1), "balance": 7.25, "counts": true },
            { "feeFineId": fee_id(3), "loanId": loan_id(6), "balance": 6, "counts": false,
              "leftOutBecause": "loan-claimed-returned" },
            { "feeFineId": fee_id(2), "loanId": loan_id(2), "balance": 4.5, "counts": true },
        ],
        "next": { "at": "2026-09-15T13:01:00.000+00:00", "limit": limit_id(5), "what": "overdue" },
        "certainty": { "state": "certain", "asOf": "2026-09-15T11:59:59.000+00:00" },
        "totals": { "loans": 7, "feesFines": 3 },
    })
}

fn differences(account: &Account, rules: &Rules, explanation: &Value) -> Vec<String> {
    let explanation: Explanation =
        serde_json::from_value(explanation.clone()).expect("the value is an explanation");
    let found = check(account, rules, &explanation);
    found.iter().map(ToString::to_string).collect()
}

/// Checks that the judge finds a difference with this text after each change of one member.
#[track_caller]
fn assert_found(account: &Account, rules: &Rules, right: &Value, changes: &[(&str, Value, &str)]) {
    assert_eq!(differences(account, rules, right), [""; 0]);
    for (path, value, expected) in changes {
        let mut wrong = right.clone();
        let (parent, member) = path.rsplit_once('/').expect("the path has a member");
        let parent = wrong.pointer_mut(parent).unwrap_or_else(|| panic!("no {path}"));
        match parent {
            Value::Object(members) if value.is_null() => {
                members.remove(member).unwrap_or_else(|| panic!("no {path}"));
            }
            Value::Object(members) => {
                members.insert(member.to_owned(), value.clone());
            }
            Value::Array(items) => {
                let at: usize = member.parse().expect("the path has a position");
                items[at] = value.clone();
            }
            _ => panic!("{path} is not below an object or a list"),
        }
        let found = differences(account, rules, &wrong);
        let is_found = found.iter().any(|line| line.contains(&format!("explanation, {expected}")));
        assert!(is_found, "{path} = {value}: {found:#?}");
    }
}

#[test]
fn wrong_facts_are_found() {
    let loan = |number: u128| format!("loan {}, ", loan_id(number));
    let (first, second, third) = (loan(1), loan(2), loan(3));
    let fee = format!("fee/fine {}, ", fee_id(3));
    let right = explanation_of_mara();
    let (mut fewer, mut swapped) = (loans_of_mara(), loans_of_mara());
    fewer.as_array_mut().expect("the loans are a list").pop();
    swapped.as_array_mut().expect("the loans are a list").swap(1, 2);
    assert_found(
        &mara(),
        &rules_of_mara(),
        &right,
        &[
            ("/userId", json!(Uuid::nil()), "user"),
            ("/patronGroup/id", json!(GROUPS[1].id), "patron group"),
            ("/patronGroup/id", Value::Null, "patron group"),
            ("/countersDiffer", json!(true), "counters differ"),
            ("/totals/loans", json!(6), "totals, loans"),
            ("/totals/feesFines", json!(2), "totals, feesFines"),
            ("/totals/truncated", json!(true), "totals, truncated"),
            ("/loans", fewer, "number of loans"),
            ("/loans", swapped, "order of the loans"),
            ("/loans/1/dueDate", json!("2026-09-10T12:00:00.001Z"), &(first.clone() + "dueDate")),
            ("/loans/3/graceMinutes", json!(121), &(third.clone() + "graceMinutes")),
            (
                "/loans/3/overdueFrom",
                json!("2026-09-15T13:00:00Z"),
                &(third.clone() + "overdueFrom"),
            ),
            ("/loans/3/leftOutBecause", json!("not-overdue"), &(third + "leftOutBecause")),
            ("/loans/1/overdueDays", json!(6), &(first.clone() + "overdueDays")),
            ("/loans/1/recall", json!(false), &(first + "recall")),
            ("/loans/2/lost", json!(true), &(second.clone() + "lost")),
            ("/loans/2/claimedReturned", json!(true), &(second.clone() + "claimedReturned")),
            ("/loans/2/countsFor", json!(["charged-out"]), &(second + "countsFor")),
            ("/feesFines/1/balance", json!(6.01), &(fee.clone() + "balance")),
            ("/feesFines/1/counts", json!(true), &(fee.clone() + "counts")),
            ("/feesFines/1/loanId", Value::Null, &(fee.clone() + "loanId")),
            ("/feesFines/1/leftOutBecause", Value::Null, &(fee + "leftOutBecause")),
            ("/feesFines/2/balance", json!(7), "order of the fees/fines"),
        ],
    );
}

#[test]
fn wrong_limits_are_found() {
    let name = |number: usize, measure: &str| format!("limit {} ({measure}), ", limit_id(number));
    let (items, balance, overdue) =
        (name(0, "charged-out"), name(3, "balance"), name(1, "overdue"));
    let mut swapped = limits_of_mara();
    swapped.as_array_mut().expect("the limits are a list").swap(1, 5);
    assert_found(
        &mara(),
        &rules_of_mara(),
        &explanation_of_mara(),
        &[
            ("/limits", json!([]), "limits"),
            ("/limits", swapped, "limits"),
            ("/limits/0/measure", json!("lost"), &(items.clone() + "measure")),
            ("/limits/0/limit", json!(5.1), &(items.clone() + "limit")),
            ("/limits/0/measured", json!(7), &(items.clone() + "measured")),
            ("/limits/0/reachedAt/borrowing", json!(6), &(items.clone() + "reachedAt")),
            ("/limits/0/reached", json!(["borrowing"]), &(items.clone() + "reached")),
            ("/limits/0/blocks", json!(["borrowing"]), &(items.clone() + "blocks")),
            ("/limits/0/switchedOff", json!([]), &(items.clone() + "switchedOff")),
            ("/limits/0/counted", json!(7), &(items.clone() + "counted")),
            ("/limits/0/leftOut", json!(0), &(items.clone() + "leftOut")),
            ("/limits/0/message", json!("6 of 5: return 1"), &(items + "message")),
            ("/limits/1/leftOutBecause/in-grace", json!(2), &(overdue + "leftOutBecause")),
            ("/limits/3/reachedAbove", json!(10.01), &(balance.clone() + "reachedAbove")),
            ("/limits/3/measured", json!(17.75), &(balance.clone() + "measured")),
            ("/limits/3/message", json!("11.75 is 1.75"), &(balance + "message")),
        ],
    );
}

#[test]
fn wrong_actions_and_ways_out_are_found() {
    let way = |member: &str| format!("/actions/borrowing/wayOut/{member}");
    let loans = |numbers: &[u128]| json!(numbers.iter().copied().map(loan_id).collect::<Vec<_>>());
    let fees = |numbers: &[u128]| json!(numbers.iter().copied().map(fee_id).collect::<Vec<_>>());
    let (suggested, others) = (way("returnLoans/suggested"), way("returnLoans/others"));
    let paid = way("settle/suggested");
    assert_found(
        &mara(),
        &rules_of_mara(),
        &explanation_of_mara(),
        &[
            ("/actions/renewals/blocked", json!(false), "renewals blocked"),
            ("/actions/renewals/because", json!([limit_id(1)]), "renewals because"),
            ("/actions/renewals/wayOut", Value::Null, "renewals wayOut"),
            (&way("possible"), json!(false), "borrowing possible"),
            (&way("onlyWhenNothingIsOpen"), json!(true), "borrowing onlyWhenNothingIsOpen"),
            (&way("returnLoans"), Value::Null, "borrowing wayOut: expected returns"),
            (&way("returnLoans/count"), json!(3), "borrowing count"),
            (&suggested, loans(&[1]), "borrowing wayOut: expected returns"),
            (&suggested, loans(&[2, 4]), "borrowing wayOut: expected returns"),
            (&suggested, loans(&[2, 4]), "borrowing suggested: expected every loan of mustInclude"),
            (&suggested, loans(&[1, 6]), "borrowing suggested: expected open loans"),
            (&suggested, loans(&[1, 2, 4]), "borrowing suggested: expected a smallest set"),
            (&suggested, loans(&[1, 2, 4]), "borrowing count"),
            (&suggested, loans(&[2, 1]), "borrowing suggested: expected mustInclude first"),
            (&suggested, loans(&[1, 2, 2]), "borrowing suggested: expected distinct"),
            (&way("returnLoans/mustInclude"), loans(&[]), "borrowing mustInclude"),
            (&way("returnLoans/mustInclude"), loans(&[1, 2]), "borrowing mustInclude"),
            (&others, loans(&[3, 4, 5]), "borrowing others"),
            (&others, loans(&[3, 4, 5, 6, 7]), "borrowing others"),
            (&way("returnLoans/othersTotal"), json!(5), "borrowing othersTotal"),
            (&way("settle"), Value::Null, "borrowing settle: expected a payment"),
            (&way("settle/amount"), json!(1.74), "borrowing wayOut: expected returns"),
            (&way("settle/amount"), json!(1.76), "borrowing settle amount: expected at most 1.75"),
            (&paid, fees(&[1, 2]), "borrowing settle suggested: expected no superfluous"),
            (&paid, fees(&[3]), "borrowing settle suggested: expected fees/fines that count"),
            (&paid, fees(&[]), "borrowing settle suggested: expected fees/fines with the sum"),
            (&way("caveats"), json!([]), "borrowing caveats"),
            (&way("oneMoreBlocks"), json!(["overdue"]), "borrowing oneMoreBlocks"),
            (
                "/actions/renewals/wayOut/settle",
                json!({"amount": 1, "suggested": [fee_id(1)]}),
                "renewals settle: expected none",
            ),
        ],
    );
}

#[test]
fn wrong_next_block_is_found() {
    let change = "next: expected a block at 2026-09-15T13:01:00.000Z";
    assert_found(
        &mara(),
        &rules_of_mara(),
        &explanation_of_mara(),
        &[
            ("/next", Value::Null, change),
            (
                "/next/at",
                json!("2026-09-15T13:01:00.001Z"),
                "next at 2026-09-15T13:01:00.001Z: expected the first",
            ),
            (
                "/next/at",
                json!("2026-09-15T13:00:59.999Z"),
                "next at 2026-09-15T13:00:59.999Z: expected a new",
            ),
            (
                "/next/at",
                json!("2026-09-15T12:00:00Z"),
                "next at 2026-09-15T12:00:00.000Z: expected an instant",
            ),
            ("/next/limit", json!(limit_id(1)), "next at 2026-09-15T13:01:00.000Z: expected a new"),
            ("/next/what", json!("lost"), "next at 2026-09-15T13:01:00.000Z"),
            ("/evaluatedAt", json!("2026-09-15T14:00:00Z"), "loan 00000000"),
        ],
    );
}
