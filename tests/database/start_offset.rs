//! The start offset of a partition: the facts about the partition, and the decision.

use std::sync::Arc;

use chrono::DateTime;
use patron_blocks::{
    clock::Clock,
    event::{Environment, TenantId},
    kafka::{
        assignment::TopicRecreation,
        delivery::StartDecision,
        offsets::{CommitTag, CommittedOffset, Watermarks},
    },
    services::{
        ingest::start_offset::{
            OffsetAnomaly, PartitionFacts, StartCandidate, StartOffsetResolver, StartPlan,
            start_offset,
        },
        tenants::TenantRegistry,
    },
    store::ingest::{incidents::IncidentKind, positions::Position},
};
use proptest::{option, prelude::*, sample::select};
use sqlx::{AssertSqlSafe, Executor};
use tokio_util::sync::CancellationToken;

use crate::database::sql::with_tenant;

const CLUSTER: &str = "current";

fn position(next_offset: i64) -> Position {
    Position {
        next_offset,
        last_record_at: DateTime::from_timestamp_millis(1_788_300_000_000),
        cluster: CLUSTER.to_owned(),
    }
}

/// Returns facts with this position, a log of offsets 10 to 49, and a durable group offset of 30.
fn partition_facts(position: Option<&Position>) -> PartitionFacts<'_> {
    PartitionFacts {
        position,
        tenant_enabled: true,
        committed: committed(30, CommitTag::Durable),
        log: Watermarks { low: 10, high: 50 },
        cluster_id: CLUSTER,
        topic_recreated: false,
    }
}

fn committed(offset: i64, tag: CommitTag) -> Option<CommittedOffset> {
    Some(CommittedOffset { offset, tag })
}

fn start_of(known: &PartitionFacts<'_>) -> (i64, Option<(IncidentKind, i64, i64)>) {
    let (from, anomaly) = start_offset(known);
    (from, anomaly.map(|OffsetAnomaly { kind, offsets }| (kind, offsets.start, offsets.end)))
}

#[test]
fn reading_resumes_at_position_and_reports_anomalies() {
    let reset = Position { last_record_at: None, ..position(30) };
    let unnamed = Position { cluster: String::new(), ..position(30) };
    let moved = Position { cluster: "another".to_owned(), ..position(30) };
    let (read, at_end, beyond, lost) = (position(30), position(50), position(51), position(4));
    let at_start = position(10);
    let [read, at_end] = [partition_facts(Some(&read)), partition_facts(Some(&at_end))];
    let at_start = PartitionFacts {
        committed: committed(10, CommitTag::Durable),
        ..partition_facts(Some(&at_start))
    };
    let group = |offset, tag| PartitionFacts { committed: committed(offset, tag), ..read.clone() };
    for (what, known, expected) in [
        ("position and group offset agree", read.clone(), (30, None)),
        ("the group has no offset", PartitionFacts { committed: None, ..read.clone() }, (30, None)),
        ("not committed yet", group(25, CommitTag::Durable), (30, None)),
        ("skipped, then durable", group(25, CommitTag::TenantDisabled), (30, None)),
        ("durable, then skipped", group(40, CommitTag::TenantDisabled), (30, None)),
        ("the position is the end of the log", at_end, (50, None)),
        ("retention deleted only records before the position", at_start, (10, None)),
        (
            "the position has no cluster",
            PartitionFacts { position: Some(&unnamed), ..read.clone() },
            (30, None),
        ),
        (
            "the database was restored from a backup",
            group(40, CommitTag::Durable),
            (30, Some((IncidentKind::DatabaseRestored, 30, 40))),
        ),
        (
            "the group offset belongs to an earlier, longer log",
            group(51, CommitTag::Durable),
            (30, None),
        ),
        (
            "the committed offset of the group was moved ahead",
            group(40, CommitTag::Foreign),
            (30, Some((IncidentKind::OffsetsAdvanced, 30, 40))),
        ),
        (
            "the committed offset of the group was moved back",
            group(20, CommitTag::Foreign),
            (20, Some((IncidentKind::OffsetsReset, 20, 30))),
        ),
        (
            "the group offset was moved back before the log",
            group(3, CommitTag::Foreign),
            (10, Some((IncidentKind::OffsetsReset, 10, 30))),
        ),
        ("the group offset was set to the position", group(30, CommitTag::Foreign), (30, None)),
        (
            "a different record is at the position",
            PartitionFacts { topic_recreated: true, ..read.clone() },
            (10, Some((IncidentKind::TopicRecreated, 0, 30))),
        ),
        (
            "another cluster",
            PartitionFacts { position: Some(&moved), ..read.clone() },
            (10, Some((IncidentKind::TopicRecreated, 0, 30))),
        ),
        (
            "a shorter log",
            PartitionFacts { position: Some(&beyond), ..read.clone() },
            (10, Some((IncidentKind::TopicRecreated, 0, 51))),
        ),
        (
            "retention deleted unread records",
            PartitionFacts { position: Some(&lost), ..read.clone() },
            (10, Some((IncidentKind::RecordsLost, 4, 10))),
        ),
        (
            "after a reset, the group offset belongs to the earlier log",
            PartitionFacts { position: Some(&reset), ..group(40, CommitTag::Durable) },
            (30, None),
        ),
    ] {
        assert_eq!(start_of(&known), expected, "{what}: {known:?}");
    }
}

#[test]
fn partition_without_position_starts_at_the_beginning() {
    let nothing = partition_facts(None);
    let group =
        |offset, tag| PartitionFacts { committed: committed(offset, tag), ..nothing.clone() };
    for (what, known, expected) in [
        ("never read", PartitionFacts { committed: None, ..nothing.clone() }, None),
        ("skipped until now", group(40, CommitTag::TenantDisabled), None),
        ("a foreign commit", group(40, CommitTag::Foreign), None),
        ("started, and no record settled", group(10, CommitTag::Durable), None),
        (
            "the database was restored from a backup",
            group(40, CommitTag::Durable),
            Some((IncidentKind::DatabaseRestored, 10, 40)),
        ),
        ("the group offset belongs to a longer log", group(51, CommitTag::Durable), None),
    ] {
        assert_eq!(start_of(&known), (10, expected), "{what}: {known:?}");
    }
}

#[test]
fn skipped_tenant_starts_at_the_group_offset_in_range() {
    let skipped = PartitionFacts { tenant_enabled: false, ..partition_facts(None) };
    for (offset, from) in [(9, 10), (10, 10), (40, 40), (50, 50), (51, 10)] {
        for tag in [CommitTag::Durable, CommitTag::TenantDisabled, CommitTag::Foreign] {
            let known = PartitionFacts { committed: committed(offset, tag), ..skipped.clone() };
            assert_eq!(start_of(&known), (from, None), "{known:?}");
        }
    }
    assert_eq!(start_of(&PartitionFacts { committed: None, ..skipped }), (10, None));
}

#[test]
fn commit_tags_round_trip_and_other_text_is_foreign() {
    for tag in [CommitTag::Durable, CommitTag::TenantDisabled, CommitTag::Foreign] {
        assert_eq!(CommitTag::from_metadata(tag.metadata()), tag);
    }
    assert_eq!(CommitTag::from_metadata("patron-blocks"), CommitTag::Foreign);
}

proptest! {
    /// Every skipped unread record, and every repeated record, has an incident that names it.
    #[test]
    fn no_record_is_skipped_or_reread_without_incident(
        next in option::weighted(0.9, 0..12_i64),
        (was_read, topic_recreated, tenant_enabled) in (any::<bool>(), proptest::bool::weighted(0.1), proptest::bool::weighted(0.9)),
        cluster in select(vec![CLUSTER, CLUSTER, CLUSTER, "", "another"]),
        group in option::weighted(0.9, (0..12_i64, select(vec![CommitTag::Durable, CommitTag::TenantDisabled, CommitTag::Foreign]))),
        (low, length) in (0..8_i64, 0..8_i64),
    ) {
        let stored = next.map(|next| Position {
            last_record_at: position(next).last_record_at.filter(|_| was_read),
            cluster: cluster.to_owned(),
            ..position(next)
        });
        let log = Watermarks { low, high: low + length };
        let committed = group.map(|(offset, tag)| CommittedOffset { offset, tag });
        let position = stored.as_ref().filter(|_| tenant_enabled);
        let known = PartitionFacts { position, tenant_enabled, committed, log, cluster_id: CLUSTER, topic_recreated };
        let (from, anomaly) = start_offset(&known);
        prop_assert!((log.low..=log.high).contains(&from));
        let Some(position) = position else {
            prop_assert!(
                !tenant_enabled || from == log.low,
                "a partition without a position starts at the beginning"
            );
            return Ok(());
        };
        // At position zero, no record of another log was read.
        let another = (topic_recreated && position.next_offset > 0) || cluster == "another" || position.next_offset > log.high;
        match anomaly {
            None => prop_assert_eq!((from, another), (position.next_offset, false)),
            Some(OffsetAnomaly { kind: IncidentKind::TopicRecreated, .. }) => {
                prop_assert!(another && from == log.low);
            }
            Some(OffsetAnomaly { kind: IncidentKind::OffsetsReset, offsets }) => {
                prop_assert_eq!((from, position.next_offset), (offsets.start, offsets.end));
            }
            Some(OffsetAnomaly { kind: IncidentKind::RecordsLost, offsets }) => {
                prop_assert_eq!((position.next_offset, from), (offsets.start, offsets.end));
            }
            Some(OffsetAnomaly { kind, offsets }) => {
                prop_assert!(matches!(kind, IncidentKind::DatabaseRestored | IncidentKind::OffsetsAdvanced));
                let group_offset = committed.map(|committed| committed.offset);
                prop_assert_eq!((from, position.next_offset), (offsets.start, offsets.start));
                prop_assert_eq!(Some(offsets.end), group_offset);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_waits_while_tenant_tables_are_unreadable() {
    with_tenant(async |db, schema| {
        let tenants = Arc::new(TenantRegistry::new(db.clone(), Clock::system()));
        let id = TenantId::parse("northlib").unwrap();
        tenants.enable(&id, "mod-patron-blocks-2.0.0").await.unwrap();
        let stop = CancellationToken::new();
        let following = tokio::spawn(tenants.clone().run(db.clone(), stop.clone()));
        let takeover = StartOffsetResolver::new(db.clone(), tenants);
        let name = "folio.northlib.circulation.LOAN_CLOSED";
        let candidate = StartCandidate {
            topic_partition: (name.into(), 0),
            topic: Arc::new(Environment::new(Some("folio")).parse(name).unwrap()),
            committed: committed(30, CommitTag::TenantDisabled),
            recreation: TopicRecreation::NotDetected,
        };
        let log = Watermarks { low: 10, high: 50 };
        let rename = async |from: &str, to: &str| {
            let sql = format!("alter table {}.{from} rename to {to}", schema.name());
            db.execute(AssertSqlSafe(sql)).await.unwrap();
        };
        rename("ingest_position", "gone").await;
        let positions = takeover.load_positions([&candidate].into_iter()).await.unwrap();
        let decided = takeover.decide(&candidate, &positions, log, CLUSTER);
        assert_eq!(decided.decision, StartDecision::TenantUnavailable);
        rename("gone", "ingest_position").await;
        let positions = takeover.load_positions([&candidate].into_iter()).await.unwrap();
        let decided = takeover.decide(&candidate, &positions, log, CLUSTER);
        let decision =
            StartDecision::Read { from: 10, log_start: 10, tenant_enabled: true, before: None };
        assert_eq!(decided, StartPlan { decision, anomaly: None, probe_from: None });
        stop.cancel();
        following.await.unwrap();
    })
    .await;
}
