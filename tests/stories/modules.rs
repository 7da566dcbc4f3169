//! Other modules that hang: nobody waits for them for long.

use std::time::Duration;

use patron_blocks::{blocks::Measure, config::Config, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    facts::{check_out, minutes_from_now},
    shelf::Fault,
    users::Mood,
    world::World,
};

async fn borrower(world: &World, group: Uuid) -> Uuid {
    let user = world.users.patron(group);
    let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
    world.publish(Kind::ItemCheckedOut, &out).await;
    world.settled().await;
    user
}

/// Longer than any story.
fn for_long(config: &mut Config) {
    config.okapi.breaker.pause = Duration::from_secs(600);
}

pub(crate) async fn metric(world: &World, line: &str) -> u64 {
    let figures = world.get("/metrics").await.1;
    let value = figures.lines().find_map(|found| found.strip_prefix(line));
    value.map_or(0, |value| value.trim().parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_module_that_hangs_is_not_asked_for_a_moment() {
    World::tell_with(for_long, async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 0.0).await;
        let (known, unknown) = (borrower(world, group).await, borrower(world, group).await);
        let blocked = |basis: &str| (basis.to_owned(), 1);
        let gateway = world.users.url();
        assert_eq!(world.answer_by(&gateway, known).await, blocked("asked-group"));
        world.users.set_mood(Mood::Silent);
        let before = world.users.asked();
        for _ in 0..5 {
            assert_eq!(world.answer_by(&gateway, known).await, blocked("last-known-group"));
        }
        for _ in 0..20 {
            let answer = world.answer_by(&gateway, known).await;
            assert_eq!(answer, blocked("last-known-group-unasked"));
            assert_eq!(world.basis(unknown).await, "group-unasked");
        }
        assert_eq!(world.users.asked() - before, 5);
        let unasked = "patron_blocks_module_calls_total{module=\"users\",outcome=\"unasked\"}";
        assert!(metric(world, unasked).await >= 20);
    })
    .await;
}

/// Whoever's group is known does not wait for the one call that finds out.
#[tokio::test(flavor = "multi_thread")]
async fn a_users_module_that_is_back_is_found_by_one_call() {
    World::tell(async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 0.0).await;
        let (known, unknown) = (borrower(world, group).await, borrower(world, group).await);
        assert_eq!(world.basis(known).await, "asked-group");
        world.users.set_mood(Mood::Silent);
        for _ in 0..5 {
            assert_eq!(world.basis(unknown).await, "group-not-told");
        }
        world.users.set_mood(Mood::Right);
        world
            .until("it is asked again", async |world: &World| {
                world.basis(known).await == "asked-group"
            })
            .await;
        assert_eq!(
            world.answer_by(&world.users.url(), unknown).await,
            ("asked-group".to_owned(), 1)
        );
    })
    .await;
}

/// A module that says no at once slows nobody, and may say yes the next time.
#[tokio::test(flavor = "multi_thread")]
async fn a_users_module_that_says_no_is_asked_every_time() {
    World::tell(async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 0.0).await;
        let user = borrower(world, group).await;
        world.users.set_mood(Mood::Broken);
        for n in 1..=20 {
            assert_eq!(world.basis(user).await, "group-not-told");
            assert_eq!(world.users.asked(), n);
        }
        world.users.set_mood(Mood::Right);
        assert_eq!(world.basis(user).await, "asked-group");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_module_that_says_too_much_is_not_listened_to() {
    World::tell(async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 0.0).await;
        let user = borrower(world, group).await;
        world.users.set_mood(Mood::Verbose);
        assert_eq!(world.basis(user).await, "group-not-told");
    })
    .await;
}

/// Runs a synchronisation of all patrons to its end. Gives its errors.
async fn synchronise(world: &World) -> String {
    let job = "/automated-patron-blocks/synchronization/job";
    let (_, body) = world.post(job, &json!({ "scope": "full" })).await;
    let asked: Value = serde_json::from_str(&body).expect("it is JSON");
    let job = format!("{job}/{}", asked["id"].as_str().expect("an id"));
    let start = "/automated-patron-blocks/synchronization/start";
    assert_eq!(world.post(start, &json!({})).await.0, 202);
    let ended = async |world: &World| {
        ["done", "failed"].contains(&world.read(&job).await["status"].as_str().unwrap())
    };
    world.until("it has ended", ended).await;
    world.read(&job).await["errors"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_module_that_hangs_is_not_asked_on_and_on() {
    World::tell_with(for_long, async |world| {
        let shelf = world.users.shelf.clone();
        shelf.faults([Fault::Hang; 100]);
        let mut last = String::new();
        for _ in 0..4 {
            last = synchronise(world).await;
        }
        assert!(shelf.take_asked().len() <= 5, "it is asked on");
        assert!(last.contains("is not asked for a moment"), "{last}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_never_ends_is_given_up_by_its_bytes() {
    World::tell(async |world| {
        // More than a page may take to be read to its end, and enough for what it may have.
        world.stop().await;
        world.config.rebuild.page_patience = Duration::from_secs(30);
        world.start().await;
        world.users.shelf.faults([Fault::Endless]);
        let errors = synchronise(world).await;
        assert_eq!(errors, "[]", "the next try has the page");
        let failed = "patron_blocks_module_calls_total{module=\"loan-storage\",outcome=\"failed\"}";
        assert!(metric(world, failed).await >= 1);
    })
    .await;
}
