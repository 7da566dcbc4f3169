//! Where reading begins: what is known of a partition, and what is decided from it.

use std::sync::Arc;

use chrono::DateTime;
use patron_blocks::{
    clock::Clock,
    event::{Environment, TenantId},
    flow::{
        takeover::{
            Begin, Candidate, Committed, Decided, Known, Mark, Misfit, Span, Takeover, start_at,
        },
        tenants::Tenants,
    },
    kafka::assignment::Remade,
    store::{incidents::Kind, positions::Position},
};
use proptest::{option, prelude::*, sample::select};
use sqlx::{AssertSqlSafe, Executor};
use tokio_util::sync::CancellationToken;

use crate::sql::with_tenant;

const OURS: &str = "ours";

fn position(next_offset: i64) -> Position {
    Position {
        next_offset,
        last_record_at: DateTime::from_timestamp_millis(1_788_300_000_000),
        cluster: OURS.to_owned(),
    }
}

/// The log holds 10 to 49; the position is 30, and so is the group's offset.
fn known(position: Option<&Position>) -> Known<'_> {
    Known {
        position,
        kept: true,
        committed: committed(30, Mark::Kept),
        log: Span { start: 10, end: 50 },
        cluster: OURS,
        remade: false,
    }
}

fn committed(offset: i64, mark: Mark) -> Option<Committed> {
    Some(Committed { offset, mark })
}

fn begins(known: &Known<'_>) -> (i64, Option<(Kind, i64, i64)>) {
    let (from, misfit) = start_at(known);
    (from, misfit.map(|Misfit { kind, offsets }| (kind, offsets.start, offsets.end)))
}

#[test]
fn reading_goes_on_at_the_position_and_whatever_does_not_fit_is_told() {
    let reset = Position { last_record_at: None, ..position(30) };
    let unnamed = Position { cluster: String::new(), ..position(30) };
    let moved = Position { cluster: "another".to_owned(), ..position(30) };
    let (read, at_end, beyond, lost) = (position(30), position(50), position(51), position(4));
    let at_start = position(10);
    let [read, at_end] = [known(Some(&read)), known(Some(&at_end))];
    let at_start = Known { committed: committed(10, Mark::Kept), ..known(Some(&at_start)) };
    let group = |offset, mark| Known { committed: committed(offset, mark), ..read.clone() };
    for (what, known, expected) in [
        ("all agree", read.clone(), (30, None)),
        ("the group does not know it", Known { committed: None, ..read.clone() }, (30, None)),
        ("not committed yet", group(25, Mark::Kept), (30, None)),
        ("passed by, then kept", group(25, Mark::PassedBy), (30, None)),
        ("kept, then passed by", group(40, Mark::PassedBy), (30, None)),
        ("nothing left to read", at_end, (50, None)),
        ("retention took what was read", at_start, (10, None)),
        (
            "a position from before clusters were known",
            Known { position: Some(&unnamed), ..read.clone() },
            (30, None),
        ),
        (
            "the database forgot",
            group(40, Mark::Kept),
            (30, Some((Kind::DatabaseRestored, 30, 40))),
        ),
        (
            "the group's offset is of a longer log, made anew since",
            group(51, Mark::Kept),
            (30, None),
        ),
        (
            "somebody moved the group ahead",
            group(40, Mark::Foreign),
            (30, Some((Kind::GroupMovedAhead, 30, 40))),
        ),
        (
            "somebody set the group back",
            group(20, Mark::Foreign),
            (20, Some((Kind::GroupSetBack, 20, 30))),
        ),
        ("back before the log", group(3, Mark::Foreign), (10, Some((Kind::GroupSetBack, 10, 30)))),
        ("set where it stood", group(30, Mark::Foreign), (30, None)),
        (
            "another record stands there",
            Known { remade: true, ..read.clone() },
            (10, Some((Kind::TopicMadeAnew, 0, 30))),
        ),
        (
            "another cluster",
            Known { position: Some(&moved), ..read.clone() },
            (10, Some((Kind::TopicMadeAnew, 0, 30))),
        ),
        (
            "a shorter log",
            Known { position: Some(&beyond), ..read.clone() },
            (10, Some((Kind::TopicMadeAnew, 0, 51))),
        ),
        (
            "retention took unread records",
            Known { position: Some(&lost), ..read.clone() },
            (10, Some((Kind::RecordsLost, 4, 10))),
        ),
        (
            "reset: the group's offset is of the log before",
            Known { position: Some(&reset), ..group(40, Mark::Kept) },
            (30, None),
        ),
    ] {
        assert_eq!(begins(&known), expected, "{what}: {known:?}");
    }
}

#[test]
fn without_a_position_it_is_read_from_the_beginning() {
    let nothing = known(None);
    let group = |offset, mark| Known { committed: committed(offset, mark), ..nothing.clone() };
    for (what, known, expected) in [
        ("never read", Known { committed: None, ..nothing.clone() }, None),
        ("passed by until now", group(40, Mark::PassedBy), None),
        ("somebody else's offset", group(40, Mark::Foreign), None),
        ("begun, and nothing settled", group(10, Mark::Kept), None),
        ("the database forgot", group(40, Mark::Kept), Some((Kind::DatabaseRestored, 10, 40))),
        ("the group's offset is of a longer log", group(51, Mark::Kept), None),
    ] {
        assert_eq!(begins(&known), (10, expected), "{what}: {known:?}");
    }
}

#[test]
fn where_nothing_is_kept_the_groups_offset_decides_as_long_as_the_log_has_it() {
    let passed_by = Known { kept: false, ..known(None) };
    for (offset, from) in [(9, 10), (10, 10), (40, 40), (50, 50), (51, 10)] {
        for mark in [Mark::Kept, Mark::PassedBy, Mark::Foreign] {
            let known = Known { committed: committed(offset, mark), ..passed_by.clone() };
            assert_eq!(begins(&known), (from, None), "{known:?}");
        }
    }
    assert_eq!(begins(&Known { committed: None, ..passed_by }), (10, None));
}

#[test]
fn our_marks_are_read_as_they_were_written_and_any_other_text_is_somebody_elses() {
    for mark in [Mark::Kept, Mark::PassedBy, Mark::Foreign] {
        assert_eq!(Mark::read(mark.text()), mark);
    }
    assert_eq!(Mark::read("patron-blocks"), Mark::Foreign);
}

proptest! {
    /// No unread record is passed over, and none is read again, without an incident that names it.
    #[test]
    fn nothing_is_passed_over_or_read_again_in_silence(
        next in option::weighted(0.9, 0..12_i64),
        (was_read, remade, kept) in (any::<bool>(), proptest::bool::weighted(0.1), proptest::bool::weighted(0.9)),
        cluster in select(vec![OURS, OURS, OURS, "", "another"]),
        group in option::weighted(0.9, (0..12_i64, select(vec![Mark::Kept, Mark::PassedBy, Mark::Foreign]))),
        (start, length) in (0..8_i64, 0..8_i64),
    ) {
        let stored = next.map(|next| Position {
            last_record_at: position(next).last_record_at.filter(|_| was_read),
            cluster: cluster.to_owned(),
            ..position(next)
        });
        let log = Span { start, end: start + length };
        let committed = group.map(|(offset, mark)| Committed { offset, mark });
        let position = stored.as_ref().filter(|_| kept);
        let known = Known { position, kept, committed, log, cluster: OURS, remade };
        let (from, misfit) = start_at(&known);
        prop_assert!((log.start..=log.end).contains(&from));
        let Some(position) = position else {
            prop_assert!(!kept || from == log.start, "what was never read is read from its beginning");
            return Ok(());
        };
        // Where the position is zero there is nothing that was read of another log.
        let another = (remade && position.next_offset > 0) || cluster == "another" || position.next_offset > log.end;
        match misfit {
            None => prop_assert_eq!((from, another), (position.next_offset, false)),
            Some(Misfit { kind: Kind::TopicMadeAnew, .. }) => {
                prop_assert!(another && from == log.start);
            }
            Some(Misfit { kind: Kind::GroupSetBack, offsets }) => {
                prop_assert_eq!((from, position.next_offset), (offsets.start, offsets.end));
            }
            Some(Misfit { kind: Kind::RecordsLost, offsets }) => {
                prop_assert_eq!((position.next_offset, from), (offsets.start, offsets.end));
            }
            Some(Misfit { kind, offsets }) => {
                prop_assert!(matches!(kind, Kind::DatabaseRestored | Kind::GroupMovedAhead));
                let told = committed.map(|committed| committed.offset);
                prop_assert_eq!((from, position.next_offset), (offsets.start, offsets.start));
                prop_assert_eq!(Some(offsets.end), told);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_waits_while_its_tenants_tables_cannot_be_read() {
    with_tenant(async |db, schema| {
        let tenants = Arc::new(Tenants::new(db.clone(), Clock::system()));
        let id = TenantId::parse("northlib").unwrap();
        tenants.enable(&id, "mod-patron-blocks-2.0.0").await.unwrap();
        let stop = CancellationToken::new();
        let following = tokio::spawn(tenants.clone().follow(db.clone(), stop.clone()));
        let takeover = Takeover::new(db.clone(), tenants);
        let name = "folio.northlib.circulation.LOAN_CLOSED";
        let candidate = Candidate {
            at: (name.into(), 0),
            topic: Arc::new(Environment::new(Some("folio")).parse(name).unwrap()),
            committed: committed(30, Mark::PassedBy),
            remade: Remade::No,
        };
        let log = Span { start: 10, end: 50 };
        let rename = async |from: &str, to: &str| {
            let sql = format!("alter table {}.{from} rename to {to}", schema.name());
            db.execute(AssertSqlSafe(sql)).await.unwrap();
        };
        rename("ingest_position", "gone").await;
        let positions = takeover.positions([&candidate].into_iter()).await.unwrap();
        let decided = takeover.decide(&candidate, &positions, log, OURS);
        assert_eq!(decided.begin, Begin::Unusable);
        rename("gone", "ingest_position").await;
        let positions = takeover.positions([&candidate].into_iter()).await.unwrap();
        let decided = takeover.decide(&candidate, &positions, log, OURS);
        let begin = Begin::Read { from: 10, log_start: 10, kept: true, before: None };
        assert_eq!(decided, Decided { begin, misfit: None, look: None });
        stop.cancel();
        following.await.unwrap();
    })
    .await;
}
