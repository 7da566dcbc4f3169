//! Limits in the console that two operators change at once.

use patron_blocks::blocks::Measure;
use reqwest::StatusCode;
use sqlx::AssertSqlSafe;
use tokio::join;
use uuid::Uuid;

use super::console_acts::{After, REASON, log, submit};
use crate::support::world::World;

/// Sends a form for the same limit twice at once. Both operators have seen the same limits before the first one writes.
async fn change_twice(world: &World, group: Uuid, value: &str) -> [After; 2] {
    let (group, condition) = (group.to_string(), Measure::ChargedOut.condition_id().to_string());
    let form =
        [("group", &*group), ("condition", &*condition), ("value", value), ("reason", REASON)];
    let mut lock = world.db.begin().await.unwrap();
    let statement =
        format!("lock table {}.patron_block_limits in exclusive mode", world.schema.name());
    sqlx::query(AssertSqlSafe(statement)).execute(&mut *lock).await.unwrap();
    let waiting = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                    where d.datname = current_database() and not l.granted";
    let release = async {
        world.until("both operators wait", async |w: &World| w.count(waiting).await == 2).await;
        lock.rollback().await.unwrap();
    };
    let (one, other, ()) =
        join!(submit(world, "limits", &form), submit(world, "limits", &form), release);
    let mut both = [one, other];
    both.sort_by_key(|after| after.status);
    both
}

#[tokio::test(flavor = "multi_thread")]
async fn second_of_two_operators_reads_what_the_first_has_done() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        let limits = "select count(*) from {schema}.patron_block_limits";
        for (value, sentence, expected) in [
            ("3", "Another operator has set this limit since. Nothing was done.", 1),
            ("", "Another operator has removed this limit since. Nothing was done.", 0),
        ] {
            let [first, second] = change_twice(world, group, value).await;
            assert_eq!(
                (first.status, second.status),
                (StatusCode::SEE_OTHER, StatusCode::CONFLICT)
            );
            assert!(second.body.contains(sentence), "{}", second.body);
            assert_eq!(world.count(limits).await, expected);
        }
        let ends: Vec<(String, String)> =
            log(world).await.into_iter().map(|(action, _, end)| (action, end)).collect();
        for action in ["create-limit", "delete-limit"] {
            let mut ends: Vec<&str> =
                ends.iter().filter(|(name, _)| name == action).map(|(_, end)| &**end).collect();
            ends.sort_unstable();
            assert_eq!(ends, ["done", "failed"], "{action}");
        }
    })
    .await;
}
