//! The origin of a patron group: an answer of the users module or a record of the users topic, whichever
//! is newer.

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{blocks::Measure, clock::Clock, event::Kind};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    payloads::{check_out, entity_change, minutes_from_now, now, user_record, with_member},
    users_stub::UsersBehavior,
    world::World,
};

const NONE: [[bool; 3]; 0] = [];
const ALL: [[bool; 3]; 1] = [[true; 3]];

/// Adds a group in which a single loan blocks every action, and returns it with a group without limits.
async fn strict_and_lenient_groups(world: &World) -> (Uuid, Uuid) {
    let strict = Uuid::new_v4();
    world.add_limit(strict, Measure::ChargedOut, 0.0).await;
    (strict, Uuid::new_v4())
}

/// Returns a patron with one loan and, in the users module, this group.
async fn borrower(world: &World, group: impl Into<Option<Uuid>>) -> Uuid {
    let user = world.users.add_patron(group);
    let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
    world.publish(Kind::ItemCheckedOut, &out).await;
    world.until_committed().await;
    user
}

/// Publishes a record of the users topic.
async fn publish_group(
    world: &World,
    user: Uuid,
    group: impl Into<Option<Uuid>>,
    at: DateTime<Utc>,
) {
    world.publish(Kind::StoredUser, &entity_change("UPDATED", &user_record(user, group), at)).await;
    world.until_committed().await;
}

fn long_ago() -> DateTime<Utc> {
    now() - TimeDelta::days(300)
}

/// Sets the default cache ages, and a users timeout so long that a request to a silent module never gets
/// an evaluation.
fn default_cache_ages(config: &mut patron_blocks::config::Config) {
    config.okapi.patron_group_ttl = TimeDelta::seconds(10);
    config.okapi.patron_group_stale = TimeDelta::seconds(60);
    config.okapi.users_timeout = std::time::Duration::from_secs(30);
}

/// Some changes never reach the topic: a deletion in bulk, a record with a failed publication.
#[tokio::test(flavor = "multi_thread")]
async fn topic_group_expires_and_is_requested_again() {
    World::run_with(default_cache_ages, async |world| {
        let (strict, lenient) = strict_and_lenient_groups(world).await;
        let moved = borrower(world, lenient).await;
        let deleted = borrower(world, strict).await;
        let blocked = borrower(world, strict).await;
        let unchanged = borrower(world, strict).await;
        for user in [moved, deleted, unchanged] {
            publish_group(world, user, strict, long_ago()).await;
        }
        publish_group(world, blocked, lenient, long_ago()).await;
        world.users.remove_user(deleted);
        // No evaluation waits for the answer.
        world.users.set_behavior(UsersBehavior::NoResponse);
        for user in [moved, deleted, unchanged] {
            assert_eq!(
                (world.block_flags(user).await, world.evaluation_source(user).await),
                (ALL.to_vec(), "told-group".to_owned())
            );
        }
        world.stop().await;
        world.users.set_behavior(UsersBehavior::Normal);
        world.start().await;
        for (user, expected) in
            [(moved, NONE.to_vec()), (deleted, NONE.to_vec()), (blocked, ALL.to_vec())]
        {
            world
                .until("the evaluation uses the current group", async |world: &World| {
                    world.block_flags(user).await == expected
                })
                .await;
        }
        assert_eq!(world.evaluation_source(moved).await, "group-from-cache");
        assert_eq!(world.evaluation_source(deleted).await, "group-none");
        // An answer has confirmed the group, so evaluations continue to use it at once.
        let asked = "select count(*) from {schema}.patron where users_group is not null";
        assert_eq!(world.evaluation_source(unchanged).await, "told-group");
        world
            .until("the groups are verified", async |world: &World| world.count(asked).await == 3)
            .await;
        world
            .execute_sql(
                "update {schema}.patron set users_group_at = users_group_at - interval '2 days'",
            )
            .await;
        world.users.set_behavior(UsersBehavior::NoResponse);
        for _ in 0..3 {
            assert_eq!(
                world.evaluate_through(&world.users.url(), unchanged).await,
                ("told-group".to_owned(), 1)
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_topic_group_needs_no_request() {
    World::run_with(default_cache_ages, async |world| {
        let (strict, lenient) = strict_and_lenient_groups(world).await;
        let user = borrower(world, lenient).await;
        publish_group(world, user, strict, now()).await;
        for _ in 0..3 {
            assert_eq!(world.evaluation_source(user).await, "told-group");
        }
        assert_eq!((world.block_flags(user).await, world.users.request_count()), (ALL.to_vec(), 0));
    })
    .await;
}

/// A shadow user is created without a group and gets one later without a record.
#[tokio::test(flavor = "multi_thread")]
async fn topic_record_without_group_is_always_verified() {
    World::run_with(default_cache_ages, async |world| {
        let (strict, _) = strict_and_lenient_groups(world).await;
        let user = borrower(world, strict).await;
        publish_group(world, user, None, now()).await;
        assert_eq!(
            world.evaluate_through(&world.users.url(), user).await,
            ("group-from-users".to_owned(), 1)
        );
        assert_eq!(world.evaluation_source(user).await, "group-from-cache");
        // A newer record counts, and is verified again.
        publish_group(world, user, None, now()).await;
        world.users.set_group(user, None);
        let asked = world.users.request_count();
        for _ in 0..2 {
            assert_eq!(
                world.evaluate_through(&world.users.url(), user).await,
                ("group-none".to_owned(), 0)
            );
        }
        assert_eq!(world.users.request_count(), asked + 2);
        world.users.set_behavior(UsersBehavior::ServerError);
        assert_eq!(world.evaluation_source(user).await, "group-unknown");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_of_users_response_and_topic_record_wins() {
    World::run_with(default_cache_ages, async |world| {
        let (strict, lenient) = strict_and_lenient_groups(world).await;
        let user = borrower(world, strict).await;
        assert_eq!(world.block_flags(user).await, ALL);
        // An older record loses against the answer, a newer record wins.
        publish_group(world, user, lenient, now() - TimeDelta::minutes(5)).await;
        assert_eq!(
            world.evaluate_through(&world.users.url(), user).await,
            ("group-from-cache".to_owned(), 1)
        );
        publish_group(world, user, lenient, now()).await;
        assert_eq!(
            world.evaluate_through(&world.users.url(), user).await,
            ("told-group".to_owned(), 0)
        );
    })
    .await;
}

/// A rebuild reads the record, which stays older than the answer.
#[tokio::test(flavor = "multi_thread")]
async fn rebuild_does_not_restore_an_older_group() {
    World::run_with(default_cache_ages, async |world| {
        let (strict, lenient) = strict_and_lenient_groups(world).await;
        let user = borrower(world, strict).await;
        publish_group(world, user, lenient, now() - TimeDelta::minutes(5)).await;
        assert_eq!(world.evaluation_source(user).await, "told-group");
        let asked = async |world: &World| world.evaluation_source(user).await == "group-from-cache";
        world.until("the group is refreshed in the background", asked).await;
        world
            .execute_sql(
                "update {schema}.patron set topic_group = null, topic_group_stamp = null, topic_group_at = null",
            )
            .await;
        let (status, body) = world.post("/patron-blocks/rebuilds", &json!({})).await;
        assert_eq!(status, 201, "{body}");
        let rebuild: serde_json::Value = serde_json::from_str(&body).unwrap();
        let path = format!("/patron-blocks/rebuilds/{}", rebuild["id"].as_str().unwrap());
        let done = async |world: &World| world.get_json(&path).await["status"] == "done";
        world.until("the rebuild is done", done).await;
        let topic_groups = "select count(*) from {schema}.patron where topic_group is not null";
        assert_eq!(world.count(topic_groups).await, 1, "the group from the record is stored again");
        assert_eq!(world.block_flags(user).await, ALL, "the record is older than the response");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn group_ids_are_compared_case_insensitively() {
    World::run_with(default_cache_ages, async |world| {
        let (strict, _) = strict_and_lenient_groups(world).await;
        let user = borrower(world, strict).await;
        let upper = strict.to_string().to_uppercase();
        let record = with_member(&user_record(user, strict), "patronGroup", upper);
        world.publish(Kind::StoredUser, &entity_change("UPDATED", &record, now())).await;
        world.until_committed().await;
        assert_eq!(world.block_flags(user).await, ALL, "a record in capitals");
        let group = Uuid::new_v4();
        let limit = json!({
            "id": Uuid::new_v4(), "patronGroupId": group.to_string().to_uppercase(),
            "conditionId": Measure::ChargedOut.condition_id(), "value": 0,
        });
        assert_eq!(world.post("/patron-block-limits", &limit).await.0, 201);
        let asked = borrower(world, group).await;
        world.until_committed().await;
        assert_eq!(world.block_flags(asked).await, ALL, "a limit in capitals");
    })
    .await;
}

/// The database clock determines the age of an answer.
#[tokio::test(flavor = "multi_thread")]
async fn fast_clock_does_not_extend_the_age_of_a_group() {
    World::run(async |world| {
        let (strict, lenient) = strict_and_lenient_groups(world).await;
        let (user, left) = (borrower(world, strict).await, borrower(world, strict).await);
        world.until_committed().await;
        assert_eq!(world.block_flags(left).await, ALL);
        let first = world.url().to_owned();
        world.start_unready_with_clock(Clock::fixed_at(now() + TimeDelta::days(2))).await;
        world
            .until("the other instance returns all blocks", async |w: &World| {
                w.block_flags(user).await == ALL
            })
            .await;
        world.use_instance(&first);
        world.users.set_group(user, lenient);
        assert_eq!(
            world.block_flags(user).await,
            NONE,
            "the group of the instance with the fast clock is not newer"
        );
        // An instance of an older version may have left such a row.
        world
            .execute_sql("update {schema}.patron set users_group_at = now() + interval '2 days'")
            .await;
        world.users.set_group(left, lenient);
        assert_eq!(
            world.evaluate_through(&world.users.url(), left).await,
            ("group-from-users".to_owned(), 0)
        );
        world.users.set_behavior(UsersBehavior::ServerError);
        assert_eq!(world.evaluation_source(left).await, "group-fallback");
        let ahead = "select count(*) from {schema}.patron where users_group_at > now()";
        assert_eq!(
            world.count(ahead).await,
            1,
            "only the group of the patron without an evaluation is newer"
        );
    })
    .await;
}
