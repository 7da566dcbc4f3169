//! The horizons of a whole tenant have a table of their own. The previous version stores them as the row
//! of the nil UUID. Both versions see the same horizons while both run, for a tenant and for the shadow
//! of a rebuild.

use patron_blocks::{
    event::TenantId,
    store::{self, Db, Schema, shadow},
};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::sql::with_tenant;

type Row = (Vec<u8>, Option<Vec<u8>>);

fn horizon(n: u8) -> Vec<u8> {
    vec![0, 0, 0, 0, 0, 0, 0, n]
}

/// Returns the tenant's horizons as this version sees them, and as the previous version does.
async fn horizon_rows(db: &Db, schema: &str) -> [Option<Row>; 2] {
    let mut seen = Vec::new();
    for of in ["tenant_horizon", "horizon where user_id = '00000000-0000-0000-0000-000000000000'"] {
        let sql = format!("select horizon, loans_horizon from {schema}.{of}");
        seen.push(sqlx::query_as(AssertSqlSafe(sql)).fetch_optional(db).await.unwrap());
    }
    seen.try_into().unwrap()
}

async fn assert_copied_both_ways(db: &Db, schema: &str) {
    assert_eq!(horizon_rows(db, schema).await, [None, None]);
    // The previous version records a deletion of all loans, and then a complete snapshot.
    let sql = format!(
        "insert into {schema}.horizon (user_id, horizon, loans_horizon) values ($1, $2, $3)"
    );
    let before = sqlx::query(AssertSqlSafe(sql)).bind(Uuid::nil());
    before.bind(horizon(0)).bind(horizon(5)).execute(db).await.unwrap();
    let row = |all, loans| Some((horizon(all), Some(horizon(loans))));
    assert_eq!(horizon_rows(db, schema).await, [row(0, 5), row(0, 5)]);
    let sql = format!("update {schema}.horizon set horizon = $1");
    sqlx::query(AssertSqlSafe(sql)).bind(horizon(3)).execute(db).await.unwrap();
    assert_eq!(horizon_rows(db, schema).await, [row(3, 5), row(3, 5)]);
    let sql = format!("update {schema}.tenant_horizon set loans_horizon = $1");
    sqlx::query(AssertSqlSafe(sql)).bind(horizon(9)).execute(db).await.unwrap();
    assert_eq!(horizon_rows(db, schema).await, [row(3, 9), row(3, 9)]);
    // A horizon of a patron applies to no other patron.
    let sql = format!("insert into {schema}.horizon (user_id, horizon) values ($1, $2)");
    let patron = sqlx::query(AssertSqlSafe(sql)).bind(Uuid::new_v4());
    patron.bind(horizon(8)).execute(db).await.unwrap();
    assert_eq!(horizon_rows(db, schema).await, [row(3, 9), row(3, 9)]);
}

#[tokio::test]
async fn both_versions_see_the_same_tenant_horizon() {
    with_tenant(async |db, schema| {
        let tenant = TenantId::parse("northlib").unwrap();
        let shadow_schema = Schema::shadow(&tenant, Uuid::new_v4());
        let mut tx = store::begin(db).await.unwrap();
        shadow::create(&mut tx, &shadow_schema, None, crate::payloads::now(), None).await.unwrap();
        store::commit(tx).await.unwrap();
        for schema in [shadow_schema.name(), schema.name()] {
            assert_copied_both_ways(db, schema).await;
        }
        // A shadow of the previous version is incomplete for this version, so the rebuild reads its
        // source again.
        let drop = format!("drop table {}.tenant_horizon", shadow_schema.name());
        db.execute(AssertSqlSafe(drop)).await.unwrap();
        let mut tx = store::begin(db).await.unwrap();
        assert!(shadow::load_state(&mut tx, &shadow_schema).await.unwrap().is_none());
    })
    .await;
}
