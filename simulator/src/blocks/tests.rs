//! Each row of the table in docs/contract/evaluation.md#7-cases: the events of one patron, and the
//! resulting blocks. Events build the state, so the tests also check the transitions of the truth.

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::condition::{
    FEE_FINE_BALANCE as FB, ITEMS_CHARGED_OUT as CO, LOST_ITEMS as LI, OVERDUE_ITEMS as OI,
    OVERDUE_RECALLS as OR, RECALL_OVERDUE_DAYS as RD,
};
use super::{Condition, FeeFine, Limit, Loan, Rules, evaluate, for_account, message, open_items};
use crate::model::Interval::{self, Days, Hours, Minutes, Months};
use crate::model::{Charge, Event, Fact, GROUPS, GracePeriod, Patron, StatusChange, Truth};

const ALL: [bool; 3] = [true; 3];

fn now() -> DateTime<Utc> {
    "2026-09-15T12:00:00.000Z".parse().expect("the text is a time")
}

fn seconds(seconds: f64) -> TimeDelta {
    TimeDelta::milliseconds((seconds * 1000.0).round() as i64)
}

fn minutes(count: i64) -> TimeDelta {
    TimeDelta::minutes(count)
}

fn days(count: i64) -> TimeDelta {
    TimeDelta::days(count)
}

/// The history of one patron in the group Undergraduate.
struct PatronHistory {
    truth: Truth,
    loans: Vec<Uuid>,
    clock: DateTime<Utc>,
}

const PATRON: Uuid = Uuid::from_u128(0x7b1f_0c52);

fn loan_id(number: usize) -> Uuid {
    Uuid::from_u128(0x100 + number as u128)
}

fn fee_id(number: u128) -> Uuid {
    Uuid::from_u128(0x9000 + number)
}

fn mara() -> Patron {
    Patron {
        id: PATRON,
        first_name: "Mara".to_owned(),
        last_name: "Quill".to_owned(),
        username: "quill1".to_owned(),
        barcode: "1".to_owned(),
        active: true,
        patron_group: Some(GROUPS[0].id),
        known: true,
    }
}

impl PatronHistory {
    fn new() -> Self {
        Self::for_patron(mara())
    }

    fn for_patron(patron: Patron) -> Self {
        let begin = now() - days(400);
        Self { truth: Truth::for_patrons([patron], begin), loans: vec![], clock: begin }
    }

    fn apply(mut self, fact: Fact) -> Self {
        self.clock += TimeDelta::milliseconds(1);
        self.truth.apply(&Event { at: self.clock, staff: Uuid::nil(), fact });
        self
    }

    /// Adds a loan that became due before `now` by `ago`, with a grace period.
    fn due_ago_with(mut self, ago: TimeDelta, grace: Option<(i64, Interval)>) -> Self {
        let loan = loan_id(self.loans.len());
        self.loans.push(loan);
        let grace = grace.map(|(duration, unit)| GracePeriod::new(duration, unit));
        let (patron, item, due) = (PATRON, Uuid::nil(), now() - ago);
        self.apply(Fact::CheckedOut { loan, patron, item, due, grace })
    }

    fn due_ago(self, ago: TimeDelta) -> Self {
        self.due_ago_with(ago, None)
    }

    /// Adds `count` loans that are due in a week.
    fn with_loans(self, count: usize) -> Self {
        (0..count).fold(self, |story, _| story.due_ago(days(-7)))
    }

    /// Adds `count` loans that are overdue by a day.
    fn with_overdue(self, count: usize) -> Self {
        (0..count).fold(self, |story, _| story.due_ago(days(1)))
    }

    fn change_status(self, number: usize, change: StatusChange) -> Self {
        self.apply(Fact::StatusChanged { loan: loan_id(number), patron: PATRON, change })
    }

    fn lost(self, numbers: std::ops::Range<usize>) -> Self {
        numbers.fold(self, |story, number| story.change_status(number, StatusChange::DeclaredLost))
    }

    fn claimed(self, number: usize) -> Self {
        self.change_status(number, StatusChange::ClaimedReturned)
    }

    fn due_date(self, number: usize, ago: TimeDelta, by_recall: bool) -> Self {
        let (loan, patron, due) = (loan_id(number), PATRON, now() - ago);
        self.apply(Fact::DueDateChanged { loan, patron, due, by_recall })
    }

    /// Adds a recalled loan that became due before `now` by `ago`, with a grace period.
    fn recalled(self, ago: TimeDelta, grace: Option<(i64, Interval)>) -> Self {
        let number = self.loans.len();
        self.due_ago_with(days(-7), grace).due_date(number, ago, true)
    }

    fn checked_in(self, number: usize) -> Self {
        let (loan, patron, returned) = (loan_id(number), PATRON, now());
        self.apply(Fact::CheckedIn { loan, patron, returned })
    }

    fn fee(self, number: u128, balance: &str, loan: Option<usize>) -> Self {
        let charge = Charge { patron: PATRON, fee_type: Uuid::nil(), loan: loan.map(loan_id) };
        let balance = balance.parse().expect("the text is an amount");
        self.apply(Fact::BalanceChanged { fee: fee_id(number), balance, charge: Some(charge) })
    }

    fn fees(self, balances: &[&str]) -> Self {
        (0..).zip(balances).fold(self, |story, (number, balance)| story.fee(number, balance, None))
    }
}

/// Returns these limits of the patron's group, and all six conditions with these flags.
fn rules(limits: &[(Uuid, &str)], flags: [bool; 3]) -> Rules {
    let conditions = [CO, LI, OI, OR, RD, FB].map(|id| Condition {
        id,
        name: "a condition".to_owned(),
        block_borrowing: flags[0],
        block_renewals: flags[1],
        block_requests: flags[2],
        value_type: "Integer".to_owned(),
        message: String::new(),
    });
    let limits = limits.iter().map(|(condition_id, value)| Limit {
        id: Uuid::nil(),
        patron_group_id: GROUPS[0].id.to_string(),
        condition_id: *condition_id,
        value: Some(value.parse().expect("the text is a number")),
    });
    Rules { conditions: conditions.to_vec(), limits: limits.collect() }
}

/// Returns the blocks as letters: B for borrowing, R for renewals, Q for requests.
fn blocks_under(story: &PatronHistory, rules: &Rules) -> String {
    let account = story.truth.account(PATRON).expect("the id belongs to a patron");
    let entries = for_account(account, rules, now()).into_iter().map(|finding| {
        let block = finding.block;
        [(block.block_borrowing, 'B'), (block.block_renewals, 'R'), (block.block_requests, 'Q')]
            .iter()
            .filter_map(|(is, letter)| is.then_some(*letter))
            .collect::<String>()
    });
    entries.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn row(number: u32, story: PatronHistory, limits: &[(Uuid, &str)], expected: &str) {
    let got = blocks_under(&story, &rules(limits, ALL));
    assert_eq!(got, expected, "row {number}");
}

#[test]
fn items_charged_out_and_lost_items() {
    let six = || PatronHistory::new().with_loans(6);
    row(1, PatronHistory::new().with_loans(4), &[(CO, "5")], "");
    row(2, PatronHistory::new().with_loans(5), &[(CO, "5")], "B");
    row(3, six(), &[(CO, "5")], "BRQ");
    let no_borrowing = rules(&[(CO, "5")], [false, true, true]);
    assert_eq!(blocks_under(&PatronHistory::new().with_loans(5), &no_borrowing), "", "row 4");
    let only_renewals = rules(&[(CO, "5")], [false, true, false]);
    assert_eq!(blocks_under(&six(), &only_renewals), "R", "row 5");
    row(6, six().claimed(0).claimed(1), &[(CO, "5")], "");
    row(7, six().claimed(0).lost(1..4), &[(CO, "5")], "B");
    row(8, PatronHistory::new().fees(&["1.00"]), &[(CO, "0")], "B");
    row(9, PatronHistory::new(), &[(CO, "0")], "");
    row(10, PatronHistory::new().with_loans(1), &[(CO, "0")], "BRQ");

    let three_lost =
        || PatronHistory::new().with_loans(3).lost(0..2).change_status(2, StatusChange::AgedToLost);
    row(11, PatronHistory::new().with_loans(2).lost(0..2), &[(LI, "2")], "");
    row(12, three_lost(), &[(LI, "2")], "BRQ");
    row(13, three_lost().claimed(0), &[(LI, "2")], "");
    row(14, three_lost().due_date(1, days(-9), false), &[(LI, "2")], "");
    row(15, three_lost().due_date(1, days(-2), true), &[(LI, "2")], "BRQ");
    row(16, PatronHistory::new().with_loans(1).lost(0..1), &[(LI, "0")], "BRQ");
}

#[test]
fn overdue_items() {
    let none = [(OI, "0")];
    let due = |ago, grace| PatronHistory::new().due_ago_with(ago, grace);
    row(17, due(seconds(59.999), None), &none, "");
    row(18, due(seconds(60.0), None), &none, "BRQ");
    row(19, due(seconds(0.0), None), &none, "");
    row(20, due(minutes(120), Some((2, Hours))), &none, "");
    row(21, due(minutes(120) + seconds(59.999), Some((2, Hours))), &none, "");
    row(22, due(minutes(121), Some((2, Hours))), &none, "BRQ");
    row(23, due(days(31), Some((1, Months))), &none, "");
    row(24, due(days(31) + minutes(1), Some((1, Months))), &none, "BRQ");
    row(25, PatronHistory::new().with_overdue(2), &[(OI, "2")], "");
    row(26, PatronHistory::new().with_overdue(3).claimed(0), &[(OI, "2")], "");
    row(27, PatronHistory::new().with_overdue(3).lost(0..1), &[(OI, "2")], "BRQ");
    row(58, PatronHistory::new().with_overdue(3), &[(OI, "2.5")], "BRQ");
}

#[test]
fn a_loan_without_due_date_is_never_overdue() {
    let loan = Loan {
        id: loan_id(0),
        due: None,
        recall: true,
        lost: false,
        claimed_returned: false,
        grace: None,
    };
    let rules = rules(&[(OI, "0"), (CO, "1")], ALL);
    let group = GROUPS[0].id.to_string();
    let found = evaluate(Some(&group), &[loan], &[], &rules, now());
    assert_eq!(found.len(), 1, "row 28");
    assert_eq!(found[0].block.patron_block_condition_id, CO);
    assert!(found[0].block.block_borrowing && !found[0].block.block_renewals);
}

#[test]
fn overdue_recalls() {
    row(29, PatronHistory::new().with_overdue(1).recalled(days(1), None), &[(OR, "0")], "BRQ");
    let two = PatronHistory::new().recalled(days(-2), None).recalled(days(-2), None);
    row(30, two, &[(OR, "0")], "");
    let inside_grace = PatronHistory::new().recalled(minutes(5), Some((10, Minutes)));
    row(31, inside_grace, &[(OR, "0")], "");

    let three_days = [(RD, "3")];
    let recalled = |ago, grace| PatronHistory::new().recalled(ago, grace);
    row(32, recalled(days(3), None), &three_days, "");
    row(33, recalled(days(3) + seconds(59.999), None), &three_days, "");
    row(34, recalled(days(3) + minutes(1), None), &three_days, "BRQ");
    row(35, recalled(minutes(1), None), &[(RD, "0")], "BRQ");
    row(36, recalled(days(4), Some((5, Days))), &three_days, "");
    row(37, recalled(days(5) + minutes(1), Some((5, Days))), &three_days, "BRQ");
    let reset = recalled(days(12), None).due_date(0, days(10), false);
    row(38, reset, &three_days, "");
    row(39, recalled(days(10), None).claimed(0), &three_days, "");
}

#[test]
fn money() {
    let ten = [(FB, "10")];
    row(40, PatronHistory::new().fees(&["7.25", "2.75"]), &ten, "");
    row(41, PatronHistory::new().fees(&["7.25", "2.76"]), &ten, "BRQ");
    row(42, PatronHistory::new().fees(&["0.1", "0.2"]), &[(FB, "0.3")], "");
    row(43, PatronHistory::new().fees(&["10.40"]), &[(FB, "10.4")], "");
    let disputed =
        || PatronHistory::new().with_loans(1).claimed(0).fee(0, "6", Some(0)).fee(1, "6", None);
    row(44, disputed(), &ten, "");
    row(45, disputed().checked_in(0), &ten, "BRQ");
    row(46, PatronHistory::new().fee(0, "12", Some(99)), &ten, "BRQ");
    let unlinked =
        PatronHistory::new().with_loans(1).claimed(0).fee(0, "12", Some(0)).fee(0, "12", None);
    row(47, unlinked, &ten, "BRQ");
    row(48, PatronHistory::new().fees(&["0.01"]), &[(FB, "0")], "BRQ");
    let paid = PatronHistory::new().fee(0, "5", None).fee(0, "0.00", None);
    let account = paid.truth.account(PATRON).expect("the id belongs to a patron");
    assert!(account.open_fees_fines.is_empty(), "row 49: nothing is open");
    row(49, paid, &[(FB, "0")], "");
    row(50, PatronHistory::new().fees(&["999999.99"]), &[(FB, "999999.99")], "");
    let everything = PatronHistory::new().with_overdue(6).lost(0..6).fees(&["50"]);
    row(51, everything, &[(CO, "5"), (LI, "5"), (OI, "5"), (FB, "49.99")], "BRQ BRQ BRQ BRQ");
}

#[test]
fn limits_and_groups() {
    let six = || PatronHistory::new().with_loans(6);
    row(52, six(), &[(CO, "5"), (CO, "5")], "BRQ BRQ");

    let mut elsewhere = rules(&[(CO, "5")], ALL);
    elsewhere.limits[0].patron_group_id = GROUPS[1].id.to_string();
    assert_eq!(blocks_under(&six(), &elsewhere), "", "row 53");

    let of_five = rules(&[(CO, "5")], ALL);
    let mut no_group = six();
    no_group.truth.move_to_group(PATRON, None);
    assert_eq!(blocks_under(&no_group, &of_five), "", "row 54");
    let deleted = PatronHistory::for_patron(Patron { known: false, ..mara() }).with_loans(6);
    assert_eq!(blocks_under(&deleted, &of_five), "", "row 55, answered 404");

    let mut moved = six();
    moved.truth.move_to_group(PATRON, Some(GROUPS[1].id));
    let mut both = rules(&[(CO, "5"), (CO, "10")], ALL);
    both.limits[1].patron_group_id = GROUPS[1].id.to_string();
    assert_eq!(blocks_under(&moved, &both), "", "row 56");

    let account = six();
    let account = account.truth.account(PATRON).expect("the id belongs to a patron");
    let found = for_account(account, &of_five, now());
    assert_eq!(found[0].block.message, "", "row 57");
    assert_eq!(found[0].measured, Decimal::from(6));
}

#[test]
fn incomplete_rules_block_no_patron() {
    let six = PatronHistory::new().with_loans(6);
    let mut without_value = rules(&[(CO, "5")], ALL);
    without_value.limits[0].value = None;
    assert_eq!(blocks_under(&six, &without_value), "");
    let mut without_condition = rules(&[(CO, "5"), (CO, "5")], ALL);
    without_condition.limits[0].condition_id = Uuid::nil();
    assert_eq!(blocks_under(&six, &without_condition), "BRQ", "the other limit is not affected");
    assert_eq!(blocks_under(&six, &rules(&[(CO, "5")], [false; 3])), "");
    let fee = FeeFine { loan: None, balance: Decimal::ONE };
    assert_eq!(evaluate(None, &[], &[fee], &rules(&[(CO, "0")], ALL), now()), []);
}

/// Returns the message of one limit for a patron.
fn message_under(story: &PatronHistory, limit: (Uuid, &str), template: &str) -> String {
    let mut rules = rules(&[limit], ALL);
    for condition in &mut rules.conditions {
        template.clone_into(&mut condition.message);
    }
    let account = story.truth.account(PATRON).expect("the id belongs to a patron");
    let (loans, fees) = open_items(account);
    let mut conditions = rules.conditions.iter();
    let condition = conditions.find(|one| one.id == limit.0).expect("the condition has a limit");
    message(condition, &rules.limits[0], &loans, &fees, now())
}

#[test]
fn messages_have_the_numbers_of_the_patron() {
    let numbers = "{measured} of {limit}: {toReturn}, {toSettle}, {overdue}";
    let text = |story: PatronHistory, limit| message_under(&story, limit, numbers);
    // Borrowing needs one return more than renewals.
    assert_eq!(text(PatronHistory::new().with_loans(4), (CO, "2")), "4 of 2: 3, 0, 0");
    assert_eq!(text(PatronHistory::new().with_loans(2), (CO, "5")), "2 of 5: 0, 0, 0");
    assert_eq!(text(PatronHistory::new().with_overdue(3), (OI, "1.5")), "3 of 1.5: 2, 0, 3");
    let recalls = [2, 4, 6, 9]
        .into_iter()
        .fold(PatronHistory::new(), |story, count| story.recalled(days(count), None));
    assert_eq!(text(recalls, (RD, "3")), "9 of 3: 3, 0, 4");
    let claimed = PatronHistory::new().with_loans(2).claimed(0);
    assert_eq!(text(claimed, (CO, "0")), "1 of 0: 2, 0, 0", "no return is enough");
    let fees = || PatronHistory::new().with_overdue(1).fees(&["7.25", "3.25"]);
    assert_eq!(text(fees(), (FB, "10")), "10.50 of 10: 0, 0.50, 1");
    assert_eq!(text(fees(), (FB, "10.5")), "10.50 of 10.50: 0, 0, 1");
    assert_eq!(text(PatronHistory::new().fees(&["1.125"]), (FB, "1")), "1.125 of 1: 0, 0.125, 0");
}

#[test]
fn other_braces_of_messages_stay() {
    let story = PatronHistory::new().with_loans(6);
    for (template, expected) in [
        ("No placeholder", "No placeholder"),
        ("{} {Measured} {measured", "{} {Measured} {measured"),
        ("{{measured}} {a {limit}", "{6} {a 5"),
    ] {
        assert_eq!(message_under(&story, (CO, "5"), template), expected);
    }
}
