//! Which records are taken, and which answers count, while partitions come and go.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::kafka::assignment::{
    Arrival, Assignment, Beginning, Counts, Due, Landmark, Remade, Taken,
};

use crate::history::noon;

const TOPIC: &str = "folio.northlib.circulation.LOAN_CLOSED";
const HOUR: Duration = Duration::from_secs(3600);

/// One partition that was assigned, and the question where it begins.
fn assigned() -> (Assignment, Due) {
    let assignment = Assignment::default();
    assignment.add([(TOPIC.to_owned(), 0)]);
    let due = only(assignment.due(Instant::now()));
    (assignment, due)
}

fn only(due: Vec<Due>) -> Due {
    let [due] = <[Due; 1]>::try_from(due).unwrap();
    due
}

fn arrive(assignment: &Assignment, offset: i64, at: DateTime<Utc>) -> Arrival {
    assignment.arrive(TOPIC, 0, offset, Some(at))
}

/// Begins where the known record is followed, or at the log's beginning.
fn begin(assignment: &Assignment, due: &Due, kept: bool, before: Option<Landmark>) {
    let from = before.map_or(0, |landmark| landmark.offset + 1);
    assignment.begin(due, Beginning { from, log_start: 0, kept, before });
}

fn taken(due: &Due, kept: bool, position: i64) -> Arrival {
    Arrival::Take(Taken { era: due.era, kept, position })
}

/// Reads from offset 8; the record at 7 was read at noon.
fn reading_from_8() -> (Assignment, Due) {
    let (assignment, due) = assigned();
    begin(&assignment, &due, true, Some(Landmark { offset: 7, at: noon() }));
    (assignment, due)
}

#[test]
fn the_record_before_the_beginning_is_left_and_those_after_it_are_taken() {
    let (assignment, due) = reading_from_8();
    assert_eq!(arrive(&assignment, 6, noon()), Arrival::Leave);
    assert_eq!(arrive(&assignment, 7, noon()), Arrival::Leave);
    assert_eq!(arrive(&assignment, 8, noon()), taken(&due, true, 8));
    assert_eq!(arrive(&assignment, 9, noon()), taken(&due, true, 9));
}

#[test]
fn a_compacted_log_without_the_record_before_is_the_same_log() {
    let (assignment, due) = reading_from_8();
    assert_eq!(arrive(&assignment, 12, noon()), taken(&due, true, 8));
}

#[test]
fn another_record_where_one_was_read_begins_anew() {
    let (assignment, due) = reading_from_8();
    assert_eq!(arrive(&assignment, 6, noon()), Arrival::Leave);
    let another = noon() + TimeDelta::milliseconds(1);
    assert_eq!(arrive(&assignment, 7, another), Arrival::Remade);
    assert_eq!(arrive(&assignment, 8, another), Arrival::Leave);
    let again = only(assignment.due(Instant::now()));
    assert!(again.remade == Remade::Here && again.era > due.era);
    assert_eq!(
        only({
            assignment.wait(&again);
            assignment.due(Instant::now())
        }),
        again
    );
}

#[test]
fn an_answer_to_an_earlier_era_counts_no_more() {
    let (assignment, early) = assigned();
    assignment.remove([(TOPIC.to_owned(), 0)]);
    assert_eq!(assignment.era(TOPIC, 0), None);
    assignment.add([(TOPIC.to_owned(), 0)]);
    begin(&assignment, &early, true, None);
    assert_eq!(arrive(&assignment, 0, noon()), Arrival::Leave);
    assignment.hold(&early, None);
    let late = only(assignment.due(Instant::now()));
    begin(&assignment, &late, false, None);
    assert_eq!(arrive(&assignment, 0, noon()), taken(&late, false, 0));
    assignment.clear();
    assert_eq!(arrive(&assignment, 1, noon()), Arrival::Leave);
}

#[test]
fn what_is_held_is_asked_for_when_its_time_is_over_or_an_operator_says_so() {
    let (assignment, due) = assigned();
    assert_eq!(assignment.due(Instant::now()), [], "it is asked once");
    assignment.hold(&due, Some(HOUR));
    assert_eq!(assignment.counts(), Counts { held: 1, ..Counts::default() });
    assert_eq!(assignment.due(Instant::now()), []);
    assert_eq!(only(assignment.due(Instant::now() + 2 * HOUR)), due);

    assignment.hold(&due, None);
    assert_eq!(assignment.counts(), Counts { stopped: 1, ..Counts::default() });
    assert_eq!(assignment.due(Instant::now() + 2 * HOUR), []);
    assignment.begin_anew(|choice| choice.held);
    assert!(only(assignment.due(Instant::now())).era > due.era);
}

#[test]
fn whatever_interrupts_reading_ends_its_era() {
    type Interrupt = fn(&Assignment);
    let interrupts: [Interrupt; 3] = [
        |a| a.stop_reading(TOPIC, 0, Some(Duration::ZERO)),
        |a| a.pass_by(TOPIC, 0),
        |a| a.begin_anew(|choice| choice.topic == TOPIC),
    ];
    for interrupt in interrupts {
        let (assignment, due) = assigned();
        begin(&assignment, &due, true, None);
        assert_eq!(assignment.reading(), [(TOPIC.to_owned(), 0)]);
        interrupt(&assignment);
        assert!(assignment.era(TOPIC, 0).unwrap() > due.era);
        assert_eq!(assignment.reading(), []);
        assert_eq!(arrive(&assignment, 0, noon()), Arrival::Leave);
        begin(&assignment, &due, true, None);
        assert_eq!(assignment.reading(), [], "that was an answer to the era before");
        assert_eq!(assignment.due(Instant::now() + HOUR).len(), 1);
    }
}

#[test]
fn what_is_passed_by_is_passed_by_once_and_begins_anew_when_its_tenant_is_enabled() {
    let (assignment, due) = assigned();
    begin(&assignment, &due, true, None);
    assignment.pass_by(TOPIC, 0);
    let asked = only(assignment.due(Instant::now()));
    begin(&assignment, &asked, false, None);
    assignment.pass_by(TOPIC, 0);
    assert_eq!(arrive(&assignment, 0, noon()), taken(&asked, false, 0));
    assignment.begin_anew(|choice| choice.topic == TOPIC);
    assert!(only(assignment.due(Instant::now())).era > asked.era);
}

#[test]
fn a_tenant_who_is_enabled_while_it_is_asked_about_begins_anew() {
    let (assignment, due) = assigned();
    begin(&assignment, &due, true, None);
    assignment.pass_by(TOPIC, 0);
    let asked = only(assignment.due(Instant::now()));
    assignment.begin_anew(|choice| choice.topic == TOPIC);
    begin(&assignment, &asked, false, None);
    assert_eq!(arrive(&assignment, 0, noon()), Arrival::Leave, "that was found out before");
    assert!(only(assignment.due(Instant::now())).era > asked.era);
}

#[test]
fn a_topic_that_is_made_anew_begins_anew_with_all_its_partitions() {
    let assignment = Assignment::default();
    let other = "folio.northlib.circulation.ITEM_CHECKED_OUT";
    let owned = [(TOPIC, 0), (TOPIC, 1), (TOPIC, 2), (other, 0)];
    assignment.add(owned.map(|(topic, partition)| (topic.to_owned(), partition)));
    for due in assignment.due(Instant::now()) {
        if due.partition == 2 {
            assignment.hold(&due, None);
        } else {
            begin(&assignment, &due, true, Some(Landmark { offset: 7, at: noon() }));
        }
    }
    let another = noon() + TimeDelta::milliseconds(1);
    assert_eq!(assignment.arrive(TOPIC, 1, 7, Some(another)), Arrival::Remade);
    let due = assignment.due(Instant::now());
    let asked: Vec<_> = due.iter().map(|due| (&*due.topic, due.partition, due.remade)).collect();
    assert_eq!(asked, [(TOPIC, 0, Remade::Elsewhere), (TOPIC, 1, Remade::Here)]);
    assert_eq!(assignment.reading(), [(other.to_owned(), 0)]);
    assert_eq!(assignment.counts().stopped, 1, "an operator has to resume it still");

    // Of some it is known already: only the others are to be asked about.
    assignment.remake_others(TOPIC, &[0]);
    let [again] = <[Due; 1]>::try_from(assignment.due(Instant::now())).unwrap();
    assert_eq!((again.partition, again.remade), (1, Remade::Elsewhere));
}

#[test]
fn an_older_record_is_remembered_until_it_was_found_again() {
    let (assignment, due) = reading_from_8();
    let older = Some(Landmark { offset: 7, at: noon() });
    arrive(&assignment, 7, noon());
    arrive(&assignment, 8, noon());
    arrive(&assignment, 9, noon());
    let watched = assignment.watched().remove(0);
    let newest = Some(Landmark { offset: 9, at: noon() });
    assert_eq!((watched.next, watched.older, watched.newest), (10, older, newest));
    // Beginning anew behind a known record is reading on: it does not make the older one of less worth.
    assignment.begin_anew(|_| true);
    let again = only(assignment.due(Instant::now()));
    begin(&assignment, &again, true, newest);
    assert_eq!(assignment.watched()[0].older, older);
    // What was read since it was looked for is of no account, and neither is a look at an earlier era.
    assignment.confirm(&watched);
    assert_eq!(assignment.watched()[0].older, older);
    let watched = assignment.watched().remove(0);
    arrive(&assignment, 10, noon());
    assignment.confirm(&watched);
    assert_eq!(assignment.watched()[0].older, newest);
    // A log that is another one knows nothing of either.
    assignment.remake(TOPIC, 0);
    let anew = only(assignment.due(Instant::now()));
    assert!(anew.era > due.era);
    begin(&assignment, &anew, true, None);
    assert_eq!(assignment.watched()[0].older, None);
}
