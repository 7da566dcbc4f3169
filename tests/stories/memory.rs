//! Memory stays within bounds, whatever the records contain.

use std::net::TcpListener;

use patron_blocks::event::Kind;
use uuid::Uuid;

use crate::support::{
    binary::{peak_memory, serve_on_port},
    log::OutgoingRecord,
    payloads::{check_out, in_envelope, minutes_from_now, now},
    story_database::pool,
    world::{TENANT, World},
};

/// The greatest memory of the service in this story, in MiB. The service itself needs about 60.
const MEMORY_MIB_MAX: u64 = 160;

const RECORDS: usize = 600;

/// Returns a port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_headers_stay_in_bounds_during_database_lock() {
    World::run(async |world| {
        world.stop().await;
        let (user, tomorrow) = (Uuid::new_v4(), minutes_from_now(1440));
        let large: String = (0..28_125).map(|_| Uuid::new_v4().simple().to_string()).collect();
        let payloads: Vec<Vec<u8>> = (0..RECORDS)
            .map(|_| in_envelope(&check_out(user, Uuid::new_v4(), &tomorrow), now()))
            .map(|payload| payload.to_string().into_bytes())
            .collect();
        // The records vary: a large header, a large header without a payload, and a large key.
        let drafts = payloads.iter().enumerate().map(|(n, payload)| {
            let (trace, key) = if n % 3 == 2 { ("", &*large) } else { (&*large, "") };
            let draft = OutgoingRecord {
                topic: world.log.topic(TENANT, Kind::ItemCheckedOut),
                headers: vec![("folio.tenantId", TENANT), ("trace", trace)],
                payload: (n % 3 != 1).then_some(&**payload),
                timestamp: None,
            };
            (format!("{n}{key}"), draft)
        });
        world.log.send_uncompressed(drafts).await;

        let lock = pool(&world.config.database.login);
        let mut locked = lock.begin().await.unwrap();
        let sql = format!("lock table {}.inbox in access exclusive mode", world.schema.name());
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *locked).await.unwrap();
        let port = free_port();
        let child = serve_on_port(world, port);
        world.use_instance(&format!("http://127.0.0.1:{port}"));
        let lock_waits = "select count(*) from pg_stat_activity
                      where datname = current_database() and wait_event_type = 'Lock'";
        world.until("a batch waits", async |w: &World| w.count(lock_waits).await > 0).await;
        let paused = async |w: &World| w.get("/admin/ready").await.1.contains("paused");
        let is_enough = async |w: &World| peak_memory(&child) >= MEMORY_MIB_MAX || paused(w).await;
        world.until("reading pauses", is_enough).await;
        assert!(peak_memory(&child) < MEMORY_MIB_MAX, "the memory of the service is limited");
        locked.rollback().await.unwrap();
        lock.close().await;

        world.until_committed().await;
        let peak = peak_memory(&child);
        assert!(peak < MEMORY_MIB_MAX, "{peak} MiB");
        let sql = "select count(*) from {schema}.inbox";
        assert_eq!(world.count(sql).await, RECORDS as i64 / 3 * 2);
    })
    .await;
}
