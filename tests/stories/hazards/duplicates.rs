//! H13 to H16: facts that a producer, two transports, a replay or storage repeats.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use patron_blocks::{
    event::{Kind, Stamp, stamp::Horizon},
    patron::{Balance, Fee, Loan, Scope},
    store,
    store::state::merge,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{
    NONE, SHAPES, Shape, assert_nothing_open, balances, minutes_ago, only_loan, open_entries,
    publish_at, strict_group,
};
use crate::support::{
    payloads::{
        balance_change, check_out, due_date_change, entity_change, in_envelope, loan_event,
        minutes_from_now, storage_loan,
    },
    world::World,
};

const OUT: Kind = Kind::ItemCheckedOut;
const DUE: Kind = Kind::LoanDueDateChanged;
const FEE: Kind = Kind::FeeFineBalanceChanged;

/// Returns the events of a patron's hour, with every kind of business event. Two loans stay open: one
/// recalled and lost, one claimed returned. The patron owes 4.5.
fn hour_of_events(user: Uuid) -> Vec<(i64, Kind, Value)> {
    let [lost, claimed, returned, closed, paid, owed] = std::array::from_fn(|_| Uuid::new_v4());
    let (first, moved) = (minutes_from_now(60), minutes_from_now(600));
    vec![
        (60, OUT, check_out(user, lost, &first)),
        (59, OUT, check_out(user, claimed, &first)),
        (58, OUT, check_out(user, returned, &first)),
        (57, OUT, check_out(user, closed, &first)),
        (56, DUE, due_date_change(user, lost, &moved, true)),
        (55, Kind::ItemCheckedIn, loan_event(user, returned)),
        (54, Kind::ItemDeclaredLost, loan_event(user, closed)),
        (53, Kind::LoanClosed, loan_event(user, closed)),
        (52, Kind::ItemClaimedReturned, loan_event(user, claimed)),
        (51, Kind::ItemAgedToLost, loan_event(user, lost)),
        (50, FEE, balance_change(user, paid, Some(lost), 10.0)),
        (49, FEE, balance_change(user, owed, None, 9.0)),
        (48, FEE, json!({ "feeFineId": paid, "balance": 0.0 })),
        (47, FEE, balance_change(user, owed, None, 4.5)),
    ]
}

/// Checks the state after [`hour_of_events`].
async fn assert_after_hour(world: &World, user: Uuid, why: &str) {
    let loans = open_entries(world, user, "openLoans").await;
    let count = |flag: &str| loans.iter().filter(|loan| loan[flag] == json!(true)).count();
    let flags = ["recall", "itemLost", "itemClaimedReturned"].map(count);
    assert_eq!((loans.len(), flags), (2, [1, 1, 1]), "{why}");
    assert_eq!(balances(world, user).await, ["4.5"], "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn h13_republished_payload_without_id_changes_nothing() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        for (ago, kind, payload) in hour_of_events(user) {
            // Twice at once, and again half a minute later.
            let again = minutes_ago(ago) + TimeDelta::seconds(30);
            for at in [minutes_ago(ago), minutes_ago(ago), again] {
                publish_at(world, Shape::Bare, at, kind, &payload).await;
            }
        }
        world.until_committed().await;
        assert_after_hour(world, user, "each record is published three times").await;
        assert_eq!(world.count("select count(*) from {schema}.inbox").await, 3 * 14);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h14_enveloped_and_bare_duplicates_count_once() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        for (ago, kind, payload) in hour_of_events(user).into_iter().rev() {
            let envelope = in_envelope(&payload, minutes_ago(ago));
            for _ in 0..2 {
                world.publish(kind, &envelope).await;
            }
            let later = minutes_ago(ago) + TimeDelta::milliseconds(40);
            publish_at(world, Shape::Bare, later, kind, &payload).await;
        }
        world.until_committed().await;
        assert_after_hour(world, user, "over two transports, in reverse order").await;
        let known = world.count("select count(*) from {schema}.inbox").await;
        assert_eq!(known, 2 * 14, "a repeated envelope is a duplicate");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h15_full_replay_reaches_the_same_results() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let (user, former_borrower) =
            (world.users.add_patron(group), world.users.add_patron(group));
        for (n, (ago, kind, payload)) in hour_of_events(user).into_iter().enumerate() {
            publish_at(world, SHAPES[n % 2], minutes_ago(ago), kind, &payload).await;
        }
        // The loan and the fee/fine of this patron have ended, and only storage reported the end.
        let (loan, owed) = (Uuid::new_v4(), Uuid::new_v4());
        let out = check_out(former_borrower, loan, &minutes_from_now(60));
        publish_at(world, Shape::Bare, minutes_ago(60), OUT, &out).await;
        publish_at(
            world,
            Shape::Bare,
            minutes_ago(60),
            FEE,
            &balance_change(former_borrower, owed, None, 3.0),
        )
        .await;
        world.until_committed().await;
        assert_ne!(world.block_flags(former_borrower).await, NONE);
        publish_storage_change(
            world,
            "DELETED",
            &storage_loan(former_borrower, loan, &minutes_from_now(60)),
            50,
        )
        .await;
        let paid = Balance { amount: Decimal::ZERO, loan: None };
        let paid = Fee { balance: Some((storage_stamp(FEE, 50), paid)), ..Fee::default() };
        merge_state(world, BTreeMap::new(), [(owed, paid)].into()).await;
        world.until_committed().await;
        assert_after_hour(world, user, "before").await;
        assert_nothing_open(world, former_borrower, "before").await;
        let inbox = "select count(*) from {schema}.inbox";
        let received = world.count(inbox).await;

        // The group, the positions and the inbox are lost. The tombstones of one patron are pruned, and
        // a horizon replaces them.
        world.stop().await;
        delete_group(world).await;
        execute_sql(world, "delete from {schema}.ingest_position").await;
        execute_sql(world, "delete from {schema}.inbox").await;
        execute_sql(world, &format!("delete from {{schema}}.loan where loan_id = '{loan}'")).await;
        execute_sql(
            world,
            &format!("delete from {{schema}}.fee_fine where fee_fine_id = '{owed}'"),
        )
        .await;
        insert_horizon(world, Scope::Patron(former_borrower), 30).await;
        world.start().await;
        world
            .until("all records are read again", async |w: &World| w.count(inbox).await == received)
            .await;
        assert_after_hour(world, user, "after").await;
        assert_nothing_open(world, former_borrower, "the horizon closes the open records").await;
    })
    .await;
}

/// Deletes the consumer group with its offsets, once the broker knows that the group is empty.
async fn delete_group(world: &World) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", world.config.kafka.bootstrap_servers());
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let group = world.config.kafka.environment().consumer_group();
    world
        .until("the consumer group is deleted", async |_: &World| {
            let groups = admin.delete_groups(&[&group], &AdminOptions::new()).await;
            groups.unwrap().into_iter().all(|group| group.is_ok())
        })
        .await;
}

async fn execute_sql(world: &World, sql: &str) {
    let sql = sql.replace("{schema}", world.schema.name());
    sqlx::query(AssertSqlSafe(sql)).execute(&world.db).await.unwrap();
}

/// Inserts a snapshot horizon of this many minutes ago.
async fn insert_horizon(world: &World, of: Scope, minutes: i64) {
    let table = if of == Scope::Tenant { "tenant_horizon" } else { "patron_horizon" };
    let columns = if of == Scope::Tenant { "(horizon) values ($1)" } else { "values ($2, $1)" };
    let sql = format!("insert into {}.{table} {columns}", world.schema.name());
    let horizon = Horizon::at(minutes_ago(minutes));
    let query = sqlx::query(AssertSqlSafe(sql)).bind(horizon.as_bytes());
    let query = if let Scope::Patron(user) = of { query.bind(user) } else { query };
    query.execute(&world.db).await.unwrap();
}

/// Returns the stamp of a storage event of this many minutes ago.
fn storage_stamp(kind: Kind, minutes: i64) -> Stamp {
    Stamp::from_envelope(minutes_ago(minutes), kind, Uuid::new_v4())
}

/// Merges rows of a snapshot that no topic contains.
async fn merge_state(world: &World, loans: BTreeMap<Uuid, Loan>, fees: BTreeMap<Uuid, Fee>) {
    let mut tx = store::begin(&world.db).await.unwrap();
    merge::merge(&mut tx, &world.schema, &loans, &fees).await.unwrap();
    store::commit(tx).await.unwrap();
}

/// Publishes a storage change of this many minutes ago.
async fn publish_storage_change(world: &World, what: &str, loan: &Value, minutes: i64) {
    world.publish(Kind::StoredLoan, &entity_change(what, loan, minutes_ago(minutes))).await;
}

/// Storage publishes its open loans half an hour ago, and older and newer events arrive. A horizon,
/// which no topic contains, marks the snapshot as complete.
#[tokio::test(flavor = "multi_thread")]
async fn h16_snapshot_merges_with_older_and_newer_events() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let [corrected, renewed, reopened, ended, phantom, fresh] =
            std::array::from_fn(|_| (world.users.add_patron(group), Uuid::new_v4()));
        let (first, second, third) =
            (minutes_from_now(60), minutes_from_now(600), minutes_from_now(6000));
        let bare = Shape::Bare;
        for (user, loan) in [corrected, renewed, reopened, ended, phantom] {
            publish_at(world, bare, minutes_ago(60), OUT, &check_out(user, loan, &first)).await;
        }
        let (user, loan) = reopened;
        publish_at(world, bare, minutes_ago(50), Kind::LoanClosed, &loan_event(user, loan)).await;
        let (user, loan) = renewed;
        publish_at(world, bare, minutes_ago(20), DUE, &due_date_change(user, loan, &third, false))
            .await;
        world.until_committed().await;
        assert_nothing_open(world, reopened.0, "the events close the loan").await;

        // The snapshot contains neither the phantom loan nor the fresh loan.
        insert_horizon(world, Scope::Tenant, 35).await;
        let open_there = [corrected, renewed, reopened, ended];
        for (user, loan) in open_there {
            publish_storage_change(world, "UPDATED", &storage_loan(user, loan, &second), 30).await;
        }
        merge_state(world, [(phantom.1, Loan::default())].into(), BTreeMap::new()).await;

        let (user, loan) = corrected;
        publish_at(world, bare, minutes_ago(40), DUE, &due_date_change(user, loan, &third, true))
            .await;
        publish_at(world, bare, minutes_ago(40), Kind::ItemDeclaredLost, &loan_event(user, loan))
            .await;
        let (user, loan) = ended;
        publish_at(world, bare, minutes_ago(10), Kind::ItemCheckedIn, &loan_event(user, loan))
            .await;
        let (user, loan) = phantom;
        publish_at(world, bare, minutes_ago(60), OUT, &check_out(user, loan, &first)).await;
        let (user, loan) = fresh;
        publish_at(world, bare, minutes_ago(33), OUT, &check_out(user, loan, &first)).await;
        world.until_committed().await;
        let without_flags = |due_date: &str| (due_date.to_owned(), [false; 3]);
        assert_eq!(
            only_loan(world, corrected.0).await,
            without_flags(&second),
            "older events change nothing"
        );
        assert_eq!(only_loan(world, renewed.0).await, without_flags(&third), "newer events apply");
        assert_eq!(
            only_loan(world, reopened.0).await,
            without_flags(&second),
            "storage reopens the loan"
        );
        assert_eq!(only_loan(world, fresh.0).await, without_flags(&first), "within the margin");
        assert_nothing_open(world, ended.0, "the loan was closed after the snapshot").await;
        assert_nothing_open(world, phantom.0, "the snapshot lacks the loan").await;
    })
    .await;
}
