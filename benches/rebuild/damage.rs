//! Five kinds of deliberate damage to the tables.

use std::collections::BTreeSet;

use patron_blocks::store::Db;
use serde_json::Value;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{fixture::schema, library::Month};

/// The number of damaged rows of each kind.
const RECORDS_PER_KIND: i64 = 40;

/// The rows to damage: chosen once, damaged any number of times.
pub(crate) struct Damage {
    /// The open loans to delete.
    rows: Vec<Uuid>,
    /// The patrons with changed counters.
    counters: Vec<Uuid>,
    /// The closed loans to delete.
    tombstones: Vec<Uuid>,
    /// The ids of invented loans, each with the open loan to copy.
    phantoms: Vec<(Uuid, Uuid)>,
    /// The fees/fines with a wrong balance.
    balances: Vec<Uuid>,
}

impl Damage {
    /// Chooses the rows. Half of the damage is to patrons under evaluation load.
    pub(crate) async fn of(db: &Db, month: &Month) -> Self {
        let evaluated_users = month.busiest(200);
        let loans = |open: bool| {
            format!(
                "(select loan_id from {{schema}}.loan where is_open = {open} and user_id = any($1)
                   order by loan_id limit {RECORDS_PER_KIND})
                 union all
                 (select loan_id from {{schema}}.loan where is_open = {open} and user_id <> all($1)
                   order by loan_id limit {RECORDS_PER_KIND})"
            )
        };
        let mut open = ids(db, &loans(true), &evaluated_users).await;
        let rest = open.split_off(open.len() / 2);
        let counters = format!(
            "select user_id from {{schema}}.patron_counter where user_id <> all($1)
              order by user_id limit {RECORDS_PER_KIND}"
        );
        let balances = format!(
            "select fee_fine_id from {{schema}}.fee_fine where is_open and user_id <> all($1)
              order by fee_fine_id limit {RECORDS_PER_KIND}"
        );
        Self {
            rows: open,
            counters: ids(db, &counters, &evaluated_users).await,
            tombstones: ids(db, &loans(false), &evaluated_users).await,
            phantoms: rest.into_iter().map(|of| (Uuid::new_v4(), of)).collect(),
            balances: ids(db, &balances, &evaluated_users).await,
        }
    }

    pub(crate) async fn apply(&self, db: &Db) {
        for (sql, ids) in [
            ("delete from {schema}.loan where loan_id = any($1)", &self.rows),
            (
                "update {schema}.patron_counter set open_loans = open_loans + 3 where user_id = any($1)",
                &self.counters,
            ),
            ("delete from {schema}.loan where loan_id = any($1)", &self.tombstones),
            (
                "update {schema}.fee_fine set balance = balance + 50 where fee_fine_id = any($1)",
                &self.balances,
            ),
        ] {
            run(db, sql, ids).await;
        }
        for (phantom, of) in &self.phantoms {
            let sql = format!(
                "insert into {{schema}}.loan (loan_id, check_out_stamp, check_out_user, check_out_due_date)
                 select '{phantom}', check_out_stamp, check_out_user, check_out_due_date
                   from {{schema}}.loan where loan_id = any($1) on conflict do nothing"
            );
            run(db, &sql, &[*of]).await;
        }
    }

    /// Checks that the rebuild reports exactly the damage.
    pub(crate) fn assert_reported_exactly(&self, patrons: &[Value]) {
        let named = |of: &str, kind: &str| -> BTreeSet<Uuid> {
            let all = patrons.iter().flat_map(|p| p[of].as_array().expect("a list"));
            let of_kind = all.filter(|d| d["kind"] == kind);
            of_kind.map(|d| d["id"].as_str().expect("an id").parse().expect("a UUID")).collect()
        };
        let set = |ids: &[Uuid]| ids.iter().copied().collect::<BTreeSet<_>>();
        let phantoms: Vec<Uuid> = self.phantoms.iter().map(|(phantom, _)| *phantom).collect();
        assert_eq!(named("loans", "onlyInSource"), set(&self.rows), "open loans with deleted rows");
        assert_eq!(named("loans", "onlyCurrent"), set(&phantoms), "invented loans");
        assert_eq!(named("loans", "different"), BTreeSet::new());
        assert_eq!(named("feesFines", "different"), set(&self.balances), "wrong balances");
        for kind in ["onlyCurrent", "onlyInSource"] {
            assert_eq!(named("feesFines", kind), BTreeSet::new(), "{kind}");
        }
        let wrong = patrons.iter().filter(|patron| patron["wrongCounters"] == true);
        let wrong: BTreeSet<Uuid> =
            wrong.map(|p| p["userId"].as_str().expect("an id").parse().expect("a UUID")).collect();
        assert!(set(&self.counters).is_subset(&wrong), "patrons with changed counters");
    }
}

/// Deletes one event in a hundred, as if the service had never received it. Returns the number of deleted
/// events.
pub(crate) async fn lose_one_percent(db: &Db) -> u64 {
    execute_raw_sql(db, "alter table {schema}.inbox disable trigger inbox_rows_deleted").await;
    let sql = "delete from {schema}.inbox where event_key in
                 (select event_key from {schema}.inbox tablesample bernoulli (1) repeatable (7))";
    let sql = sql.replace("{schema}", schema().name());
    let deleted = sqlx::query(AssertSqlSafe(sql))
        .execute(db)
        .await
        .expect("the events are deleted")
        .rows_affected();
    // The inbox counts as complete for the whole month, as if the tenant had been enabled before.
    execute_raw_sql(
        db,
        "alter table {schema}.inbox enable trigger inbox_rows_deleted;
         update {schema}.housekeeping set inbox_complete_since = null;
         update mod_patron_blocks.tenant set enabled_at = '2000-01-01'",
    )
    .await;
    deleted
}

async fn execute_raw_sql(db: &Db, sql: &str) {
    let sql = sql.replace("{schema}", schema().name());
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await.expect("the statement succeeds");
}

async fn ids(db: &Db, sql: &str, of: &[Uuid]) -> Vec<Uuid> {
    let sql = sql.replace("{schema}", schema().name());
    sqlx::query_scalar(AssertSqlSafe(sql)).bind(of).fetch_all(db).await.expect("ids")
}

async fn run(db: &Db, sql: &str, of: &[Uuid]) {
    let sql = sql.replace("{schema}", schema().name());
    sqlx::query(AssertSqlSafe(sql)).bind(of).execute(db).await.expect("the statement succeeds");
}
