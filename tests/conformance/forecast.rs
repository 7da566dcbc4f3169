//! The forecast: `patron-blocks-insight`.

use patron_blocks::blocks::Measure;
use serde_json::json;
use uuid::Uuid;

use super::run;
use crate::support::{payloads::minutes_from_now, world::World};

#[tokio::test(flavor = "multi_thread")]
async fn forecasts_require_an_instant() {
    run("forecasts_require_an_instant", async |api| {
        let until = minutes_from_now(60);
        let path = format!("/patron-blocks/forecast?until={until}");
        let empty = api.get(&path).await.json();
        assert_eq!((&empty["patrons"], &empty["totalRecords"]), (&json!([]), &json!(0)));
        let csv = api.get(&format!("{path}&format=csv")).await;
        assert_eq!((csv.status, csv.content_type.as_str()), (200, "text/csv"));
        let invalid = api.get("/patron-blocks/forecast").await.validation_error();
        assert_eq!(invalid[2..], ["until", "null"]);
        let invalid = api.get("/patron-blocks/forecast?until=today").await.validation_error();
        assert_eq!(invalid[1..], ["-1", "until", "today"]);
        assert_eq!(api.get(&format!("{path}&offset=x")).await.status, 400);

        // While the instance computes a forecast, another one has to wait.
        let world = api.world;
        world.add_limit(Uuid::new_v4(), Measure::OverdueItems, 0.0).await;
        let mut tx = patron_blocks::store::begin(&world.db).await.unwrap();
        let lock = format!("lock table {}.loan in access exclusive mode", world.schema.name());
        sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
        let busy = async {
            let waiting = "select count(*) from pg_stat_activity
                            where datname = current_database() and wait_event_type = 'Lock'";
            let waits = async |world: &World| world.count(waiting).await > 0;
            world.until("a forecast waits", waits).await;
            let other = format!("/patron-blocks/forecast?until={}", minutes_from_now(120));
            api.get(&other).await.assert_is(503, "the service is busy with other forecasts");
            tx.rollback().await.unwrap();
        };
        let (first, ()) = tokio::join!(api.get(&path), busy);
        assert_eq!(first.status, 200, "{first:?}");
    })
    .await;
}
