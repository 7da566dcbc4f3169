//! Where a patron group comes from: answers of the users module and records of its topic, whichever is newer.

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{blocks::Measure, clock::Clock, event::Kind};
use serde_json::json;
use uuid::Uuid;

use crate::{
    facts::{but, check_out, done, member, minutes_from_now, now},
    users::Mood,
    world::World,
};

const NONE: [[bool; 3]; 0] = [];
const ALL: [[bool; 3]; 1] = [[true; 3]];

/// A group in which a single loan blocks everything, and one without limits.
async fn strict_and_lenient(world: &World) -> (Uuid, Uuid) {
    let strict = Uuid::new_v4();
    world.limit(strict, Measure::ChargedOut, 0.0).await;
    (strict, Uuid::new_v4())
}

/// A patron with one loan, of this group for the users module.
async fn borrower(world: &World, group: impl Into<Option<Uuid>>) -> Uuid {
    let user = world.users.patron(group);
    let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
    world.publish(Kind::ItemCheckedOut, &out).await;
    world.settled().await;
    user
}

/// A record of the topic.
async fn tell(world: &World, user: Uuid, group: impl Into<Option<Uuid>>, at: DateTime<Utc>) {
    world.publish(Kind::StoredUser, &done("UPDATED", &member(user, group), at)).await;
    world.settled().await;
}

fn long_ago() -> DateTime<Utc> {
    now() - TimeDelta::days(300)
}

/// Ages as they are by default, and so much patience that who waits for a silent module gets no evaluation.
fn by_default(config: &mut patron_blocks::config::Config) {
    config.okapi.fresh = TimeDelta::seconds(10);
    config.okapi.usable = TimeDelta::seconds(60);
    config.okapi.users_timeout = std::time::Duration::from_secs(30);
}

/// Not every change reaches the topic: a deletion in bulk, a record that could not be sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_the_topic_ages_and_is_asked_for_again() {
    World::tell_with(by_default, async |world| {
        let (strict, lenient) = strict_and_lenient(world).await;
        let moved = borrower(world, lenient).await;
        let deleted = borrower(world, strict).await;
        let blocked = borrower(world, strict).await;
        let unchanged = borrower(world, strict).await;
        for user in [moved, deleted, unchanged] {
            tell(world, user, strict, long_ago()).await;
        }
        tell(world, blocked, lenient, long_ago()).await;
        world.users.forget(deleted);
        // Nobody waits for the answer.
        world.users.set_mood(Mood::Silent);
        for user in [moved, deleted, unchanged] {
            assert_eq!(
                (world.blocks(user).await, world.basis(user).await),
                (ALL.to_vec(), "told-group".to_owned())
            );
        }
        world.stop().await;
        world.users.set_mood(Mood::Right);
        world.start().await;
        for (user, expected) in
            [(moved, NONE.to_vec()), (deleted, NONE.to_vec()), (blocked, ALL.to_vec())]
        {
            world
                .until("the group is asked for", async |world: &World| {
                    world.blocks(user).await == expected
                })
                .await;
        }
        assert_eq!(world.basis(moved).await, "fresh-group");
        assert_eq!(world.basis(deleted).await, "no-group");
        // What an answer has confirmed goes on being used at once.
        let asked = "select count(*) from {schema}.patron where patron_group is not null";
        assert_eq!(world.basis(unchanged).await, "told-group");
        world.until("it is confirmed", async |world: &World| world.count(asked).await == 3).await;
        world.meddle("update {schema}.patron set known_at = known_at - interval '2 days'").await;
        world.users.set_mood(Mood::Silent);
        for _ in 0..3 {
            assert_eq!(
                world.answer_by(&world.users.url(), unchanged).await,
                ("told-group".to_owned(), 1)
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_record_of_a_group_is_asked_of_nobody() {
    World::tell_with(by_default, async |world| {
        let (strict, lenient) = strict_and_lenient(world).await;
        let user = borrower(world, lenient).await;
        tell(world, user, strict, now()).await;
        for _ in 0..3 {
            assert_eq!(world.basis(user).await, "told-group");
        }
        assert_eq!((world.blocks(user).await, world.users.asked()), (ALL.to_vec(), 0));
    })
    .await;
}

/// A shadow user is created without a group, and gets one later of which no record tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_no_group_is_always_asked_about() {
    World::tell_with(by_default, async |world| {
        let (strict, _) = strict_and_lenient(world).await;
        let user = borrower(world, strict).await;
        tell(world, user, None, now()).await;
        assert_eq!(world.answer_by(&world.users.url(), user).await, ("asked-group".to_owned(), 1));
        assert_eq!(world.basis(user).await, "fresh-group");
        // A newer record counts again, and again it is not taken at its word.
        tell(world, user, None, now()).await;
        world.users.set_group(user, None);
        let asked = world.users.asked();
        for _ in 0..2 {
            assert_eq!(world.answer_by(&world.users.url(), user).await, ("no-group".to_owned(), 0));
        }
        assert_eq!(world.users.asked(), asked + 2);
        world.users.set_mood(Mood::Broken);
        assert_eq!(world.basis(user).await, "group-not-told");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_of_an_answer_and_a_record_counts() {
    World::tell_with(by_default, async |world| {
        let (strict, lenient) = strict_and_lenient(world).await;
        let user = borrower(world, strict).await;
        assert_eq!(world.blocks(user).await, ALL);
        // An older record does not outrank the answer, a newer one does.
        tell(world, user, lenient, now() - TimeDelta::minutes(5)).await;
        assert_eq!(world.answer_by(&world.users.url(), user).await, ("fresh-group".to_owned(), 1));
        tell(world, user, lenient, now()).await;
        assert_eq!(world.answer_by(&world.users.url(), user).await, ("told-group".to_owned(), 0));
    })
    .await;
}

/// A rebuild reads records, and a record that is older than an answer stays so.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_brings_no_older_group_back() {
    World::tell_with(by_default, async |world| {
        let (strict, lenient) = strict_and_lenient(world).await;
        let user = borrower(world, strict).await;
        tell(world, user, lenient, now() - TimeDelta::minutes(5)).await;
        assert_eq!(world.basis(user).await, "told-group");
        let asked = async |world: &World| world.basis(user).await == "fresh-group";
        world.until("it is asked about in the background", asked).await;
        world
            .meddle(
                "update {schema}.patron set told_group = null, told_stamp = null, told_at = null",
            )
            .await;
        let (status, body) = world.post("/patron-blocks/rebuilds", &json!({})).await;
        assert_eq!(status, 201, "{body}");
        let rebuild: serde_json::Value = serde_json::from_str(&body).unwrap();
        let path = format!("/patron-blocks/rebuilds/{}", rebuild["id"].as_str().unwrap());
        let done = async |world: &World| world.read(&path).await["status"] == "done";
        world.until("the rebuild is done", done).await;
        let told = "select count(*) from {schema}.patron where told_group is not null";
        assert_eq!(world.count(told).await, 1, "the record is known again");
        assert_eq!(world.blocks(user).await, ALL, "and is older than the answer");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn group_ids_are_compared_without_regard_to_case() {
    World::tell_with(by_default, async |world| {
        let (strict, _) = strict_and_lenient(world).await;
        let told = borrower(world, strict).await;
        let upper = strict.to_string().to_uppercase();
        let record = but(&member(told, strict), "patronGroup", upper);
        world.publish(Kind::StoredUser, &done("UPDATED", &record, now())).await;
        world.settled().await;
        assert_eq!(world.blocks(told).await, ALL, "a record in capitals");
        let group = Uuid::new_v4();
        let limit = json!({
            "id": Uuid::new_v4(), "patronGroupId": group.to_string().to_uppercase(),
            "conditionId": Measure::ChargedOut.condition_id(), "value": 0,
        });
        assert_eq!(world.post("/patron-block-limits", &limit).await.0, 201);
        let asked = borrower(world, group).await;
        world.settled().await;
        assert_eq!(world.blocks(asked).await, ALL, "a limit in capitals");
    })
    .await;
}

/// An answer's age is the database's to tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_makes_no_group_fresh_for_long() {
    World::tell(async |world| {
        let (strict, lenient) = strict_and_lenient(world).await;
        let (user, left) = (borrower(world, strict).await, borrower(world, strict).await);
        world.settled().await;
        assert_eq!(world.blocks(left).await, ALL);
        let first = world.url().to_owned();
        world.start_by(Clock::standing_at(now() + TimeDelta::days(2))).await;
        world.until("the other one answers", async |w: &World| w.blocks(user).await == ALL).await;
        world.turn_to(&first);
        world.users.set_group(user, lenient);
        assert_eq!(world.blocks(user).await, NONE, "what the one ahead has learnt is no newer");
        // What such an instance of an older version has left.
        world.meddle("update {schema}.patron set known_at = now() + interval '2 days'").await;
        world.users.set_group(left, lenient);
        assert_eq!(world.answer_by(&world.users.url(), left).await, ("asked-group".to_owned(), 0));
        world.users.set_mood(Mood::Broken);
        assert_eq!(world.basis(left).await, "last-known-group");
        let ahead = "select count(*) from {schema}.patron where known_at > now()";
        assert_eq!(world.count(ahead).await, 1, "only the one that nobody asked about");
    })
    .await;
}
