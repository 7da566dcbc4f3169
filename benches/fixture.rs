//! The shared parts of the benches: a separate database, and days of circulation as records.

#[path = "../tests/support/engines.rs"]
pub(crate) mod engines;

use std::sync::Arc;

use engines::login;
use patron_blocks::{
    clock::Clock,
    config::{BadRecordLimit, Login},
    event::{Environment, Kind, Record, RecordPosition, TenantId},
    kafka::delivery::ConsumedRecord,
    services::{
        ingest::{Ingest, ingest_store::PgIngestStore},
        tenants::TenantRegistry,
    },
    store::{self, Db, PoolSettings, Schema},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

/// The tenant of all benches.
pub(crate) const TENANT: &str = "northlib";

/// The number of patrons of the simulated library.
pub(crate) const PATRONS: u64 = 20_000;

pub(crate) fn options(login: &Login) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(&login.host)
        .port(login.port)
        .username(&login.username)
        .password(&login.password)
        .database(&login.database)
}

/// Creates an empty database with the tenant enabled and no initial fill. The database of the previous run
/// is dropped.
pub(crate) async fn database(name: &str) -> (Login, Db, Arc<TenantRegistry>) {
    let (login, db) = empty_database(name).await;
    let tenants = Arc::new(TenantRegistry::new(db.clone(), Clock::system()));
    let tenant = TenantId::parse(TENANT).expect("a tenant id");
    tenants.enable(&tenant, "mod-patron-blocks-2.0.0").await.expect("the tenant is enabled");
    let filled = "with none as (delete from mod_patron_blocks.job)
                  update mod_patron_blocks.tenant set initial_fill_id = null";
    sqlx::query(filled).execute(&db).await.expect("the source is empty");
    (login, db, tenants)
}

/// Creates an empty database.
pub(crate) async fn empty_database(name: &str) -> (Login, Db) {
    let admin = login();
    let mut connection = PgConnection::connect_with(&options(&admin)).await.expect("PostgreSQL");
    for sql in
        [format!("drop database if exists {name} with (force)"), format!("create database {name}")]
    {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.expect("a database");
    }
    let login = Login { database: name.to_owned(), ..admin };
    let minute = std::time::Duration::from_secs(60);
    let db = store::pool(
        &login,
        PoolSettings {
            name: "bench",
            max_connections: 4,
            acquire_timeout: minute,
            statement_timeout: minute,
            verify_on_release: false,
        },
    );
    (login, db)
}

pub(crate) fn schema() -> Schema {
    Schema::of(&TenantId::parse(TENANT).expect("a tenant id"))
}

/// A generator of pseudo-random numbers that are equal in every run.
pub(crate) struct SeededRng(u64);

impl SeededRng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15))
    }

    /// Returns a number below `limit` (SplitMix64).
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    pub(crate) fn uuid(&mut self) -> Uuid {
        let (high, low) = (self.below(u64::MAX), self.below(u64::MAX));
        let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

/// Returns the id of patron `n`; SQL can compute the same id.
pub(crate) fn patron(n: u64) -> Uuid {
    Uuid::from_u128(0x4000_8000_0000_0000_0000 | u128::from(n))
}

/// Returns records: 45 % check-outs, 40 % check-ins, 10 % due-date changes, 5 % fees/fines, in the
/// envelopes of mod-circulation. Calls with different seeds return different ids.
pub(crate) fn records(number: usize, seed: u64) -> Vec<ConsumedRecord> {
    records_of(PATRONS, number, seed)
}

/// Returns records like [`records`], of this many patrons.
pub(crate) fn records_of(patrons: u64, number: usize, seed: u64) -> Vec<ConsumedRecord> {
    const NOW: i64 = 1_790_000_000_000;
    let environment = Environment::new(Some("bench"));
    let cluster: Arc<str> = Arc::from("bench");
    let topics = Kind::ALL.map(|kind| {
        let name = format!("bench.{TENANT}.{}.{}", kind.producer(), kind.name());
        let topic = environment.parse(&name).expect("a topic of the bench");
        (kind, Arc::<str>::from(name), Arc::new(topic))
    });
    let mut rng = SeededRng::new(seed);
    let mut out: Vec<(Uuid, Uuid)> = Vec::new();
    let mut made = Vec::with_capacity(number);
    for n in 0..number {
        let at = NOW + n as i64;
        let percent = rng.below(100);
        let known = (!out.is_empty()).then(|| rng.below(out.len() as u64) as usize);
        let due = "2026-10-14T21:59:59.000Z";
        let (kind, data) = match (percent, known) {
            (45..85, Some(known)) => {
                let (loan, user) = out.swap_remove(known);
                (
                    Kind::ItemCheckedIn,
                    format!(r#"{{"userId":"{user}","loanId":"{loan}","returnDate":"{due}"}}"#),
                )
            }
            (85..95, Some(known)) => {
                let (loan, user) = out[known];
                (
                    Kind::LoanDueDateChanged,
                    format!(
                        r#"{{"userId":"{user}","loanId":"{loan}","dueDate":"{due}","dueDateChangedByRecall":false}}"#
                    ),
                )
            }
            (95..100, _) => {
                let (user, fee, of) = (patron(rng.below(patrons)), rng.uuid(), rng.uuid());
                (
                    Kind::FeeFineBalanceChanged,
                    format!(
                        r#"{{"userId":"{user}","feeFineId":"{fee}","feeFineTypeId":"{of}","balance":{}.25}}"#,
                        rng.below(20)
                    ),
                )
            }
            _ => {
                let (user, loan) = (patron(rng.below(patrons)), rng.uuid());
                out.push((loan, user));
                (
                    Kind::ItemCheckedOut,
                    format!(
                        r#"{{"userId":"{user}","loanId":"{loan}","dueDate":"{due}","gracePeriod":{{"duration":2,"intervalId":"Days"}}}}"#
                    ),
                )
            }
        };
        let id = rng.uuid();
        let payload = format!(
            r#"{{"id":"{id}","type":"UPDATED","tenant":"{TENANT}","timestamp":{at},"data":{data}}}"#
        );
        let (_, name, topic) =
            topics.iter().find(|(k, ..)| *k == kind).expect("all kinds are there");
        made.push(ConsumedRecord {
            record: Record {
                position: RecordPosition {
                    topic: name.clone(),
                    partition: (n % 10) as i32,
                    offset: (seed << 32) as i64 + n as i64,
                },
                timestamp: chrono::DateTime::from_timestamp_millis(at),
                key: None,
                headers: vec![("folio.tenantId".to_owned(), TENANT.as_bytes().to_vec())],
                payload: Some(payload.into_bytes()),
            },
            topic: topic.clone(),
            cluster: cluster.clone(),
            tenant_enabled: true,
            position: 0,
        });
    }
    made
}

/// Returns the median of the measurements.
pub(crate) fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Prints one line of a report.
#[expect(clippy::print_stdout, reason = "a bench reports to who runs it")]
pub(crate) fn print_line(line: &str) {
    println!("{line}");
}

/// Returns the ingest with the service's settings.
pub(crate) fn ingest(db: &Db, tenants: &Arc<TenantRegistry>) -> Ingest<PgIngestStore> {
    let ledger = PgIngestStore::new(db.clone(), tenants.clone(), Clock::system());
    let rule = BadRecordLimit { consecutive: 100, per_window: 500 };
    Ingest::new(ledger, Clock::system(), std::time::Duration::from_secs(60), rule)
}
