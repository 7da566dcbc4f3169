//! Iterations: every patron's summary once, to whoever asks for it.

use std::collections::{BTreeMap, BTreeSet};

use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    consumer::{Blocks, follow, hear},
    facts::{about, check_out, done, member, minutes_from_now, now},
    schemas::message_validator,
    world::{TENANT, World},
};

const JOBS: &str = "/patron-blocks/user-summaries/iteration";

/// Patrons of two groups, by turns, with one to three loans each.
async fn library(world: &World, patrons: usize) -> (Vec<Uuid>, [Uuid; 2]) {
    let groups = [Uuid::new_v4(), Uuid::new_v4()];
    world.limit(groups[0], Measure::ChargedOut, 2.0).await;
    let mut users = Vec::new();
    for n in 0..patrons {
        let (user, group) = (Uuid::new_v4(), groups[n % 2]);
        world.publish(Kind::StoredUser, &done("CREATED", &member(user, group), now())).await;
        for _ in 0..=n % 3 {
            let out = check_out(user, Uuid::new_v4(), &minutes_from_now(600));
            world.publish(Kind::ItemCheckedOut, &out).await;
        }
        users.push(user);
    }
    world.settled().await;
    (users, groups)
}

async fn make(world: &World, name: &str) -> String {
    let topic = format!("{}.{TENANT}.{name}", world.log.environment());
    world.log.make(vec![topic.clone()]).await;
    topic
}

async fn ask(world: &World, body: Value) -> String {
    let (status, body) = world.post(JOBS, &body).await;
    assert_eq!(status, 201, "{body}");
    let job: Value = serde_json::from_str(&body).unwrap();
    job["id"].as_str().unwrap().to_owned()
}

async fn ended(world: &World, id: &str) -> Value {
    let path = format!("{JOBS}/{id}");
    world
        .until("the iteration has ended", async |world: &World| {
            world.read(&path).await.get("endedDate").is_some()
        })
        .await;
    world.read(&path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_filled_by_it_knows_what_rest_tells() {
    World::tell(async |world| {
        let (users, groups) = library(world, 30).await;
        let topic = make(world, "search.patrons").await;
        // Three at once, to one topic: each event says whose it is.
        let all = ask(world, json!({ "topicName": topic })).await;
        let body = json!({
            "topicName": "search.patrons", "eventType": "REINDEX", "patronGroupId": groups[0],
        });
        let some = ask(world, body).await;
        let again = ask(world, json!({ "topicName": "search.patrons" })).await;
        for (id, many) in [(&all, 30), (&some, 15), (&again, 30)] {
            let told = ended(world, id).await;
            assert_eq!((&told["status"], &told["totalRecords"]), (&json!("done"), &json!(many)));
            assert_eq!(told["numberOfRecordsPublished"], many);
        }
        let (mut view, mut summaries) = (Blocks::default(), BTreeMap::new());
        let (mut heard, validator) = (BTreeMap::new(), message_validator("iteration"));
        let consumer = world.log.consumer(&[&topic]);
        tokio::task::block_in_place(|| {
            follow(&consumer, |patron, message| {
                assert!(validator.is_valid(message), "{message}");
                let job = message["jobId"].as_str().unwrap().to_owned();
                let of: &mut BTreeSet<String> = heard.entry(job).or_default();
                assert!(of.insert(patron.to_owned()), "twice: {message}");
                hear(&mut view, patron, message);
                summaries.insert(patron.to_owned(), message["summary"].clone());
                heard.values().map(BTreeSet::len).sum::<usize>() == 75
            });
        });
        assert_eq!((heard[&all].len(), heard[&some].len(), heard[&again].len()), (30, 15, 30));
        for user in users {
            let summary = world.read(&format!("/user-summary/{user}")).await;
            assert_eq!(summaries[&user.to_string()], summary);
            let blocks = world.blocks(user).await.len();
            let (_, known) = &view[&(TENANT.to_owned(), user.to_string())];
            let seen = known["blocks"].as_array().map_or(0, Vec::len);
            assert_eq!(seen, blocks);
        }
        let listed = world.read(&format!("{JOBS}?limit=2")).await;
        assert_eq!(
            (&listed["totalRecords"], listed["iterations"].as_array().unwrap().len()),
            (&json!(3), 2)
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_since_is_published_alone_and_what_is_gone_is_told_as_gone() {
    World::tell(async |world| {
        let (users, groups) = library(world, 6).await;
        let since = now();
        let topic = make(world, "reports.patrons").await;
        let loan =
            world.read(&format!("/user-summary/{}", users[0])).await["openLoans"][0]["loanId"]
                .as_str()
                .unwrap()
                .to_owned();
        let returned = about(users[0], loan.parse().unwrap());
        world.publish(Kind::ItemCheckedIn, &returned).await;
        let out = check_out(users[1], Uuid::new_v4(), &minutes_from_now(60));
        world.publish(Kind::ItemCheckedOut, &out).await;
        world.settled().await;
        let since = since.to_rfc3339();
        let id = ask(world, json!({ "topicName": topic, "changedSince": since })).await;
        let told = ended(world, &id).await;
        assert_eq!((&told["status"], &told["totalRecords"]), (&json!("done"), &json!(2)), "{told}");
        let heard = world.log.read(&topic);
        let of = |user: Uuid| {
            let found = heard.iter().find(|told| told.key == user.to_string());
            found.unwrap().value["summary"].clone()
        };
        assert_eq!(heard.len(), 2);
        assert_eq!(of(users[0]), Value::Null);
        assert_eq!(of(users[1])["openLoans"].as_array().unwrap().len(), 3);
        let body = json!({ "topicName": topic, "changedSince": since, "patronGroupId": groups[1] });
        let told = ended(world, &ask(world, body).await).await;
        assert_eq!(
            (&told["totalRecords"], &told["numberOfRecordsPublished"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(world.log.read(&topic).len(), 3);
    })
    .await;
}

/// A block that came and went between two looks must not be published: nothing would take it back.
#[tokio::test(flavor = "multi_thread")]
async fn while_others_are_told_it_says_what_was_told_last() {
    World::tell_with(
        |config| config.messages.on = true,
        async |world| {
            let (users, _) = library(world, 3).await;
            let told = "select count(*) from {schema}.told_patron where blocked is not null";
            world.until("it is told", async |world: &World| world.count(told).await == 1).await;
            let blocked = users[2];
            // What is so by now was not told yet.
            world
                .meddle(&format!(
                    "update {{schema}}.told_patron set blocked = null where user_id = '{blocked}'"
                ))
                .await;
            assert_eq!(world.blocks(blocked).await.len(), 1);
            let topic = make(world, "search.patrons").await;
            ended(world, &ask(world, json!({ "topicName": topic })).await).await;
            let heard = world.log.read(&topic);
            let of = heard.iter().find(|told| told.key == blocked.to_string()).unwrap();
            assert_eq!(of.value["automatedPatronBlocks"], Value::Null);
        },
    )
    .await;
}

/// One that died goes on where the broker's last word was; what is published again has the same id.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_cancelled_ends_and_one_that_was_left_is_gone_on_with() {
    World::tell(async |world| {
        let (mut users, _) = library(world, 8).await;
        users.sort();
        let topic = make(world, "search.patrons").await;
        let id = ask(world, json!({ "topicName": topic })).await;
        assert_eq!(ended(world, &id).await["numberOfRecordsPublished"], 8);
        let left = format!(
            "update mod_patron_blocks.iteration set status = 'publishing', ended_at = null, published = 3,
                    last_user = '{}', held_until = now() - interval '1 second' where id = '{id}'",
            users[2]
        );
        world.meddle(&left).await;
        let told = ended(world, &id).await;
        assert_eq!((&told["status"], &told["numberOfRecordsPublished"]), (&json!("done"), &json!(8)));
        let heard = world.log.read(&topic);
        let ids: BTreeSet<&str> =
            heard.iter().map(|told| told.value["id"].as_str().unwrap()).collect();
        assert_eq!((heard.len(), ids.len()), (13, 8));

        assert_eq!(world.delete(&format!("{JOBS}/{id}")).await.0, 422, "it has ended");
        let held = format!(
            "update mod_patron_blocks.iteration set status = 'publishing', ended_at = null,
                    held_until = now() + interval '1 hour' where id = '{id}'"
        );
        world.meddle(&held).await;
        assert_eq!(world.delete(&format!("{JOBS}/{id}")).await.0, 204);
        assert_eq!(world.read(&format!("{JOBS}/{id}")).await["status"], "cancelled");
        assert_eq!(world.get(&format!("{JOBS}/{}", Uuid::new_v4())).await.0, 404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_topic_of_another_is_written_to() {
    World::tell(async |world| {
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
        assert_eq!(world.read(JOBS).await["totalRecords"], 0);
    })
    .await;
}
