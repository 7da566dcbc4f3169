//! Whether partitions come on and logs are the ones that they were, by what is seen of them.

use std::time::Instant;

use chrono::TimeDelta;
use patron_blocks::{
    flow::takeover::Span,
    kafka::{
        assignment::{Assignment, Beginning, Landmark, Watched},
        progress::{IDLE, Progress, Shown, is_same_log},
    },
};

use crate::history::noon;

/// Partitions of topics that are read, each with ten records read.
fn watched(places: &[(&str, i32)]) -> Vec<Watched> {
    let assignment = Assignment::default();
    assignment.add(places.iter().map(|(topic, partition)| ((*topic).to_owned(), *partition)));
    let older = Landmark { offset: 9, at: noon() };
    for due in assignment.due(Instant::now()) {
        let beginning = Beginning { from: 10, log_start: 5, kept: true, before: Some(older) };
        assignment.begin(&due, beginning);
    }
    assignment.watched()
}

fn look(progress: &mut Progress, watched: &[Watched], span: (i64, i64), idle: u64) -> Shown {
    let (start, end) = span;
    progress.compare(watched.to_vec(), |_| Some(Span { start, end }), idle, 100)
}

#[test]
fn what_is_read_no_further_stands_still_once_the_client_has_nothing_else() {
    let mut progress = Progress::default();
    let watched = watched(&[("a", 0)]);
    let mut stands = |span, idle| !look(&mut progress, &watched, span, idle).standing.is_empty();
    assert!(!stands((5, 20), 0), "it is seen for the first time");
    assert!(!stands((5, 20), IDLE - 1), "it may have to wait for its turn");
    assert!(stands((5, 20), 2 * IDLE));
    assert!(!stands((5, 10), 3 * IDLE), "there is nothing more");
    assert!(!stands((5, 20), 4 * IDLE), "the records may have come just now");
    assert!(stands((5, 20), 5 * IDLE));
}

#[test]
fn what_comes_on_or_has_begun_anew_does_not_stand_still() {
    let mut progress = Progress::default();
    let first = watched(&[("a", 0)]);
    look(&mut progress, &first, (5, 20), 0);
    let further = [Watched { next: 11, ..first[0].clone() }];
    assert_eq!(look(&mut progress, &further, (5, 20), IDLE).standing, []);
    let anew = [Watched { next: 11, ..watched(&[("b", 0), ("a", 0)]).remove(0) }];
    assert_ne!(anew[0].era, further[0].era);
    assert_eq!(look(&mut progress, &anew, (5, 20), 2 * IDLE).standing, []);
}

#[test]
fn a_log_that_ends_or_begins_earlier_than_it_did_is_another_one() {
    let watched = watched(&[("a", 0)]);
    let unread = [Watched { older: None, ..watched[0].clone() }];
    for (spans, of, remade) in [
        ([(5, 10), (5, 10)], &watched[..], false),
        ([(10, 10), (10, 10)], &watched, false),
        ([(5, 9), (5, 9)], &watched, true),
        // A leader that has just taken over, and one that holds more.
        ([(5, 9), (5, 10)], &watched, false),
        ([(5, 10), (4, 20)], &watched, false),
        ([(5, 10), (4, 20)], &unread, true),
    ] {
        let mut progress = Progress::default();
        look(&mut progress, of, spans[0], 0);
        let shown = look(&mut progress, of, spans[1], 0);
        assert_eq!(!shown.remade.is_empty(), remade, "{spans:?}");
    }
    let nothing = Progress::default().compare(watched, |_| None, 0, 100);
    assert_eq!(nothing, Shown::default(), "nobody tells what the log holds");
}

#[test]
fn older_records_are_looked_for_one_of_a_topic_and_in_turns() {
    let mut progress = Progress::default();
    let watched = watched(&[("a", 0), ("a", 1), ("b", 0), ("c", 0)]);
    let mut searched = Vec::new();
    for _ in 0..4 {
        let span = |_: &Watched| Some(Span { start: 5, end: 10 });
        let shown = progress.compare(watched.clone(), span, 0, 2);
        let places = shown.to_search.into_iter().map(|w| (w.topic, w.partition));
        searched.push(places.collect::<Vec<_>>());
    }
    assert!(searched.iter().all(|some| some.len() == 2 && some[0].0 != some[1].0), "{searched:?}");
    let mut all: Vec<_> = searched.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "{searched:?}");
    let shown = look(&mut progress, &watched, (10, 10), 0);
    assert_eq!((shown.outlived.len(), shown.to_search.len()), (4, 0), "retention has taken them");
}

#[test]
fn a_log_is_the_same_by_the_record_that_was_read_in_it() {
    let older = Landmark { offset: 9, at: noon() };
    let later = noon() + TimeDelta::milliseconds(1);
    for (found, same) in [
        (None, None),
        (Some((9, noon())), Some(true)),
        (Some((9, later)), Some(false)),
        (Some((12, later)), Some(true)),
        (Some((0, later)), Some(false)),
    ] {
        let found = found.map(|(offset, at)| Landmark { offset, at });
        assert_eq!(is_same_log(older, found.as_slice()), same, "{found:?}");
    }
}

#[test]
fn a_stall_is_counted_as_long_as_it_is_at_the_same_offset() {
    let mut progress = Progress::default();
    let first = watched(&[("a", 0)]).remove(0);
    let further = Watched { next: 11, ..first.clone() };
    let times = [&first, &first, &further, &further].map(|watched| progress.note_stall(watched));
    assert_eq!(times, [1, 2, 1, 2]);
}
