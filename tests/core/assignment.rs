//! The records that the assignment admits, and the reports that it accepts, while partitions are
//! assigned and revoked.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::kafka::assignment::{
    Admission, AdmitDecision, Assignment, OffsetAndTimestamp, PartitionCounts, PendingPartition,
    StartPosition, TopicRecreation,
};

use crate::support::history::noon;

const TOPIC: &str = "folio.northlib.circulation.LOAN_CLOSED";
const HOUR: Duration = Duration::from_secs(3600);

/// Returns an assignment with one partition, and the partition's request for a start offset.
fn assigned() -> (Assignment, PendingPartition) {
    let assignment = Assignment::default();
    assignment.add([(TOPIC.to_owned(), 0)]);
    let due = only(assignment.take_pending(Instant::now()));
    (assignment, due)
}

fn only(due: Vec<PendingPartition>) -> PendingPartition {
    let [due] = <[PendingPartition; 1]>::try_from(due).unwrap();
    due
}

fn arrive(assignment: &Assignment, offset: i64, at: DateTime<Utc>) -> AdmitDecision {
    assignment.admit(TOPIC, 0, offset, Some(at))
}

/// Starts a partition after the known record, or at the beginning of the log.
fn start(
    assignment: &Assignment,
    due: &PendingPartition,
    tenant_enabled: bool,
    before: Option<OffsetAndTimestamp>,
) {
    let from = before.map_or(0, |landmark| landmark.offset + 1);
    assignment.start(due, StartPosition { from, log_start: 0, tenant_enabled, before });
}

fn admitted(due: &PendingPartition, tenant_enabled: bool, position: i64) -> AdmitDecision {
    AdmitDecision::Admit(Admission { epoch: due.epoch, tenant_enabled, position })
}

/// Returns a partition that is read from offset 8; the record at offset 7 has the timestamp of noon.
fn reading_from_8() -> (Assignment, PendingPartition) {
    let (assignment, due) = assigned();
    start(&assignment, &due, true, Some(OffsetAndTimestamp { offset: 7, timestamp: noon() }));
    (assignment, due)
}

#[test]
fn records_before_start_offset_are_skipped() {
    let (assignment, due) = reading_from_8();
    assert_eq!(arrive(&assignment, 6, noon()), AdmitDecision::Ignore);
    assert_eq!(arrive(&assignment, 7, noon()), AdmitDecision::Ignore);
    assert_eq!(arrive(&assignment, 8, noon()), admitted(&due, true, 8));
    assert_eq!(arrive(&assignment, 9, noon()), admitted(&due, true, 9));
}

#[test]
fn compacted_log_without_last_record_is_the_same_log() {
    let (assignment, due) = reading_from_8();
    assert_eq!(arrive(&assignment, 12, noon()), admitted(&due, true, 8));
}

/// A seek that ends late makes the client read the records again.
#[test]
fn record_that_was_read_is_ignored_until_the_next_start() {
    let (assignment, due) = reading_from_8();
    assert_eq!(arrive(&assignment, 8, noon()), admitted(&due, true, 8));
    assert_eq!(arrive(&assignment, 9, noon()), admitted(&due, true, 9));
    for offset in 6..10 {
        assert_eq!(arrive(&assignment, offset, noon()), AdmitDecision::Ignore);
    }
    assert_eq!(arrive(&assignment, 10, noon()), admitted(&due, true, 10));
    assignment.restart(|_| true);
    let again = only(assignment.take_pending(Instant::now()));
    start(&assignment, &again, true, Some(OffsetAndTimestamp { offset: 7, timestamp: noon() }));
    assert_eq!(arrive(&assignment, 7, noon()), AdmitDecision::Ignore);
    assert_eq!(arrive(&assignment, 8, noon()), admitted(&again, true, 8));
}

/// The client read at a wrong offset first, so records in between were never read.
#[test]
fn records_before_the_first_read_one_are_read_with_all_after_them() {
    let (assignment, due) = reading_from_8();
    assert_eq!(arrive(&assignment, 12, noon()), admitted(&due, true, 8));
    assert_eq!(arrive(&assignment, 8, noon()), admitted(&due, true, 8));
    assert_eq!(arrive(&assignment, 8, noon()), AdmitDecision::Ignore);
    for offset in 9..14 {
        assert_eq!(arrive(&assignment, offset, noon()), admitted(&due, true, offset));
    }
}

#[test]
fn different_record_at_known_offset_restarts_partition() {
    let (assignment, due) = reading_from_8();
    assert_eq!(arrive(&assignment, 6, noon()), AdmitDecision::Ignore);
    let another = noon() + TimeDelta::milliseconds(1);
    assert_eq!(arrive(&assignment, 7, another), AdmitDecision::TopicRecreated);
    assert_eq!(arrive(&assignment, 8, another), AdmitDecision::Ignore);
    let again = only(assignment.take_pending(Instant::now()));
    assert!(again.recreation == TopicRecreation::OnThisPartition && again.epoch > due.epoch);
    assert_eq!(
        only({
            assignment.requeue(&again);
            assignment.take_pending(Instant::now())
        }),
        again
    );
}

#[test]
fn start_decision_of_an_earlier_epoch_is_ignored() {
    let (assignment, early) = assigned();
    assignment.remove([(TOPIC.to_owned(), 0)]);
    assert_eq!(assignment.epoch(TOPIC, 0), None);
    assignment.add([(TOPIC.to_owned(), 0)]);
    start(&assignment, &early, true, None);
    assert_eq!(arrive(&assignment, 0, noon()), AdmitDecision::Ignore);
    assignment.pause(&early, None);
    let late = only(assignment.take_pending(Instant::now()));
    start(&assignment, &late, false, None);
    assert_eq!(arrive(&assignment, 0, noon()), admitted(&late, false, 0));
    assignment.clear();
    assert_eq!(arrive(&assignment, 1, noon()), AdmitDecision::Ignore);
}

#[test]
fn paused_partition_restarts_after_its_pause_or_on_demand() {
    let (assignment, due) = assigned();
    assert_eq!(assignment.take_pending(Instant::now()), [], "a partition is pending once");
    assignment.pause(&due, Some(HOUR));
    assert_eq!(assignment.counts(), PartitionCounts { paused: 1, ..PartitionCounts::default() });
    assert_eq!(assignment.take_pending(Instant::now()), []);
    assert_eq!(only(assignment.take_pending(Instant::now() + 2 * HOUR)), due);

    assignment.pause(&due, None);
    assert_eq!(assignment.counts(), PartitionCounts { stopped: 1, ..PartitionCounts::default() });
    assert_eq!(assignment.take_pending(Instant::now() + 2 * HOUR), []);
    assignment.restart(|choice| choice.stopped);
    assert!(only(assignment.take_pending(Instant::now())).epoch > due.epoch);
}

#[test]
fn every_interruption_ends_the_assignment_epoch() {
    type Interrupt = fn(&Assignment);
    let interrupts: [Interrupt; 3] = [
        |a| a.pause_reading(TOPIC, 0, Some(Duration::ZERO)),
        |a| a.mark_tenant_disabled(TOPIC, 0),
        |a| a.restart(|choice| choice.topic == TOPIC),
    ];
    for interrupt in interrupts {
        let (assignment, due) = assigned();
        start(&assignment, &due, true, None);
        assert_eq!(assignment.reading_partitions(), [(TOPIC.to_owned(), 0)]);
        interrupt(&assignment);
        assert!(assignment.epoch(TOPIC, 0).unwrap() > due.epoch);
        assert_eq!(assignment.reading_partitions(), []);
        assert_eq!(arrive(&assignment, 0, noon()), AdmitDecision::Ignore);
        start(&assignment, &due, true, None);
        assert_eq!(
            assignment.reading_partitions(),
            [],
            "a decision of an earlier epoch is ignored"
        );
        assert_eq!(assignment.take_pending(Instant::now() + HOUR).len(), 1);
    }
}

#[test]
fn skipped_partition_restarts_when_its_tenant_is_enabled() {
    let (assignment, due) = assigned();
    start(&assignment, &due, true, None);
    assignment.mark_tenant_disabled(TOPIC, 0);
    let asked = only(assignment.take_pending(Instant::now()));
    start(&assignment, &asked, false, None);
    assignment.mark_tenant_disabled(TOPIC, 0);
    assert_eq!(arrive(&assignment, 0, noon()), admitted(&asked, false, 0));
    assignment.restart(|choice| choice.topic == TOPIC);
    assert!(only(assignment.take_pending(Instant::now())).epoch > asked.epoch);
}

#[test]
fn tenant_enabled_during_start_decision_restarts_partition() {
    let (assignment, due) = assigned();
    start(&assignment, &due, true, None);
    assignment.mark_tenant_disabled(TOPIC, 0);
    let asked = only(assignment.take_pending(Instant::now()));
    assignment.restart(|choice| choice.topic == TOPIC);
    start(&assignment, &asked, false, None);
    assert_eq!(
        arrive(&assignment, 0, noon()),
        AdmitDecision::Ignore,
        "a decision from before the restart is ignored"
    );
    assert!(only(assignment.take_pending(Instant::now())).epoch > asked.epoch);
}

#[test]
fn recreated_topic_restarts_all_its_partitions() {
    let assignment = Assignment::default();
    let other = "folio.northlib.circulation.ITEM_CHECKED_OUT";
    let owned = [(TOPIC, 0), (TOPIC, 1), (TOPIC, 2), (other, 0)];
    assignment.add(owned.map(|(topic, partition)| (topic.to_owned(), partition)));
    for due in assignment.take_pending(Instant::now()) {
        if due.partition == 2 {
            assignment.pause(&due, None);
        } else {
            start(
                &assignment,
                &due,
                true,
                Some(OffsetAndTimestamp { offset: 7, timestamp: noon() }),
            );
        }
    }
    let another = noon() + TimeDelta::milliseconds(1);
    assert_eq!(assignment.admit(TOPIC, 1, 7, Some(another)), AdmitDecision::TopicRecreated);
    let due = assignment.take_pending(Instant::now());
    let asked: Vec<_> =
        due.iter().map(|due| (&*due.topic, due.partition, due.recreation)).collect();
    assert_eq!(
        asked,
        [
            (TOPIC, 0, TopicRecreation::OnOtherPartition),
            (TOPIC, 1, TopicRecreation::OnThisPartition)
        ]
    );
    assert_eq!(assignment.reading_partitions(), [(other.to_owned(), 0)]);
    assert_eq!(assignment.counts().stopped, 1, "only an operator resumes the partition");

    // For some partitions the cause is known already, so only the other partitions request a new start.
    assignment.restart_other_partitions(TOPIC, &[0]);
    let [again] =
        <[PendingPartition; 1]>::try_from(assignment.take_pending(Instant::now())).unwrap();
    assert_eq!((again.partition, again.recreation), (1, TopicRecreation::OnOtherPartition));
}

#[test]
fn older_last_record_is_retained_until_confirmed() {
    let (assignment, due) = reading_from_8();
    let older = Some(OffsetAndTimestamp { offset: 7, timestamp: noon() });
    arrive(&assignment, 7, noon());
    arrive(&assignment, 8, noon());
    arrive(&assignment, 9, noon());
    let watched = assignment.watched_partitions().remove(0);
    let newest = Some(OffsetAndTimestamp { offset: 9, timestamp: noon() });
    assert_eq!((watched.next, watched.older, watched.newest), (10, older, newest));
    // A restart after a known record continues the read, so the older record remains valid.
    assignment.restart(|_| true);
    let again = only(assignment.take_pending(Instant::now()));
    start(&assignment, &again, true, newest);
    assert_eq!(assignment.watched_partitions()[0].older, older);
    // A probe confirms only the records read before it, and a probe of an earlier epoch confirms
    // nothing.
    assignment.confirm(&watched);
    assert_eq!(assignment.watched_partitions()[0].older, older);
    let watched = assignment.watched_partitions().remove(0);
    arrive(&assignment, 10, noon());
    assignment.confirm(&watched);
    assert_eq!(assignment.watched_partitions()[0].older, newest);
    // A recreated log makes both known records invalid.
    assignment.restart_topic(TOPIC, 0);
    let restarted = only(assignment.take_pending(Instant::now()));
    assert!(restarted.epoch > due.epoch);
    start(&assignment, &restarted, true, None);
    assert_eq!(assignment.watched_partitions()[0].older, None);
}
