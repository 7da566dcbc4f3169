//! Detection of stalled partitions and of recreated logs from the watermarks.

use patron_blocks::kafka::offsets::Watermarks;
use std::time::Instant;

use chrono::TimeDelta;
use patron_blocks::kafka::{
    assignment::{Assignment, OffsetAndTimestamp, StartPosition, WatchedPartition},
    progress::{IDLE_POLLS_MIN, Progress, ProgressReport, is_same_log},
};

use crate::support::history::noon;

/// Returns partitions of topics, each with ten records read.
fn watched_partitions(partitions: &[(&str, i32)]) -> Vec<WatchedPartition> {
    let assignment = Assignment::default();
    assignment.add(partitions.iter().map(|(topic, partition)| ((*topic).to_owned(), *partition)));
    let older = OffsetAndTimestamp { offset: 9, timestamp: noon() };
    for due in assignment.take_pending(Instant::now()) {
        let beginning =
            StartPosition { from: 10, log_start: 5, tenant_enabled: true, before: Some(older) };
        assignment.start(&due, beginning);
    }
    assignment.watched_partitions()
}

fn compare_once(
    progress: &mut Progress,
    watched: &[WatchedPartition],
    span: (i64, i64),
    idle: u64,
) -> ProgressReport {
    let (start, end) = span;
    progress.observe(watched.to_vec(), |_| Some(Watermarks { low: start, high: end }), idle, 100)
}

#[test]
fn partition_without_progress_stalls_once_client_is_idle() {
    let mut progress = Progress::default();
    let watched = watched_partitions(&[("a", 0)]);
    let mut is_stalled =
        |span, idle| !compare_once(&mut progress, &watched, span, idle).stalled.is_empty();
    assert!(!is_stalled((5, 20), 0), "the first observation is never a stall");
    assert!(!is_stalled((5, 20), IDLE_POLLS_MIN - 1), "the partition may wait for others");
    assert!(is_stalled((5, 20), 2 * IDLE_POLLS_MIN));
    assert!(!is_stalled((5, 10), 3 * IDLE_POLLS_MIN), "the log has no further records");
    assert!(!is_stalled((5, 20), 4 * IDLE_POLLS_MIN), "the records may be new");
    assert!(is_stalled((5, 20), 5 * IDLE_POLLS_MIN));
}

#[test]
fn advancing_or_restarted_partition_is_not_stalled() {
    let mut progress = Progress::default();
    let first = watched_partitions(&[("a", 0)]);
    compare_once(&mut progress, &first, (5, 20), 0);
    let advanced = [WatchedPartition { next: 11, ..first[0].clone() }];
    assert_eq!(compare_once(&mut progress, &advanced, (5, 20), IDLE_POLLS_MIN).stalled, []);
    let restarted =
        [WatchedPartition { next: 11, ..watched_partitions(&[("b", 0), ("a", 0)]).remove(0) }];
    assert_ne!(restarted[0].epoch, advanced[0].epoch);
    assert_eq!(compare_once(&mut progress, &restarted, (5, 20), 2 * IDLE_POLLS_MIN).stalled, []);
}

#[test]
fn shrunken_log_is_reported_as_recreated() {
    let watched = watched_partitions(&[("a", 0)]);
    let unread = [WatchedPartition { older: None, ..watched[0].clone() }];
    for (spans, of, remade) in [
        ([(5, 10), (5, 10)], &watched[..], false),
        ([(10, 10), (10, 10)], &watched, false),
        ([(5, 9), (5, 9)], &watched, true),
        // A new leader may lag for a moment, and a leader may have more records.
        ([(5, 9), (5, 10)], &watched, false),
        ([(5, 10), (4, 20)], &watched, false),
        ([(5, 10), (4, 20)], &unread, true),
    ] {
        let mut progress = Progress::default();
        compare_once(&mut progress, of, spans[0], 0);
        let shown = compare_once(&mut progress, of, spans[1], 0);
        assert_eq!(!shown.recreated.is_empty(), remade, "{spans:?}");
    }
    let nothing = Progress::default().observe(watched, |_| None, 0, 100);
    assert_eq!(nothing, ProgressReport::default(), "the ends of the log are unknown");
}

#[test]
fn old_records_are_searched_one_per_topic_in_turns() {
    let mut progress = Progress::default();
    let watched = watched_partitions(&[("a", 0), ("a", 1), ("b", 0), ("c", 0)]);
    let mut searched = Vec::new();
    for _ in 0..4 {
        let span = |_: &WatchedPartition| Some(Watermarks { low: 5, high: 10 });
        let shown = progress.observe(watched.clone(), span, 0, 2);
        let partitions = shown.to_probe.into_iter().map(|w| (w.topic, w.partition));
        searched.push(partitions.collect::<Vec<_>>());
    }
    assert!(searched.iter().all(|some| some.len() == 2 && some[0].0 != some[1].0), "{searched:?}");
    let mut all: Vec<_> = searched.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "{searched:?}");
    let shown = compare_once(&mut progress, &watched, (10, 10), 0);
    assert_eq!(
        (shown.expired.len(), shown.to_probe.len()),
        (4, 0),
        "retention deleted the records"
    );
}

#[test]
fn log_is_identified_by_its_last_record() {
    let older = OffsetAndTimestamp { offset: 9, timestamp: noon() };
    let later = noon() + TimeDelta::milliseconds(1);
    for (found, same) in [
        (None, None),
        (Some((9, noon())), Some(true)),
        (Some((9, later)), Some(false)),
        (Some((12, later)), Some(true)),
        (Some((0, later)), Some(false)),
    ] {
        let found = found.map(|(offset, at)| OffsetAndTimestamp { offset, timestamp: at });
        assert_eq!(is_same_log(older, found.as_slice()), same, "{found:?}");
    }
}

#[test]
fn stall_count_resets_when_offset_changes() {
    let mut progress = Progress::default();
    let first = watched_partitions(&[("a", 0)]).remove(0);
    let advanced = WatchedPartition { next: 11, ..first.clone() };
    let times =
        [&first, &first, &advanced, &advanced].map(|watched| progress.record_stall(watched));
    assert_eq!(times, [1, 2, 1, 2]);
}
