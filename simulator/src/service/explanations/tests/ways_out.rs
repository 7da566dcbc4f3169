//! Ways out of patrons with few items, and patrons without a block.

use super::*;
use crate::model::ItemStatus::{CheckedOut, ClaimedReturned, DeclaredLost};

/// A claimed loan and a fee/fine under a limit of no item at all.
fn explanation_with_nothing_to_lend() -> Value {
    json!({
        "userId": patron().id,
        "evaluatedAt": "2026-09-15T12:00:00.000+00:00",
        "patronGroup": { "id": GROUPS[0].id, "basis": "asked-group" },
        "actions": {
            "borrowing": {
                "blocked": true,
                "because": [limit_id(0)],
                "wayOut": {
                    "possible": true,
                    "onlyWhenNothingIsOpen": true,
                    "returnLoans": { "count": 1, "mustInclude": [loan_id(1)],
                        "suggested": [loan_id(1)], "others": [], "othersTotal": 0 },
                    "settle": { "amount": 1, "suggested": [fee_id(1)] },
                    "oneMoreBlocks": ["charged-out"],
                },
            },
            "renewals": { "blocked": false },
            "requests": { "blocked": false },
        },
        "limits": [limit(0, CO, "charged-out", [0, 0, 1], &json!({
            "measured": 0, "reached": ["borrowing"], "blocks": ["borrowing"], "counted": 0,
            "leftOut": 1, "leftOutBecause": { "claimed-returned": 1 },
            "message": "Return 1 of 0, pay 0" }))],
        "loans": [
            { "loanId": loan_id(1), "dueDate": "2026-09-20T12:00:00.000+00:00",
              "overdueFrom": "2026-09-20T12:01:00.000+00:00", "overdueDays": 0, "recall": false,
              "lost": false, "claimedReturned": true, "countsFor": [],
              "leftOutBecause": "claimed-returned" },
        ],
        "feesFines": [{ "feeFineId": fee_id(1), "balance": 1.00, "counts": true }],
        "certainty": { "state": "certain", "asOf": "2026-09-15T11:59:59.000+00:00" },
        "totals": { "loans": 1, "feesFines": 1 },
    })
}

#[test]
fn only_a_patron_with_nothing_open_may_be_free() {
    let account =
        account(vec![loan("2026-09-20T12:00:00", false, ClaimedReturned)], &[("1.00", None)]);
    let rules = rules(&[(CO, "0", ALL, "Return {toReturn} of {measured}, pay {toSettle}")]);
    let right = explanation_with_nothing_to_lend();
    let way = |member: &str| format!("/actions/borrowing/wayOut/{member}");
    assert_found(
        &account,
        &rules,
        &right,
        &[
            (&way("onlyWhenNothingIsOpen"), Value::Null, "borrowing onlyWhenNothingIsOpen"),
            (&way("returnLoans"), Value::Null, "borrowing suggested"),
            (&way("returnLoans/mustInclude"), json!([]), "borrowing mustInclude"),
            (&way("settle"), Value::Null, "borrowing settle suggested"),
            (&way("settle/amount"), json!(0.99), "borrowing settle amount"),
            (&way("settle/amount"), json!(0.99), "borrowing wayOut"),
            (&way("oneMoreBlocks"), Value::Null, "borrowing oneMoreBlocks"),
        ],
    );
}

/// A claimed loan with the greater fee/fine, and a fee/fine without a loan.
fn account_with_claim() -> Account {
    let loans = [ClaimedReturned, CheckedOut];
    let loans = loans.map(|status| loan("2026-09-20T12:00:00", false, status));
    account(loans.into(), &[("8.00", Some(1)), ("6.00", None)])
}

#[test]
fn fees_of_claimed_loans_neither_count_nor_need_a_payment() {
    let account = account_with_claim();
    let rules = rules(&[(FB, "5", ALL, "{measured} of {limit}: pay {toSettle}")]);
    let right = json!(explain(&account, &rules, now()));
    let way_out = json!({
        "possible": true, "settle": { "amount": 1, "suggested": [fee_id(2)] },
        "caveats": ["claim-adds-fees"],
    });
    assert_eq!(right["actions"]["borrowing"]["wayOut"], way_out);
    assert_eq!(right["limits"][0]["measured"], json!(6));
    assert_eq!(right["limits"][0]["leftOutBecause"], json!({ "loan-claimed-returned": 1 }));
    let way = |member: &str| format!("/actions/borrowing/wayOut/{member}");
    let fee = format!("fee/fine {}, ", fee_id(1));
    let limit = format!("limit {} (balance), ", limit_id(0));
    let claimed = json!({ "count": 1, "mustInclude": [], "suggested": [loan_id(1)],
                          "others": [], "othersTotal": 0 });
    let disputed = "borrowing settle suggested: expected fees/fines that count";
    assert_found(
        &account,
        &rules,
        &right,
        &[
            ("/feesFines/0/counts", json!(true), &(fee.clone() + "counts")),
            ("/feesFines/0/leftOutBecause", Value::Null, &(fee + "leftOutBecause")),
            ("/limits/0/measured", json!(14), &(limit.clone() + "measured")),
            ("/limits/0/leftOut", json!(0), &(limit.clone() + "leftOut")),
            ("/limits/0/leftOutBecause", Value::Null, &(limit.clone() + "leftOutBecause")),
            ("/limits/0/message", json!("14.00 of 5: pay 9.00"), &(limit + "message")),
            (&way("settle/amount"), json!(9), "borrowing settle amount: expected at most 8.99"),
            (&way("settle/suggested"), json!([fee_id(1)]), disputed),
            (&way("settle/suggested"), json!([fee_id(1)]), "borrowing wayOut: expected returns"),
            (&way("returnLoans"), claimed, "borrowing suggested: expected open loans"),
            (&way("caveats"), Value::Null, "borrowing caveats: expected [\"claim-adds-fees\"]"),
            (&way("caveats"), Value::Null, "borrowing caveats: expected claim-adds-fees, got a"),
        ],
    );
}

/// The check-in of the claimed loan ends the caveat, and a limit of loans never has it.
#[test]
fn superfluous_caveats_of_claims_are_found() {
    let claimed = account_with_claim();
    let mut checked_in = claimed.clone();
    checked_in.open_loans.remove(&loan_id(1));
    let (balance, items) = (rules(&[(FB, "5", ALL, "")]), rules(&[(CO, "1", ALL, "")]));
    for (account, rules, amount) in [
        (checked_in, balance, json!({ "amount": 9, "suggested": [fee_id(1), fee_id(2)] })),
        (claimed, items, Value::Null),
    ] {
        let right = json!(explain(&account, &rules, now()));
        let way_out = &right["actions"]["borrowing"]["wayOut"];
        assert_eq!((&way_out["settle"], &way_out["caveats"]), (&amount, &Value::Null));
        let caveats = json!(["claim-adds-fees"]);
        let change = ("/actions/borrowing/wayOut/caveats", caveats, "borrowing caveats");
        assert_found(&account, &rules, &right, &[change]);
    }
}

/// Returns the explanation of the stub with another set of loans for borrowing.
fn with_suggested(account: &Account, rules: &Rules, numbers: &[u128]) -> Value {
    let mut explanation = json!(explain(account, rules, now()));
    let loans: Vec<Uuid> = numbers.iter().copied().map(loan_id).collect();
    let returns = &mut explanation["actions"]["borrowing"]["wayOut"]["returnLoans"];
    returns["count"] = json!(loans.len());
    returns["suggested"] = json!(loans);
    explanation
}

/// One loan is overdue and lost. Two other loans would serve the same needs.
#[test]
fn a_smaller_set_of_other_loans_is_found() {
    let account = account(
        vec![
            loan("2026-09-10T12:00:00", false, DeclaredLost),
            loan("2026-09-11T12:00:00", false, CheckedOut),
            loan("2026-09-20T12:00:00", false, DeclaredLost),
        ],
        &[],
    );
    let rules = rules(&[(OI, "1", ALL, ""), (LI, "1", ALL, "")]);
    assert_eq!(differences(&account, &rules, &with_suggested(&account, &rules, &[1])), [""; 0]);
    let found = differences(&account, &rules, &with_suggested(&account, &rules, &[2, 3]));
    let expected = format!("explanation, borrowing count: expected 1: [\"{}\"], got 2", loan_id(1));
    assert!(found.iter().any(|line| line.ends_with(&expected)), "{found:#?}");
}

/// The judge removes single loans of a patron with many loans.
#[test]
fn a_superfluous_loan_among_many_is_found() {
    let account = account(vec![loan("2026-09-20T12:00:00", false, CheckedOut); 14], &[]);
    let rules = rules(&[(CO, "13", ALL, "")]);
    let right = with_suggested(&account, &rules, &[1, 2]);
    assert_eq!(differences(&account, &rules, &right), [""; 0]);
    let found = differences(&account, &rules, &with_suggested(&account, &rules, &[1, 2, 3]));
    assert!(found.iter().any(|line| line.contains("got superfluous")), "{found:#?}");
}

#[test]
fn fewer_fees_are_found() {
    let account = account(vec![], &[("3", None), ("2", None), ("2.5", None)]);
    let rules = rules(&[(FB, "5.5", ALL, "")]);
    let mut explanation = json!(explain(&account, &rules, now()));
    assert_eq!(differences(&account, &rules, &explanation), [""; 0]);
    assert_eq!(explanation["actions"]["borrowing"]["wayOut"]["settle"]["amount"], json!(2));
    let mut set = |fees: &[u128], amount: f64| {
        let fees: Vec<Uuid> = fees.iter().copied().map(fee_id).collect();
        explanation["actions"]["borrowing"]["wayOut"]["settle"] =
            json!({ "amount": amount, "suggested": fees });
        differences(&account, &rules, &explanation)
    };
    assert_eq!(set(&[2], 2.0), [""; 0], "each fee/fine alone is enough");
    let found = set(&[2, 3], 2.0);
    assert!(found.iter().any(|line| line.contains("expected no superfluous last")), "{found:#?}");
    assert!(found.iter().any(|line| line.contains("expected the fewest")), "{found:#?}");
}

#[test]
fn balances_with_many_decimals_are_paid_exactly() {
    let account = account(vec![], &[("10.1234", None)]);
    let rules = rules(&[(FB, "10", ALL, "")]);
    let mut explanation = json!(explain(&account, &rules, now()));
    assert_eq!(differences(&account, &rules, &explanation), [""; 0]);
    explanation["actions"]["renewals"]["wayOut"]["settle"]["amount"] = json!(0.13);
    let found = differences(&account, &rules, &explanation);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("renewals settle amount: expected at most 0.1299"), "{found:#?}");
}

#[test]
fn patrons_without_limits_are_free() {
    let rules = rules(&[(CO, "1", ALL, "")]);
    let free = json!({ "blocked": false });
    let right = json!({
        "userId": patron().id,
        "evaluatedAt": "2026-09-15T12:00:00.000+00:00",
        "patronGroup": { "basis": "nothing-open" },
        "actions": { "borrowing": free, "renewals": free, "requests": free },
        "limits": [], "loans": [], "feesFines": [],
        "certainty": { "state": "certain", "asOf": "2026-09-15T11:59:59.000+00:00" },
        "totals": { "loans": 0, "feesFines": 0 },
    });
    let blocked =
        json!({ "blocked": true, "because": [limit_id(0)], "wayOut": { "possible": true } });
    let next = json!({ "at": "2026-09-15T13:00:00Z", "limit": limit_id(0), "what": "charged-out" });
    assert_found(
        &account(vec![], &[]),
        &rules,
        &right,
        &[
            ("/patronGroup/id", json!(GROUPS[0].id), "patron group"),
            ("/actions/requests", blocked.clone(), "requests blocked"),
            ("/actions/requests", blocked, "requests wayOut: expected none"),
            ("/next", next, "next at 2026-09-15T13:00:00.000Z: expected a new block"),
        ],
    );
    let mut deleted = account(vec![loan("2026-09-20T12:00:00", false, CheckedOut); 3], &[]);
    deleted.patron.known = false;
    let explanation = explain(&deleted, &rules, now());
    assert_eq!(explanation.limits.len(), 0);
    assert_eq!(differences(&deleted, &rules, &json!(explanation)), [""; 0]);
}

/// The stub and the explanation that is written by hand have the same numbers.
#[test]
fn the_stub_explains_like_the_example() {
    let (stub, mut example) =
        (json!(explain(&mara(), &rules_of_mara(), now())), explanation_of_mara());
    let explanation: Explanation =
        serde_json::from_value(example.take()).expect("the value is an explanation");
    let example = json!(explanation);
    for member in ["actions", "limits", "loans", "feesFines", "next", "totals"] {
        assert_eq!(stub[member], example[member], "{member}");
    }
}
