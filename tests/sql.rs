//! The SQL: every statement can be prepared, and it merges and measures as the pure core does.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{
    blocks::Measures,
    event::{Event, TenantId, stamp::Horizon},
    patron::{OpenFee, OpenLoan},
    store::{self, Db, Schema, merge, migrate, patrons},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::{
    history::{arrived, noon},
    merging::known_by_snapshots,
    world::{pool, with_database},
};

/// Random histories that go through the database.
const CASES: u32 = 150;

/// A migrated tenant, and nothing else.
async fn with_tenant<T>(work: impl AsyncFnOnce(&Db, &Schema) -> T) -> T {
    with_database(async |login| {
        let db = pool(&login);
        let tenant = TenantId::parse("northlib").unwrap();
        let schema = Schema::of(&tenant);
        migrate::module(&db).await.unwrap();
        migrate::tenant(&db, &tenant, &schema).await.unwrap();
        let outcome = work(&db, &schema).await;
        db.close().await;
        outcome
    })
    .await
}

#[tokio::test]
async fn every_statement_can_be_prepared() {
    with_tenant(async |db, schema| {
        for statement in store::STATEMENTS.iter().copied().flatten() {
            let sql = sqlx::SqlSafeStr::into_sql_str(schema.sql(statement));
            let prepared = db.acquire().await.unwrap().prepare(sql).await;
            assert!(prepared.is_ok(), "{:?}: {statement:?}", prepared.err());
        }
    })
    .await;
}

#[tokio::test]
async fn migrations_may_run_again_and_at_once() {
    with_tenant(async |db, schema| {
        let tenant = TenantId::parse("northlib").unwrap();
        let again = || migrate::tenant(db, &tenant, schema);
        let (a, b, c) = tokio::join!(again(), again(), migrate::module(db));
        a.and(b).and(c).unwrap();
    })
    .await;
}

/// A history in batches, for two writers in two orders; an instant to measure at; perhaps a horizon.
type Case = (Vec<Event>, Vec<Event>, usize, i64, Option<i64>);

fn case() -> impl Strategy<Value = Case> {
    let minutes = -70_000..70_000_i64;
    let horizon = proptest::option::weighted(0.3, 0..12_i64);
    (arrived(24), 1..6_usize, minutes, horizon).prop_map(
        |((happened, arrived), batch, minutes, horizon)| {
            (happened, arrived, batch, minutes, horizon)
        },
    )
}

#[test]
fn two_writers_at_once_merge_and_measure_as_the_pure_core_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(with_tenant(async |db, schema| {
        let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
        let outcome = runner.run(&case(), |case| {
            let told = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(tell(db, schema, &case))
            });
            told.map_err(TestCaseError::fail)
        });
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }));
}

async fn tell(db: &Db, schema: &Schema, case: &Case) -> Result<(), String> {
    let (happened, arrived, batch, minutes, horizon) = case;
    let horizon =
        horizon.map(|ms| Horizon::at(noon() - TimeDelta::days(3) + TimeDelta::milliseconds(ms)));
    clear(db, schema, horizon).await;
    let (forth, back) = tokio::join!(
        write(db, schema, arrived.chunks(*batch)),
        write(db, schema, happened.rchunks(*batch + 1)),
    );
    forth.and(back).map_err(|error| format!("{error:?}"))?;

    let (loans, fees) = known_by_snapshots(happened);
    let now = noon() + TimeDelta::minutes(*minutes);
    let open_loans: BTreeMap<Uuid, OpenLoan> =
        loans.iter().filter_map(|(id, loan)| Some((*id, loan.open(horizon)?))).collect();
    let open_fees: BTreeMap<Uuid, OpenFee> =
        fees.iter().filter_map(|(id, fee)| Some((*id, fee.open(horizon)?))).collect();
    same("open loans", stored_loans(db, schema).await, open_loans.clone())?;
    same("open fees/fines", stored_fees(db, schema).await, open_fees.clone())?;
    same("wrong counters", patrons::drift(db, schema).await.unwrap(), Vec::new())?;
    let mut users: Vec<Uuid> = open_loans.values().map(|loan| loan.user).collect();
    users.extend(open_fees.values().map(|fee| fee.user));
    // At some instant, and at the very instants at which something gets overdue.
    let turns = open_loans.values().filter_map(OpenLoan::overdue_from);
    let before = turns.clone().map(|turn| turn - TimeDelta::milliseconds(1));
    let instants: Vec<_> = turns.clone().chain(before).chain([now]).collect();
    for (user, now) in users.iter().flat_map(|user| instants.iter().map(move |now| (*user, *now))) {
        let of_user = open_loans.iter().filter(|(_, loan)| loan.user == user);
        let owed = open_fees.values().filter(|fee| fee.user == user);
        let expected = Measures::of(of_user.map(|(id, loan)| (*id, loan)), owed, now);
        let state = patrons::state(db, schema, user, now).await.unwrap();
        same("measures", state.map(|state| state.measures), Some(expected))?;
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, stored: T, expected: T) -> Result<(), String> {
    if stored == expected {
        Ok(())
    } else {
        Err(format!("{what}: stored {stored:#?}, expected {expected:#?}"))
    }
}

async fn clear(db: &Db, schema: &Schema, horizon: Option<Horizon>) {
    let name = schema.name();
    for table in ["loan", "fee_fine", "patron_counter", "horizon"] {
        db.execute(AssertSqlSafe(format!("delete from {name}.{table}"))).await.unwrap();
    }
    if let Some(horizon) = horizon {
        let sql = format!("insert into {name}.horizon values ($1, $2)");
        let whole_tenant = sqlx::query(AssertSqlSafe(sql)).bind(Uuid::nil());
        whole_tenant.bind(horizon.as_bytes()).execute(db).await.unwrap();
    }
}

async fn write<'a>(
    db: &Db,
    schema: &Schema,
    batches: impl Iterator<Item = &'a [Event]>,
) -> Result<(), store::Error> {
    for batch in batches {
        let (loans, fees) = known_by_snapshots(batch);
        let mut tx = store::begin(db).await?;
        merge::merge(&mut tx, schema, &loans, &fees).await?;
        store::commit(tx).await?;
    }
    Ok(())
}

type LoanRow = (
    Uuid,
    Uuid,
    Option<DateTime<Utc>>,
    Option<i32>,
    Option<String>,
    bool,
    bool,
    bool,
    Option<DateTime<Utc>>,
);

async fn stored_loans(db: &Db, schema: &Schema) -> BTreeMap<Uuid, OpenLoan> {
    let sql = format!(
        "select loan_id, user_id, due_date, grace_duration, grace_interval, recall, lost,
                claimed_returned, overdue_from
           from {}.loan where is_open",
        schema.name()
    );
    let rows: Vec<LoanRow> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(db).await.unwrap();
    let read = |(id, user, due_date, duration, unit, recall, lost, claimed, overdue): LoanRow| {
        let unit = unit.and_then(|unit| patron_blocks::patron::GraceUnit::parse(&unit));
        let grace = duration.zip(unit);
        let loan = OpenLoan {
            user,
            due_date,
            grace: grace.map(|(duration, unit)| patron_blocks::patron::Grace { duration, unit }),
            recall,
            lost,
            claimed_returned: claimed,
        };
        assert_eq!(loan.overdue_from(), overdue, "{loan:?}");
        (id, loan)
    };
    rows.into_iter().map(read).collect()
}

async fn stored_fees(db: &Db, schema: &Schema) -> BTreeMap<Uuid, OpenFee> {
    let sql = format!(
        "select fee_fine_id, user_id, balance, loan_id, fee_fine_type_id
           from {}.fee_fine where is_open",
        schema.name()
    );
    type Row = (Uuid, Uuid, rust_decimal::Decimal, Option<Uuid>, Option<Uuid>);
    let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(db).await.unwrap();
    let read = |(id, user, balance, loan, fee_fine_type): Row| {
        (id, OpenFee { user, balance, loan, fee_fine_type })
    };
    rows.into_iter().map(read).collect()
}
