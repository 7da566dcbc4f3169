//! Housekeeping of a real service: the rows that it prunes, and the rows that it never prunes.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{
    clock::Clock,
    event::{Kind, TenantId},
    kafka::retention::{self, TopicRetention},
    services::{
        maintenance::{
            housekeeping::{Housekeeping, PrunedCounts},
            retention_limits::{Cutoffs, RetentionLimits},
        },
        tenants::TenantRegistry,
    },
    store::state::prune,
};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    payloads::{
        balance_change, check_out, due_date_change, in_envelope, loan_event, minutes_from_now, now,
    },
    world::{TENANT, World},
};

fn days_ago(days: i64) -> DateTime<Utc> {
    now() - TimeDelta::days(days)
}

/// Prunes the tenant once, with cutoffs of the story.
async fn prune_once(
    world: &World,
    inbox: DateTime<Utc>,
    tombstones: DateTime<Utc>,
) -> PrunedCounts {
    let tenants = Arc::new(TenantRegistry::new(world.db.clone(), Clock::system()));
    let tenant = tenants.find(&TenantId::parse(TENANT).unwrap()).await.unwrap().unwrap();
    let config = world.config.housekeeping.clone();
    let housekeeping = Housekeeping::new(world.db.clone(), tenants, Clock::system(), config);
    let past = Some(Cutoffs { inbox, tombstones });
    let limits =
        RetentionLimits { cutoffs: past, dead_letters: days_ago(90), discarded: days_ago(7) };
    housekeeping.prune_tenant(&tenant, limits, &CancellationToken::new()).await
}

/// A patron with a history of 200 days. A loan and a fee/fine are open; a loan and a fee/fine ended a
/// day later.
struct Patron {
    user: Uuid,
    open: [Uuid; 2],
    history: Vec<(Kind, Value)>,
}

impl Patron {
    fn new() -> Self {
        let [user, open_loan, returned, owed, paid] = [(); 5].map(|()| Uuid::new_v4());
        let soon = minutes_from_now(1000);
        let (then, later) = (days_ago(200), days_ago(199));
        let history = vec![
            (Kind::ItemCheckedOut, in_envelope(&check_out(user, open_loan, &soon), then)),
            (Kind::ItemCheckedOut, in_envelope(&check_out(user, returned, &soon), then)),
            (Kind::ItemCheckedIn, in_envelope(&loan_event(user, returned), later)),
            (
                Kind::FeeFineBalanceChanged,
                in_envelope(&balance_change(user, owed, None, 3.5), then),
            ),
            (
                Kind::FeeFineBalanceChanged,
                in_envelope(&balance_change(user, paid, None, 7.5), then),
            ),
            (
                Kind::FeeFineBalanceChanged,
                in_envelope(&balance_change(user, paid, None, 0.0), later),
            ),
        ];
        Self { user, open: [open_loan, owed], history }
    }

    async fn publish_history(&self, world: &World) {
        for (kind, payload) in &self.history {
            world.publish(*kind, payload).await;
        }
        world.until_committed().await;
    }

    async fn assert_open_records(&self, world: &World) {
        let summary = world.get_json(&format!("/user-summary/{}", self.user)).await;
        let ids = |list: &str, id: &str| {
            let list = summary[list].as_array().unwrap().iter();
            list.map(|entry| entry[id].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let [loan, fee] = self.open.map(|id| vec![id.to_string()]);
        assert_eq!((ids("openLoans", "loanId"), ids("openFeesFines", "feeFineId")), (loan, fee));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_records_stay_closed_and_open_ones_are_retained() {
    World::run(async |world| {
        let patron = Patron::new();
        patron.publish_history(world).await;
        let tomorrow = now() + TimeDelta::days(1);
        let deleted = prune_once(world, tomorrow, days_ago(100)).await;
        assert_eq!(
            deleted,
            PrunedCounts { inbox: 4, loans: 1, fees_fines: 1, ..PrunedCounts::default() }
        );
        let sizes = prune::table_sizes(&world.db, &world.schema).await.unwrap();
        let oldest = sizes.inbox_oldest.unwrap();
        assert!(now() - oldest < TimeDelta::minutes(2), "received at {oldest}");
        patron.assert_open_records(world).await;

        // The whole history is repeated, the old check-out first, and the old loan is renewed.
        patron.publish_history(world).await;
        patron.assert_open_records(world).await;
        let renewed = due_date_change(patron.user, patron.open[0], &minutes_from_now(2000), false);
        world.publish(Kind::LoanDueDateChanged, &in_envelope(&renewed, now())).await;
        let owed = balance_change(patron.user, patron.open[1], None, 2.0);
        world.publish(Kind::FeeFineBalanceChanged, &in_envelope(&owed, now())).await;
        world.until_committed().await;
        patron.assert_open_records(world).await;
        assert_eq!(prune_once(world, tomorrow, days_ago(100)).await.loans, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_check_out_after_pruning_opens_nothing() {
    World::run(async |world| {
        let patron = Patron::new();
        patron.publish_history(world).await;
        let deleted = prune_once(world, now() + TimeDelta::days(1), days_ago(100)).await;
        assert_eq!((deleted.loans, deleted.fees_fines), (1, 1));
        for n in [1, 4] {
            let (kind, payload) = &patron.history[n];
            world.publish(*kind, payload).await;
        }
        world.until_committed().await;
        patron.assert_open_records(world).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_prune_and_stop_promptly() {
    World::run(async |world| {
        let patron = Patron::new();
        patron.publish_history(world).await;
        let sql = format!(
            "update {}.inbox set received_at = received_at - interval '200 days'",
            world.schema.name()
        );
        sqlx::query(AssertSqlSafe(sql)).execute(&world.db).await.unwrap();
        world.log.set_retention_of_a_week().await;
        world.stop().await;
        world.config.housekeeping.interval = Duration::from_millis(300);
        world.start().await;
        world.start().await;
        world
            .until("the closed rows are deleted", async |world: &World| {
                let left = "select (select count(*) from {schema}.inbox)
                     + (select count(*) from {schema}.loan) + (select count(*) from {schema}.fee_fine)";
                world.count(left).await == 4
            })
            .await;
        let stopping = std::time::Instant::now();
        world.stop().await;
        assert!(stopping.elapsed() < Duration::from_secs(10), "took {:?}", stopping.elapsed());
        world.start().await;
        patron.assert_open_records(world).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_reports_the_topic_retention() {
    World::run(async |world| {
        let kafka = world.config.kafka.clone();
        let topic = |tenant: &str| world.log.topic(tenant, Kind::LoanClosed);
        assert!(matches!(
            retention::longest_retention(&kafka).await,
            Ok(TopicRetention::Unlimited { .. })
        ));
        world.log.set_retention_of_a_week().await;
        let retention = retention::longest_retention(&kafka).await.unwrap();
        assert_eq!(
            retention,
            TopicRetention::Limited(TimeDelta::days(8)),
            "the time span of a segment is added"
        );

        let make = async |tenant: &str, settings: &[(&str, &str)]| {
            world.log.create_topics_with(vec![topic(tenant)], settings).await;
        };
        let day = 86_400_000_i64;
        let (long, segment) = ((40 * day).to_string(), day.to_string());
        make("southlib", &[("retention.ms", &long), ("segment.ms", &segment)]).await;
        let retention = retention::longest_retention(&kafka).await.unwrap();
        assert_eq!(retention, TopicRetention::Limited(TimeDelta::days(41)));
        let past = |retention: &TopicRetention| {
            RetentionLimits::at(now(), &world.config.housekeeping, Some(retention)).cutoffs
        };
        let inbox = past(&retention).unwrap().inbox;
        assert!(inbox < days_ago(47), "a topic with a longer retention raises the limit");

        make("eastlib", &[("cleanup.policy", "compact,delete"), ("retention.ms", "1000")]).await;
        assert_eq!(retention::longest_retention(&kafka).await.unwrap(), retention);
        make("westlib", &[("cleanup.policy", "compact")]).await;
        let retention = retention::longest_retention(&kafka).await.unwrap();
        assert_eq!(
            (past(&retention), retention),
            (None, TopicRetention::Unlimited { topic: topic("westlib") })
        );

        let mut unreachable = kafka.clone();
        unreachable.broker_port = 9;
        assert!(retention::longest_retention(&unreachable).await.is_err(), "no broker responds");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_far_ahead_prunes_nothing_and_blocks_no_patron() {
    World::run(async |world| {
        let patron = Patron::new();
        patron.publish_history(world).await;
        let stored = "select (select count(*) from {schema}.inbox)
             + (select count(*) from {schema}.loan) + (select count(*) from {schema}.fee_fine)";
        let before = world.count(stored).await;
        let fast = Clock::fixed_at(now() + TimeDelta::days(120));
        let tenants = Arc::new(TenantRegistry::new(world.db.clone(), fast.clone()));
        tenants.find(&TenantId::parse(TENANT).unwrap()).await.unwrap().unwrap();
        let config = world.config.housekeeping.clone();
        let housekeeping = Housekeeping::new(world.db.clone(), tenants, fast, config);
        let week = TopicRetention::Limited(TimeDelta::days(7));
        housekeeping.run_round(Some(&week), &CancellationToken::new()).await;

        // A current event is new, whatever the fast clock shows.
        let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
        let out = check_out(user, loan, &minutes_from_now(1000));
        world.publish(Kind::ItemCheckedOut, &in_envelope(&out, now())).await;
        world.until_committed().await;
        let summary = world.get_json_or_null(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openLoans"][0]["loanId"], serde_json::json!(loan), "{summary}");
        patron.assert_open_records(world).await;
        assert_eq!(world.count(stored).await, before + 2);
        // The fast clock blocks no housekeeping round of the other instances.
        let blocked = "select count(*) from {schema}.housekeeping where started_at > now()";
        assert_eq!(world.count(blocked).await, 0);
    })
    .await;
}
