//! What others are told of blocks: each that begins, changes or ends, once, whoever or whatever made it so.

mod instances;
mod settings;

use std::collections::HashMap;

use chrono::TimeDelta;
use patron_blocks::{blocks::Measure, config::Config, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    consumer::{Blocks, hear},
    facts::{about, check_out, done, due, member, minutes_from_now, now},
    log::Heard,
    schemas::message_validator,
    world::{TENANT, World},
};

const OUT: Kind = Kind::ItemCheckedOut;
const IN: Kind = Kind::ItemCheckedIn;

fn on(config: &mut Config) {
    config.messages.on = true;
}

fn topic(world: &World) -> String {
    format!("{}.{TENANT}.patron-blocks.automated-block", world.log.environment())
}

/// A patron of whom the topic of users tells.
async fn patron(world: &World, group: Uuid) -> Uuid {
    let user = world.users.patron(group);
    world.publish(Kind::StoredUser, &done("CREATED", &member(user, group), now())).await;
    user
}

async fn borrow(world: &World, user: Uuid, many: usize) -> Vec<Uuid> {
    let loans: Vec<Uuid> = (0..many).map(|_| Uuid::new_v4()).collect();
    for loan in &loans {
        world.publish(OUT, &check_out(user, *loan, &minutes_from_now(600))).await;
    }
    world.settled().await;
    loans
}

/// Waits until nothing is left to be looked at or sent, as long as all is right.
async fn told(world: &World) {
    let left = "select (select count(*) from {schema}.touched_patron) + (select count(*) from {schema}.policy_change)
                     + (select count(*) from {schema}.message_outbox where status = 'NEW')
                     + (select count(*) from {schema}.told_patron where look_at <= now())";
    world.until("all is told", async |world: &World| world.count(left).await == 0).await;
}

/// What was told of a patron: type, cause and the flags of each block, oldest first.
fn of(heard: &[Heard], user: Uuid) -> Vec<(String, String, Vec<[bool; 3]>)> {
    let mut of: Vec<&Heard> = heard.iter().filter(|told| told.key == user.to_string()).collect();
    of.sort_by_key(|told| told.value["sequence"].as_i64().unwrap());
    let flag = |block: &Value, name: &str| block[name].as_bool().unwrap();
    let flags = |block: &Value| {
        ["blockBorrowing", "blockRenewals", "blockRequests"].map(|name| flag(block, name))
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let read = |told: &&Heard| {
        let new = &told.value["data"]["new"];
        let blocks = new["blocks"].as_array().into_iter().flatten().map(flags).collect();
        (text(&told.value["type"]), text(&new["cause"]), blocks)
    };
    of.iter().map(read).collect()
}

fn is(what: &str, cause: &str, blocks: &[[bool; 3]]) -> (String, String, Vec<[bool; 3]>) {
    (what.to_owned(), cause.to_owned(), blocks.to_vec())
}

/// Whoever builds a view from what was told knows what the desk knows.
async fn is_what_the_desk_says(world: &World, heard: &[Heard], users: &[Uuid]) {
    let mut view = Blocks::default();
    for Heard { key, value, .. } in heard {
        hear(&mut view, key, value);
    }
    for user in users {
        let answer = world.read(&format!("/automated-patron-blocks/{user}")).await;
        let known = view.get(&(TENANT.to_owned(), user.to_string()));
        let blocks = known.and_then(|(_, known)| known["blocks"].as_array());
        let seen: Vec<Value> = blocks
            .into_iter()
            .flatten()
            .map(|block| {
                json!({
                    "patronBlockConditionId": block["patronBlockConditionId"],
                    "blockBorrowing": block["blockBorrowing"],
                    "blockRenewals": block["blockRenewals"],
                    "blockRequests": block["blockRequests"],
                    "message": block["message"],
                })
            })
            .collect();
        assert_eq!(answer["automatedPatronBlocks"], json!(seen), "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_begin_change_and_end_are_told_once_with_what_was_before() {
    World::tell_with(on, async |world| {
        let group = Uuid::new_v4();
        let limit = world.limit(group, Measure::ChargedOut, 2.0).await;
        let user = patron(world, group).await;
        let mut loans = borrow(world, user, 1).await;
        told(world).await;
        assert_eq!(of(&world.log.read(&topic(world)), user), []);
        loans.extend(borrow(world, user, 1).await);
        told(world).await;
        for _ in 0..3 {
            loans.extend(borrow(world, user, 1).await);
            told(world).await;
        }
        for loan in loans {
            world.publish(IN, &about(user, loan)).await;
        }
        world.settled().await;
        told(world).await;
        let heard = world.log.read(&topic(world));
        let seen = of(&heard, user);
        assert_eq!(seen[0], is("CREATED", "event", &[[true, false, false]]));
        assert_eq!(seen[1], is("UPDATED", "event", &[[true; 3]]));
        assert_eq!(seen.last().unwrap(), &is("DELETED", "", &[]));
        assert!(seen.len() == 3 || seen.len() == 4, "{seen:?}");
        is_what_the_desk_says(world, &heard, &[user]).await;

        let first = heard.iter().find(|told| told.value["type"] == "CREATED").unwrap();
        let block = &first.value["data"]["new"]["blocks"][0];
        let number = |name: &str| block[name].as_f64().unwrap();
        assert_eq!((number("limit"), number("measured")), (2.0, 2.0));
        assert_eq!(block["patronBlockLimitId"], limit["id"]);
        assert_eq!(first.headers["folio.tenantId"], TENANT);
        assert_eq!(first.headers["x-okapi-tenant"], TENANT);
        assert_eq!(first.headers["event-id"], first.value["id"].as_str().unwrap());
        let updated = heard.iter().find(|told| told.value["type"] == "UPDATED").unwrap();
        assert_eq!(updated.value["data"]["old"], first.value["data"]["new"]);
        let validator = message_validator("automated-block");
        for told in &heard {
            assert!(validator.is_valid(&told.value), "{}", told.value);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_libraries_set_is_told_of_all_whom_it_concerns() {
    World::tell_with(on, async |world| {
        let group = Uuid::new_v4();
        let limit = world.limit(group, Measure::ChargedOut, 9.0).await;
        let (user, other) = (patron(world, group).await, patron(world, Uuid::new_v4()).await);
        for user in [user, other] {
            borrow(world, user, 3).await;
        }
        told(world).await;
        let path = format!("/patron-block-limits/{}", limit["id"].as_str().unwrap());
        let mut lower = limit.clone();
        lower["value"] = json!(2);
        assert_eq!(world.put(&path, &lower).await.0, 204);
        told(world).await;
        let condition = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let mut changed = world.read(&condition).await;
        changed["blockRequests"] = json!(false);
        assert_eq!(world.put(&condition, &changed).await.0, 204);
        told(world).await;
        changed["message"] = json!("Bring something back first");
        assert_eq!(world.put(&condition, &changed).await.0, 204);
        told(world).await;
        assert_eq!(world.delete(&path).await.0, 204);
        told(world).await;
        // Set by somebody who passes us by.
        world.limit(group, Measure::ChargedOut, 1.0).await;
        told(world).await;
        world.meddle("delete from {schema}.patron_block_limits").await;
        told(world).await;
        let heard = world.log.read(&topic(world));
        let some = &[[true, true, false]];
        assert_eq!(
            of(&heard, user)[..5],
            [
                is("CREATED", "limit_changed", &[[true; 3]]),
                is("UPDATED", "condition_changed", some),
                is("UPDATED", "condition_changed", some),
                is("DELETED", "", &[]),
                is("CREATED", "limit_changed", &[[true; 3]]),
            ]
        );
        assert_eq!(of(&heard, user)[5..], [is("DELETED", "", &[])]);
        assert_eq!(of(&heard, other), []);
        is_what_the_desk_says(world, &heard, &[user, other]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patron_group_that_is_learned_or_changed_is_a_cause() {
    World::tell_with(on, async |world| {
        let (strict, lenient) = (Uuid::new_v4(), Uuid::new_v4());
        world.limit(strict, Measure::ChargedOut, 1.0).await;
        world.limit(lenient, Measure::ChargedOut, 5.0).await;
        // Nobody has told of this one: only the desk asks.
        let asked = world.users.patron(strict);
        let moved = patron(world, lenient).await;
        for user in [asked, moved] {
            borrow(world, user, 3).await;
        }
        told(world).await;
        assert_eq!(world.log.read(&topic(world)), []);
        assert_eq!(world.blocks(asked).await, [[true; 3]]);
        world.users.set_group(moved, strict);
        let changed = done("UPDATED", &member(moved, strict), now());
        world.publish(Kind::StoredUser, &changed).await;
        world.settled().await;
        told(world).await;
        let heard = world.log.read(&topic(world));
        for user in [asked, moved] {
            let expected = [is("CREATED", "patron_group_changed", &[[true; 3]])];
            assert_eq!(of(&heard, user), expected);
        }
        is_what_the_desk_says(world, &heard, &[asked, moved]).await;
        // The topic tells for the first time of one whose group the desk had asked for: there is none.
        world.users.set_group(asked, None);
        let without = done("UPDATED", &member(asked, None), now());
        world.publish(Kind::StoredUser, &without).await;
        world.settled().await;
        told(world).await;
        let heard = world.log.read(&topic(world));
        assert_eq!(of(&heard, asked).last().unwrap(), &is("DELETED", "", &[]));
        is_what_the_desk_says(world, &heard, &[asked, moved]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_in_capitals_concerns_the_patrons_of_its_group() {
    World::tell_with(on, async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 9.0).await;
        let user = patron(world, group).await;
        borrow(world, user, 3).await;
        told(world).await;
        let limit = json!({
            "id": Uuid::new_v4(), "patronGroupId": group.to_string().to_uppercase(),
            "conditionId": Measure::ChargedOut.condition_id(), "value": 2,
        });
        assert_eq!(world.post("/patron-block-limits", &limit).await.0, 201);
        told(world).await;
        let heard = world.log.read(&topic(world));
        assert_eq!(of(&heard, user), [is("CREATED", "limit_changed", &[[true; 3]])]);
        is_what_the_desk_says(world, &heard, &[user]).await;
    })
    .await;
}

/// So many milliseconds until a loan that is due then is overdue.
fn overdue_in(ms: i64, days: i64) -> String {
    let due = now() + TimeDelta::milliseconds(ms) - TimeDelta::minutes(1) - TimeDelta::days(days);
    due.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn time_that_passes_is_told_though_nothing_happens_and_though_nobody_was_there() {
    World::tell_with(on, async |world| {
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        world.limit(first, Measure::OverdueItems, 0.0).await;
        world.limit(second, Measure::RecallOverdueDays, 1.0).await;
        let (overdue, recalled) = (patron(world, first).await, patron(world, second).await);
        let (loan, early) = (Uuid::new_v4(), now() + TimeDelta::milliseconds(6000));
        world.publish(OUT, &check_out(overdue, Uuid::new_v4(), &overdue_in(6000, 0))).await;
        world.publish(OUT, &check_out(recalled, loan, &minutes_from_now(-1300))).await;
        let by_recall = due(recalled, loan, &overdue_in(6000, 1), true);
        world.publish(Kind::LoanDueDateChanged, &by_recall).await;
        world.settled().await;
        told(world).await;
        let heard = world.log.read(&topic(world));
        // Unless it took so long that time has passed already.
        assert!(heard.is_empty() || now() >= early, "{heard:?}");
        for user in [overdue, recalled] {
            world
                .until("it is told", async |world: &World| {
                    !of(&world.log.read(&topic(world)), user).is_empty()
                })
                .await;
        }
        // Until it is quick enough to be away at the moment.
        let mut ahead = 4000;
        let (missed, moment) = loop {
            let (missed, moment) =
                (patron(world, first).await, now() + TimeDelta::milliseconds(ahead));
            world.publish(OUT, &check_out(missed, Uuid::new_v4(), &overdue_in(ahead, 0))).await;
            world.settled().await;
            told(world).await;
            world.stop().await;
            if now() < moment {
                break (missed, moment);
            }
            world.start().await;
            ahead *= 2;
        };
        world.until("it has passed", async |_: &World| now() > moment).await;
        world.start().await;
        world
            .until("it is told afterwards", async |world: &World| {
                !of(&world.log.read(&topic(world)), missed).is_empty()
            })
            .await;
        told(world).await;
        let heard = world.log.read(&topic(world));
        for user in [overdue, recalled, missed] {
            let expected = [is("CREATED", "time_passed", &[[true; 3]])];
            assert_eq!(of(&heard, user), expected);
        }
        is_what_the_desk_says(world, &heard, &[overdue, recalled, missed]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rebuild_puts_right_is_told_and_a_due_date_that_it_changes_is_looked_at() {
    World::tell_with(on, async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 1.0).await;
        world.limit(group, Measure::OverdueItems, 0.0).await;
        let user = patron(world, group).await;
        // Long enough ago for the inbox to be believed.
        world.meddle(crate::facts::ENABLED_LONG_AGO).await;
        let loans = borrow(world, user, 2).await;
        let late = Uuid::new_v4();
        world.publish(OUT, &check_out(user, late, &minutes_from_now(-30))).await;
        world.settled().await;
        told(world).await;
        world
            .meddle(&format!(
                "delete from {{schema}}.loan where loan_id in ('{}', '{}');
                 update {{schema}}.patron_counter set open_loans = 1;
                 update {{schema}}.loan set check_out_due_date = now() + interval '1 day'",
                loans[0], loans[1]
            ))
            .await;
        told(world).await;
        let seen = of(&world.log.read(&topic(world)), user);
        assert_eq!(seen.last().unwrap().2, [[true, false, false]], "{seen:?}");
        let body = json!({ "source": "inbox" });
        assert_eq!(world.post("/patron-blocks/rebuilds", &body).await.0, 201);
        world
            .until("it is put right", async |world: &World| world.blocks(user).await.len() == 2)
            .await;
        told(world).await;
        let heard = world.log.read(&topic(world));
        let expected = is("UPDATED", "rebuild", &[[true; 3], [true; 3]]);
        assert_eq!(of(&heard, user).last().unwrap(), &expected);
        is_what_the_desk_says(world, &heard, &[user]).await;
    })
    .await;
}

/// Two instances, patrons who borrow and return at once: what is told of each stays in order and comes once.
#[tokio::test(flavor = "multi_thread")]
async fn instances_share_the_work_and_tell_each_thing_once_and_in_order() {
    World::tell_with(on, async |world| {
        world.start().await;
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 1.0).await;
        let mut users = Vec::new();
        for _ in 0..8 {
            users.push(patron(world, group).await);
        }
        for _ in 0..6 {
            let mut loans = Vec::new();
            for user in &users {
                let loan = Uuid::new_v4();
                world.publish(OUT, &check_out(*user, loan, &minutes_from_now(600))).await;
                loans.push((*user, loan));
            }
            world.settled().await;
            for (user, loan) in loans {
                world.publish(IN, &about(user, loan)).await;
            }
        }
        borrow(world, users[0], 2).await;
        told(world).await;
        let heard = world.log.read(&topic(world));
        let mut last: HashMap<String, (i64, Value)> = HashMap::new();
        let mut ids = std::collections::HashSet::new();
        for Heard { key, value, .. } in &heard {
            assert!(ids.insert(value["id"].clone()), "told twice: {value}");
            let sequence = value["sequence"].as_i64().unwrap();
            let before = last.insert(key.clone(), (sequence, value["data"]["new"].clone()));
            let (number, new) = before.unwrap_or((-1, Value::Null));
            assert!(number < sequence, "out of order: {value}");
            assert_eq!(value["data"]["old"], new, "what was before is what was told before");
        }
        is_what_the_desk_says(world, &heard, &users).await;
    })
    .await;
}
