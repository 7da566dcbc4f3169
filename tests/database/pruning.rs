//! Housekeeping on a database: the pruned rows, the remaining rows, and the locks.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{
    clock::Clock,
    config::HousekeepingConfig,
    event::{Event, Fact, IdentifiedBy, Stamp, TenantId, TimedBy, stamp::Horizon},
    patron::Loan,
    services::{
        maintenance::{
            housekeeping::{Housekeeping, PrunedCounts},
            retention_limits::{Cutoffs, RetentionLimits},
        },
        tenants::{Tenant, TenantRegistry},
    },
    store::{
        self, Db,
        state::{merge, patrons},
        tenants,
    },
};
use sqlx::{AssertSqlSafe, Executor};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    database::sql::with_tenant,
    support::{history::noon, world::until},
};

/// The number of loans that ended long ago. Their deletion requires several steps.
const CLOSED_LOANS: u128 = 30_000;

struct PruneFixture {
    db: Db,
    tenant: Arc<Tenant>,
    housekeeping: Housekeeping,
}

/// Creates a tenant with [`CLOSED_LOANS`] loans, and housekeeping with this pause between two steps.
async fn with_fixture(pause: Duration, work: impl AsyncFnOnce(&PruneFixture)) {
    with_tenant(async |db, _| {
        let tenants = Arc::new(TenantRegistry::new(db.clone(), Clock::system()));
        let id = TenantId::parse("northlib").unwrap();
        tenants.enable(&id, "mod-patron-blocks-2.0.0").await.unwrap();
        let config = HousekeepingConfig {
            inbox_retention: TimeDelta::days(30),
            tombstone_retention: TimeDelta::days(60),
            dead_letter_retention: TimeDelta::days(90),
            dead_letters_max: 1000,
            dead_letters_bytes_max: 4 << 20,
            outbox_retention: TimeDelta::days(1),
            interval: Duration::from_secs(3600),
            step_pause: pause,
        };
        let fixture = PruneFixture {
            db: db.clone(),
            tenant: tenants.find(&id).await.unwrap().unwrap(),
            housekeeping: Housekeeping::new(db.clone(), tenants, Clock::system(), config),
        };
        for ids in (0..CLOSED_LOANS).collect::<Vec<_>>().chunks(500) {
            let (out, ended) = (long_ago(), long_ago() + TimeDelta::hours(1));
            fixture
                .write(ids, |id| [check_out(id, out), check_in(id, ended)].to_vec())
                .await
                .unwrap();
        }
        fixture.execute_sql("analyze").await;
        work(&fixture).await;
        let wrong = patrons::list_drifted(db, &fixture.tenant.schema).await.unwrap();
        assert!(wrong.is_empty(), "the counters of {wrong:?} differ from a recount");
    })
    .await;
}

fn long_ago() -> DateTime<Utc> {
    noon() - TimeDelta::days(200)
}

fn limits() -> RetentionLimits {
    let past = Cutoffs { inbox: noon(), tombstones: noon() - TimeDelta::days(100) };
    RetentionLimits { cutoffs: Some(past), dead_letters: noon(), discarded: noon() }
}

fn event(at: DateTime<Utc>, fact: Fact) -> Event {
    let key = Uuid::new_v4();
    let stamp = Stamp::from_envelope(at, fact.kind(), key);
    let identified_by = IdentifiedBy::Envelope;
    Event { key, identified_by, occurred_at: at, timed_by: TimedBy::Envelope, stamp, fact }
}

fn loan(id: u128) -> Uuid {
    // The order of the keys on disk differs from the order in the index.
    uuid::Builder::from_random_bytes((id.wrapping_mul(0x9E37_79B9_7F4A_7C15 << 32)).to_be_bytes())
        .into_uuid()
}

fn check_out(id: u128, at: DateTime<Utc>) -> Event {
    let user = loan(id % 100);
    event(at, Fact::CheckedOut { loan: loan(id), user, due_date: noon(), grace: None })
}

fn check_in(id: u128, at: DateTime<Utc>) -> Event {
    event(at, Fact::CheckedIn { loan: loan(id), user: None })
}

impl PruneFixture {
    /// Writes as ingest does: with the shared tenant lock, one merge for the batch.
    async fn write(
        &self,
        ids: &[u128],
        events_of: impl Fn(u128) -> Vec<Event>,
    ) -> Result<(), store::Error> {
        let mut loans = BTreeMap::<Uuid, Loan>::new();
        for event in ids.iter().flat_map(|id| events_of(*id)) {
            let (id, change) = Loan::from_event(&event).unwrap();
            let known = loans.entry(id).or_default();
            *known = known.clone().merge(change);
        }
        let mut tx = store::begin(&self.db).await?;
        tenants::lock_shared(&mut tx, &self.tenant.id).await?;
        merge::merge(&mut tx, &self.tenant.schema, &loans, &BTreeMap::new()).await?;
        store::commit(tx).await
    }

    async fn prune(&self, stop: &CancellationToken) -> PrunedCounts {
        self.housekeeping.prune_tenant(&self.tenant, limits(), stop).await
    }

    async fn execute_sql(&self, sql: &str) {
        let sql = sql.replace("{schema}", self.tenant.schema.name());
        self.db.execute(AssertSqlSafe(sql)).await.unwrap();
    }

    async fn count(&self, sql: &str) -> u128 {
        let sql = sql.replace("{schema}", self.tenant.schema.name());
        let number: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.db).await.unwrap();
        number.try_into().unwrap()
    }

    async fn loans(&self) -> u128 {
        self.count("select count(*) from {schema}.loan").await
    }

    async fn open_loans(&self) -> u128 {
        self.count("select count(*) from {schema}.loan where is_open").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_old_check_outs_open_nothing_during_pruning() {
    with_fixture(Duration::from_millis(1), async |fixture| {
        let done = CancellationToken::new();
        let writer = async |share: u128| {
            let mut batches = 0;
            let mut ids: Vec<u128> = (0..CLOSED_LOANS).filter(|id| id % 2 == share).collect();
            while !done.is_cancelled() {
                for batch in ids.chunks(500) {
                    fixture.write(batch, |id| vec![check_out(id, long_ago())]).await.unwrap();
                    batches += 1;
                }
                ids.reverse();
            }
            batches
        };
        let pruning = async {
            let mut deleted = 0;
            for _ in 0..3 {
                deleted += fixture.prune(&CancellationToken::new()).await.loans;
            }
            done.cancel();
            deleted
        };
        let (one, two, deleted) = tokio::join!(writer(0), writer(1), pruning);
        assert!(deleted >= u64::try_from(CLOSED_LOANS).unwrap(), "{deleted} rows were deleted");
        assert_eq!(fixture.open_loans().await, 0, "an event opened a closed loan");
        assert!(one > 0 && two > 0, "{one} and {two} batches were written meanwhile");
        let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
        assert_eq!(fixture.count(deadlocks).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_pruning_stays_consistent_and_resumes() {
    with_fixture(Duration::from_millis(200), async |fixture| {
        let stop = CancellationToken::new();
        let (deleted, ()) = tokio::join!(fixture.prune(&stop), async {
            until("the first loans are deleted", async || fixture.loans().await < CLOSED_LOANS)
                .await;
            stop.cancel();
        });
        let left = fixture.loans().await;
        assert!(0 < left && left < CLOSED_LOANS, "{left} rows remain");
        assert_eq!(u128::from(deleted.loans), CLOSED_LOANS - left);
        let everything: Vec<u128> = (0..CLOSED_LOANS).collect();
        fixture.write(&everything, |id| vec![check_out(id, long_ago())]).await.unwrap();
        assert_eq!((fixture.loans().await, fixture.open_loans().await), (CLOSED_LOANS, 0));
        let wrong = patrons::list_drifted(&fixture.db, &fixture.tenant.schema).await.unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
        let deleted = fixture.prune(&CancellationToken::new()).await;
        assert_eq!((u128::from(deleted.loans), fixture.loans().await), (CLOSED_LOANS, 0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_neither_blocks_writers_nor_waits_for_them() {
    with_fixture(Duration::from_millis(1), async |fixture| {
        let mut holder = store::begin(&fixture.db).await.unwrap();
        tenants::lock_shared(&mut holder, &fixture.tenant.id).await.unwrap();
        let began = Instant::now();
        let deleted = fixture.prune(&CancellationToken::new()).await;
        assert_eq!(
            deleted,
            PrunedCounts::default(),
            "no row is deleted before the prune horizon is recorded"
        );
        assert!(began.elapsed() < Duration::from_secs(5), "waited {:?}", began.elapsed());
        holder.rollback().await.unwrap();

        // Housekeeping skips locked rows instead of waiting, so it is part of no deadlock.
        let mut holder = store::begin(&fixture.db).await.unwrap();
        let row = "select from {schema}.loan where loan_id = $1 for update"
            .replace("{schema}", fixture.tenant.schema.name());
        sqlx::query(AssertSqlSafe(row)).bind(loan(7)).execute(&mut *holder).await.unwrap();
        let deleted = fixture.prune(&CancellationToken::new()).await;
        assert_eq!((u128::from(deleted.loans), fixture.loans().await), (CLOSED_LOANS - 1, 1));
        holder.rollback().await.unwrap();
        assert_eq!(fixture.prune(&CancellationToken::new()).await.loans, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_pruned_by_age_and_by_number() {
    with_fixture(Duration::from_millis(1), async |fixture| {
        let now = noon();
        let park = "insert into {schema}.dead_letter
              (dead_letter_id, reason, rule, topic, partition, \"offset\", received_at, headers, payload)
            select gen_random_uuid(), 'bad', 'r', 't', 0, n,
                   '2026-09-15T12:00:00Z'::timestamptz + n * interval '1 minute', '[]', ''
              from generate_series";
        fixture.execute_sql(&format!("{park} (-20, -1) n")).await;
        fixture.execute_sql(&format!("{park} (0, 1499) n")).await;
        let deleted = fixture.prune(&CancellationToken::new()).await;
        assert_eq!(deleted.dead_letters, 520, "20 are deleted by age, 500 by number");
        let sizes =
            store::state::prune::table_sizes(&fixture.db, &fixture.tenant.schema).await.unwrap();
        assert_eq!(sizes.dead_letters, 1000);
        assert_eq!(sizes.dead_letters_oldest, Some(now + TimeDelta::minutes(500)));
        assert_eq!(fixture.prune(&CancellationToken::new()).await.dead_letters, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_waiting_for_tenant_are_not_pruned_by_number() {
    with_fixture(Duration::from_millis(1), async |fixture| {
        let park = "insert into {schema}.dead_letter
              (dead_letter_id, reason, rule, topic, partition, \"offset\", received_at, headers, payload)
            select gen_random_uuid(), 'tenant_unusable', 'r', 't', 0, n,
                   '2026-09-15T13:00:00Z'::timestamptz + n * interval '1 minute', '[]', ''
              from generate_series";
        fixture.execute_sql(&format!("{park} (0, 1499) n")).await;
        // The other dead letters are few, and older than all waiting ones.
        let others = park.replace("tenant_unusable", "bad").replace("T13:00", "T12:00");
        fixture.execute_sql(&format!("{others} (0, 9) n")).await;
        assert_eq!(fixture.prune(&CancellationToken::new()).await.dead_letters, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_pruned_by_size() {
    with_fixture(Duration::from_millis(1), async |fixture| {
        // Ten dead letters with an incompressible megabyte each. Bytes in headers and keys count as
        // well.
        let park = "insert into {schema}.dead_letter
              (dead_letter_id, reason, rule, topic, partition, \"offset\", received_at, headers, key, payload)
            select gen_random_uuid(), 'bad', 'r', 't', 0, n,
                   '2026-09-15T12:00:00Z'::timestamptz + n * interval '1 minute',
                   case n % 3 when 0 then jsonb_build_array(jsonb_build_array('x', encode(b, 'hex')))
                              else '[]' end,
                   case n % 3 when 1 then b end, case n % 3 when 2 then b else '' end
              from generate_series(1, 10) n,
                   lateral (select string_agg(decode(md5(random()::text || i || n), 'hex'), '') as b
                              from generate_series(1, 65536) i) large";
        fixture.execute_sql(park).await;
        let deleted = fixture.prune(&CancellationToken::new()).await;
        assert!((6..=8).contains(&deleted.dead_letters), "{} rows were deleted", deleted.dead_letters);
        let newest = "select count(*) from {schema}.dead_letter where \"offset\" = 10";
        assert_eq!(fixture.count(newest).await, 1, "the oldest dead letters are deleted");
        assert_eq!(fixture.prune(&CancellationToken::new()).await.dead_letters, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_horizon_never_moves_back() {
    with_tenant(async |db, schema| {
        let recorded = async |before: DateTime<Utc>| {
            let mut tx = store::begin(db).await.unwrap();
            store::state::prune::record_horizon(&mut tx, schema, Horizon::at(before))
                .await
                .unwrap();
            store::commit(tx).await.unwrap();
            let sql = format!("select prune_horizon from {}.housekeeping", schema.name());
            let bytes: Vec<u8> =
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db).await.unwrap();
            bytes
        };
        let (earlier, later) = (noon() - TimeDelta::days(1), noon());
        assert_eq!(recorded(later).await, Horizon::at(later).as_bytes());
        assert_eq!(recorded(earlier).await, Horizon::at(later).as_bytes());
        // One instance per hour may prune, whichever claims first.
        let hour = Duration::from_secs(3600);
        let claim = async || store::state::prune::claim(db, schema, hour).await.unwrap();
        let began = async |when: &str| {
            let sql =
                format!("update {}.housekeeping set started_at = now() {when}", schema.name());
            db.execute(AssertSqlSafe(sql)).await.unwrap();
        };
        assert!(claim().await);
        assert!(!claim().await);
        began("- interval '59 minutes'").await;
        assert!(!claim().await);
        began("- interval '61 minutes'").await;
        assert!(claim().await);
        // A fast clock recorded this start.
        began("+ interval '1 minute'").await;
        assert!(claim().await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_horizon_of_fast_clock_is_corrected() {
    with_tenant(async |db, schema| {
        let now = store::now(db).await.unwrap();
        let mut tx = store::begin(db).await.unwrap();
        let recorded = async |tx: &mut store::Tx| {
            let sql = format!("select prune_horizon from {}.housekeeping", schema.name());
            let bytes: Vec<u8> =
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut **tx).await.unwrap();
            bytes
        };
        let past = Horizon::at(now - TimeDelta::days(60));
        store::state::prune::record_horizon(&mut tx, schema, past).await.unwrap();
        assert!(!store::state::prune::cap_horizon(&mut tx, schema, now).await.unwrap());
        assert_eq!(recorded(&mut tx).await, past.as_bytes());
        let ahead = Horizon::at(now + TimeDelta::days(30));
        store::state::prune::record_horizon(&mut tx, schema, ahead).await.unwrap();
        assert!(store::state::prune::cap_horizon(&mut tx, schema, now).await.unwrap());
        assert_eq!(recorded(&mut tx).await, Horizon::at(now).as_bytes());
    })
    .await;
}
