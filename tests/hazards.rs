//! The ordering hazards of the events contract (10), each as a property of the pure core: what must
//! come of it whatever the times, the order of arrival and the repetition. `docs/hazards.md` has the
//! table of them, with the stories that show the same from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use chrono::TimeDelta;
use patron_blocks::{
    event::{Environment, Event, Fact, Place, Reading, Record, decode, stamp::Horizon},
    patron::{Fee, Loan, OpenFee, OpenLoan},
};
use proptest::{collection::vec, prelude::*};
use serde_json::json;
use uuid::Uuid;

use crate::{
    history::{arriving, at_desks, happened},
    merging::{join, known},
    told::{
        FEE, LOAN, Told, a_life, anything, balance, check_out, deletion, due_date_change, end,
        ended_in_storage, expected, expected_fee, fee_after, held, in_between, instant,
        is_check_out, is_due_date_change, loan_after, newest, owned_balance, resent, some, tell,
    },
};

type State = (BTreeMap<Uuid, Loan>, BTreeMap<Uuid, Fee>);

fn both(a: &State, b: &State) -> State {
    (join(&a.0, &b.0, Loan::merge), join(&a.1, &b.1, Fee::merge))
}

/// The loan and the fee/fine as they count.
fn outcome(told: &[Told]) -> (Option<OpenLoan>, Option<OpenFee>) {
    (loan_after(told).open(None), fee_after(told).open(None))
}

fn merged(loan: Loan, told: &[Told]) -> Loan {
    loan.merge(loan_after(told))
}

proptest! {
    /// A loan that was returned or closed is not opened by the check-out that comes after it.
    #[test]
    fn h01_an_end_that_overtakes_the_check_out_keeps_the_loan_closed(
        ends in some(end(), 1..3),
        late in some(prop_oneof![check_out(), in_between()], 1..6),
    ) {
        let mut loan = loan_after(&ends);
        for told in late {
            loan = merged(loan, &[told]);
            prop_assert_eq!(loan.open(None), None);
        }
    }

    /// Nor by the same check-out, or one that a replay made new, long after the end.
    #[test]
    fn h02_a_check_out_that_comes_again_opens_nothing(
        out in check_out().prop_flat_map(tell),
        ended in end().prop_flat_map(tell),
        copies in some(check_out(), 1..4),
        hours in 0..1000_i64,
    ) {
        let mut loan = loan_after(&[out.clone(), ended]);
        for told in copies {
            let late = Told { ms: told.ms + hours * 3_600_000, ..told };
            loan = merged(loan, &[late, out.clone()]);
            prop_assert_eq!(loan.open(None), None);
        }
    }

    /// Facts before the check-out count for nobody, and all of them show once it is there; a changed
    /// due date outranks the check-out's even if it is the older one.
    #[test]
    fn h03_facts_wait_for_the_check_out_and_then_count(
        waiting in some(in_between(), 1..6),
        out in check_out().prop_flat_map(tell),
        after in -6..6_i64,
    ) {
        for known in 1..=waiting.len() {
            prop_assert_eq!(loan_after(&waiting[..known]).open(None), None);
        }
        let out = Told { ms: out.ms + after, ..out };
        let all = [waiting.clone(), vec![out.clone()]].concat();
        let open = loan_after(&all).open(None);
        prop_assert_eq!(open, expected(&all));
        let changed = newest(&waiting, is_due_date_change).map(|told| &told.fact);
        if let (Some(Fact::DueDateChanged { due_date, .. }), Some(open)) = (changed, open) {
            prop_assert_eq!(open.due_date, Some(*due_date));
        }
    }

    /// Of several due-date changes the latest counts, with its recall flag.
    #[test]
    fn h04_the_latest_due_date_change_wins(
        out in some(check_out(), 1..2),
        (changes, arrived) in some(due_date_change(), 2..7).prop_flat_map(arriving),
    ) {
        let open = loan_after(&[arrived, out].concat()).open(None).unwrap();
        let latest = newest(&changes, |_| true).unwrap();
        let Fact::DueDateChanged { due_date, by_recall, .. } = latest.fact else { unreachable!() };
        prop_assert_eq!((open.due_date, open.recall), (Some(due_date), by_recall));
    }

    /// Lost and claimed returned are as the latest of the facts that set them left them.
    #[test]
    fn h05_flags_follow_the_latest_fact_that_sets_them(
        out in some(check_out(), 1..2),
        (facts, arrived) in some(in_between(), 2..8).prop_flat_map(arriving),
    ) {
        let open = loan_after(&[arrived, out.clone()].concat()).open(None);
        prop_assert_eq!(open, expected(&[facts, out].concat()));
        let both_flags = open.is_some_and(|open| open.lost && open.claimed_returned);
        prop_assert!(!both_flags, "a lost item is not claimed returned");
    }

    /// A balance follows the latest event, so an older one does not charge a paid fee/fine again.
    #[test]
    fn h06_the_latest_balance_wins(
        (balances, arrived) in some(owned_balance(), 2..7).prop_flat_map(arriving),
    ) {
        prop_assert_eq!(fee_after(&arrived).open(None), expected_fee(&balances));
    }

    /// A deletion names nobody; creation events with an earlier time have no effect after it. A
    /// fee/fine whose owner nobody has named counts for nobody.
    #[test]
    fn h07_a_deletion_outlives_the_creation_that_comes_after_it(
        deleted in tell(deletion()),
        waiting in some(balance(Just(None)), 0..3),
        (balances, arrived) in some(owned_balance(), 1..5).prop_flat_map(arriving),
    ) {
        let before = [vec![deleted.clone()], waiting].concat();
        prop_assert_eq!(fee_after(&before).open(None), None);
        let all = [balances.clone(), before.clone()].concat();
        let fee = fee_after(&[before.clone(), arrived].concat());
        prop_assert_eq!(fee.open(None), expected_fee(&all));
        let last = before.iter().all(|told| told.when() <= deleted.when())
            && balances.iter().all(|told| told.when() < deleted.when());
        prop_assert!(!last || fee.open(None).is_none());
    }

    /// Two transactions that know nothing of each other each bring part of what a new patron did;
    /// whichever commits first, each of her loans counts that was opened and has not ended.
    #[test]
    fn h08_first_events_in_two_transactions_at_once_all_count(
        events in at_desks(14), sides in vec(any::<bool>(), 14),
    ) {
        let sides = in_two(&events, &sides);
        let (one, other) = (known(&sides.0), known(&sides.1));
        let state = both(&one, &other);
        prop_assert_eq!(&state, &both(&other, &one));
        let loans_of = |which: fn(&Fact) -> bool| -> BTreeSet<Uuid> {
            events.iter().filter(|e| which(&e.fact)).filter_map(|e| e.fact.subject()).collect()
        };
        let ended = loans_of(|f| matches!(f, Fact::CheckedIn { .. } | Fact::LoanClosed { .. }));
        let counting = state.0.iter().filter(|(_, loan)| loan.open(None).is_some()).map(|(id, _)| *id);
        let opened = loans_of(is_check_out);
        prop_assert_eq!(counting.collect::<BTreeSet<_>>(), &opened - &ended);
    }

    /// The last loan ends in one transaction while another brings the next loan or a fee/fine.
    #[test]
    fn h09_the_last_end_and_the_next_fact_both_count(
        out in check_out().prop_flat_map(tell),
        ended in end().prop_flat_map(tell),
        next in check_out().prop_flat_map(tell),
        owed in some(owned_balance(), 1..3),
    ) {
        let next = Told { fact: of_loan(&next.fact, FEE), ..next };
        let events = |told: &[Told]| known(&told.iter().map(Told::event).collect::<Vec<_>>());
        let stored = events(&[out]);
        let (ending, going_on) = (events(&[ended]), events(&[owed.clone(), vec![next]].concat()));
        for state in [
            both(&both(&stored, &ending), &going_on),
            both(&both(&stored, &going_on), &ending),
        ] {
            prop_assert_eq!(state.0[&LOAN].open(None), None);
            prop_assert!(state.0[&FEE].open(None).is_some());
            prop_assert_eq!(state.1[&FEE].open(None), expected_fee(&owed));
        }
    }

    /// A transaction that a crash undoes leaves nothing, so a crash is a prefix that was applied and a
    /// part of it that comes again: however often, it comes to the same.
    #[test]
    fn h10_crashes_between_batches_change_nothing(
        events in happened(14), crashes in vec((0..=14_usize, 0..=14_usize), 0..5),
    ) {
        let (mut durable, mut state) = (0, State::default());
        for (reread, reached) in crashes {
            let from = reread.min(durable);
            let to = reached.clamp(durable, events.len().max(durable));
            state = both(&state, &known(&events[from..to]));
            durable = to;
        }
        state = both(&state, &known(&events[durable..]));
        prop_assert_eq!(state, known(&events));
    }

    /// A batch that could not be stored is offered again, whole or in halves, until each part is in.
    #[test]
    fn h11_a_batch_may_be_offered_again_and_in_halves(
        events in happened(14), refused in vec(any::<bool>(), 32),
    ) {
        let (mut state, mut todo) = (State::default(), vec![&events[..]]);
        let mut refused = refused.into_iter();
        while let Some(part) = todo.pop() {
            if part.len() > 1 && refused.next().unwrap_or(false) {
                let (first, second) = part.split_at(part.len() / 2);
                todo.extend([second, first]);
            } else {
                state = both(&state, &known(part));
            }
        }
        prop_assert_eq!(state, known(&events));
    }

    /// Two partitions are read at two paces. After a crash each is read again from where its offset
    /// was committed, which is never beyond what was durable; then everything is there.
    #[test]
    fn h12_reading_on_from_a_contiguous_prefix_misses_nothing(
        events in happened(14), sides in vec(any::<bool>(), 14),
        durable in (0..=14_usize, 0..=14_usize), behind in (0..=14_usize, 0..=14_usize),
    ) {
        let partitions = in_two(&events, &sides);
        let halt = |partition: &[Event], durable: usize, behind: usize| {
            let durable = durable.min(partition.len());
            (known(&partition[..durable]), known(&partition[durable.saturating_sub(behind)..]))
        };
        let (before_0, after_0) = halt(&partitions.0, durable.0, behind.0);
        let (before_1, after_1) = halt(&partitions.1, durable.1, behind.1);
        let state = both(&both(&before_1, &before_0), &both(&after_0, &after_1));
        prop_assert_eq!(state, known(&events));
    }

    /// A producer that sends a payload again makes a new record of the same fact: nothing changes, as
    /// long as nothing else happened in between.
    #[test]
    fn h13_a_payload_sent_again_without_an_id_changes_nothing(
        (once, again) in a_life().prop_flat_map(|life| resent(life, false)),
    ) {
        prop_assert_eq!(outcome(&once), outcome(&again));
    }

    /// The same fact by two ways: enveloped and bare, each perhaps more than once.
    #[test]
    fn h14_a_fact_told_enveloped_and_bare_counts_once(
        (once, again) in a_life().prop_flat_map(|life| resent(life, true)),
    ) {
        prop_assert_eq!(outcome(&once), outcome(&again));
    }

    /// Storage tells of a loan as it is after each event about it, at the same time and by another way.
    #[test]
    fn h14_what_storage_tells_beside_the_events_changes_nothing(
        (once, beside) in a_life().prop_flat_map(|life| {
            let told = storage_tells(&life);
            let all = [life.clone(), told].concat();
            (Just(life), arriving(all).prop_map(|(_, arrived)| arrived))
        }),
    ) {
        prop_assert_eq!(outcome(&once), outcome(&beside));
    }

    /// Everything again from some earlier offset, and again, comes to the state of once and in order;
    /// and where tombstones were pruned, the horizon keeps old check-outs and balances from opening.
    #[test]
    fn h15_a_replay_from_anywhere_comes_to_the_same_state(
        events in happened(14), from in vec(0..14_usize, 1..4),
    ) {
        let in_order = known(&events);
        let mut state = in_order.clone();
        for from in from {
            for event in &events[from.min(events.len())..] {
                state = both(&state, &known(std::slice::from_ref(event)));
            }
        }
        prop_assert_eq!(&state, &in_order);

        let newest = events.iter().map(|event| event.occurred_at).max().unwrap();
        let pruned = Horizon::at(newest + TimeDelta::milliseconds(1));
        let (loans, fees) = known(&events);
        prop_assert!(loans.values().all(|loan| loan.open(Some(pruned)).is_none()));
        prop_assert!(fees.values().all(|fee| fee.open(Some(pruned)).is_none()));
    }

    /// What storage holds of an open loan stands for all of its facts at that time: what is older loses,
    /// what is newer wins, and only it reopens what ended before it, at a desk or in storage.
    #[test]
    fn h16_a_snapshot_and_live_events_merge_by_their_times(
        (facts, arrived) in some(prop_oneof![check_out(), in_between()], 0..6)
            .prop_flat_map(arriving),
        snapshots in some(held(), 1..3),
        ended in some(prop_oneof![end(), Just(ended_in_storage())], 0..3),
        cut in 0..12_usize,
    ) {
        let (before, after) = arrived.split_at(cut.min(arrived.len()));
        let loan = merged(merged(loan_after(before), &snapshots), after);
        let newest_held = newest(&snapshots, |_| true).unwrap().when();
        let stays_open = ended.iter().all(|end| end.when() < newest_held);
        let all = [facts, snapshots].concat();
        prop_assert_eq!(loan.open(None), expected(&all));
        prop_assert_eq!(merged(loan, &ended).open(None), expected(&all).filter(|_| stays_open));
    }

    /// A loan belongs to the patron of its latest check-out or open snapshot, whomever other events name, and before
    /// the first one to nobody's count.
    #[test]
    fn h17_the_latest_check_out_decides_whose_the_loan_is(
        naming in some(in_between(), 1..5),
        (outs, arrived) in some(prop_oneof![check_out(), held()], 1..4).prop_flat_map(arriving),
    ) {
        prop_assert_eq!(loan_after(&naming).open(None), None);
        let open = loan_after(&[naming, arrived].concat()).open(None);
        prop_assert_eq!(open.map(|open| open.user), newest(&outs, |_| true).unwrap().fact.user());
    }

    /// Whatever each producer's clock says, a loan that ended is closed.
    #[test]
    fn h18_an_end_wins_whatever_the_clocks_say(
        (told, _) in (some(prop_oneof![check_out(), in_between()], 1..6), some(end(), 1..2))
            .prop_map(|(facts, end)| [facts, end].concat()).prop_flat_map(arriving),
        skews in vec(-90_000_000..90_000_000_i64, 8),
    ) {
        let skewed = told.into_iter().zip(skews).map(|(told, skew)| Told { ms: told.ms + skew, ..told });
        prop_assert_eq!(loan_after(&skewed.collect::<Vec<_>>()).open(None), None);
    }

    /// An envelope is believed up to five minutes ahead of its own record; beyond that the record's
    /// time counts.
    #[test]
    fn h18_an_envelope_far_ahead_of_its_record_gives_way(ahead in -400_000..400_000_i64) {
        let event = read(&enveloped(Uuid::from_u128(7), ahead), 3);
        let expected = if ahead > 300_000 { 0 } else { ahead };
        prop_assert_eq!(event.occurred_at, instant(expected));
    }

    /// Ties (events contract 6.4): time, kind, source, then offset and partition, or the id.
    #[test]
    fn ties_are_decided_by_what_belongs_to_the_event(told in some(anything(), 2..12)) {
        for (a, b) in told.iter().flat_map(|a| told.iter().map(move |b| (a, b))) {
            if a.fact.subject() == b.fact.subject() {
                prop_assert_eq!(a.event().stamp.cmp(&b.event().stamp), a.when().cmp(&b.when()));
            }
        }
    }

    /// So a copy of an envelope at another offset is the same event; a copy of a bare record isn't.
    #[test]
    fn a_copy_of_an_envelope_is_the_same_event(id in any::<u128>(), offsets in (0..9_i64, 10..19_i64)) {
        let envelope = enveloped(Uuid::from_u128(id | 1), -1000);
        let (one, other) = (read(&envelope, offsets.0), read(&envelope, offsets.1));
        prop_assert_eq!((one.key, one.stamp), (other.key, other.stamp));
        let (one, other) = (read(&envelope["data"], offsets.0), read(&envelope["data"], offsets.1));
        prop_assert!(one.key != other.key && one.stamp < other.stamp);
    }
}

/// What storage tells after each fact of a life, as soon as it holds the loan.
fn storage_tells(life: &[Told]) -> Vec<Told> {
    let after = |n: usize| {
        let loan = loan_after(&life[..=n]);
        let fact = match (loan.open(None), loan.check_out) {
            (Some(open), _) => Fact::LoanHeld {
                loan: LOAN,
                user: open.user,
                due_date: open.due_date.unwrap(),
                by_recall: open.recall,
                lost: Some(open.lost),
                claimed_returned: Some(open.claimed_returned),
            },
            (None, Some(_)) => ended_in_storage(),
            (None, None) => return None,
        };
        Some(Told { fact, ..life[n].clone() })
    };
    (0..life.len()).filter_map(after).collect()
}

/// Events as two transactions or two partitions have them, in their order.
fn in_two(events: &[Event], sides: &[bool]) -> (Vec<Event>, Vec<Event>) {
    let side = |which: bool| {
        let events = events.iter().zip(sides).filter(|(_, side)| **side == which);
        events.map(|(event, _)| event.clone()).collect()
    };
    (side(true), side(false))
}

/// The same check-out, of another loan.
fn of_loan(fact: &Fact, loan: Uuid) -> Fact {
    let Fact::CheckedOut { user, due_date, grace, .. } = *fact else { unreachable!() };
    Fact::CheckedOut { loan, user, due_date, grace }
}

/// A loan's end in an envelope whose time is so far ahead of its record's.
fn enveloped(id: Uuid, ahead: i64) -> serde_json::Value {
    let loan = "0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11";
    json!({
        "id": id, "type": "CREATED", "tenant": "northlib",
        "timestamp": instant(ahead).timestamp_millis(), "data": { "userId": loan, "loanId": loan },
    })
}

fn read(payload: &serde_json::Value, offset: i64) -> Event {
    let topic = "folio.northlib.circulation.LOAN_CLOSED";
    let record: Record = Record {
        place: Place { topic: topic.into(), partition: 0, offset },
        timestamp: Some(instant(0)),
        key: None,
        headers: Vec::new(),
        payload: Some(payload.to_string().into_bytes()),
    };
    let topic = Environment::new(Some("folio")).parse(topic).unwrap();
    match decode::read(&record, &topic, "cluster") {
        Reading::Event(_, event) => *event,
        other => panic!("not understood: {other:?}"),
    }
}

fn file(name: impl AsRef<Path>) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Names of functions that begin with a hazard's number.
fn functions(source: &str) -> BTreeSet<String> {
    let name = |text: &str| text.split('(').next().unwrap().to_owned();
    let numbered = |name: &String| {
        name.strip_prefix('h').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    source.split("fn ").skip(1).map(name).filter(numbered).collect()
}

#[test]
fn the_table_names_every_hazard_with_its_stories_and_its_properties() {
    let folder = "tests/stories/hazards";
    let stories: String = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
        .unwrap()
        .map(|entry| file(entry.unwrap().path()))
        .collect();
    let tested = [functions(&stories), functions(&file("tests/hazards.rs"))];
    let mut told = [BTreeSet::new(), BTreeSet::new()];
    let page = file("docs/hazards.md");
    for n in 1..=18 {
        let row = page.lines().find(|line| line.starts_with(&format!("| H{n} |"))).unwrap();
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        for (cell, told) in cells[3..5].iter().zip(&mut told) {
            let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
            assert!(!names.is_empty(), "H{n} lacks a story or a property");
            assert!(names.iter().all(|name| name.starts_with(&format!("h{n:02}_"))), "{names:?}");
            told.extend(names.into_iter().map(str::to_owned));
        }
    }
    assert_eq!(told, tested);
}
