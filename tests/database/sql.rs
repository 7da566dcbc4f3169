//! The SQL: every statement can be prepared, and it merges and measures as the pure core does.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{
    blocks::Measures,
    event::{Event, TenantId, stamp::Horizon},
    patron::{Fee, Loan, OpenFee, OpenLoan, StateDelta},
    store::{
        self, Db, Schema, migrate,
        rebuild::{shadow, shadow_load},
        state::{
            merge, patrons,
            prune::{self, BlockRange, PruneTarget},
            rows::{self, SubjectTable},
        },
        tenants,
    },
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::{
    core::merging::fold_events,
    support::{
        history::{self, history_with_arrivals, noon},
        story_database::{pool, with_database},
    },
};

/// The number of random histories for the database.
const CASES: u32 = 150;

/// The number of histories that are loaded into a shadow, each into its own.
const SHADOW_CASES: u32 = 60;

/// Runs `work` with one migrated tenant and nothing else.
pub(crate) async fn with_tenant<T>(work: impl AsyncFnOnce(&Db, &Schema) -> T) -> T {
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
        assert_prepared(db, schema, store::statements::STATEMENTS).await;
        let shadow_schema = Schema::shadow(&TenantId::parse("northlib").unwrap(), Uuid::new_v4());
        let mut tx = store::begin(db).await.unwrap();
        shadow::create(&mut tx, &shadow_schema, None, noon(), None).await.unwrap();
        store::commit(tx).await.unwrap();
        assert_prepared(db, &shadow_schema, store::statements::SHADOW_STATEMENTS).await;
        shadow::remove(db, &shadow_schema).await.unwrap();
    })
    .await;
}

async fn assert_prepared(db: &Db, schema: &Schema, statements: &[&[&store::Statement]]) {
    for statement in statements.iter().copied().flatten() {
        let sql = sqlx::SqlSafeStr::into_sql_str(schema.sql(statement));
        let prepared = db.acquire().await.unwrap().prepare(sql).await;
        assert!(prepared.is_ok(), "{:?}: {statement:?}", prepared.err());
    }
}

#[tokio::test]
async fn migrations_may_be_repeated_and_run_concurrently() {
    with_tenant(async |db, schema| {
        let tenant = TenantId::parse("northlib").unwrap();
        let again = || migrate::tenant(db, &tenant, schema);
        let (a, b, c) = tokio::join!(again(), again(), migrate::module(db));
        a.and(b).and(c).unwrap();
    })
    .await;
}

/// The snapshot horizons of the tenant, and of two of the patrons.
#[derive(Debug, Clone)]
struct SnapshotHorizons {
    all: Option<Horizon>,
    patrons: [Option<Horizon>; 2],
}

impl SnapshotHorizons {
    /// Returns the snapshot horizon that applies to this owner.
    fn of(&self, owner: Option<Uuid>) -> Option<Horizon> {
        let n = [0, 1].into_iter().find(|n| owner == Some(history::patron(*n)));
        self.all.max(n.and_then(|n| self.patrons[usize::from(n)]))
    }

    fn of_loan(&self, loan: &Loan, no_loans_before: Option<Horizon>) -> Option<Horizon> {
        no_loans_before.max(self.of(loan.opening().map(|(_, user)| user)))
    }

    fn of_fee(&self, fee: &Fee) -> Option<Horizon> {
        self.of(fee.user.map(|(_, user)| user))
    }
}

/// A history in batches, for two writers in two orders.
#[derive(Debug)]
struct Case {
    ordered: Vec<Event>,
    arrived: Vec<Event>,
    batch: usize,
    /// An instant for the measures.
    now: DateTime<Utc>,
    /// The horizons of earlier complete snapshots.
    snapshot_horizons: SnapshotHorizons,
    /// After this number of events, rows before the horizon are pruned, and all events are repeated.
    pruning: Option<(usize, Horizon)>,
}

fn case() -> impl Strategy<Value = Case> {
    let horizon = || {
        (0..14_i64)
            .prop_map(|ms| Horizon::at(noon() - TimeDelta::days(3) + TimeDelta::milliseconds(ms)))
    };
    let pruning = proptest::option::weighted(0.6, (0..24_usize, horizon()));
    let optional = || proptest::option::weighted(0.3, horizon());
    let horizons = (optional(), [optional(), optional()]);
    (history_with_arrivals(24), 1..6_usize, -70_000..70_000_i64, horizons, pruning).prop_map(
        |((ordered, arrived), batch, minutes, (all, patrons), pruning)| Case {
            ordered,
            arrived,
            batch,
            now: noon() + TimeDelta::minutes(minutes),
            snapshot_horizons: SnapshotHorizons { all, patrons },
            pruning,
        },
    )
}

#[test]
fn concurrent_writers_merge_and_measure_like_the_core() {
    for_each_case(CASES, async |db, schema, case| merge_case(db, schema, case).await);
}

#[test]
fn shadow_parts_merge_to_the_complete_state() {
    for_each_case(SHADOW_CASES, async |db, schema, case| load_shadow(db, schema, case).await);
}

fn for_each_case(cases: u32, check: impl AsyncFn(&Db, &Schema, &Case) -> Result<(), String>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(with_tenant(async |db, schema| {
        let mut runner = TestRunner::new(Config { cases, ..Config::default() });
        let outcome = runner.run(&case(), |case| {
            let outcome = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(check(db, schema, &case))
            });
            outcome.map_err(TestCaseError::fail)
        });
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }));
}

/// Loads a history into a shadow, batch by batch, and merges the parts in small steps.
async fn load_shadow(db: &Db, schema: &Schema, case: &Case) -> Result<(), String> {
    let Case { ordered, arrived, batch, snapshot_horizons: horizons, .. } = case;
    clear(db, schema, horizons).await;
    let shadow = Schema::shadow(&TenantId::parse("northlib").unwrap(), Uuid::new_v4());
    let mut tx = store::begin(db).await.unwrap();
    shadow::create(&mut tx, &shadow, None, noon(), None).await.unwrap();
    for batch in arrived.chunks(*batch) {
        shadow_load::append(&mut tx, &shadow, &StateDelta::from_events(batch)).await.unwrap();
    }
    shadow_load::create_indexes(&mut tx, &shadow).await.unwrap();
    merge_shadow_parts::<Loan>(&mut tx, &shadow).await;
    merge_shadow_parts::<Fee>(&mut tx, &shadow).await;
    shadow_load::apply_horizons(&mut tx, &shadow).await.unwrap();
    store::commit(tx).await.unwrap();

    let (loans, fees) = fold_events(ordered);
    let before = StateDelta::from_events(ordered).loans_deleted_before;
    let is_open = |(id, loan): (&Uuid, &Loan)| {
        (*id, loan.as_open(horizons.of_loan(loan, before)).map(|open| open.user))
    };
    let open: Vec<_> = loans.iter().map(is_open).collect();
    assert_same("loans of the shadow", shadow_rows(db, &shadow, "loan").await, open)?;
    let is_open =
        |(id, fee): (&Uuid, &Fee)| (*id, fee.as_open(horizons.of_fee(fee)).map(|f| f.user));
    let open: Vec<_> = fees.iter().map(is_open).collect();
    assert_same("fees/fines of the shadow", shadow_rows(db, &shadow, "fee_fine").await, open)?;
    let mut tx = store::begin(db).await.unwrap();
    let ids: Vec<Uuid> = loans.keys().chain(fees.keys()).copied().collect();
    let rows = rows::load::<Loan>(&mut tx, &shadow, &ids).await.unwrap().into_iter();
    assert_same("state of loans", rows.map(|(id, row)| (id, row.state)).collect(), loans)?;
    let rows = rows::load::<Fee>(&mut tx, &shadow, &ids).await.unwrap().into_iter();
    assert_same("state of fees/fines", rows.map(|(id, row)| (id, row.state)).collect(), fees)?;
    drop(tx);
    shadow::remove(db, &shadow).await.unwrap();
    Ok(())
}

async fn merge_shadow_parts<T: SubjectTable>(tx: &mut store::Tx, shadow: &Schema) {
    loop {
        let ids = shadow_load::split_ids::<T>(tx, shadow, 2).await.unwrap();
        if ids.is_empty() {
            return;
        }
        shadow_load::merge_parts::<T>(tx, shadow, &ids).await.unwrap();
    }
}

/// Returns every row of a table, with the owner of an open one.
async fn shadow_rows(db: &Db, shadow: &Schema, table: &str) -> Vec<(Uuid, Option<Uuid>)> {
    let name = shadow.name();
    let sql = format!(
        "select {table}_id, case when is_open then user_id end from {name}.{table} order by 1"
    );
    sqlx::query_as(AssertSqlSafe(sql)).fetch_all(db).await.unwrap()
}

async fn merge_case(db: &Db, schema: &Schema, case: &Case) -> Result<(), String> {
    let Case { ordered, arrived, batch, now, snapshot_horizons: horizons, pruning } = case;
    clear(db, schema, horizons).await;
    let (remaining_loans, remaining_fees) = match pruning {
        Some((after, before)) => {
            let events = &ordered[..ordered.len().min(*after)];
            write_concurrently(db, schema, events, events, *batch).await?;
            prune(db, schema, events, horizons, *before).await?
        }
        None => Default::default(),
    };
    write_concurrently(db, schema, arrived, ordered, *batch).await?;

    // For a row that is created after pruning, the prune horizon applies too.
    let pruned = pruning.map(|(_, before)| before);
    let of = |remaining: &BTreeSet<Uuid>, id, horizon: Option<Horizon>| {
        if remaining.contains(id) { horizon } else { horizon.max(pruned) }
    };
    let (loans, fees) = fold_events(ordered);
    let no_loans_before = StateDelta::from_events(ordered).loans_deleted_before;
    let open_loans: BTreeMap<Uuid, OpenLoan> = loans
        .iter()
        .filter_map(|(id, loan)| {
            let horizon = horizons.of_loan(loan, no_loans_before);
            Some((*id, loan.as_open(of(&remaining_loans, id, horizon))?))
        })
        .collect();
    let open_fees: BTreeMap<Uuid, OpenFee> = fees
        .iter()
        .filter_map(|(id, fee)| {
            Some((*id, fee.as_open(of(&remaining_fees, id, horizons.of_fee(fee)))?))
        })
        .collect();
    assert_same("open loans", stored_loans(db, schema).await, open_loans.clone())?;
    assert_same("open fees/fines", stored_fees(db, schema).await, open_fees.clone())?;
    assert_same("wrong counters", patrons::list_drifted(db, schema).await.unwrap(), Vec::new())?;
    let groups = StateDelta::from_events(ordered).groups.into_iter();
    let groups = groups
        .filter_map(|(user, register)| register.map(|(stamp, group)| (user, (stamp.at(), group))))
        .collect();
    assert_same("groups", stored_groups(db, schema).await, groups)?;
    let mut users: Vec<Uuid> = open_loans.values().map(|loan| loan.user).collect();
    users.extend(open_fees.values().map(|fee| fee.user));
    // The instants are `now`, each moment at which a loan becomes overdue, and the millisecond before
    // it.
    let turns = open_loans.values().filter_map(OpenLoan::overdue_from);
    let before = turns.clone().map(|turn| turn - TimeDelta::milliseconds(1));
    let instants: Vec<_> = turns.clone().chain(before).chain([*now]).collect();
    for (user, now) in users.iter().flat_map(|user| instants.iter().map(move |now| (*user, *now))) {
        let of_user = open_loans.iter().filter(|(_, loan)| loan.user == user);
        let owed = open_fees.values().filter(|fee| fee.user == user);
        let expected = Measures::compute(of_user.map(|(id, loan)| (*id, loan)), owed, now);
        let all_days = patrons::load_recall_days(db, schema, user, now).await.unwrap();
        assert_same("recall days", &all_days, &expected.recall_days)?;
        // An evaluation loads only the longest one.
        let longest = expected.recall_days.last().copied().into_iter().collect();
        let expected = Measures { recall_days: longest, ..expected };
        let state = patrons::load_state(db, schema, user, now, false).await.unwrap();
        assert_same("measures", state.map(|state| state.measures), Some(expected))?;
    }
    Ok(())
}

/// Runs two writers at once, in two orders.
async fn write_concurrently(
    db: &Db,
    schema: &Schema,
    forward: &[Event],
    backward: &[Event],
    batch: usize,
) -> Result<(), String> {
    let (forward, backward) = tokio::join!(
        write(db, schema, forward.chunks(batch)),
        write(db, schema, backward.rchunks(batch + 1)),
    );
    forward.and(backward).map_err(|error| format!("{error:?}"))
}

/// Prunes ended loans and fees/fines according to the pure core, and returns the remaining ids.
async fn prune(
    db: &Db,
    schema: &Schema,
    events: &[Event],
    horizons: &SnapshotHorizons,
    before: Horizon,
) -> Result<(BTreeSet<Uuid>, BTreeSet<Uuid>), String> {
    let whole = BlockRange { from: 0, to: 1_000_000 };
    let mut tx = store::begin(db).await.unwrap();
    prune::record_horizon(&mut tx, schema, before).await.unwrap();
    for target in [PruneTarget::Loans(before), PruneTarget::FeesFines(before)] {
        prune::delete(&mut tx, schema, &target, whole).await.unwrap();
    }
    store::commit(tx).await.unwrap();
    let (mut loans, mut fees) = fold_events(events);
    let no_loans_before = StateDelta::from_events(events).loans_deleted_before;
    loans.retain(|_, loan| !loan.is_prunable(horizons.of_loan(loan, no_loans_before), before));
    fees.retain(|_, fee| !fee.is_prunable(horizons.of_fee(fee), before));
    let (loans, fees) = (loans.into_keys().collect(), fees.into_keys().collect());
    assert_same("retained loans", ids(db, schema, "loan").await, loans)?;
    assert_same("retained fees/fines", ids(db, schema, "fee_fine").await, fees)?;
    Ok((ids(db, schema, "loan").await, ids(db, schema, "fee_fine").await))
}

async fn ids(db: &Db, schema: &Schema, table: &str) -> BTreeSet<Uuid> {
    let sql = format!("select {table}_id from {}.{table}", schema.name());
    let ids: Vec<Uuid> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(db).await.unwrap();
    ids.into_iter().collect()
}

fn assert_same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    stored: T,
    expected: T,
) -> Result<(), String> {
    if stored == expected {
        Ok(())
    } else {
        Err(format!("{what}: stored {stored:#?}, expected {expected:#?}"))
    }
}

async fn clear(db: &Db, schema: &Schema, horizons: &SnapshotHorizons) {
    let name = schema.name();
    for table in
        ["loan", "fee_fine", "patron_counter", "patron", "patron_horizon", "tenant_horizon"]
    {
        db.execute(AssertSqlSafe(format!("delete from {name}.{table}"))).await.unwrap();
    }
    let sql = format!("update {name}.housekeeping set prune_horizon = null");
    db.execute(AssertSqlSafe(sql)).await.unwrap();
    let patrons = [0, 1].map(|n| (history::patron(n), horizons.patrons[usize::from(n)]));
    if let Some(horizon) = horizons.all {
        let sql = format!("insert into {name}.tenant_horizon (horizon) values ($1)");
        let insert = sqlx::query(AssertSqlSafe(sql)).bind(horizon.as_bytes());
        insert.execute(db).await.unwrap();
    }
    for (of, horizon) in patrons {
        if let Some(horizon) = horizon {
            let sql = format!("insert into {name}.patron_horizon values ($1, $2)");
            let insert = sqlx::query(AssertSqlSafe(sql)).bind(of);
            insert.bind(horizon.as_bytes()).execute(db).await.unwrap();
        }
    }
}

async fn write<'a>(
    db: &Db,
    schema: &Schema,
    batches: impl Iterator<Item = &'a [Event]>,
) -> Result<(), store::Error> {
    for batch in batches {
        let delta = StateDelta::from_events(batch);
        // Ingest closes loans in the same way.
        let tenant = TenantId::parse("northlib").unwrap();
        let (mut next, before) = (Some(Uuid::nil()), delta.loans_deleted_before);
        while let (Some(from), Some(before)) = (next, before) {
            let mut tx = store::begin(db).await?;
            tenants::lock_exclusive(&mut tx, &tenant).await?;
            next = merge::close_loans_before(&mut tx, schema, before, from, 2).await?;
            store::commit(tx).await?;
        }
        let mut tx = store::begin(db).await?;
        match delta.loans_deleted_before {
            Some(_) => tenants::lock_exclusive(&mut tx, &tenant).await?,
            None => drop(tenants::lock_shared(&mut tx, &tenant).await?),
        }
        merge::apply(&mut tx, schema, &delta).await?;
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
        let unit = unit.and_then(|unit| patron_blocks::event::GraceUnit::parse(&unit));
        let grace = duration.zip(unit);
        let loan = OpenLoan {
            user,
            due_date,
            grace: grace.map(|(duration, unit)| patron_blocks::event::Grace { duration, unit }),
            recall,
            lost,
            claimed_returned: claimed,
        };
        assert_eq!(loan.overdue_from(), overdue, "{loan:?}");
        (id, loan)
    };
    rows.into_iter().map(read).collect()
}

async fn stored_groups(
    db: &Db,
    schema: &Schema,
) -> BTreeMap<Uuid, (DateTime<Utc>, Option<String>)> {
    let sql = format!("select user_id, topic_group_at, topic_group from {}.patron", schema.name());
    let rows: Vec<(Uuid, DateTime<Utc>, Option<String>)> =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(db).await.unwrap();
    rows.into_iter().map(|(user, at, group)| (user, (at, group))).collect()
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
