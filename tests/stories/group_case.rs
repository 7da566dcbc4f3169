//! Patron group ids, which are equal in upper and lower case.

use patron_blocks::{blocks::Measure, config::Config, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    payloads::{check_out, entity_change, minutes_from_now, now, user_record},
    world::{TENANT, World},
};

const ALL: [[bool; 3]; 1] = [[true; 3]];

async fn publish_check_out(world: &World, user: Uuid) {
    let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
    world.publish(Kind::ItemCheckedOut, &out).await;
    world.until_committed().await;
}

/// Adds a limit of zero loans for a group with its id in upper case.
async fn add_uppercase_limit(world: &World, group: Uuid) -> Value {
    let mut limit = world.add_limit(group, Measure::ChargedOut, 0.0).await;
    limit["patronGroupId"] = json!(group.to_string().to_uppercase());
    let path = format!("/patron-block-limits/{}", limit["id"].as_str().unwrap());
    assert_eq!(world.put(&path, &limit).await.0, 204);
    limit
}

/// Returns a user of mod-users with the group's id in upper case.
fn uppercase_user(user: Uuid, group: Uuid) -> Value {
    let mut user = user_record(user, group);
    user["patronGroup"] = json!(group.to_string().to_uppercase());
    user
}

#[tokio::test(flavor = "multi_thread")]
async fn uppercase_group_id_in_limit_or_user_blocks() {
    World::run(async |world| {
        let (limited, plain) = (Uuid::new_v4(), Uuid::new_v4());
        add_uppercase_limit(world, limited).await;
        world.add_limit(plain, Measure::ChargedOut, 0.0).await;
        // The users module answers for one patron; the users topic contains the others.
        let asked = world.users.add_patron(limited);
        let [lowercase, uppercase, both] = [(); 3].map(|()| Uuid::new_v4());
        for (record, user, group) in [
            (user_record(lowercase, limited), lowercase, limited),
            (uppercase_user(uppercase, plain), uppercase, plain),
            (uppercase_user(both, limited), both, limited),
        ] {
            world.publish(Kind::StoredUser, &entity_change("CREATED", &record, now())).await;
            world.users.set_group(user, group);
        }
        for user in [asked, lowercase, uppercase, both] {
            publish_check_out(world, user).await;
            assert_eq!(world.block_flags(user).await, ALL, "{user}");
        }
        let query = format!("/patron-block-limits?query=patronGroupId=={limited}");
        assert_eq!(world.get_json(&query).await["totalRecords"], 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn change_of_limit_with_uppercase_group_is_published() {
    let on = |config: &mut Config| config.block_events.enabled = true;
    World::run_with(on, async |world| {
        let group = Uuid::new_v4();
        let user = world.users.add_patron(group);
        world.publish(Kind::StoredUser, &entity_change("CREATED", &user_record(user, group), now())).await;
        publish_check_out(world, user).await;
        let pending = "select (select count(*) from {schema}.pending_patron) + (select count(*) from {schema}.pending_group)
                          + (select count(*) from {schema}.message_outbox where status = 'NEW')";
        let until_published = async || {
            world
                .until("no patron is pending and no message is unsent", async |w: &World| {
                    w.count(pending).await == 0
                })
                .await;
        };
        until_published().await;
        add_uppercase_limit(world, group).await;
        let blocked = "select count(*) from {schema}.published_patron where blocked is not null";
        world
            .until("the block is recorded as published", async |w: &World| {
                w.count(blocked).await == 1
            })
            .await;
        until_published().await;
        let topic = format!("{}.{TENANT}.patron-blocks.automated-block", world.log.environment());
        let types: Vec<Value> =
            world.log.read_topic(&topic).into_iter().map(|message| message.value["type"].clone()).collect();
        assert!(types.contains(&json!("CREATED")), "{types:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_export_matches_group_id_in_any_case() {
    const JOBS: &str = "/patron-blocks/user-summaries/iteration";
    World::run(async |world| {
        let group = Uuid::new_v4();
        let [lowercase, uppercase] = [(); 2].map(|()| Uuid::new_v4());
        for (user, record) in [
            (lowercase, user_record(lowercase, group)),
            (uppercase, uppercase_user(uppercase, group)),
        ] {
            world.publish(Kind::StoredUser, &entity_change("CREATED", &record, now())).await;
            publish_check_out(world, user).await;
        }
        let topic = format!("{}.{TENANT}.chosen", world.log.environment());
        world.log.create_topics(vec![topic.clone()]).await;
        let wanted =
            json!({ "topicName": topic, "patronGroupId": group.to_string().to_uppercase() });
        let (status, job) = world.post(JOBS, &wanted).await;
        assert_eq!(status, 201, "{job}");
        let job: Value = serde_json::from_str(&job).unwrap();
        let path = format!("{JOBS}/{}", job["id"].as_str().unwrap());
        let ended = async |w: &World| w.get_json(&path).await.get("endedDate").is_some();
        world.until("the export ends", ended).await;
        assert_eq!(world.get_json(&path).await["numberOfRecordsPublished"], 2);
    })
    .await;
}
