//! The SQL of the Java switch, without the service.

mod views;

use std::collections::BTreeSet;

use chrono::DateTime;
use patron_blocks::{
    config::Login,
    event::{Stamp, TenantId, stamp::Horizon},
    services::tenant_lifecycle::java_switch,
    store::{self, Db, Schema, migrate, state::patrons},
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::support::{
    java::{self, Layout, Patron, days_ago, insert_rows, java_timestamp, with_dates},
    payloads::now,
    story_database::{pool, with_database},
    world::{TENANT, tenant_schema},
};

/// Runs `work` with a tenant's schema of the Java module.
pub(super) async fn with_java<T>(
    layout: Layout,
    work: impl AsyncFnOnce(&Login, &Db, &Schema) -> T,
) -> T {
    with_database(async |login| {
        let (db, schema) = (pool(&login), tenant_schema());
        migrate::module(&db).await.unwrap();
        java::create_tables(&db, &schema, layout).await;
        let outcome = work(&login, &db, &schema).await;
        db.close().await;
        outcome
    })
    .await
}

pub(super) fn tenant() -> TenantId {
    TenantId::parse(TENANT).unwrap()
}

pub(super) async fn run_migration(db: &Db, schema: &Schema) -> Result<Vec<String>, store::Error> {
    java_switch::upgrade_schema(db, &tenant(), schema, now()).await
}

pub(super) async fn query_scalar<T>(db: &Db, schema: &Schema, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let sql = sql.replace("{schema}", schema.name());
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db).await.unwrap()
}

/// Returns all catalogue entries of the schema's relations, functions and triggers, and of the report
/// views.
pub(super) async fn catalogue(db: &Db, schema: &Schema) -> BTreeSet<String> {
    let sql = "select concat_ws(' ', c.relkind, c.oid::regclass, c.relowner::regrole, c.relacl, c.reloptions,
                      obj_description(c.oid), (select array_agg(concat(a.attname, a.atttypid::regtype, a.attacl)
                        order by a.attnum) from pg_attribute a where a.attrelid = c.oid and a.attnum > 0),
                      case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end,
                      case when c.relkind = 'i' then pg_get_indexdef(c.oid) end,
                      (select array_agg(pg_get_triggerdef(t.oid) order by tgname) from pg_trigger t
                        where t.tgrelid = c.oid and not tgisinternal))
                 from pg_class c
                where c.relnamespace in ($1::regnamespace, coalesce(to_regnamespace('northlib_mod_fqm_manager'), 0::oid::regnamespace))
                union all
               select pg_get_functiondef(oid) from pg_proc where pronamespace = $1::regnamespace";
    let rows: Vec<String> =
        sqlx::query_scalar(sql).bind(schema.name()).fetch_all(db).await.unwrap();
    rows.into_iter().collect()
}

#[tokio::test]
async fn every_java_statement_can_be_prepared() {
    with_java(Layout::Late, async |_, db, schema| {
        run_migration(db, schema).await.unwrap();
        let times = "create table {schema}.java_time (id uuid not null, at timestamptz not null)";
        java::execute_sql(db, schema, times).await;
        for statement in store::statements::JAVA_STATEMENTS.iter().copied().flatten() {
            let sql = sqlx::SqlSafeStr::into_sql_str(schema.sql(statement));
            let prepared = db.acquire().await.unwrap().prepare(sql).await;
            assert!(prepared.is_ok(), "{:?}: {statement:?}", prepared.err());
        }
    })
    .await;
}

#[tokio::test]
async fn java_migration_preserves_open_records_and_counters() {
    for layout in [Layout::Early, Layout::Late] {
        with_java(layout, async |_, db, schema| {
            java::fill(db, schema, 60).await;
            let messages = run_migration(db, schema).await.unwrap();
            let (open, loans) = (0..60)
                .map(Patron)
                .filter(|p| p.has_anything())
                .fold((0, 0), |(open, loans), p| (open + 1, loans + p.loans().len()));
            let counts = format!("{open} summaries with {loans} open loans and 20 open fees/fines");
            assert_eq!(messages, [format!("taken over from the Java module: {counts}")]);
            for patron in (0..60).map(Patron) {
                let summary = patrons::load_summary(db, schema, patron.user()).await.unwrap();
                let mut expected = patron.has_anything().then(|| patron.summary());
                let summary: Option<Value> = summary.map(|s| serde_json::from_str(&s).unwrap());
                if let Some(expected) = &mut expected {
                    let mut loans = expected["openLoans"].as_array().unwrap().clone();
                    loans.sort_by_key(|loan| loan["loanId"].to_string());
                    // The due dates are relative to the current time.
                    for (loan, stored) in loans
                        .iter_mut()
                        .zip(summary.as_ref().unwrap()["openLoans"].as_array().unwrap())
                    {
                        loan["dueDate"] = stored["dueDate"].clone();
                    }
                    expected["openLoans"] = json!(loans);
                    expected["_version"] = json!(1);
                }
                assert_eq!(summary, expected, "{patron:?}");
            }
            assert!(patrons::list_drifted(db, schema).await.unwrap().is_empty());
            let closed = "select count(*) from {schema}.loan where closed_stamp is not null";
            assert_eq!(
                query_scalar::<i64>(db, schema, closed).await,
                60,
                "closed loans stay closed"
            );
            assert_eq!(run_migration(db, schema).await.unwrap(), [""; 0], "not twice");
        })
        .await;
    }
}

#[tokio::test]
async fn migrated_records_carry_their_java_timestamps() {
    with_java(Layout::Late, async |_, db, schema| {
        let (patron, other) = (Patron(6), Patron(9));
        let (user, loan) = (patron.user(), patron.loans()[0]);
        insert_rows(db, schema, "user_summary", &[patron.summary(), other.summary()]).await;
        let about = json!({ "userId": user.to_string().to_uppercase(), "loanId": loan });
        insert_rows(db, schema, "item_checked_out_event", &[with_dates(days_ago(5), about.clone())]).await;
        insert_rows(db, schema, "item_declared_lost_event", &[with_dates(days_ago(4), about)]).await;
        let closed = Uuid::new_v4();
        let ended = with_dates(days_ago(2), json!({ "userId": user, "loanId": closed }));
        insert_rows(db, schema, "loan_closed_event", &[ended]).await;
        run_migration(db, schema).await.unwrap();

        let stored = "select array[snapshot_stamp, check_out_stamp, due_stamp, lost_stamp, claimed_stamp]
                        from {schema}.loan where loan_id = ";
        let stored: Vec<Vec<u8>> = query_scalar(db, schema, &format!("{stored} '{loan}'")).await;
        let days = |stamp: &Vec<u8>| {
            let day = |days: &i64| {
                let early = Horizon::at(days_ago(*days) - chrono::TimeDelta::minutes(5));
                stamp[..8] >= early.as_bytes()[..]
            };
            (0..10).find(day).unwrap()
        };
        let days: Vec<i64> = stored.iter().map(days).collect();
        assert_eq!(
            days,
            [5, 5, 2, 2, 2],
            "the time is that of the check-out, and else the newest of the patron"
        );
        assert_eq!(stored[3][8..], [&[0, 0], &user.as_bytes()[..]].concat());
        let stamp_without_event = format!(
            "select lost_stamp from {{schema}}.loan where loan_id = '{}'", other.loans()[0]);
        let stamp_without_event: Vec<u8> = query_scalar(db, schema, &stamp_without_event).await;
        assert_eq!(
            stamp_without_event[..8],
            stored[3][..8],
            "without an event of the patron, the newest time of the tenant counts"
        );

        let tombstone = format!(
            "select jsonb_build_array(encode(l.closed_stamp, 'hex'),
                    floor(extract(epoch from e.creation_date) * 1000))
               from {{schema}}.loan l join {{schema}}.loan_closed_event e on true where loan_id = '{closed}'");
        let tombstone: Value = query_scalar(db, schema, &tombstone).await;
        let at = DateTime::from_timestamp_millis(tombstone[1].to_string().parse().unwrap()).unwrap();
        let stamp = format!("{:?}", Stamp::from_snapshot(at, closed));
        assert_eq!(tombstone[0], stamp, "SQL and Rust make the same stamp");
    })
    .await;
}

/// A fee/fine with a floating-point remainder as its balance has ended, in summaries and in events.
#[tokio::test]
async fn migrated_fee_with_floating_point_remainder_is_paid() {
    with_java(Layout::Late, async |_, db, schema| {
        let (user, open, paid, ended) =
            (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let remainder: Value = serde_json::from_str("4.996003610813204e-16").unwrap();
        let fees = json!([
            { "feeFineId": open, "balance": serde_json::from_str::<Value>("2.5000000000000004").unwrap() },
            { "feeFineId": paid, "balance": remainder },
        ]);
        let summary = json!({ "userId": user, "openLoans": [], "openFeesFines": fees });
        insert_rows(db, schema, "user_summary", &[summary]).await;
        let closed = |balance: Value| json!({ "userId": user, "feeFineId": ended, "balance": balance });
        let events = [
            with_dates(days_ago(3), closed(json!(9))),
            with_dates(days_ago(2), closed(remainder)),
            with_dates(days_ago(4), json!({ "feeFineId": Uuid::new_v4(), "balance": "1e999999999" })),
        ];
        insert_rows(db, schema, "fee_fine_balance_changed_event", &events).await;
        let messages = run_migration(db, schema).await.unwrap();
        assert_eq!(
            messages,
            ["taken over from the Java module: 1 summaries with 0 open loans and 1 open fees/fines"]
        );
        let balances = "select jsonb_object_agg(fee_fine_id, balance) from {schema}.fee_fine";
        let balances: Value = query_scalar(db, schema, balances).await;
        assert_eq!(balances, json!({
            open.to_string(): serde_json::from_str::<Value>("2.5").unwrap(),
            paid.to_string(): 0,
            ended.to_string(): 0,
        }));
        assert!(patrons::list_drifted(db, schema).await.unwrap().is_empty());
    })
    .await;
}

/// No column contains the time zone of the writing session; the date in the record has a zone.
#[tokio::test]
async fn java_timestamps_are_independent_of_session_time_zone() {
    with_java(Layout::Late, async |_, db, schema| {
        let local = "create or replace function {schema}.keep_creation() returns trigger language plpgsql as $$
            begin
                new.creation_date := (new.jsonb #>> '{metadata,createdDate}')::timestamptz at time zone 'Asia/Tokyo';
                return new;
            end $$";
        java::execute_sql(db, schema, local).await;
        let (patron, closed, paid) = (Patron(6), Uuid::new_v4(), Uuid::new_v4());
        let (user, loan) = (patron.user(), patron.loans()[0]);
        insert_rows(db, schema, "user_summary", &[patron.summary()]).await;
        let at = days_ago(2);
        let about = |loan: Uuid| json!({ "userId": user, "loanId": loan });
        insert_rows(db, schema, "item_checked_out_event", &[with_dates(at, about(loan))]).await;
        insert_rows(db, schema, "loan_closed_event", &[with_dates(at, about(closed))]).await;
        let fee = json!({ "userId": user, "feeFineId": paid, "balance": 0 });
        insert_rows(db, schema, "fee_fine_balance_changed_event", &[with_dates(at, fee)]).await;
        run_migration(db, schema).await.unwrap();
        for (stamp, of) in [
            (format!("snapshot_stamp from {{schema}}.loan where loan_id = '{loan}'"), user),
            (format!("lost_stamp from {{schema}}.loan where loan_id = '{loan}'"), user),
            (format!("closed_stamp from {{schema}}.loan where loan_id = '{closed}'"), closed),
            (format!("balance_stamp from {{schema}}.fee_fine where fee_fine_id = '{paid}'"), paid),
        ] {
            let stored: Vec<u8> = query_scalar(db, schema, &format!("select {stamp}")).await;
            assert_eq!(stored, Stamp::from_snapshot(at, of).as_bytes(), "{stamp}");
        }
    })
    .await;
}

/// The time in the record may have any content.
#[tokio::test]
async fn invalid_creation_date_falls_back_to_the_column() {
    with_java(Layout::Late, async |_, db, schema| {
        java::execute_sql(
            db,
            schema,
            "alter table {schema}.loan_closed_event disable trigger user",
        )
        .await;
        let odd = [
            "2026-02-31T10:00:00Z",
            "2026-13-01T10:00:00Z",
            "soon",
            "2026-01-01",
            "2026-01-01T25:00:00Z",
        ];
        for odd in odd {
            let row = json!({ "loanId": Uuid::new_v4(), "metadata": { "createdDate": odd } });
            insert_rows(db, schema, "loan_closed_event", &[row]).await;
        }
        java::execute_sql(
            db,
            schema,
            "update {schema}.loan_closed_event set creation_date = now() at time zone 'UTC'",
        )
        .await;
        run_migration(db, schema).await.unwrap();
        let closed = "select count(*) from {schema}.loan where closed_stamp is not null";
        assert_eq!(query_scalar::<i64>(db, schema, closed).await, 5);
    })
    .await;
}

#[tokio::test]
async fn odd_java_summaries_are_counted_and_skipped() {
    with_java(Layout::Late, async |_, db, schema| {
        let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
        let rows = [
            json!({ "userId": user, "openLoans": [
                { "loanId": "0", "dueDate": java_timestamp(now()) },
                { "loanId": loan, "recall": true, "unknown": { "a": 1 } },
            ], "openFeesFines": [
                { "feeFineId": Uuid::new_v4(), "loanId": "0", "balance": "3.50" },
                { "feeFineId": "1", "balance": 2 },
            ], "_version": "many", "numberOfLostItems": 3 }),
            json!({ "openLoans": "none" }),
            json!({ "userId": Uuid::new_v4(), "openLoans": {} }),
            json!({ "userId": "0", "openLoans": [] }),
        ];
        insert_rows(db, schema, "user_summary", &rows[..1]).await;
        java::execute_sql(db, schema, "alter table {schema}.user_summary disable trigger user").await;
        insert_rows(db, schema, "user_summary", &rows[1..]).await;
        let odd_event = [
            json!({ "userId": 7, "loanId": [], "feeFineId": "0", "balance": {} }),
            with_dates(days_ago(1), json!({ "feeFineId": Uuid::new_v4(), "balance": "much" })),
        ];
        for table in ["item_checked_out_event", "fee_fine_balance_changed_event", "loan_closed_event"] {
            insert_rows(db, schema, table, &odd_event).await;
        }
        let messages = run_migration(db, schema).await.unwrap();
        assert_eq!(
            messages,
            [
                "taken over from the Java module: 2 summaries with 1 open loans and 1 open fees/fines",
                "3 summaries without a valid patron, omitted",
                "1 loans without a valid id, omitted",
                "1 loans without a valid due date, stored as never overdue",
                "1 fees/fines without a valid id or balance, omitted",
                "1 invalid loan or type ids of fees/fines, omitted",
            ]
        );
        assert!(patrons::list_drifted(db, schema).await.unwrap().is_empty());
        let summary = patrons::load_summary(db, schema, user).await.unwrap().unwrap();
        assert!(summary.contains(&loan.to_string()) && summary.contains("3.5"), "{summary}");
    })
    .await;
}

#[tokio::test]
async fn concurrent_migrations_run_once_and_preserve_settings() {
    with_java(Layout::Late, async |_, db, schema| {
        java::fill(db, schema, 40).await;
        let condition = Uuid::parse_str("72b67965-5b73-4840-bc0b-be8f3f6e047e").unwrap();
        let rows = [json!({ "id": condition, "name": "x", "message": "m", "blockBorrowing": true, "odd": 1 })];
        insert_rows(db, schema, "patron_block_conditions", &rows).await;
        let limit = with_dates(days_ago(9), json!({
            "id": Uuid::new_v4(), "conditionId": condition, "patronGroupId": "g", "value": 2.5, "odd": [] }));
        insert_rows(db, schema, "patron_block_limits", &[limit]).await;
        let settings = "select jsonb_agg(to_jsonb(x) order by id)::text from (
            select id, jsonb, creation_date, created_by from {schema}.patron_block_conditions
            union all select id, jsonb, creation_date, created_by from {schema}.patron_block_limits) x";
        let before: String = query_scalar(db, schema, settings).await;
        let (a, b) = tokio::join!(run_migration(db, schema), run_migration(db, schema));
        let mut message_counts = [a.unwrap().len(), b.unwrap().len()];
        message_counts.sort_unstable();
        assert_eq!(message_counts, [0, 1], "one instance took the tables over");
        assert_eq!(query_scalar::<String>(db, schema, settings).await, before);
        assert_eq!(query_scalar::<String>(db, schema, "select {schema}.f_unaccent('ä é')").await, "a é", "theirs");
    })
    .await;
}

#[tokio::test]
async fn new_tenant_has_its_own_unaccent_function() {
    crate::database::sql::with_tenant(async |db, schema| {
        let plain = "select {schema}.f_unaccent('Ångström, Żółć, Ærø, ß, e\u{301}, 中')";
        let plain: String = query_scalar(db, schema, plain).await;
        assert_eq!(plain, "Angstrom, Zolc, AEro, ss, e, 中");
        let properties = "select provolatile = 'i' and proisstrict from pg_proc where oid = '{schema}.f_unaccent(text)'::regprocedure";
        assert!(query_scalar::<bool>(db, schema, properties).await);
    })
    .await;
}
