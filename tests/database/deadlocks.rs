//! Transactions that lock the same tables in different orders.

use std::sync::Arc;

use patron_blocks::{
    clock::Clock,
    event::TenantId,
    patron::Loan,
    services::tenants::TenantRegistry,
    store::{
        self, Db, Schema,
        jobs::{self, JobKind},
        rebuild::shadow,
        state::rows,
    },
};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    database::sql::with_tenant,
    support::{history::noon, world::until},
};

/// A rebuild and the removal of its shadow lock the tables of the shadow in different orders. The server ends the
/// transaction that waits longest.
#[tokio::test(flavor = "multi_thread")]
async fn purge_survives_a_deadlock_with_a_rebuild() {
    with_tenant(async |db, schema| {
        let tenants = Arc::new(TenantRegistry::new(db.clone(), Clock::system()));
        let id = TenantId::parse("northlib").unwrap();
        tenants.enable(&id, "mod-patron-blocks-2.0.0").await.unwrap();
        let mut tx = store::begin(db).await.unwrap();
        let initial_fill = jobs::list_ids(&mut tx, JobKind::Rebuild, &id).await.unwrap()[0];
        let shadow = Schema::shadow(&id, initial_fill);
        shadow::create(&mut tx, &shadow, None, noon(), None).await.unwrap();
        store::commit(tx).await.unwrap();

        let mut worker = store::begin(db).await.unwrap();
        shadow::load_state(&mut worker, &shadow).await.unwrap().expect("the shadow exists");
        let purge = tokio::spawn(async move { tenants.purge(&id).await });
        until_one_waits(db).await;
        rows::load::<Loan>(&mut worker, &shadow, &[Uuid::new_v4()]).await.unwrap();
        store::commit(worker).await.unwrap();
        purge.await.unwrap().unwrap();
        let left = "select count(*) from pg_namespace where starts_with(nspname, $1)";
        let left: i64 = sqlx::query_scalar(left).bind(schema.name()).fetch_one(db).await.unwrap();
        assert_eq!(left, 0);
    })
    .await;
}

/// The desk must not take a deadlock for an unavailable database, because it would let a blocked patron pass.
#[tokio::test(flavor = "multi_thread")]
async fn read_survives_a_deadlock() {
    with_tenant(async |db, schema| {
        let lock = async |tx: &mut store::Tx, table: &str| {
            let sql = format!("lock table {}.{table} in access exclusive mode", schema.name());
            sqlx::query(AssertSqlSafe(sql)).execute(&mut **tx).await.unwrap();
        };
        let mut migration = store::begin(db).await.unwrap();
        lock(&mut migration, "fee_fine").await;
        let sql = format!(
            "select (select count(*) from {0}.loan) + (select count(*) from {0}.fee_fine)",
            schema.name()
        );
        let read = store::read(db, async |connection| {
            let count: Result<i64, _> =
                sqlx::query_scalar(AssertSqlSafe(sql.clone())).fetch_one(connection).await;
            count.map_err(store::Error::at("count"))
        });
        let migrate = async {
            until_one_waits(db).await;
            lock(&mut migration, "loan").await;
            store::commit(migration).await.unwrap();
        };
        let (count, ()) = tokio::join!(read, migrate);
        assert_eq!(count.unwrap(), 0);
    })
    .await;
}

/// Waits until a session of the database waits for a lock.
async fn until_one_waits(db: &Db) {
    let waiting = "select count(*) from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock'";
    until("a session waits", async || {
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(db).await.unwrap();
        count == 1
    })
    .await;
}
