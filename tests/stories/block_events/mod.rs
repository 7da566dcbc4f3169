//! Block events: each block that starts, changes or ends is published once, whatever the cause.

mod instances;
mod settings;

use std::collections::HashMap;

use chrono::TimeDelta;
use patron_blocks::{blocks::Measure, config::Config, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    repository::schemas::message_validator,
    support::{
        block_event_consumer::{Blocks, apply_message},
        log::ConsumedMessage,
        payloads::{
            check_out, due_date_change, entity_change, loan_event, minutes_from_now, now,
            user_record,
        },
        world::{TENANT, World},
    },
};

const OUT: Kind = Kind::ItemCheckedOut;
const IN: Kind = Kind::ItemCheckedIn;

fn enable_publishing(config: &mut Config) {
    config.block_events.enabled = true;
}

fn topic(world: &World) -> String {
    format!("{}.{TENANT}.patron-blocks.automated-block", world.log.environment())
}

/// Adds a patron and publishes the patron's record to the users topic.
async fn publish_patron(world: &World, group: Uuid) -> Uuid {
    let user = world.users.add_patron(group);
    world
        .publish(Kind::StoredUser, &entity_change("CREATED", &user_record(user, group), now()))
        .await;
    user
}

async fn publish_check_outs(world: &World, user: Uuid, many: usize) -> Vec<Uuid> {
    let loans: Vec<Uuid> = (0..many).map(|_| Uuid::new_v4()).collect();
    for loan in &loans {
        world.publish(OUT, &check_out(user, *loan, &minutes_from_now(600))).await;
    }
    world.until_committed().await;
    loans
}

/// Waits until no patron is pending or due, and the outbox is empty.
pub(super) async fn until_published(world: &World) {
    let left = "select (select count(*) from {schema}.pending_patron) + (select count(*) from {schema}.pending_group)
                     + (select count(*) from {schema}.message_outbox where status = 'NEW')
                     + (select count(*) from {schema}.published_patron where reevaluate_at <= now())";
    world
        .until("all messages are published", async |world: &World| world.count(left).await == 0)
        .await;
}

/// Returns the block events of a patron by sequence: type, cause and the flags of each block.
fn published_for(
    messages: &[ConsumedMessage],
    user: Uuid,
) -> Vec<(String, String, Vec<[bool; 3]>)> {
    let mut of: Vec<&ConsumedMessage> =
        messages.iter().filter(|message| message.key == user.to_string()).collect();
    of.sort_by_key(|message| message.value["sequence"].as_i64().unwrap());
    let flag = |block: &Value, name: &str| block[name].as_bool().unwrap();
    let flags = |block: &Value| {
        ["blockBorrowing", "blockRenewals", "blockRequests"].map(|name| flag(block, name))
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let read = |message: &&ConsumedMessage| {
        let new = &message.value["data"]["new"];
        let blocks = new["blocks"].as_array().into_iter().flatten().map(flags).collect();
        (text(&message.value["type"]), text(&new["cause"]), blocks)
    };
    of.iter().map(read).collect()
}

fn block_event(what: &str, cause: &str, blocks: &[[bool; 3]]) -> (String, String, Vec<[bool; 3]>) {
    (what.to_owned(), cause.to_owned(), blocks.to_vec())
}

/// Checks that a view built from the block events equals the API's responses.
async fn assert_matches_api(world: &World, messages: &[ConsumedMessage], users: &[Uuid]) {
    let mut view = Blocks::default();
    for ConsumedMessage { key, value, .. } in messages {
        apply_message(&mut view, key, value);
    }
    for user in users {
        let mut answer = world.get_json(&format!("/automated-patron-blocks/{user}")).await;
        // Only a response has the dates of the limit.
        let answered = answer["automatedPatronBlocks"].as_array_mut().unwrap();
        for block in &mut *answered {
            block.as_object_mut().unwrap().remove("metadata");
        }
        let known = view.get(&(TENANT.to_owned(), user.to_string()));
        let blocks = known.and_then(|(_, known)| known["blocks"].as_array());
        let seen: Vec<Value> = blocks
            .into_iter()
            .flatten()
            .map(|block| {
                json!({
                    "id": block["patronBlockLimitId"],
                    "patronBlockConditionId": block["patronBlockConditionId"],
                    "blockBorrowing": block["blockBorrowing"],
                    "blockRenewals": block["blockRenewals"],
                    "blockRequests": block["blockRequests"],
                    "message": block["message"],
                })
            })
            .collect();
        assert_eq!(*answered, seen, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn block_changes_are_published_once_with_old_value() {
    World::run_with(enable_publishing, async |world| {
        let group = Uuid::new_v4();
        let limit = world.add_limit(group, Measure::ChargedOut, 2.0).await;
        let user = publish_patron(world, group).await;
        let mut loans = publish_check_outs(world, user, 1).await;
        until_published(world).await;
        assert_eq!(published_for(&world.log.read_topic(&topic(world)), user), []);
        loans.extend(publish_check_outs(world, user, 1).await);
        until_published(world).await;
        for _ in 0..3 {
            loans.extend(publish_check_outs(world, user, 1).await);
            until_published(world).await;
        }
        for loan in loans {
            world.publish(IN, &loan_event(user, loan)).await;
        }
        world.until_committed().await;
        until_published(world).await;
        let messages = world.log.read_topic(&topic(world));
        let seen = published_for(&messages, user);
        assert_eq!(seen[0], block_event("CREATED", "event", &[[true, false, false]]));
        assert_eq!(seen[1], block_event("UPDATED", "event", &[[true; 3]]));
        assert_eq!(seen.last().unwrap(), &block_event("DELETED", "", &[]));
        assert!(seen.len() == 3 || seen.len() == 4, "{seen:?}");
        assert_matches_api(world, &messages, &[user]).await;

        let first = messages.iter().find(|message| message.value["type"] == "CREATED").unwrap();
        let block = &first.value["data"]["new"]["blocks"][0];
        let number = |name: &str| block[name].as_f64().unwrap();
        assert_eq!((number("limit"), number("measured")), (2.0, 2.0));
        assert_eq!(block["patronBlockLimitId"], limit["id"]);
        assert_eq!(first.headers["folio.tenantId"], TENANT);
        assert_eq!(first.headers["x-okapi-tenant"], TENANT);
        assert_eq!(first.headers["event-id"], first.value["id"].as_str().unwrap());
        let updated = messages.iter().find(|message| message.value["type"] == "UPDATED").unwrap();
        assert_eq!(updated.value["data"]["old"], first.value["data"]["new"]);
        let validator = message_validator("automated-block");
        for message in &messages {
            assert!(validator.is_valid(&message.value), "{}", message.value);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_and_condition_changes_are_published() {
    World::run_with(enable_publishing, async |world| {
        let group = Uuid::new_v4();
        let limit = world.add_limit(group, Measure::ChargedOut, 9.0).await;
        let (user, other) =
            (publish_patron(world, group).await, publish_patron(world, Uuid::new_v4()).await);
        for user in [user, other] {
            publish_check_outs(world, user, 3).await;
        }
        until_published(world).await;
        let path = format!("/patron-block-limits/{}", limit["id"].as_str().unwrap());
        let mut lower = limit.clone();
        lower["value"] = json!(2);
        assert_eq!(world.put(&path, &lower).await.0, 204);
        until_published(world).await;
        let condition = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let mut changed = world.get_json(&condition).await;
        changed["blockRequests"] = json!(false);
        assert_eq!(world.put(&condition, &changed).await.0, 204);
        until_published(world).await;
        changed["message"] = json!("Bring something back first");
        assert_eq!(world.put(&condition, &changed).await.0, 204);
        until_published(world).await;
        assert_eq!(world.delete(&path).await.0, 204);
        until_published(world).await;
        // The API adds a limit, and SQL deletes the limit without the API.
        world.add_limit(group, Measure::ChargedOut, 1.0).await;
        until_published(world).await;
        world.execute_sql("delete from {schema}.patron_block_limits").await;
        until_published(world).await;
        let messages = world.log.read_topic(&topic(world));
        let some = &[[true, true, false]];
        assert_eq!(
            published_for(&messages, user)[..5],
            [
                block_event("CREATED", "limit_changed", &[[true; 3]]),
                block_event("UPDATED", "condition_changed", some),
                block_event("UPDATED", "condition_changed", some),
                block_event("DELETED", "", &[]),
                block_event("CREATED", "limit_changed", &[[true; 3]]),
            ]
        );
        assert_eq!(published_for(&messages, user)[5..], [block_event("DELETED", "", &[])]);
        assert_eq!(published_for(&messages, other), []);
        assert_matches_api(world, &messages, &[user, other]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patron_group_change_is_a_published_cause() {
    World::run_with(enable_publishing, async |world| {
        let (strict, lenient) = (Uuid::new_v4(), Uuid::new_v4());
        world.add_limit(strict, Measure::ChargedOut, 1.0).await;
        world.add_limit(lenient, Measure::ChargedOut, 5.0).await;
        // The topic contains no record of this patron; only an evaluation requests the patron's group.
        let asked = world.users.add_patron(strict);
        let moved = publish_patron(world, lenient).await;
        for user in [asked, moved] {
            publish_check_outs(world, user, 3).await;
        }
        until_published(world).await;
        assert_eq!(world.log.read_topic(&topic(world)), []);
        assert_eq!(world.block_flags(asked).await, [[true; 3]]);
        world.users.set_group(moved, strict);
        let changed = entity_change("UPDATED", &user_record(moved, strict), now());
        world.publish(Kind::StoredUser, &changed).await;
        world.until_committed().await;
        until_published(world).await;
        let messages = world.log.read_topic(&topic(world));
        for user in [asked, moved] {
            let expected = [block_event("CREATED", "patron_group_changed", &[[true; 3]])];
            assert_eq!(published_for(&messages, user), expected);
        }
        assert_matches_api(world, &messages, &[asked, moved]).await;
        // The patron's group came from mod-users. The topic has its first record of this patron, without a
        // group.
        world.users.set_group(asked, None);
        let without = entity_change("UPDATED", &user_record(asked, None), now());
        world.publish(Kind::StoredUser, &without).await;
        world.until_committed().await;
        until_published(world).await;
        let messages = world.log.read_topic(&topic(world));
        assert_eq!(
            published_for(&messages, asked).last().unwrap(),
            &block_event("DELETED", "", &[])
        );
        assert_matches_api(world, &messages, &[asked, moved]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_with_uppercase_group_reaches_its_patrons() {
    World::run_with(enable_publishing, async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 9.0).await;
        let user = publish_patron(world, group).await;
        publish_check_outs(world, user, 3).await;
        until_published(world).await;
        let limit = json!({
            "id": Uuid::new_v4(), "patronGroupId": group.to_string().to_uppercase(),
            "conditionId": Measure::ChargedOut.condition_id(), "value": 2,
        });
        assert_eq!(world.post("/patron-block-limits", &limit).await.0, 201);
        until_published(world).await;
        let messages = world.log.read_topic(&topic(world));
        assert_eq!(
            published_for(&messages, user),
            [block_event("CREATED", "limit_changed", &[[true; 3]])]
        );
        assert_matches_api(world, &messages, &[user]).await;
    })
    .await;
}

/// Returns the due date of a loan that becomes overdue in this number of milliseconds, less `days` days.
fn overdue_in(ms: i64, days: i64) -> String {
    let due = now() + TimeDelta::milliseconds(ms) - TimeDelta::minutes(1) - TimeDelta::days(days);
    due.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn time_based_blocks_are_published_even_after_downtime() {
    World::run_with(enable_publishing, async |world| {
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        world.add_limit(first, Measure::OverdueItems, 0.0).await;
        world.add_limit(second, Measure::RecallOverdueDays, 1.0).await;
        let (overdue, recalled) =
            (publish_patron(world, first).await, publish_patron(world, second).await);
        let (loan, early) = (Uuid::new_v4(), now() + TimeDelta::milliseconds(6000));
        world.publish(OUT, &check_out(overdue, Uuid::new_v4(), &overdue_in(6000, 0))).await;
        world.publish(OUT, &check_out(recalled, loan, &minutes_from_now(-1300))).await;
        let by_recall = due_date_change(recalled, loan, &overdue_in(6000, 1), true);
        world.publish(Kind::LoanDueDateChanged, &by_recall).await;
        world.until_committed().await;
        until_published(world).await;
        let messages = world.log.read_topic(&topic(world));
        // If the steps above were slow, the due moment has already passed.
        assert!(messages.is_empty() || now() >= early, "{messages:?}");
        for user in [overdue, recalled] {
            world
                .until("the message is published", async |world: &World| {
                    !published_for(&world.log.read_topic(&topic(world)), user).is_empty()
                })
                .await;
        }
        // Repeats with a greater delay until the instance stops before the due moment.
        let mut ahead = 4000;
        let (missed, moment) = loop {
            let (missed, moment) =
                (publish_patron(world, first).await, now() + TimeDelta::milliseconds(ahead));
            world.publish(OUT, &check_out(missed, Uuid::new_v4(), &overdue_in(ahead, 0))).await;
            world.until_committed().await;
            until_published(world).await;
            world.stop().await;
            if now() < moment {
                break (missed, moment);
            }
            world.start().await;
            ahead *= 2;
        };
        world.until("the due moment has passed", async |_: &World| now() > moment).await;
        world.start().await;
        world
            .until("the message is published afterwards", async |world: &World| {
                !published_for(&world.log.read_topic(&topic(world)), missed).is_empty()
            })
            .await;
        until_published(world).await;
        let messages = world.log.read_topic(&topic(world));
        for user in [overdue, recalled, missed] {
            let expected = [block_event("CREATED", "time_passed", &[[true; 3]])];
            assert_eq!(published_for(&messages, user), expected);
        }
        assert_matches_api(world, &messages, &[overdue, recalled, missed]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuild_changes_are_published_with_new_due_dates() {
    World::run_with(enable_publishing, async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 1.0).await;
        world.add_limit(group, Measure::OverdueItems, 0.0).await;
        let user = publish_patron(world, group).await;
        // Moves the instant of enabling back, so that the inbox counts as complete.
        world.execute_sql(crate::support::payloads::BACKDATE_ENABLING_SQL).await;
        let loans = publish_check_outs(world, user, 2).await;
        let late = Uuid::new_v4();
        world.publish(OUT, &check_out(user, late, &minutes_from_now(-30))).await;
        world.until_committed().await;
        until_published(world).await;
        world
            .execute_sql(&format!(
                "delete from {{schema}}.loan where loan_id in ('{}', '{}');
                 update {{schema}}.patron_counter set open_loans = 1;
                 update {{schema}}.loan set check_out_due_date = now() + interval '1 day'",
                loans[0], loans[1]
            ))
            .await;
        until_published(world).await;
        let seen = published_for(&world.log.read_topic(&topic(world)), user);
        assert_eq!(seen.last().unwrap().2, [[true, false, false]], "{seen:?}");
        let body = json!({ "source": "inbox" });
        assert_eq!(world.post("/patron-blocks/rebuilds", &body).await.0, 201);
        world
            .until("the rebuild restores the blocks", async |world: &World| {
                world.block_flags(user).await.len() == 2
            })
            .await;
        until_published(world).await;
        let messages = world.log.read_topic(&topic(world));
        let expected = block_event("UPDATED", "rebuild", &[[true; 3], [true; 3]]);
        assert_eq!(published_for(&messages, user).last().unwrap(), &expected);
        assert_matches_api(world, &messages, &[user]).await;
    })
    .await;
}

/// Two instances run, and patrons borrow and return at once. Each patron's events are published in order
/// and once.
#[tokio::test(flavor = "multi_thread")]
async fn instances_publish_each_change_once_and_in_order() {
    World::run_with(enable_publishing, async |world| {
        world.start().await;
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 1.0).await;
        let mut users = Vec::new();
        for _ in 0..8 {
            users.push(publish_patron(world, group).await);
        }
        for _ in 0..6 {
            let mut loans = Vec::new();
            for user in &users {
                let loan = Uuid::new_v4();
                world.publish(OUT, &check_out(*user, loan, &minutes_from_now(600))).await;
                loans.push((*user, loan));
            }
            world.until_committed().await;
            for (user, loan) in loans {
                world.publish(IN, &loan_event(user, loan)).await;
            }
        }
        publish_check_outs(world, users[0], 2).await;
        until_published(world).await;
        let messages = world.log.read_topic(&topic(world));
        let mut last: HashMap<String, (i64, Value)> = HashMap::new();
        let mut ids = std::collections::HashSet::new();
        for ConsumedMessage { key, value, .. } in &messages {
            assert!(ids.insert(value["id"].clone()), "published twice: {value}");
            let sequence = value["sequence"].as_i64().unwrap();
            let before = last.insert(key.clone(), (sequence, value["data"]["new"].clone()));
            let (number, new) = before.unwrap_or((-1, Value::Null));
            assert!(number < sequence, "out of order: {value}");
            assert_eq!(value["data"]["old"], new, "`old` equals the previous `new`");
        }
        assert_matches_api(world, &messages, &users).await;
    })
    .await;
}
