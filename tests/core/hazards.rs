//! The ordering hazards of docs/contract/events.md#10-hazards, each as a property of the pure core for
//! any times, order of arrival and repetition. `docs/hazards.md` has the table of them, with the stories
//! that show the same from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use chrono::TimeDelta;
use patron_blocks::{
    event::{
        DecodeOutcome, Environment, Event, Fact, Record, RecordPosition, decode, stamp::Horizon,
    },
    patron::{Fee, Loan, OpenFee, OpenLoan},
};
use proptest::{collection::vec, prelude::*};
use serde_json::json;
use uuid::Uuid;

use crate::{
    core::merging::{fold_events, merge_maps},
    support::{
        fact_strategies::{
            FEE, LOAN, TimedFact, any_fact, at_any_time, balance, check_out, closed_snapshot,
            deletion, due_date_change, expected_fee, expected_loan, fact_sequence, fold_fee,
            fold_loan, instant, is_check_out, is_due_date_change, loan_change, loan_end, newest,
            open_snapshot, owned_balance, timed_facts, with_copies,
        },
        history::{business_history, event_history, with_arrivals},
    },
};

type State = (BTreeMap<Uuid, Loan>, BTreeMap<Uuid, Fee>);

fn merge_states(a: &State, b: &State) -> State {
    (merge_maps(&a.0, &b.0, Loan::merge), merge_maps(&a.1, &b.1, Fee::merge))
}

/// Returns the open loan and the open fee/fine after these facts.
fn outcome(facts: &[TimedFact]) -> (Option<OpenLoan>, Option<OpenFee>) {
    (fold_loan(facts).as_open(None), fold_fee(facts).as_open(None))
}

fn merge_facts(loan: Loan, facts: &[TimedFact]) -> Loan {
    loan.merge(fold_loan(facts))
}

proptest! {
    /// A check-out that arrives after the end of its loan does not open the loan.
    #[test]
    fn h01_end_before_check_out_leaves_the_loan_closed(
        ends in timed_facts(loan_end(), 1..3),
        late in timed_facts(prop_oneof![check_out(), loan_change()], 1..6),
    ) {
        let mut loan = fold_loan(&ends);
        for fact in late {
            loan = merge_facts(loan, &[fact]);
            prop_assert_eq!(loan.as_open(None), None);
        }
    }

    /// A repeat of the check-out, even with a new identity and a later time, opens no loan after the
    /// end.
    #[test]
    fn h02_repeated_check_out_opens_nothing(
        out in check_out().prop_flat_map(at_any_time),
        ended in loan_end().prop_flat_map(at_any_time),
        copies in timed_facts(check_out(), 1..4),
        hours in 0..1000_i64,
    ) {
        let mut loan = fold_loan(&[out.clone(), ended]);
        for copy in copies {
            let late = TimedFact { ms: copy.ms + hours * 3_600_000, ..copy };
            loan = merge_facts(loan, &[late, out.clone()]);
            prop_assert_eq!(loan.as_open(None), None);
        }
    }

    /// Facts before the check-out count for no patron, and all of them count after the check-out. A
    /// changed due date outranks the check-out's, even if the change is older.
    #[test]
    fn h03_facts_before_check_out_count_after_it(
        waiting in timed_facts(loan_change(), 1..6),
        out in check_out().prop_flat_map(at_any_time),
        after in -6..6_i64,
    ) {
        for known in 1..=waiting.len() {
            prop_assert_eq!(fold_loan(&waiting[..known]).as_open(None), None);
        }
        let out = TimedFact { ms: out.ms + after, ..out };
        let all = [waiting.clone(), vec![out.clone()]].concat();
        let open = fold_loan(&all).as_open(None);
        prop_assert_eq!(open, expected_loan(&all));
        let changed = newest(&waiting, is_due_date_change).map(|change| &change.fact);
        if let (Some(Fact::DueDateChanged { due_date, .. }), Some(open)) = (changed, open) {
            prop_assert_eq!(open.due_date, Some(*due_date));
        }
    }

    /// Of several due date changes the latest counts, with its recall flag.
    #[test]
    fn h04_latest_due_date_change_wins(
        out in timed_facts(check_out(), 1..2),
        (changes, arrived) in timed_facts(due_date_change(), 2..7).prop_flat_map(with_arrivals),
    ) {
        let open = fold_loan(&[arrived, out].concat()).as_open(None).unwrap();
        let latest = newest(&changes, |_| true).unwrap();
        let Fact::DueDateChanged { due_date, by_recall, .. } = latest.fact else { unreachable!() };
        prop_assert_eq!((open.due_date, open.recall), (Some(due_date), by_recall));
    }

    /// The latest fact that sets lost or claimed returned decides both flags.
    #[test]
    fn h05_flags_follow_the_latest_fact(
        out in timed_facts(check_out(), 1..2),
        (facts, arrived) in timed_facts(loan_change(), 2..8).prop_flat_map(with_arrivals),
    ) {
        let open = fold_loan(&[arrived, out.clone()].concat()).as_open(None);
        prop_assert_eq!(open, expected_loan(&[facts, out].concat()));
        let both_flags = open.is_some_and(|open| open.lost && open.claimed_returned);
        prop_assert!(!both_flags, "a lost item is not claimed returned");
    }

    /// The latest balance counts, so an older balance does not reopen a paid fee/fine.
    #[test]
    fn h06_latest_balance_wins(
        (balances, arrived) in timed_facts(owned_balance(), 2..7).prop_flat_map(with_arrivals),
    ) {
        prop_assert_eq!(fold_fee(&arrived).as_open(None), expected_fee(&balances));
    }

    /// A deletion names no owner, and creation events with an earlier time have no effect after it. A
    /// fee/fine without a known owner counts for no patron.
    #[test]
    fn h07_fee_deletion_wins_over_late_creation(
        deleted in at_any_time(deletion()),
        waiting in timed_facts(balance(Just(None)), 0..3),
        (balances, arrived) in timed_facts(owned_balance(), 1..5).prop_flat_map(with_arrivals),
    ) {
        let before = [vec![deleted.clone()], waiting].concat();
        prop_assert_eq!(fold_fee(&before).as_open(None), None);
        let all = [balances.clone(), before.clone()].concat();
        let fee = fold_fee(&[before.clone(), arrived].concat());
        prop_assert_eq!(fee.as_open(None), expected_fee(&all));
        let last = before.iter().all(|fact| fact.precedence() <= deleted.precedence())
            && balances.iter().all(|fact| fact.precedence() < deleted.precedence());
        prop_assert!(!last || fee.as_open(None).is_none());
    }

    /// Two concurrent transactions each contain part of a new patron's events. In either commit order,
    /// each loan counts that was opened and has not ended.
    #[test]
    fn h08_concurrent_first_events_all_count(
        events in business_history(14), sides in vec(any::<bool>(), 14),
    ) {
        let sides = split_by(&events, &sides);
        let (one, other) = (fold_events(&sides.0), fold_events(&sides.1));
        let state = merge_states(&one, &other);
        prop_assert_eq!(&state, &merge_states(&other, &one));
        let loans_of = |which: fn(&Fact) -> bool| -> BTreeSet<Uuid> {
            events.iter().filter(|e| which(&e.fact)).filter_map(|e| e.fact.subject()).collect()
        };
        let ended = loans_of(|f| matches!(f, Fact::CheckedIn { .. } | Fact::LoanClosed { .. }));
        let counting = state.0.iter().filter(|(_, loan)| loan.as_open(None).is_some()).map(|(id, _)| *id);
        let opened = loans_of(is_check_out);
        prop_assert_eq!(counting.collect::<BTreeSet<_>>(), &opened - &ended);
    }

    /// The last loan ends in one transaction while another contains the next loan or a fee/fine.
    #[test]
    fn h09_last_end_and_concurrent_fact_both_count(
        out in check_out().prop_flat_map(at_any_time),
        ended in loan_end().prop_flat_map(at_any_time),
        next in check_out().prop_flat_map(at_any_time),
        owed in timed_facts(owned_balance(), 1..3),
    ) {
        let next = TimedFact { fact: with_loan(&next.fact, FEE), ..next };
        let events = |facts: &[TimedFact]| fold_events(&facts.iter().map(TimedFact::to_event).collect::<Vec<_>>());
        let stored = events(&[out]);
        let (ending, continuing) = (events(&[ended]), events(&[owed.clone(), vec![next]].concat()));
        for state in [
            merge_states(&merge_states(&stored, &ending), &continuing),
            merge_states(&merge_states(&stored, &continuing), &ending),
        ] {
            prop_assert_eq!(state.0[&LOAN].as_open(None), None);
            prop_assert!(state.0[&FEE].as_open(None).is_some());
            prop_assert_eq!(state.1[&FEE].as_open(None), expected_fee(&owed));
        }
    }

    /// A crash rolls back its transaction, so a prefix is applied and part of it is repeated. The result
    /// is the same after any number of crashes.
    #[test]
    fn h10_crashes_between_batches_change_nothing(
        events in event_history(14), crashes in vec((0..=14_usize, 0..=14_usize), 0..5),
    ) {
        let (mut durable, mut state) = (0, State::default());
        for (reread, reached) in crashes {
            let from = reread.min(durable);
            let to = reached.clamp(durable, events.len().max(durable));
            state = merge_states(&state, &fold_events(&events[from..to]));
            durable = to;
        }
        state = merge_states(&state, &fold_events(&events[durable..]));
        prop_assert_eq!(state, fold_events(&events));
    }

    /// A failed batch is retried, whole or in halves, until each part is stored.
    #[test]
    fn h11_batches_may_be_retried_whole_or_in_halves(
        events in event_history(14), refused in vec(any::<bool>(), 32),
    ) {
        let (mut state, mut todo) = (State::default(), vec![&events[..]]);
        let mut refused = refused.into_iter();
        while let Some(part) = todo.pop() {
            if part.len() > 1 && refused.next().unwrap_or(false) {
                let (first, second) = part.split_at(part.len() / 2);
                todo.extend([second, first]);
            } else {
                state = merge_states(&state, &fold_events(part));
            }
        }
        prop_assert_eq!(state, fold_events(&events));
    }

    /// Two partitions are read at two paces. After a crash, each is read again from its committed
    /// offset, which is at most the durable offset, and no record is lost.
    #[test]
    fn h12_resume_from_committed_prefix_misses_nothing(
        events in event_history(14), sides in vec(any::<bool>(), 14),
        durable in (0..=14_usize, 0..=14_usize), behind in (0..=14_usize, 0..=14_usize),
    ) {
        let partitions = split_by(&events, &sides);
        let halt = |partition: &[Event], durable: usize, behind: usize| {
            let durable = durable.min(partition.len());
            (fold_events(&partition[..durable]), fold_events(&partition[durable.saturating_sub(behind)..]))
        };
        let (before_0, after_0) = halt(&partitions.0, durable.0, behind.0);
        let (before_1, after_1) = halt(&partitions.1, durable.1, behind.1);
        let state = merge_states(&merge_states(&before_1, &before_0), &merge_states(&after_0, &after_1));
        prop_assert_eq!(state, fold_events(&events));
    }

    /// A producer that resends a payload creates a new record of the same fact. If no other fact lies
    /// between, nothing changes.
    #[test]
    fn h13_resent_payload_without_id_changes_nothing(
        (once, again) in fact_sequence().prop_flat_map(|facts| with_copies(facts, false)),
    ) {
        prop_assert_eq!(outcome(&once), outcome(&again));
    }

    /// The same fact arrives enveloped and bare, each perhaps more than once.
    #[test]
    fn h14_enveloped_and_bare_copy_count_once(
        (once, again) in fact_sequence().prop_flat_map(|facts| with_copies(facts, true)),
    ) {
        prop_assert_eq!(outcome(&once), outcome(&again));
    }

    /// Storage publishes the loan after each event, with the same time and another source.
    #[test]
    fn h14_storage_copies_of_events_change_nothing(
        (once, with_snapshots) in fact_sequence().prop_flat_map(|facts| {
            let snapshots = storage_snapshots(&facts);
            let all = [facts.clone(), snapshots].concat();
            (Just(facts), with_arrivals(all).prop_map(|(_, arrived)| arrived))
        }),
    ) {
        prop_assert_eq!(outcome(&once), outcome(&with_snapshots));
    }

    /// A repeated replay from any earlier offset produces the state of one ordered read. If tombstones
    /// were pruned, the horizon prevents old check-outs and balances from opening.
    #[test]
    fn h15_replay_from_any_offset_reaches_the_same_state(
        events in event_history(14), from in vec(0..14_usize, 1..4),
    ) {
        let in_order = fold_events(&events);
        let mut state = in_order.clone();
        for from in from {
            for event in &events[from.min(events.len())..] {
                state = merge_states(&state, &fold_events(std::slice::from_ref(event)));
            }
        }
        prop_assert_eq!(&state, &in_order);

        let newest = events.iter().map(|event| event.occurred_at).max().unwrap();
        let pruned = Horizon::at(newest + TimeDelta::milliseconds(1));
        let (loans, fees) = fold_events(&events);
        prop_assert!(loans.values().all(|loan| loan.as_open(Some(pruned)).is_none()));
        prop_assert!(fees.values().all(|fee| fee.as_open(Some(pruned)).is_none()));
    }

    /// A snapshot of an open loan contains all facts at its time: older facts lose, newer facts win.
    /// Only a snapshot reopens a loan that ended before it, by an event or in storage.
    #[test]
    fn h16_snapshot_and_events_merge_by_time(
        (facts, arrived) in timed_facts(prop_oneof![check_out(), loan_change()], 0..6)
            .prop_flat_map(with_arrivals),
        snapshots in timed_facts(open_snapshot(), 1..3),
        ended in timed_facts(prop_oneof![loan_end(), Just(closed_snapshot())], 0..3),
        cut in 0..12_usize,
    ) {
        let (before, after) = arrived.split_at(cut.min(arrived.len()));
        let loan = merge_facts(merge_facts(fold_loan(before), &snapshots), after);
        let newest_snapshot = newest(&snapshots, |_| true).unwrap().precedence();
        let stays_open = ended.iter().all(|end| end.precedence() < newest_snapshot);
        let all = [facts, snapshots].concat();
        prop_assert_eq!(loan.as_open(None), expected_loan(&all));
        prop_assert_eq!(merge_facts(loan, &ended).as_open(None), expected_loan(&all).filter(|_| stays_open));
    }

    /// The latest check-out or open snapshot decides the owner of a loan, whomever other events name.
    /// Before the first of them, the loan counts for no patron.
    #[test]
    fn h17_latest_check_out_decides_the_owner(
        naming in timed_facts(loan_change(), 1..5),
        (outs, arrived) in timed_facts(prop_oneof![check_out(), open_snapshot()], 1..4).prop_flat_map(with_arrivals),
    ) {
        prop_assert_eq!(fold_loan(&naming).as_open(None), None);
        let open = fold_loan(&[naming, arrived].concat()).as_open(None);
        prop_assert_eq!(open.map(|open| open.user), newest(&outs, |_| true).unwrap().fact.user());
    }

    /// A loan that ended is closed, whatever the clock of each producer shows.
    #[test]
    fn h18_end_wins_despite_clock_skew(
        (facts, _) in (timed_facts(prop_oneof![check_out(), loan_change()], 1..6), timed_facts(loan_end(), 1..2))
            .prop_map(|(facts, end)| [facts, end].concat()).prop_flat_map(with_arrivals),
        skews in vec(-90_000_000..90_000_000_i64, 8),
    ) {
        let skewed = facts.into_iter().zip(skews).map(|(fact, skew)| TimedFact { ms: fact.ms + skew, ..fact });
        prop_assert_eq!(fold_loan(&skewed.collect::<Vec<_>>()).as_open(None), None);
    }

    /// The time of an envelope counts up to five minutes ahead of its record; beyond that the record's
    /// time counts.
    #[test]
    fn h18_envelope_far_ahead_uses_the_record_time(ahead in -400_000..400_000_i64) {
        let event = decode_event(&envelope_ahead(Uuid::from_u128(7), ahead), 3);
        let expected = if ahead > 300_000 { 0 } else { ahead };
        prop_assert_eq!(event.occurred_at, instant(expected));
    }

    /// Ties (docs/contract/events.md#64-clocks): time, kind, source, then offset and partition, or the
    /// id.
    #[test]
    fn ties_are_broken_by_kind_source_and_position(facts in timed_facts(any_fact(), 2..12)) {
        for (a, b) in facts.iter().flat_map(|a| facts.iter().map(move |b| (a, b))) {
            if a.fact.subject() == b.fact.subject() {
                prop_assert_eq!(a.to_event().stamp.cmp(&b.to_event().stamp), a.precedence().cmp(&b.precedence()));
            }
        }
    }

    /// A copy of an envelope at another offset is the same event; a copy of a bare record is a new
    /// event.
    #[test]
    fn envelope_copy_is_the_same_event(id in any::<u128>(), offsets in (0..9_i64, 10..19_i64)) {
        let envelope = envelope_ahead(Uuid::from_u128(id | 1), -1000);
        let (one, other) = (decode_event(&envelope, offsets.0), decode_event(&envelope, offsets.1));
        prop_assert_eq!((one.key, one.stamp), (other.key, other.stamp));
        let (one, other) = (decode_event(&envelope["data"], offsets.0), decode_event(&envelope["data"], offsets.1));
        prop_assert!(one.key != other.key && one.stamp < other.stamp);
    }
}

/// Returns the snapshots that storage publishes after each fact of a life, once storage has the loan.
fn storage_snapshots(facts: &[TimedFact]) -> Vec<TimedFact> {
    let after = |n: usize| {
        let loan = fold_loan(&facts[..=n]);
        let fact = match (loan.as_open(None), loan.check_out) {
            (Some(open), _) => Fact::LoanSnapshot {
                loan: LOAN,
                user: open.user,
                due_date: open.due_date.unwrap(),
                by_recall: open.recall,
                lost: Some(open.lost),
                claimed_returned: Some(open.claimed_returned),
            },
            (None, Some(_)) => closed_snapshot(),
            (None, None) => return None,
        };
        Some(TimedFact { fact, ..facts[n].clone() })
    };
    (0..facts.len()).filter_map(after).collect()
}

/// Splits events between two transactions or two partitions, each in order.
fn split_by(events: &[Event], sides: &[bool]) -> (Vec<Event>, Vec<Event>) {
    let side = |which: bool| {
        let events = events.iter().zip(sides).filter(|(_, side)| **side == which);
        events.map(|(event, _)| event.clone()).collect()
    };
    (side(true), side(false))
}

/// Returns the same check-out of another loan.
fn with_loan(fact: &Fact, loan: Uuid) -> Fact {
    let Fact::CheckedOut { user, due_date, grace, .. } = *fact else { unreachable!() };
    Fact::CheckedOut { loan, user, due_date, grace }
}

/// Returns the end of a loan in an envelope. The envelope's time is this far ahead of the record's.
fn envelope_ahead(id: Uuid, ahead: i64) -> serde_json::Value {
    let loan = "0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11";
    json!({
        "id": id, "type": "CREATED", "tenant": "northlib",
        "timestamp": instant(ahead).timestamp_millis(), "data": { "userId": loan, "loanId": loan },
    })
}

fn decode_event(payload: &serde_json::Value, offset: i64) -> Event {
    let topic = "folio.northlib.circulation.LOAN_CLOSED";
    let record: Record = Record {
        position: RecordPosition { topic: topic.into(), partition: 0, offset },
        timestamp: Some(instant(0)),
        key: None,
        headers: Vec::new(),
        payload: Some(payload.to_string().into_bytes()),
    };
    let topic = Environment::new(Some("folio")).parse(topic).unwrap();
    match decode::decode_record(&record, &topic, "cluster") {
        DecodeOutcome::Event(_, event) => *event,
        other => panic!("not understood: {other:?}"),
    }
}

fn read_file(name: impl AsRef<Path>) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Returns the names of functions that begin with a hazard's number.
fn hazard_functions(source: &str) -> BTreeSet<String> {
    let name = |text: &str| text.split('(').next().unwrap().to_owned();
    let numbered = |name: &String| {
        name.strip_prefix('h').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    source.split("fn ").skip(1).map(name).filter(numbered).collect()
}

#[test]
fn hazard_table_lists_every_story_and_property() {
    let folder = "tests/stories/hazards";
    let stories: String = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
        .unwrap()
        .map(|entry| read_file(entry.unwrap().path()))
        .collect();
    let tested =
        [hazard_functions(&stories), hazard_functions(&read_file("tests/core/hazards.rs"))];
    let mut documented = [BTreeSet::new(), BTreeSet::new()];
    let page = read_file("docs/hazards.md");
    for n in 1..=18 {
        let row = page.lines().find(|line| line.starts_with(&format!("| H{n} |"))).unwrap();
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        for (cell, documented_names) in cells[3..5].iter().zip(&mut documented) {
            let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
            assert!(!names.is_empty(), "H{n} lacks a story or a property");
            assert!(names.iter().all(|name| name.starts_with(&format!("h{n:02}_"))), "{names:?}");
            documented_names.extend(names.into_iter().map(str::to_owned));
        }
    }
    assert_eq!(documented, tested);
}
