//! The inbox accepts each event once, with any concurrent writers, and positions never go back.

use std::collections::{BTreeSet, HashSet};

use chrono::TimeDelta;
use patron_blocks::{
    event::{self, DecodeOutcome, Environment, Event, Kind, Record, RecordPosition, TenantId},
    store::{
        self, Db, Schema, Tx,
        ingest::{
            inbox::{self, ClaimHint},
            inbox_tail::{self, Tail},
            positions::{self, PositionUpdate, Positions},
        },
        rebuild::shadow,
    },
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::{database::sql::with_tenant, support::history::noon};

const TOPIC: &str = "folio.northlib.circulation.LOAN_CLOSED";

/// Returns the ends of three loans, ordered by key.
fn loan_end_events() -> Vec<(Record, Event)> {
    let end = |n: u8| {
        let id = Uuid::from_u128(0x1000_0000_0000_4000_8000_0000_0000_0000 | u128::from(n));
        let payload = json!({
            "id": id, "type": "CREATED", "tenant": "northlib",
            "timestamp": noon().timestamp_millis(), "data": { "loanId": id, "userId": id },
        });
        let record = Record {
            position: RecordPosition { topic: TOPIC.into(), partition: 0, offset: i64::from(n) },
            timestamp: Some(noon()),
            key: None,
            headers: Vec::new(),
            payload: Some(payload.to_string().into_bytes()),
        };
        let topic = Environment::new(Some("folio")).parse(TOPIC).unwrap();
        assert_eq!(topic.kind, Kind::LoanClosed);
        match event::decode_record(&record, &topic, "cluster") {
            DecodeOutcome::Event(_, event) => (record, *event),
            other => panic!("not understood: {other:?}"),
        }
    };
    (1..=3).map(end).collect()
}

const HINTS: [ClaimHint; 2] = [ClaimHint::New, ClaimHint::Replay];

async fn claim(
    tx: &mut Tx,
    schema: &Schema,
    hint: ClaimHint,
    events: &[&(Record, Event)],
) -> BTreeSet<u8> {
    let pairs: Vec<_> = events.iter().map(|(record, event)| (record, event)).collect();
    let fresh: HashSet<Uuid> = inbox::claim(tx, schema, &pairs, hint).await.unwrap();
    fresh.iter().map(|key| key.as_bytes()[15]).collect()
}

/// Claims events in a separate transaction.
async fn claim_and_commit(
    db: &Db,
    schema: &Schema,
    hint: ClaimHint,
    events: &[&(Record, Event)],
) -> BTreeSet<u8> {
    let mut tx = store::begin(db).await.unwrap();
    let fresh = claim(&mut tx, schema, hint, events).await;
    store::commit(tx).await.unwrap();
    fresh
}

#[tokio::test]
async fn event_is_claimed_once_per_commit_with_any_hint() {
    for hint in HINTS {
        with_tenant(async |db, schema| {
            let [a, b, c] = &loan_end_events()[..] else { unreachable!() };
            let mut abandoned = store::begin(db).await.unwrap();
            assert_eq!(claim(&mut abandoned, schema, hint, &[a]).await, [1].into());
            drop(abandoned);
            assert_eq!(claim_and_commit(db, schema, hint, &[b, a, b]).await, [1, 2].into());
            assert_eq!(claim_and_commit(db, schema, hint, &[a, b]).await, [].into());
            assert_eq!(claim_and_commit(db, schema, hint, &[a, c]).await, [3].into());
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_claiming_in_opposite_order_do_not_deadlock() {
    with_tenant(async |db, schema| {
        let events = loan_end_events();
        let [a, b, c] = &events[..] else { unreachable!() };
        // Another transaction has claimed the middle event until both writers wait.
        let mut middle = store::begin(db).await.unwrap();
        claim(&mut middle, schema, ClaimHint::New, &[b]).await;
        let (ascending, descending) = ([a, b, c], [c, b, a]);
        let release = async {
            let waiting = "select count(*) from pg_stat_activity
                            where datname = current_database() and wait_event_type = 'Lock'";
            while sqlx::query_scalar::<_, i64>(waiting).fetch_one(db).await.unwrap() < 2 {
                tokio::task::yield_now().await;
            }
            store::commit(middle).await.unwrap();
        };
        let (ascending, descending, ()) = tokio::join!(
            claim_and_commit(db, schema, ClaimHint::Replay, &ascending),
            claim_and_commit(db, schema, ClaimHint::New, &descending),
            release
        );
        assert_eq!(&ascending | &descending, [1, 3].into());
        assert_eq!(&ascending & &descending, [].into());
    })
    .await;
}

/// Advances the position of partition 0, and returns whether it was reset meanwhile.
async fn advance(db: &Db, schema: &Schema, read_from: i64, next_offset: i64) -> bool {
    let (last_record_at, cluster) = (Some(noon()), "cluster");
    let reached =
        PositionUpdate { next_offset, last_record_at, cluster, read_from_offset: read_from };
    let mut tx = store::begin(db).await.unwrap();
    let positions = Positions::from([((TOPIC, 0), reached)]);
    let fits = positions::advance(&mut tx, schema, &positions).await.unwrap();
    store::commit(tx).await.unwrap();
    !fits
}

async fn position(db: &Db, schema: &Schema) -> (i64, bool) {
    let stored = positions::list(db, schema).await.unwrap();
    let position = &stored[&(TOPIC.to_owned(), 0)];
    (position.next_offset, position.last_record_at.is_some())
}

#[tokio::test]
async fn position_only_advances_unless_it_is_reset() {
    with_tenant(async |db, schema| {
        for (from, offset, expected) in [(5, 10, 10), (10, 30, 30), (10, 20, 30), (30, 31, 31)] {
            assert!(!advance(db, schema, from, offset).await);
            assert_eq!(position(db, schema).await, (expected, true));
        }
        let mut tx = store::begin(db).await.unwrap();
        positions::reset(&mut tx, schema, (TOPIC, 0), 5, "cluster").await.unwrap();
        store::commit(tx).await.unwrap();
        assert_eq!(position(db, schema).await, (5, false), "no record of the new log was read");
    })
    .await;
}

#[tokio::test]
async fn reset_position_does_not_skip_unread_records() {
    with_tenant(async |db, schema| {
        assert!(!advance(db, schema, 0, 10).await);
        let mut tx = store::begin(db).await.unwrap();
        positions::reset_other_partitions(&mut tx, schema, (TOPIC, 1), "cluster").await.unwrap();
        store::commit(tx).await.unwrap();
        assert_eq!(position(db, schema).await, (0, false), "the topic was recreated");
        assert!(advance(db, schema, 10, 14).await, "the records below offset 10 are read first");
        assert_eq!(position(db, schema).await, (0, false));
        assert!(!advance(db, schema, 0, 4).await);
        assert!(
            !advance(db, schema, i64::MIN, 20).await,
            "other instances advance the position too"
        );
        assert_eq!(position(db, schema).await, (20, true));
    })
    .await;
}

#[tokio::test]
async fn inbox_records_how_far_entries_were_deleted() {
    with_tenant(async |db, schema| {
        let tenant = TenantId::parse("northlib").unwrap();
        let run = async |sql: &str| {
            let sql = sql.replace("{schema}", schema.name());
            db.execute(AssertSqlSafe(sql)).await.unwrap();
        };
        let extent = async || {
            let mut tx = store::begin(db).await.unwrap();
            inbox::load_extent(&mut tx, schema, &tenant).await.unwrap()
        };
        assert_eq!(extent().await, None, "the tenant was never enabled");
        run("insert into mod_patron_blocks.tenant (tenant, enabled, module_id, changed_at)
             values ('northlib', true, 'm', now())")
        .await;
        let new = extent().await.unwrap();
        assert_eq!((new.removed_until, new.complete_since()), (None, new.enabled_at));

        let [a, b, c] = &loan_end_events()[..] else { unreachable!() };
        claim_and_commit(db, schema, ClaimHint::New, &[a, b, c]).await;
        run("update {schema}.inbox set received_at = '2026-09-15T12:00:00Z'").await;
        run("delete from {schema}.inbox where false").await;
        assert_eq!(extent().await.unwrap(), new, "the inbox lost no event");
        let after = |minutes| noon() + TimeDelta::minutes(minutes) + TimeDelta::milliseconds(1);
        let removed_until = async || extent().await.unwrap().removed_until;
        run("update {schema}.inbox set received_at = '2026-09-15T12:03:00Z' where \"offset\" = 2")
            .await;
        run("delete from {schema}.inbox where \"offset\" = 2").await;
        assert_eq!(removed_until().await, Some(after(3)), "the time of receipt counts");
        run("update {schema}.inbox set occurred_at = '2026-09-15T12:01:00Z' where \"offset\" = 1")
            .await;
        run("delete from {schema}.inbox where \"offset\" = 1").await;
        assert_eq!(removed_until().await, Some(after(3)), "the time never decreases");
        run("update {schema}.inbox set occurred_at = '2026-09-15T12:05:00Z' where \"offset\" = 3")
            .await;
        run("delete from {schema}.inbox").await;
        assert_eq!(removed_until().await, Some(after(5)), "the time of the event counts");
        run("truncate {schema}.inbox").await;
        let (removed_until, now) = (removed_until().await.unwrap(), store::now(db).await.unwrap());
        assert!(
            now - removed_until < TimeDelta::minutes(1) && removed_until <= now,
            "{removed_until}"
        );
    })
    .await;
}

#[tokio::test]
async fn inbox_tail_is_found_by_offset_despite_clock_skew() {
    with_tenant(async |db, schema| {
        let [a, b, c] = &loan_end_events()[..] else { unreachable!() };
        claim_and_commit(db, schema, ClaimHint::New, &[a, b, c]).await;
        let received = format!("update {}.inbox set received_at = $1", schema.name());
        sqlx::query(AssertSqlSafe(received)).bind(noon()).execute(db).await.unwrap();
        let shadow_schema = Schema::shadow(&TenantId::parse("northlib").unwrap(), Uuid::new_v4());
        let mut tx = store::begin(db).await.unwrap();
        shadow::create(&mut tx, &shadow_schema, None, noon(), None).await.unwrap();
        let read = |topic: &str| shadow::ReplayPosition {
            topic: topic.to_owned(),
            partition: 0,
            next_offset: 0,
            end_offset: 2,
        };
        let reading = [read(TOPIC), read("folio.northlib.circulation.ITEM_CHECKED_IN")];
        shadow::save_replay_positions(&mut tx, &shadow_schema, &reading).await.unwrap();
        let about: Vec<Uuid> =
            [a, b, c].iter().filter_map(|(_, event)| event.fact.subject()).collect();
        let mut found = async |tail| {
            let found = inbox_tail::events(&mut tx, &shadow_schema, &about, tail).await.unwrap();
            found.iter().map(|stored| stored.key.as_bytes()[15]).collect::<BTreeSet<u8>>()
        };
        let hour = TimeDelta::hours(1);
        // The clock was fast, or slow: every record from offset 2 on belongs to the tail.
        assert_eq!(found(Tail::Since(noon() + hour)).await, [2, 3].into());
        assert_eq!(found(Tail::Since(noon() - hour)).await, [1, 2, 3].into());
        assert_eq!(found(Tail::All).await, [1, 2, 3].into());
    })
    .await;
}

#[tokio::test]
async fn inbox_tail_starts_before_uncommitted_entries() {
    with_tenant(async |db, schema| {
        let [a, ..] = &loan_end_events()[..] else { unreachable!() };
        let mut open = store::begin(db).await.unwrap();
        claim(&mut open, schema, ClaimHint::New, &[a]).await;
        let started_at = inbox_tail::oldest_transaction_start(db).await.unwrap();
        store::commit(open).await.unwrap();
        let received = format!("select received_at from {}.inbox", schema.name());
        let received: chrono::DateTime<chrono::Utc> =
            sqlx::query_scalar(AssertSqlSafe(received)).fetch_one(db).await.unwrap();
        assert!(started_at <= received, "{started_at} after {received}");
    })
    .await;
}
