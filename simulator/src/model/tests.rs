//! Tests of the library: it is reproducible, in time order, and as active as its settings promise.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::storage::LoanState;
use super::{
    Account, Event, Fact, ItemStatus, Library, Settings, StatusChange, Transaction, Truth,
};
use crate::{blocks, regulations};

fn noon() -> DateTime<Utc> {
    "2026-09-15T12:07:31.415Z".parse().expect("the text is a time")
}

/// Returns the loan or the fee of an event.
fn subject(event: &Event) -> Uuid {
    match &event.fact {
        Fact::CheckedOut { loan, .. }
        | Fact::CheckedIn { loan, .. }
        | Fact::DueDateChanged { loan, .. }
        | Fact::StatusChanged { loan, .. }
        | Fact::LoanCreatedInStorage { loan, .. }
        | Fact::LoanDeleted { loan, .. } => *loan,
        Fact::BalanceChanged { fee, .. } => *fee,
        Fact::PatronGroupChanged { patron, .. } => *patron,
    }
}

fn truth_after(library: &mut Library) -> Truth {
    let mut truth = Truth::for_library(library);
    library.by_ref().for_each(|event| truth.apply(&event));
    truth
}

#[test]
fn same_settings_give_the_same_history() {
    let settings = Settings { patrons: 300, days: 2, ..Settings::new(11, noon()) };
    let events = Library::new(&settings).collect::<Vec<_>>();
    assert_eq!(events, Library::new(&settings).collect::<Vec<_>>());

    let other = Settings { seed: 12, ..settings.clone() };
    assert_ne!(events.len(), Library::new(&other).count());

    // With another end, the library has the same history with other ids.
    let later = Settings { end: noon() + TimeDelta::hours(3), ..settings };
    let again = Library::new(&later).collect::<Vec<_>>();
    assert_eq!(events.len(), again.len());
    let ids: BTreeSet<_> = events.iter().map(subject).collect();
    assert!(again.iter().all(|event| !ids.contains(&subject(event))));
}

#[test]
fn times_increase_and_lie_in_the_past() {
    let settings = Settings { patrons: 500, activity: 40.0, ..Settings::new(3, noon()) };
    let events = Library::new(&settings).collect::<Vec<_>>();
    assert!(
        events.is_sorted_by(|one, next| one.at < next.at),
        "each event has its own millisecond"
    );
    assert!(events.iter().all(|event| event.at <= settings.end));
}

#[test]
fn number_of_events_follows_the_setting() {
    let assert_near = |wanted: u64, got: usize| {
        let deviation = got as f64 / wanted as f64 - 1.0;
        assert!(deviation.abs() < 0.15, "{got} events instead of {wanted}");
    };
    for seed in 1..4 {
        let settings = Settings::new(seed, noon()).with_patrons_for(20_000);
        assert_near(20_000, Library::new(&settings).count());
        let week = Settings { days: 7, ..Settings::new(seed, noon()) };
        assert_near(30_000, Library::new(&week.with_patrons_for(30_000)).count());
        let busy = Settings { patrons: 1000, ..Settings::new(seed, noon()) };
        assert_near(20_000, Library::new(&busy.with_activity_for(20_000)).count());
    }
}

#[test]
fn every_kind_of_event_occurs() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut balances: HashMap<Uuid, Vec<rust_decimal::Decimal>> = HashMap::new();
    for event in Library::new(&Settings { edits: true, ..Settings::new(5, noon()) }) {
        let kind = match &event.fact {
            Fact::CheckedOut { grace: None, .. } => "check-out without grace",
            Fact::CheckedOut { grace: Some(grace), .. } if grace.duration == 0 => "grace of 0",
            Fact::CheckedOut { .. } => "check-out",
            Fact::CheckedIn { .. } => "check-in",
            Fact::DueDateChanged { by_recall: true, .. } => "recall",
            Fact::DueDateChanged { by_recall: false, .. } => "renewal",
            Fact::StatusChanged { change: StatusChange::DeclaredLost, .. } => "declared lost",
            Fact::StatusChanged { change: StatusChange::AgedToLost, .. } => "aged to lost",
            Fact::StatusChanged { change: StatusChange::ClaimedReturned, .. } => "claimed returned",
            Fact::StatusChanged { change: StatusChange::LoanClosed, .. } => "closed",
            Fact::StatusChanged { change: StatusChange::DeclaredMissing, .. } => "declared missing",
            Fact::LoanCreatedInStorage { .. } => "created in storage",
            Fact::LoanDeleted { .. } => "deleted in storage",
            Fact::PatronGroupChanged { group: Some(_), .. } => "another group",
            Fact::PatronGroupChanged { group: None, .. } => "no group",
            Fact::BalanceChanged { charge: None, .. } => "fee deleted",
            Fact::BalanceChanged { fee, balance, charge: Some(charge) } => {
                balances.entry(*fee).or_default().push(*balance);
                if charge.loan.is_some() { "fee of a loan" } else { "fee of no loan" }
            }
        };
        *seen.entry(kind).or_default() += 1;
    }
    assert_eq!(seen.len(), 18, "{seen:?}");
    assert!(seen.values().all(|count| *count >= 5), "{seen:?}");
    let back = |balances: &Vec<_>| balances.windows(3).any(|three| three[0] == three[2]);
    assert!(balances.values().any(back), "a balance returns to an earlier value");
}

#[test]
fn plausible_share_is_blocked_for_every_reason() {
    let rules = regulations::rules();
    for seed in 1..4 {
        let settings = Settings::new(seed, noon());
        let truth = truth_after(&mut Library::new(&settings));
        let mut reasons: BTreeMap<Uuid, usize> = BTreeMap::new();
        let mut blocked = 0;
        for account in truth.accounts() {
            let findings = blocks::for_account(account, &rules, noon());
            blocked += usize::from(!findings.is_empty());
            for finding in findings {
                *reasons.entry(finding.block.patron_block_condition_id).or_default() += 1;
            }
        }
        let share = blocked as f64 / f64::from(settings.patrons);
        assert!((0.05..0.15).contains(&share), "{share} of the patrons are blocked: {reasons:?}");
        assert!(reasons.len() == 6 && reasons.values().all(|n| *n >= 5), "{reasons:?}");
    }
}

/// Returns whether the balance blocks a patron.
fn owes_too_much(account: &Account) -> bool {
    let findings = blocks::for_account(account, &regulations::rules(), noon());
    let mut conditions = findings.iter().map(|finding| finding.block.patron_block_condition_id);
    conditions.any(|condition| condition == blocks::condition::FEE_FINE_BALANCE)
}

/// Returns whether an event closes a claimed loan with an open fee/fine, which then counts again.
fn ends_claim(truth: &Truth, event: &Event) -> bool {
    let (Fact::CheckedIn { loan, patron, .. }
    | Fact::StatusChanged { loan, patron, change: StatusChange::DeclaredMissing }) = &event.fact
    else {
        return false;
    };
    let account = truth.account(*patron).expect("the event has a patron of the library");
    account.claimed_fees_fines().any(|(_, fee)| fee.loan_id == Some(*loan))
}

/// The fees/fines of claimed loans prevent some blocks, and some patrons are blocked by other fees/fines.
#[test]
fn fees_of_claimed_loans_decide_blocks() {
    for (seed, edits) in [(1, false), (2, false), (3, true), (4, true)] {
        let mut library = Library::new(&Settings { edits, ..Settings::new(seed, noon()) });
        let mut truth = Truth::for_library(&library);
        let (mut fees, mut ended, mut prevented, mut blocked) = (0, 0, 0, 0);
        for event in library.by_ref() {
            ended += usize::from(ends_claim(&truth, &event));
            truth.apply(&event);
        }
        for account in truth.accounts().filter(|one| one.claimed_fees_fines().next().is_some()) {
            fees += account.claimed_fees_fines().count();
            let mut unclaimed = account.clone();
            unclaimed.open_loans.retain(|_, loan| !loan.is_claimed_returned());
            blocked += usize::from(owes_too_much(account));
            prevented += usize::from(!owes_too_much(account) && owes_too_much(&unclaimed));
        }
        let counts = [fees, ended, prevented, blocked];
        let is_enough = counts.into_iter().zip([20, 1, 3, 2]).all(|(count, least)| count >= least);
        assert!(is_enough, "seed {seed}: {counts:?}");
    }
}

/// The truth derives from events alone; the staff have records of their own.
#[test]
fn truth_equals_the_records_of_the_staff() {
    let settings = Settings { patrons: 800, days: 3, edits: true, ..Settings::new(9, noon()) };
    let mut library = Library::new(&settings);
    let truth = truth_after(&mut library);
    let loans = truth.loans_after(None).map(|(id, _, loan)| {
        let place = match loan.item_status {
            ItemStatus::CheckedOut => LoanState::CheckedOut,
            ItemStatus::ClaimedReturned => LoanState::ClaimedReturned,
            ItemStatus::DeclaredLost | ItemStatus::AgedToLost => LoanState::Lost,
        };
        (id, loan.due_date, loan.recall, place)
    });
    let storage = &library.storage;
    let mut books: Vec<_> = storage
        .open_loans
        .iter()
        .map(|at| &storage.loans[*at])
        .map(|loan| (loan.id, loan.due, loan.recalled, loan.state))
        .collect();
    books.sort_by_key(|loan| loan.0);
    assert_eq!(loans.collect::<Vec<_>>(), books);

    let owed: BTreeMap<_, _> =
        truth.fees_after(None).map(|(id, _, fee)| (id, fee.balance)).collect();
    let open = storage.fees.iter().filter(|fee| fee.balance != 0);
    let books = open.map(|fee| (fee.id, rust_decimal::Decimal::new(fee.balance, 2)));
    assert_eq!(owed, books.collect());
}

#[test]
fn truth_can_be_written_and_read() {
    let settings = Settings { patrons: 100, ..Settings::new(2, noon()) };
    let truth = truth_after(&mut Library::new(&settings));
    let text = serde_json::to_string(&truth).expect("the truth can be serialized");
    assert_eq!(truth, serde_json::from_str::<Truth>(&text).expect("the text can be read"));
}

#[test]
fn library_continues_after_its_days() {
    let settings = Settings { patrons: 200, ..Settings::new(4, noon()) };
    let mut library = Library::new(&settings);
    let mut latest = library.by_ref().last().expect("the library has events").at;
    for second in 0..200 {
        for event in library.advance_to(noon() + TimeDelta::seconds(second)) {
            assert!(event.at > latest, "the event is later than every earlier event");
            latest = event.at;
        }
    }
    assert!(latest > noon());
}

#[test]
fn requested_transactions_close_what_they_name() {
    let mut library = Library::new(&Settings { patrons: 200, ..Settings::new(3, noon()) });
    let mut truth = truth_after(&mut library);
    let (loan, ..) = truth.loans_after(None).next().expect("the library has loans");
    let (fee, ..) = truth.fees_after(None).next().expect("the library has fees");
    for transaction in [Transaction::CheckIn(loan), Transaction::Pay(fee)] {
        let events = library.perform_transaction(transaction, noon());
        assert!(!events.is_empty(), "{transaction:?}");
        events.iter().for_each(|event| truth.apply(event));
        assert_eq!(library.perform_transaction(transaction, noon()), [], "{transaction:?} again");
    }
    assert_eq!(truth.loan(loan), None);
    assert!(!truth.has_fee_fine(fee));
}
