//! Summary exports: every patron's summary once, for each request.

use std::collections::{BTreeMap, BTreeSet};

use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::block_events::until_published;
use crate::{
    repository::schemas::message_validator,
    support::{
        block_event_consumer::{Blocks, apply_message, poll_until},
        payloads::{check_out, entity_change, loan_event, minutes_from_now, now, user_record},
        world::{TENANT, World},
    },
};

const JOBS: &str = "/patron-blocks/user-summaries/iteration";

/// Returns patrons of two alternating groups, with one to three loans each.
async fn create_library(world: &World, patrons: usize) -> (Vec<Uuid>, [Uuid; 2]) {
    let groups = [Uuid::new_v4(), Uuid::new_v4()];
    world.add_limit(groups[0], Measure::ChargedOut, 2.0).await;
    let mut users = Vec::new();
    for n in 0..patrons {
        let (user, group) = (Uuid::new_v4(), groups[n % 2]);
        world
            .publish(Kind::StoredUser, &entity_change("CREATED", &user_record(user, group), now()))
            .await;
        for _ in 0..=n % 3 {
            let out = check_out(user, Uuid::new_v4(), &minutes_from_now(600));
            world.publish(Kind::ItemCheckedOut, &out).await;
        }
        users.push(user);
    }
    world.until_committed().await;
    (users, groups)
}

async fn create_topic(world: &World, name: &str) -> String {
    let topic = format!("{}.{TENANT}.{name}", world.log.environment());
    world.log.create_topics(vec![topic.clone()]).await;
    topic
}

async fn request_export(world: &World, body: Value) -> String {
    let (status, body) = world.post(JOBS, &body).await;
    assert_eq!(status, 201, "{body}");
    let job: Value = serde_json::from_str(&body).unwrap();
    job["id"].as_str().unwrap().to_owned()
}

async fn until_ended(world: &World, id: &str) -> Value {
    let path = format!("{JOBS}/{id}");
    world
        .until("the iteration ends", async |world: &World| {
            world.get_json(&path).await.get("endedDate").is_some()
        })
        .await;
    world.get_json(&path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_export_fills_a_consumer_like_the_api() {
    World::run(async |world| {
        let (users, groups) = create_library(world, 30).await;
        let topic = create_topic(world, "search.patrons").await;
        // Three exports run at once to one topic; each event names its export.
        let all = request_export(world, json!({ "topicName": topic })).await;
        let body = json!({
            "topicName": "search.patrons", "eventType": "REINDEX", "patronGroupId": groups[0],
        });
        let some = request_export(world, body).await;
        let again = request_export(world, json!({ "topicName": "search.patrons" })).await;
        for (id, many) in [(&all, 30), (&some, 15), (&again, 30)] {
            let job = until_ended(world, id).await;
            assert_eq!((&job["status"], &job["totalRecords"]), (&json!("done"), &json!(many)));
            assert_eq!(job["numberOfRecordsPublished"], many);
        }
        let (mut view, mut summaries) = (Blocks::default(), BTreeMap::new());
        let (mut patrons_by_job, validator) = (BTreeMap::new(), message_validator("iteration"));
        let consumer = world.log.subscribe(&[&topic]);
        tokio::task::block_in_place(|| {
            poll_until(&consumer, |patron, message| {
                assert!(validator.is_valid(message), "{message}");
                let job = message["jobId"].as_str().unwrap().to_owned();
                let of: &mut BTreeSet<String> = patrons_by_job.entry(job).or_default();
                assert!(of.insert(patron.to_owned()), "twice: {message}");
                apply_message(&mut view, patron, message);
                summaries.insert(patron.to_owned(), message["summary"].clone());
                patrons_by_job.values().map(BTreeSet::len).sum::<usize>() == 75
            });
        });
        assert_eq!(
            (patrons_by_job[&all].len(), patrons_by_job[&some].len(), patrons_by_job[&again].len()),
            (30, 15, 30)
        );
        for user in users {
            let summary = world.get_json(&format!("/user-summary/{user}")).await;
            assert_eq!(summaries[&user.to_string()], summary);
            let blocks = world.block_flags(user).await.len();
            let (_, known) = &view[&(TENANT.to_owned(), user.to_string())];
            let seen = known["blocks"].as_array().map_or(0, Vec::len);
            assert_eq!(seen, blocks);
        }
        let listed = world.get_json(&format!("{JOBS}?limit=2")).await;
        assert_eq!(
            (&listed["totalRecords"], listed["iterations"].as_array().unwrap().len()),
            (&json!(3), 2)
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_export_since_a_date_includes_closed_patrons() {
    World::run(async |world| {
        let (users, groups) = create_library(world, 6).await;
        let since = now();
        let topic = create_topic(world, "reports.patrons").await;
        let loan =
            world.get_json(&format!("/user-summary/{}", users[0])).await["openLoans"][0]["loanId"]
                .as_str()
                .unwrap()
                .to_owned();
        let returned = loan_event(users[0], loan.parse().unwrap());
        world.publish(Kind::ItemCheckedIn, &returned).await;
        let out = check_out(users[1], Uuid::new_v4(), &minutes_from_now(60));
        world.publish(Kind::ItemCheckedOut, &out).await;
        world.until_committed().await;
        let since = since.to_rfc3339();
        let id = request_export(world, json!({ "topicName": topic, "changedSince": since })).await;
        let job = until_ended(world, &id).await;
        assert_eq!((&job["status"], &job["totalRecords"]), (&json!("done"), &json!(2)), "{job}");
        let messages = world.log.read_topic(&topic);
        let of = |user: Uuid| {
            let found = messages.iter().find(|message| message.key == user.to_string());
            found.unwrap().value["summary"].clone()
        };
        assert_eq!(messages.len(), 2);
        assert_eq!(of(users[0]), Value::Null);
        assert_eq!(of(users[1])["openLoans"].as_array().unwrap().len(), 3);
        let body = json!({ "topicName": topic, "changedSince": since, "patronGroupId": groups[1] });
        let job = until_ended(world, &request_export(world, body).await).await;
        assert_eq!(
            (&job["totalRecords"], &job["numberOfRecordsPublished"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(world.log.read_topic(&topic).len(), 3);
    })
    .await;
}

/// A block that started and ended between two evaluations must not be published, because no event would
/// end it.
#[tokio::test(flavor = "multi_thread")]
async fn summary_export_repeats_the_last_published_blocks() {
    World::run_with(
        |config| config.block_events.enabled = true,
        async |world| {
            let (users, _) = create_library(world, 3).await;
            let published = "select count(*) from {schema}.published_patron where blocked is not null";
            world
                .until("the block is recorded as published", async |world: &World| {
                    world.count(published).await == 1
                })
                .await;
            let blocked = users[2];
            // The evaluation may learn a group, which is published as well.
            assert_eq!(world.block_flags(blocked).await.len(), 1);
            until_published(world).await;
            // The current blocks were not published yet.
            world
                .execute_sql(&format!(
                    "update {{schema}}.published_patron set blocked = null where user_id = '{blocked}'"
                ))
                .await;
            let topic = create_topic(world, "search.patrons").await;
            until_ended(world, &request_export(world, json!({ "topicName": topic })).await).await;
            let messages = world.log.read_topic(&topic);
            let of = messages.iter().find(|message| message.key == blocked.to_string()).unwrap();
            assert_eq!(of.value["automatedPatronBlocks"], Value::Null);
        },
    )
    .await;
}

/// An abandoned export resumes after the last acknowledged message. A message that is published again
/// has the same id.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled_summary_export_ends_and_abandoned_one_resumes() {
    World::run(async |world| {
        let (mut users, _) = create_library(world, 8).await;
        users.sort();
        let topic = create_topic(world, "search.patrons").await;
        let id = request_export(world, json!({ "topicName": topic })).await;
        assert_eq!(until_ended(world, &id).await["numberOfRecordsPublished"], 8);
        let left = format!(
            "update mod_patron_blocks.job set status = 'publishing', ended_at = null,
                    progress = progress || '{{\"published\": 3, \"lastUser\": \"{}\"}}',
                    lease_expires_at = now() - interval '1 second' where id = '{id}'",
            users[2]
        );
        world.execute_sql(&left).await;
        let job = until_ended(world, &id).await;
        assert_eq!((&job["status"], &job["numberOfRecordsPublished"]), (&json!("done"), &json!(8)));
        let messages = world.log.read_topic(&topic);
        let ids: BTreeSet<&str> =
            messages.iter().map(|message| message.value["id"].as_str().unwrap()).collect();
        assert_eq!((messages.len(), ids.len()), (13, 8));

        assert_eq!(
            world.delete(&format!("{JOBS}/{id}")).await.0,
            422,
            "an ended iteration cannot be cancelled"
        );
        let lease = format!(
            "update mod_patron_blocks.job set status = 'publishing', ended_at = null,
                    lease_expires_at = now() + interval '1 hour' where id = '{id}'"
        );
        world.execute_sql(&lease).await;
        assert_eq!(world.delete(&format!("{JOBS}/{id}")).await.0, 204);
        assert_eq!(world.get_json(&format!("{JOBS}/{id}")).await["status"], "cancelled");
        assert_eq!(world.get(&format!("{JOBS}/{}", Uuid::new_v4())).await.0, 404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_export_rejects_foreign_topics() {
    World::run(async |world| {
        let environment = world.log.environment().to_owned();
        let read = world.log.topic(TENANT, Kind::StoredLoan);
        for (body, field) in [
            (json!({}), "topicName"),
            (json!({ "topicName": format!("{environment}.southlib.search.patrons") }), "topicName"),
            (json!({ "topicName": read }), "topicName"),
            (json!({ "topicName": "circulation.loan" }), "topicName"),
            (json!({ "topicName": "patron-blocks.automated-block" }), "topicName"),
            (json!({ "topicName": "not.there" }), "topicName"),
            (json!({ "topicName": "a b" }), "topicName"),
            (json!({ "topicName": "x.y", "eventType": "" }), "eventType"),
            (json!({ "topicName": "x.y", "patronGroupId": "staff" }), "patronGroupId"),
            (json!({ "topicName": "x.y", "changedSince": "yesterday" }), "changedSince"),
            (json!({ "topicName": "x.y", "limit": 5 }), "the body"),
        ] {
            let (status, answer) = world.post(JOBS, &body).await;
            let answer: Value = serde_json::from_str(&answer).unwrap();
            let key = &answer["errors"][0]["parameters"][0]["key"];
            assert_eq!((status, key), (422, &json!(field)), "{body}: {answer}");
        }
        assert_eq!(world.get_json(JOBS).await["totalRecords"], 0);
    })
    .await;
}
