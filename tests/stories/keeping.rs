//! Housekeeping of a real service: what is forgotten, and what never is.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{
    clock::Clock,
    event::{Kind, TenantId},
    flow::{
        housekeeping::{Gone, Housekeeping, Limits, Past},
        tenants::Tenants,
    },
    kafka::retention::{self, Held},
    store::prune,
};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    facts::{about, check_out, due, enveloped, fee, minutes_from_now, now},
    world::{TENANT, World},
};

fn days_ago(days: i64) -> DateTime<Utc> {
    now() - TimeDelta::days(days)
}

/// Housekeeping with limits of the story's own.
async fn tidy(world: &World, inbox: DateTime<Utc>, tombstones: DateTime<Utc>) -> Gone {
    let tenants = Arc::new(Tenants::new(world.db.clone(), Clock::system()));
    let tenant = tenants.find(&TenantId::parse(TENANT).unwrap()).await.unwrap().unwrap();
    let config = world.config.housekeeping.clone();
    let housekeeping = Housekeeping::new(world.db.clone(), tenants, Clock::system(), config);
    let past = Some(Past { inbox, tombstones });
    let limits = Limits { past, dead_letters: days_ago(90) };
    housekeeping.tidy(&tenant, limits, &CancellationToken::new()).await
}

/// A patron whose history began 200 days ago: one loan and one fee open since, one loan returned and
/// one fee paid the day after.
struct Patron {
    user: Uuid,
    open: [Uuid; 2],
    history: Vec<(Kind, Value)>,
}

impl Patron {
    fn new() -> Self {
        let [user, kept, returned, owed, paid] = [(); 5].map(|()| Uuid::new_v4());
        let soon = minutes_from_now(1000);
        let (then, later) = (days_ago(200), days_ago(199));
        let history = vec![
            (Kind::ItemCheckedOut, enveloped(&check_out(user, kept, &soon), then)),
            (Kind::ItemCheckedOut, enveloped(&check_out(user, returned, &soon), then)),
            (Kind::ItemCheckedIn, enveloped(&about(user, returned), later)),
            (Kind::FeeFineBalanceChanged, enveloped(&fee(user, owed, None, 3.5), then)),
            (Kind::FeeFineBalanceChanged, enveloped(&fee(user, paid, None, 7.5), then)),
            (Kind::FeeFineBalanceChanged, enveloped(&fee(user, paid, None, 0.0), later)),
        ];
        Self { user, open: [kept, owed], history }
    }

    async fn lives(&self, world: &World) {
        for (kind, payload) in &self.history {
            world.publish(*kind, payload).await;
        }
        world.settled().await;
    }

    async fn has_what_is_open(&self, world: &World) {
        let summary = world.read(&format!("/user-summary/{}", self.user)).await;
        let ids = |list: &str, id: &str| {
            let list = summary[list].as_array().unwrap().iter();
            list.map(|entry| entry[id].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let [loan, fee] = self.open.map(|id| vec![id.to_string()]);
        assert_eq!((ids("openLoans", "loanId"), ids("openFeesFines", "feeFineId")), (loan, fee));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_long_ago_is_forgotten_and_stays_ended_and_what_is_open_is_kept() {
    World::tell(async |world| {
        let patron = Patron::new();
        patron.lives(world).await;
        let tomorrow = now() + TimeDelta::days(1);
        let gone = tidy(world, tomorrow, days_ago(100)).await;
        assert_eq!(gone, Gone { inbox: 4, loans: 1, fees_fines: 1, dead_letters: 0 });
        let sizes = prune::sizes(&world.db, &world.schema).await.unwrap();
        let oldest = sizes.inbox_oldest.unwrap();
        assert!(now() - oldest < TimeDelta::minutes(2), "came {oldest}");
        patron.has_what_is_open(world).await;

        // All comes again, the old check-out first, and the old loan is renewed.
        patron.lives(world).await;
        patron.has_what_is_open(world).await;
        let renewed = due(patron.user, patron.open[0], &minutes_from_now(2000), false);
        world.publish(Kind::LoanDueDateChanged, &enveloped(&renewed, now())).await;
        let owed = fee(patron.user, patron.open[1], None, 2.0);
        world.publish(Kind::FeeFineBalanceChanged, &enveloped(&owed, now())).await;
        world.settled().await;
        patron.has_what_is_open(world).await;
        assert_eq!(tidy(world, tomorrow, days_ago(100)).await.loans, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phantom_stays_away_even_if_only_the_old_check_out_comes_again() {
    World::tell(async |world| {
        let patron = Patron::new();
        patron.lives(world).await;
        let gone = tidy(world, now() + TimeDelta::days(1), days_ago(100)).await;
        assert_eq!((gone.loans, gone.fees_fines), (1, 1));
        for n in [1, 4] {
            let (kind, payload) = &patron.history[n];
            world.publish(*kind, payload).await;
        }
        world.settled().await;
        patron.has_what_is_open(world).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_do_it_by_themselves_and_stop_at_once() {
    World::tell(async |world| {
        let patron = Patron::new();
        patron.lives(world).await;
        let sql = format!(
            "update {}.inbox set received_at = received_at - interval '200 days'",
            world.schema.name()
        );
        sqlx::query(AssertSqlSafe(sql)).execute(&world.db).await.unwrap();
        world.log.hold_for_a_week().await;
        world.stop().await;
        world.config.housekeeping.interval = Duration::from_millis(300);
        world.start().await;
        world.start().await;
        world
            .until("what ended is gone", async |world: &World| {
                let left = "select (select count(*) from {schema}.inbox)
                     + (select count(*) from {schema}.loan) + (select count(*) from {schema}.fee_fine)";
                world.count(left).await == 4
            })
            .await;
        let stopping = std::time::Instant::now();
        world.stop().await;
        assert!(stopping.elapsed() < Duration::from_secs(10), "took {:?}", stopping.elapsed());
        world.start().await;
        patron.has_what_is_open(world).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_tells_how_long_topics_hold_a_record() {
    World::tell(async |world| {
        let kafka = world.config.kafka.clone();
        let topic = |tenant: &str| world.log.topic(tenant, Kind::LoanClosed);
        assert!(matches!(retention::longest(&kafka).await, Ok(Held::ForEver { .. })));
        world.log.hold_for_a_week().await;
        let held = retention::longest(&kafka).await.unwrap();
        assert_eq!(held, Held::For(TimeDelta::days(8)), "a segment's span is held on top");

        let make = async |tenant: &str, settings: &[(&str, &str)]| {
            world.log.make_with(vec![topic(tenant)], settings).await;
        };
        let day = 86_400_000_i64;
        let (long, segment) = ((40 * day).to_string(), day.to_string());
        make("southlib", &[("retention.ms", &long), ("segment.ms", &segment)]).await;
        let held = retention::longest(&kafka).await.unwrap();
        assert_eq!(held, Held::For(TimeDelta::days(41)));
        let past = |held: &Held| Limits::at(now(), &world.config.housekeeping, Some(held)).past;
        let inbox = past(&held).unwrap().inbox;
        assert!(
            inbox < days_ago(47),
            "a topic that holds longer than the setting raises the limit"
        );

        make("eastlib", &[("cleanup.policy", "compact,delete"), ("retention.ms", "1000")]).await;
        assert_eq!(retention::longest(&kafka).await.unwrap(), held);
        make("westlib", &[("cleanup.policy", "compact")]).await;
        let held = retention::longest(&kafka).await.unwrap();
        assert_eq!((past(&held), held), (None, Held::ForEver { topic: topic("westlib") }));

        let mut away = kafka.clone();
        away.bootstrap = "127.0.0.1:9".to_owned();
        assert!(retention::longest(&away).await.is_err(), "nobody answers");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_far_ahead_forgets_nothing_and_poisons_nothing() {
    World::tell(async |world| {
        let patron = Patron::new();
        patron.lives(world).await;
        let stored = "select (select count(*) from {schema}.inbox)
             + (select count(*) from {schema}.loan) + (select count(*) from {schema}.fee_fine)";
        let before = world.count(stored).await;
        let fast = Clock::standing_at(now() + TimeDelta::days(120));
        let tenants = Arc::new(Tenants::new(world.db.clone(), fast.clone()));
        tenants.find(&TenantId::parse(TENANT).unwrap()).await.unwrap().unwrap();
        let config = world.config.housekeeping.clone();
        let housekeeping = Housekeeping::new(world.db.clone(), tenants, fast, config);
        let week = Held::For(TimeDelta::days(7));
        housekeeping.round(Some(&week), &CancellationToken::new()).await;

        // What comes now is new, whatever that clock says.
        let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
        let out = check_out(user, loan, &minutes_from_now(1000));
        world.publish(Kind::ItemCheckedOut, &enveloped(&out, now())).await;
        world.settled().await;
        let summary = world.read_whatever_there_is(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openLoans"][0]["loanId"], serde_json::json!(loan), "{summary}");
        patron.has_what_is_open(world).await;
        assert_eq!(world.count(stored).await, before + 2);
        // Nor does it keep the others from their rounds.
        let blocked = "select count(*) from {schema}.housekeeping where begun_at > now()";
        assert_eq!(world.count(blocked).await, 0);
    })
    .await;
}
