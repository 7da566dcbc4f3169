//! Patron groups are ids, and an id is the same in capitals.

use patron_blocks::{blocks::Measure, config::Config, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    facts::{check_out, done, member, minutes_from_now, now},
    world::{TENANT, World},
};

const ALL: [[bool; 3]; 1] = [[true; 3]];

async fn borrow(world: &World, user: Uuid) {
    let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
    world.publish(Kind::ItemCheckedOut, &out).await;
    world.settled().await;
}

/// A limit of no item for a group with its id in capitals.
async fn limit_in_capitals(world: &World, group: Uuid) -> Value {
    let mut limit = world.limit(group, Measure::ChargedOut, 0.0).await;
    limit["patronGroupId"] = json!(group.to_string().to_uppercase());
    let path = format!("/patron-block-limits/{}", limit["id"].as_str().unwrap());
    assert_eq!(world.put(&path, &limit).await.0, 204);
    limit
}

/// A user of mod-users with the group's id in capitals.
fn in_capitals(user: Uuid, group: Uuid) -> Value {
    let mut user = member(user, group);
    user["patronGroup"] = json!(group.to_string().to_uppercase());
    user
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_or_a_user_with_a_group_in_capitals_blocks() {
    World::tell(async |world| {
        let (limited, plain) = (Uuid::new_v4(), Uuid::new_v4());
        limit_in_capitals(world, limited).await;
        world.limit(plain, Measure::ChargedOut, 0.0).await;
        // The users module answers for one; the topic of users brings the others.
        let asked = world.users.patron(limited);
        let [small, loud, both] = [(); 3].map(|()| Uuid::new_v4());
        for (record, user, group) in [
            (member(small, limited), small, limited),
            (in_capitals(loud, plain), loud, plain),
            (in_capitals(both, limited), both, limited),
        ] {
            world.publish(Kind::StoredUser, &done("CREATED", &record, now())).await;
            world.users.set_group(user, group);
        }
        for user in [asked, small, loud, both] {
            borrow(world, user).await;
            assert_eq!(world.blocks(user).await, ALL, "{user}");
        }
        let query = format!("/patron-block-limits?query=patronGroupId=={limited}");
        assert_eq!(world.read(&query).await["totalRecords"], 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_limit_in_capitals_reaches_its_patrons() {
    let on = |config: &mut Config| config.messages.on = true;
    World::tell_with(on, async |world| {
        let group = Uuid::new_v4();
        let user = world.users.patron(group);
        world.publish(Kind::StoredUser, &done("CREATED", &member(user, group), now())).await;
        borrow(world, user).await;
        let waits = "select (select count(*) from {schema}.touched_patron) + (select count(*) from {schema}.policy_change)
                          + (select count(*) from {schema}.message_outbox where status = 'NEW')";
        let quiet = async || {
            world.until("nothing waits", async |w: &World| w.count(waits).await == 0).await;
        };
        quiet().await;
        limit_in_capitals(world, group).await;
        let blocked = "select count(*) from {schema}.told_patron where blocked is not null";
        world.until("the block is known", async |w: &World| w.count(blocked).await == 1).await;
        quiet().await;
        let topic = format!("{}.{TENANT}.patron-blocks.automated-block", world.log.environment());
        let types: Vec<Value> =
            world.log.read(&topic).into_iter().map(|message| message.value["type"].clone()).collect();
        assert!(types.contains(&json!("CREATED")), "{types:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iteration_of_a_group_finds_it_in_either_writing() {
    const JOBS: &str = "/patron-blocks/user-summaries/iteration";
    World::tell(async |world| {
        let group = Uuid::new_v4();
        let [small, loud] = [(); 2].map(|()| Uuid::new_v4());
        for (user, record) in [(small, member(small, group)), (loud, in_capitals(loud, group))] {
            world.publish(Kind::StoredUser, &done("CREATED", &record, now())).await;
            borrow(world, user).await;
        }
        let topic = format!("{}.{TENANT}.chosen", world.log.environment());
        world.log.make(vec![topic.clone()]).await;
        let wanted =
            json!({ "topicName": topic, "patronGroupId": group.to_string().to_uppercase() });
        let (status, job) = world.post(JOBS, &wanted).await;
        assert_eq!(status, 201, "{job}");
        let job: Value = serde_json::from_str(&job).unwrap();
        let path = format!("{JOBS}/{}", job["id"].as_str().unwrap());
        let ended = async |w: &World| w.read(&path).await.get("endedDate").is_some();
        world.until("it has ended", ended).await;
        assert_eq!(world.read(&path).await["numberOfRecordsPublished"], 2);
    })
    .await;
}
