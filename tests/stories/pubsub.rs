//! If producers do not write native topics yet, the service can read the topics of mod-pubsub.

use patron_blocks::event::Kind;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    log::OutgoingRecord,
    payloads::{check_out, loan_event, minutes_from_now},
    world::{TENANT, World},
};

fn topic(world: &World, kind: Kind) -> String {
    let environment = world.log.environment();
    format!("{environment}.pub-sub.{TENANT}.{}.mod-pubsub-2.16.0", kind.name())
}

/// Returns an event as mod-pubsub stores it: the content as text, the tenant inside, no headers.
fn stored_event(kind: Kind, payload: &Value) -> Vec<u8> {
    let stored = json!({
        "id": Uuid::new_v4(),
        "eventType": kind.name(),
        "eventMetadata": { "tenantId": TENANT, "eventTTL": 1, "publishedBy": "mod-circulation-24.5.0" },
        "eventPayload": payload.to_string(),
    });
    stored.to_string().into_bytes()
}

async fn send(world: &World, kind: Kind, payload: &Value) {
    let value = stored_event(kind, payload);
    let topic = topic(world, kind);
    let draft =
        OutgoingRecord { topic, headers: Vec::new(), payload: Some(&value), timestamp: None };
    world.log.send(draft).await;
}

async fn read_from_pubsub(world: &World) -> i64 {
    world.count("select count(*) from {schema}.inbox where topic like '%.pub-sub.%'").await
}

#[tokio::test(flavor = "multi_thread")]
async fn mod_pubsub_topics_are_read_only_if_configured() {
    World::run(async |world| {
        let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
        let (out, lost) = (Kind::ItemCheckedOut, Kind::ItemDeclaredLost);
        world.log.create_topics(vec![topic(world, out), topic(world, lost)]).await;
        let payload = check_out(user, loan, &minutes_from_now(60));

        // First the native topic alone.
        world.publish(out, &payload).await;
        world.until_committed().await;
        send(world, out, &payload).await;
        send(world, lost, &loan_event(user, loan)).await;
        world.stop().await;
        assert_eq!(read_from_pubsub(world).await, 0);

        // Then both topics, from the start: an event in both counts once.
        world.config.kafka.pubsub_topics = true;
        world.start().await;
        world.until_committed().await;
        assert_eq!(read_from_pubsub(world).await, 2);
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        let loans = summary["openLoans"].as_array().expect("a list");
        assert_eq!(loans.len(), 1);
        assert_eq!(loans[0]["itemLost"], true);
    })
    .await;
}
