//! Decodes open loans and open fees/fines from pages of the storage modules
//! (docs/contract/http-api.md#83-mapping).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use serde::Deserialize;
use uuid::Uuid;

use super::{
    entity_change,
    fields::{self, required},
    json::{self, RawMember},
};
use crate::event::{Fact, Reject};

/// The known members of an account.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Account<'a> {
    #[serde(borrow)]
    id: RawMember<'a>,
    #[serde(borrow)]
    user_id: RawMember<'a>,
    #[serde(borrow)]
    fee_fine_id: RawMember<'a>,
    #[serde(borrow)]
    loan_id: RawMember<'a>,
    #[serde(borrow)]
    remaining: RawMember<'a>,
}

#[derive(Default, Deserialize)]
struct RecordId<'a> {
    #[serde(borrow, default)]
    id: RawMember<'a>,
}

/// Returns the id of a record, if it has one.
pub fn record_id(record: &str) -> Option<Uuid> {
    fields::any_uuid(json::parse_object::<RecordId<'_>>(None, record).ok()?.id)
}

/// Decodes an open loan. The request selects open loans, so the status is not checked.
pub fn decode_loan(record: &str) -> Result<Fact, Reject> {
    entity_change::loan_snapshot(&json::parse_object(None, record)?)
}

/// Decodes an open account. An invalid loan id counts as absent, because manual fees/fines have the loan id
/// `"0"`.
pub fn decode_account(record: &str) -> Result<Fact, Reject> {
    let account: Account<'_> = json::parse_object(None, record)?;
    Ok(Fact::BalanceChanged {
        fee_fine: required("id", fields::uuid("id", account.id)?)?,
        user: Some(required("userId", fields::uuid("userId", account.user_id)?)?),
        fee_fine_type: fields::uuid("feeFineId", account.fee_fine_id).ok().flatten(),
        loan: fields::uuid("loanId", account.loan_id).ok().flatten(),
        balance: required("remaining", fields::decimal("remaining", account.remaining)?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::parse_uuid;

    const LOAN: &str = "0c9a1c52-9a3e-4d0e-8f66-2c4f5a9d1e01";
    const USER: &str = "7b1f0c52-9a3e-4d0e-8f66-2c4f5a9d1e01";

    fn uuid(text: &str) -> Uuid {
        parse_uuid(text).unwrap()
    }

    #[test]
    fn id_of_a_record_is_read_from_any_version_of_uuid() {
        let version_7 = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        for id in [LOAN, version_7] {
            let record = format!(r#"{{"id":"{id}","userId":0}}"#);
            assert_eq!(record_id(&record), Some(id.parse().unwrap()));
        }
        for record in ["{}", "[]", r#"{"id":"x"}"#, r#"{"id":1}"#] {
            assert_eq!(record_id(record), None, "{record}");
        }
    }

    #[test]
    fn item_status_sets_lost_or_claimed_returned() {
        for (status, expected) in [
            ("Declared lost", (true, false)),
            ("Aged to lost", (true, false)),
            ("declared lost", (false, false)),
            ("Claimed returned", (false, true)),
            ("CLAIMED RETURNED", (false, true)),
            ("Checked out", (false, false)),
        ] {
            let record = format!(
                r#"{{"id":"{LOAN}","userId":"{USER}","dueDate":"2026-03-01T00:00:00Z","itemStatus":"{status}","isDcb":true}}"#
            );
            let Ok(Fact::LoanSnapshot { loan, user, lost, claimed_returned, by_recall, .. }) =
                decode_loan(&record)
            else {
                panic!("{status}")
            };
            assert_eq!((loan, user, by_recall), (uuid(LOAN), uuid(USER), false));
            assert_eq!(lost.zip(claimed_returned), Some(expected), "{status}");
        }
    }

    #[test]
    fn missing_member_is_named() {
        for (record, rule) in [
            (format!(r#"{{"id":"{LOAN}","userId":"{USER}"}}"#), "dueDate is required"),
            (format!(r#"{{"id":"{LOAN}","dueDate":"2026-03-01"}}"#), "userId is required"),
        ] {
            assert_eq!(decode_loan(&record).unwrap_err().to_string(), rule);
        }
        for (record, rule) in [
            (format!(r#"{{"id":"{LOAN}","userId":"{USER}"}}"#), "remaining is required"),
            (format!(r#"{{"id":"{LOAN}","remaining":1}}"#), "userId is required"),
        ] {
            assert_eq!(decode_account(&record).unwrap_err().to_string(), rule);
        }
    }

    #[test]
    fn account_remainder_is_rounded_to_15_decimals() {
        for (sent, expected) in [
            ("4.996003610813204e-16", "0"),
            ("-0.0000000000000004996003610813204", "0"),
            ("12.550000000000000710542735760100186", "12.550000000000001"),
            ("\"3.50\"", "3.5"),
        ] {
            let record = format!(r#"{{"id":"{LOAN}","userId":"{USER}","remaining":{sent}}}"#);
            let Ok(Fact::BalanceChanged { balance, .. }) = decode_account(&record) else {
                panic!("{sent}")
            };
            assert_eq!(balance.to_string(), expected, "{sent}");
        }
    }

    /// An open loan counts, even if its item status is invalid.
    #[test]
    fn invalid_item_status_does_not_reject_the_loan() {
        for odd in [r#""itemStatus":{"name":"Declared lost"}"#, r#""itemStatus":"\ud800""#] {
            let record = format!(
                r#"{{"id":"{LOAN}","userId":"{USER}","dueDate":"2026-03-01T00:00:00Z",{odd}}}"#
            );
            let Ok(Fact::LoanSnapshot {
                by_recall: false, lost: None, claimed_returned: None, ..
            }) = decode_loan(&record)
            else {
                panic!("{odd}")
            };
        }
    }

    #[test]
    fn account_loan_counts_only_if_it_is_a_uuid() {
        for (sent, expected) in [("\"0\"", None), ("null", None), ("\"\"", None)] {
            let record = format!(
                r#"{{"id":"{LOAN}","userId":"{USER}","remaining":4.50,"loanId":{sent},"feeFineId":"{USER}"}}"#
            );
            let Ok(Fact::BalanceChanged { loan, balance, fee_fine_type, .. }) =
                decode_account(&record)
            else {
                panic!("{sent}")
            };
            assert_eq!(loan, expected, "{sent}");
            assert_eq!((balance.to_string(), fee_fine_type), ("4.5".to_owned(), Some(uuid(USER))));
        }
    }
}
