//! Answers: what HTTP and the users module add to the evaluation.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    facts::{check_out, fee, minutes_from_now},
    users::Mood,
    world::World,
};

async fn six_loans(world: &World, user: Uuid) {
    for _ in 0..6 {
        let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
        world.publish(Kind::ItemCheckedOut, &payload).await;
    }
    world.settled().await;
}

/// A patron with six loans under a limit of five, and the limit with its path.
async fn beyond_a_limit(world: &World) -> (Uuid, String, Value) {
    let group = Uuid::new_v4();
    let limit = world.limit(group, Measure::ChargedOut, 5.0).await;
    let path = format!("/patron-block-limits/{}", limit["id"].as_str().unwrap());
    let user = world.users.patron(group);
    six_loans(world, user).await;
    (user, path, limit)
}

const ALL: [[bool; 3]; 1] = [[true; 3]];
const NONE: [[bool; 3]; 0] = [];

#[tokio::test(flavor = "multi_thread")]
async fn a_patron_without_anything_is_not_asked_about() {
    World::tell(async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 0.0).await;
        let user = world.users.patron(group);
        assert_eq!(world.blocks(user).await, NONE);
        assert_eq!(world.users.asked(), 0);
        let payload = fee(user, Uuid::new_v4(), None, 1.0);
        world.publish(Kind::FeeFineBalanceChanged, &payload).await;
        world.settled().await;
        assert_eq!(world.blocks(user).await, [[true, false, false]]);
        assert_eq!(world.users.asked(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_patron_group_decides_which_limits_count() {
    World::tell(async |world| {
        let (students, staff) = (Uuid::new_v4(), Uuid::new_v4());
        world.limit(students, Measure::ChargedOut, 5.0).await;
        world.limit(staff, Measure::ChargedOut, 10.0).await;
        let user = world.users.patron(students);
        six_loans(world, user).await;
        assert_eq!(world.blocks(user).await, ALL);
        world.users.set_group(user, staff);
        assert_eq!(world.blocks(user).await, NONE, "moved to a group with another limit");
        world.users.set_group(user, Uuid::new_v4());
        assert_eq!(world.blocks(user).await, NONE, "a group without limits");
        world.users.set_group(user, None);
        assert_eq!(world.blocks(user).await, NONE, "no group");
        world.users.set_group(user, students);
        let upper = user.to_string().to_uppercase();
        let body = world.read(&format!("/automated-patron-blocks/{upper}")).await;
        assert_eq!(body["automatedPatronBlocks"].as_array().unwrap().len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_users_module_fails_the_last_known_group_serves_and_404_forgets_it() {
    World::tell(async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 5.0).await;
        let (known, unknown) = (world.users.patron(group), world.users.patron(group));
        six_loans(world, known).await;
        six_loans(world, unknown).await;
        assert_eq!(world.blocks(known).await, ALL);
        for mood in [Mood::Broken, Mood::Silent] {
            world.users.set_mood(mood);
            assert_eq!(world.blocks(known).await, ALL, "{mood:?}");
            assert_eq!(world.blocks(unknown).await, NONE, "{mood:?}: never told, so open");
        }
        world.users.set_mood(Mood::Right);
        world.users.forget(known);
        assert_eq!(world.blocks(known).await, NONE, "404 is an answer");
        world.users.set_mood(Mood::Broken);
        assert_eq!(world.blocks(known).await, NONE, "and what was known is forgotten");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_no_uuid_and_a_patron_who_has_nothing() {
    World::tell(async |world| {
        let bad = |what: &str, id: &str| (400, format!("Invalid user {what}: \"{id}\""));
        for id in ["abc", "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(world.get(&format!("/automated-patron-blocks/{id}")).await, bad("UUID", id));
            assert_eq!(world.get(&format!("/user-summary/{id}")).await, bad("ID", id));
        }
        let user = Uuid::new_v4();
        let body = world.read(&format!("/automated-patron-blocks/{user}/?limit=2000")).await;
        assert_eq!(body, json!({ "automatedPatronBlocks": [] }));
        assert_eq!(
            world.get(&format!("/user-summary/{user}")).await,
            (404, format!("User summary for user ID {user} not found"))
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_carries_the_librarys_message_and_nothing_else() {
    World::tell(async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 5.0).await;
        let user = world.users.patron(group);
        six_loans(world, user).await;
        let body = world.read(&format!("/automated-patron-blocks/{user}")).await;
        assert_eq!(
            body,
            json!({ "automatedPatronBlocks": [{
                "patronBlockConditionId": Measure::ChargedOut.condition_id(),
                "blockBorrowing": true, "blockRenewals": true, "blockRequests": true,
                "message": "Maximum number of items charged out reached",
            }] })
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_says_what_it_rests_on() {
    World::tell(async |world| {
        world.stop().await;
        world.config.okapi.usable = chrono::TimeDelta::milliseconds(300);
        world.start().await;
        let group = Uuid::new_v4();
        let (known, unknown) = (world.users.patron(group), world.users.patron(group));
        assert_eq!(world.basis(known).await, "nothing-open");
        six_loans(world, known).await;
        six_loans(world, unknown).await;
        assert_eq!(world.basis(known).await, "no-limits");
        world.limit(group, Measure::ChargedOut, 5.0).await;
        assert_eq!(world.basis(known).await, "asked-group");
        assert_eq!(world.basis(known).await, "usable-group");
        world.users.set_mood(Mood::Broken);
        world
            .until("the group is too old", async |w: &World| {
                w.basis(known).await == "last-known-group"
            })
            .await;
        assert_eq!(world.basis(unknown).await, "group-not-told");
        world.users.set_mood(Mood::Right);
        world.users.forget(known);
        assert_eq!(world.basis(known).await, "no-group");
        world.wire.cut();
        assert_eq!(world.basis(known).await, "not-evaluated");
        world.wire.mend();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_counts_from_the_answer_that_it_is_set() {
    World::tell(async |world| {
        let (user, path, mut limit) = beyond_a_limit(world).await;
        let world = &*world;
        // Others ask all the time, so that the limits are nearly always just being read.
        let done = AtomicBool::new(false);
        let asking = (0..4).map(|_| async {
            while !done.load(Ordering::Relaxed) {
                world.blocks(user).await;
            }
        });
        let changing = async {
            for n in 0..40 {
                let blocked = n % 2 == 1;
                limit["value"] = json!(if blocked { 5 } else { 6 });
                assert_eq!(world.put(&path, &limit).await.0, 204);
                let expected = if blocked { vec![[true; 3]] } else { vec![[true, false, false]] };
                assert_eq!(world.blocks(user).await, expected, "change {n}");
            }
            done.store(true, Ordering::Relaxed);
        };
        join(join_all(asking), changing).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_another_instance_set_counts_soon() {
    World::tell(async |world| {
        let (user, path, mut limit) = beyond_a_limit(world).await;
        let first = world.url().to_owned();
        world.start().await;
        let second = world.url().to_owned();
        for (value, expected) in [(6, vec![[true, false, false]]), (5, ALL.to_vec())] {
            world.turn_to(&second);
            limit["value"] = json!(value);
            assert_eq!(world.put(&path, &limit).await.0, 204);
            // Asked all the time: what is used must not be kept any longer for it.
            world.turn_to(&first);
            let counts = async |world: &World| world.blocks(user).await == expected;
            world.until("the limit counts at the other instance", counts).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_not_be_answered_in_time_is_told_so_at_once() {
    World::tell(async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 5.0).await;
        let user = world.users.patron(group);
        six_loans(world, user).await;
        world.wire.freeze();
        let world = &*world;
        // More than the one thread that answers lets in with its connections.
        let asked = join_all((0..900).map(|_| async move {
            let began = Instant::now();
            (world.basis(user).await, began.elapsed())
        }))
        .await;
        let (sent_away, waited): (Vec<_>, Vec<_>) =
            asked.iter().partition(|(basis, _)| basis == "too-many");
        assert!(sent_away.len() > 50 && waited.len() > 100, "{} sent away", sent_away.len());
        let slowest = sent_away.iter().map(|(_, took)| *took).max().unwrap();
        assert!(waited.iter().all(|(basis, _)| basis == "not-evaluated"));
        let quickest = waited.iter().map(|(_, took)| *took).min().unwrap();
        assert!(
            slowest < quickest && quickest > Duration::from_secs(1),
            "{slowest:?} {quickest:?}"
        );
        world.wire.mend();
        world.until("it is answered again", async |w: &World| w.blocks(user).await == ALL).await;
    })
    .await;
}
