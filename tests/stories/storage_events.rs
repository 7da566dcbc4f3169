//! Storage events: changes of loans without a business event, and patron groups.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    log::OutgoingRecord,
    payloads::{
        balance_change, check_out, due_date_change, entity_change, loan_event, minutes_from_now,
        now, storage_loan, user_record, with_member,
    },
    users_stub::UsersBehavior,
    world::{TENANT, World},
};

const NONE: [[bool; 3]; 0] = [];
const ALL: [[bool; 3]; 1] = [[true; 3]];
const LOAN: Kind = Kind::StoredLoan;
const USER: Kind = Kind::StoredUser;
const OUT: Kind = Kind::ItemCheckedOut;

fn minutes_ago(minutes: i64) -> DateTime<Utc> {
    now() - TimeDelta::minutes(minutes)
}

/// Adds a group in which a single loan blocks every action.
async fn strict_group(world: &World) -> Uuid {
    let group = Uuid::new_v4();
    world.add_limit(group, Measure::ChargedOut, 0.0).await;
    group
}

/// Returns the patron's open loans: due date, flags (recalled, lost, claimed returned) and grace period.
async fn loans(world: &World, user: Uuid) -> Vec<(String, [bool; 3], Value)> {
    let summary = world.get_json_or_null(&format!("/user-summary/{user}")).await;
    let read = |loan: &Value| {
        let flags = ["recall", "itemLost", "itemClaimedReturned"];
        let due_date = loan["dueDate"].as_str().unwrap().replace("+00:00", "Z");
        (due_date, flags.map(|flag| loan[flag].as_bool().unwrap()), loan["gracePeriod"].clone())
    };
    summary["openLoans"].as_array().into_iter().flatten().map(read).collect()
}

/// Publishes a record to the topic of a tenant or of a collection, with the tenant `named` in its
/// header.
async fn publish_to(world: &World, part: &str, named: &str, kind: Kind, value: &Value) {
    let payload = value.to_string();
    let draft = OutgoingRecord {
        topic: world.log.topic(part, kind),
        headers: vec![("folio.tenantId", named)],
        payload: Some(payload.as_bytes()),
        timestamp: None,
    };
    if named == TENANT {
        world.log.send(draft).await;
    } else {
        world.log.send_untracked(draft).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loan_known_only_from_storage_follows_its_changes() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let (a, b, loan) =
            (world.users.add_patron(group), world.users.add_patron(group), Uuid::new_v4());
        let (first, second) = (minutes_from_now(60), minutes_from_now(600));
        let storage = storage_loan(a, loan, &first);
        let publish_loan = async |what: &str, storage: &Value| {
            world.publish(LOAN, &entity_change(what, storage, now())).await;
            world.until_committed().await;
        };
        publish_loan("CREATED", &storage).await;
        assert_eq!(loans(world, a).await, [(first, [false; 3], Value::Null)]);
        assert_eq!(world.block_flags(a).await, ALL);

        let storage = with_member(
            &with_member(&storage, "dueDate", &*second),
            "dueDateChangedByRecall",
            true,
        );
        let storage = with_member(&storage, "itemStatus", "Declared lost");
        publish_loan("UPDATED", &storage).await;
        assert_eq!(loans(world, a).await, [(second.clone(), [true, true, false], Value::Null)]);
        let storage = with_member(&storage, "itemStatus", "Claimed returned");
        publish_loan("UPDATED", &storage).await;
        assert_eq!(loans(world, a).await, [(second.clone(), [true, false, true], Value::Null)]);

        let storage =
            with_member(&with_member(&storage, "userId", json!(b)), "itemStatus", "Checked out");
        publish_loan("UPDATED", &storage).await;
        assert_eq!(loans(world, a).await, []);
        assert_eq!(loans(world, b).await, [(second, [true, false, false], Value::Null)]);
        assert_eq!(
            (world.block_flags(a).await, world.block_flags(b).await),
            (NONE.to_vec(), ALL.to_vec())
        );

        // A claimed returned item is declared missing. Only the storage event reports the end of the
        // loan.
        let mut storage = with_member(&storage, "status", json!({ "name": "Closed" }));
        storage.as_object_mut().unwrap().remove("userId");
        publish_loan("UPDATED", &storage).await;
        assert_eq!((loans(world, b).await, world.block_flags(b).await), (vec![], NONE.to_vec()));
    })
    .await;
}

/// A snapshot leaves the loan's grace period unchanged, because storage does not know it. Storage events
/// correct a loan that business events opened: closed, deleted, and open again.
#[tokio::test(flavor = "multi_thread")]
async fn storage_corrects_events_by_time() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let (first, second) = (minutes_from_now(60), minutes_from_now(600));
        let grace = json!({ "duration": 2, "intervalId": "Days" });
        for end in ["closed", "deleted"] {
            let (user, loan) = (world.users.add_patron(group), Uuid::new_v4());
            let storage = storage_loan(user, loan, &second);
            // The newest event arrives first.
            world.publish(LOAN, &entity_change("UPDATED", &storage, minutes_ago(20))).await;
            let envelope = |payload: &Value, minutes| {
                crate::support::payloads::in_envelope(payload, minutes_ago(minutes))
            };
            let out = with_member(&check_out(user, loan, &first), "gracePeriod", grace.clone());
            world.publish(OUT, &envelope(&out, 30)).await;
            let older = due_date_change(user, loan, &first, true);
            world.publish(Kind::LoanDueDateChanged, &envelope(&older, 25)).await;
            world.until_committed().await;
            let expected = [(second.clone(), [false; 3], grace.clone())];
            assert_eq!(loans(world, user).await, expected, "{end}");

            let ended = match end {
                "closed" => entity_change(
                    "UPDATED",
                    &with_member(&storage, "status", json!({ "name": "Closed" })),
                    minutes_ago(10),
                ),
                _ => entity_change("DELETED", &storage, minutes_ago(10)),
            };
            world.publish(LOAN, &ended).await;
            world.until_committed().await;
            assert_eq!(
                (loans(world, user).await, world.block_flags(user).await),
                (vec![], NONE.to_vec())
            );
            // No business event reopens the loan, whatever its time; only a storage event does.
            world.publish(OUT, &envelope(&out, 1)).await;
            world.publish(LOAN, &entity_change("UPDATED", &storage, minutes_ago(15))).await;
            world.until_committed().await;
            assert_eq!(loans(world, user).await, [], "{end}");
            world.publish(LOAN, &entity_change("UPDATED", &storage, minutes_ago(5))).await;
            world.until_committed().await;
            assert_eq!(loans(world, user).await, expected, "{end}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_deletion_of_all_loans_closes_older_loans_only() {
    World::run(async |world| {
        let soon = minutes_from_now(60);
        let users: Vec<Uuid> = (0..20).map(|_| Uuid::new_v4()).collect();
        let (by_event, by_storage, later, late) =
            (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        for user in &users {
            for _ in 0..5 {
                let out = check_out(*user, Uuid::new_v4(), &soon);
                world
                    .publish(OUT, &crate::support::payloads::in_envelope(&out, minutes_ago(20)))
                    .await;
            }
        }
        let user = users[0];
        let out = |loan, minutes| {
            crate::support::payloads::in_envelope(
                &check_out(user, loan, &soon),
                minutes_ago(minutes),
            )
        };
        world.publish(OUT, &out(by_event, 20)).await;
        world
            .publish(
                LOAN,
                &entity_change("CREATED", &storage_loan(user, by_storage, &soon), minutes_ago(20)),
            )
            .await;
        world.publish(OUT, &out(later, 5)).await;
        // This event concerns a loan without an opening event.
        world.publish(Kind::ItemDeclaredLost, &loan_event(user, late)).await;
        let owed = balance_change(user, Uuid::new_v4(), None, 4.5);
        let owed = crate::support::payloads::in_envelope(&owed, minutes_ago(20));
        world.publish(Kind::FeeFineBalanceChanged, &owed).await;
        world.until_committed().await;
        assert_eq!(loans(world, user).await.len(), 8);

        world.publish(LOAN, &entity_change("ALL_DELETED", &Value::Null, minutes_ago(10))).await;
        world.until_committed().await;
        let open = "select count(*) from {schema}.loan where is_open";
        assert_eq!(world.count(open).await, 1);
        assert_eq!(loans(world, user).await.len(), 1, "the loan that was opened later");
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openFeesFines"].as_array().unwrap().len(), 1);
        for user in &users[1..] {
            assert_eq!(world.get(&format!("/user-summary/{user}")).await.0, 404);
        }
        // Older evidence that arrives late opens neither a known nor an unknown loan.
        world.publish(OUT, &out(late, 15)).await;
        world.publish(OUT, &out(Uuid::new_v4(), 15)).await;
        world
            .publish(
                LOAN,
                &entity_change("UPDATED", &storage_loan(user, by_event, &soon), minutes_ago(11)),
            )
            .await;
        world.until_committed().await;
        assert_eq!(world.count(open).await, 1);
        world
            .publish(
                LOAN,
                &entity_change("UPDATED", &storage_loan(user, by_event, &soon), minutes_ago(9)),
            )
            .await;
        world.until_committed().await;
        assert_eq!(world.count(open).await, 2, "storage contains the loan again");
    })
    .await;
}

/// Makes a record of the last minute as valid as an answer of the last minute.
fn minute_of_group_cache(config: &mut patron_blocks::config::Config) {
    config.okapi.patron_group_stale = TimeDelta::seconds(60);
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_group_counts_at_once() {
    World::run_with(minute_of_group_cache, async |world| {
        let (strict, lenient) = (strict_group(world).await, Uuid::new_v4());
        world.add_limit(lenient, Measure::ChargedOut, 10.0).await;
        // The users module would return another group.
        let user = world.users.add_patron(lenient);
        let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
        world.publish(OUT, &out).await;
        let publish_user = async |what: &str, group: Option<Uuid>| {
            world.publish(USER, &entity_change(what, &user_record(user, group), now())).await;
        };
        publish_user("CREATED", Some(strict)).await;
        world.until_committed().await;
        assert_eq!(
            (world.block_flags(user).await, world.evaluation_source(user).await),
            (ALL.to_vec(), "told-group".to_owned())
        );

        let mut waited = Vec::new();
        for n in 0..10 {
            let (group, expected) =
                if n % 2 == 0 { (lenient, NONE.to_vec()) } else { (strict, ALL.to_vec()) };
            let began = Instant::now();
            publish_user("UPDATED", Some(group)).await;
            while world.block_flags(user).await != expected {
                assert!(began.elapsed() < Duration::from_secs(20));
            }
            waited.push(began.elapsed().as_millis());
        }
        eprintln!("a group from the topic was visible after {waited:?} ms");
        // An older record changes nothing.
        world
            .publish(USER, &entity_change("UPDATED", &user_record(user, lenient), minutes_ago(5)))
            .await;
        world.until_committed().await;
        assert_eq!(world.block_flags(user).await, ALL);
        assert_eq!(world.users.request_count(), 0);

        // A missing group is always verified, and a newer record counts again.
        publish_user("UPDATED", None).await;
        world.until_committed().await;
        assert_eq!(
            (world.block_flags(user).await, world.users.request_count()),
            (NONE.to_vec(), 1),
            "mod-users returns the lenient group"
        );
        publish_user("UPDATED", Some(strict)).await;
        world.until_committed().await;
        assert_eq!(world.block_flags(user).await, ALL);
        publish_user("DELETED", Some(strict)).await;
        world.users.remove_user(user);
        world.until_committed().await;
        assert_eq!(world.evaluation_source(user).await, "group-none");
        // The inbox stores no payload of a users record, because names and addresses have no use here.
        let payloads = "select count(*) from {schema}.inbox where kind = 'users' and payload <> ''";
        assert_eq!(world.count(payloads).await, 0);
    })
    .await;
}

/// A topic that contains only records of other tenants is no source for a tenant.
#[tokio::test(flavor = "multi_thread")]
async fn collection_user_topic_counts_only_for_its_tenants() {
    World::run(async |world| {
        let (strict, lenient) = (strict_group(world).await, Uuid::new_v4());
        let user = world.users.add_patron(lenient);
        world.publish(OUT, &check_out(user, Uuid::new_v4(), &minutes_from_now(60))).await;
        world
            .publish(USER, &entity_change("CREATED", &user_record(user, strict), minutes_ago(9000)))
            .await;
        world.until_committed().await;
        assert_eq!(world.evaluation_source(user).await, "told-group");
        world.log.create_topics(vec![world.log.topic("ALL", USER)]).await;
        world.log.delete_topic(&world.log.topic(TENANT, USER)).await;
        world
            .until("the deleted topic is no longer used", async |w: &World| {
                w.block_flags(user).await == NONE
            })
            .await;
        // Once the topic contains records of the tenant, it is a source for the tenant. No answer is
        // newer.
        world.users.set_behavior(UsersBehavior::ServerError);
        let user_change = entity_change("UPDATED", &user_record(user, strict), now());
        publish_to(world, "ALL", TENANT, USER, &user_change).await;
        world.until_committed().await;
        world
            .until("the group from the topic is used", async |w: &World| {
                w.block_flags(user).await == ALL
            })
            .await;
    })
    .await;
}

/// While its topic exists, a group from the topic counts after a restart and during an outage of the
/// users module, whatever its age. Without the topic, it counts as long as an answer.
#[tokio::test(flavor = "multi_thread")]
async fn topic_group_counts_while_its_topic_exists() {
    World::run(async |world| {
        let (strict, lenient) = (strict_group(world).await, Uuid::new_v4());
        let (topic_user, asked) = (world.users.add_patron(lenient), world.users.add_patron(strict));
        for user in [topic_user, asked] {
            let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
            world.publish(OUT, &out).await;
        }
        world.until_committed().await;
        assert_eq!(
            world.evaluation_source(asked).await,
            "group-from-users",
            "the topic has no record of this patron"
        );
        world.users.set_behavior(UsersBehavior::ServerError);
        let long_ago = now() - TimeDelta::days(300);
        world
            .publish(USER, &entity_change("CREATED", &user_record(topic_user, strict), long_ago))
            .await;
        world.until_committed().await;
        assert_eq!(world.block_flags(topic_user).await, ALL);
        world.stop().await;
        world.start().await;
        assert_eq!(
            (world.block_flags(topic_user).await, world.evaluation_source(topic_user).await),
            (ALL.to_vec(), "told-group".to_owned())
        );
        assert_eq!(world.evaluation_source(asked).await, "group-fallback");

        let topic = world.log.topic(TENANT, USER);
        world.log.delete_topic(&topic).await;
        world
            .until("the deleted topic is no longer used", async |world: &World| {
                world.evaluation_source(topic_user).await == "group-unknown"
            })
            .await;
        world.users.set_behavior(UsersBehavior::Normal);
        assert_eq!(world.evaluation_source(topic_user).await, "group-from-users");
        world.users.remove_user(topic_user);
        assert_eq!(
            world.evaluation_source(topic_user).await,
            "group-none",
            "the last response counts, not the earlier record of the topic"
        );
        world.users.set_behavior(UsersBehavior::ServerError);
        assert_eq!(world.evaluation_source(topic_user).await, "group-unknown");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_storage_topics_serve_their_tenants() {
    World::run_with(minute_of_group_cache, async |world| {
        let group = strict_group(world).await;
        world
            .log
            .create_topics([LOAN, USER].map(|kind| world.log.topic("ALL", kind)).to_vec())
            .await;
        let (own_user, other_user, loan) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let soon = minutes_from_now(60);
        for (tenant, user) in [("southlib", other_user), (TENANT, own_user)] {
            let of = |record: Value| with_member(&record, "tenant", tenant);
            let created =
                of(entity_change("CREATED", &storage_loan(user, Uuid::new_v4(), &soon), now()));
            publish_to(world, "ALL", tenant, LOAN, &created).await;
            let user_change = of(entity_change("CREATED", &user_record(user, group), now()));
            publish_to(world, "ALL", tenant, USER, &user_change).await;
            // Another tenant deletes all loans, which does not affect this tenant.
            if tenant != TENANT {
                let all = of(entity_change("ALL_DELETED", &Value::Null, minutes_ago(-1)));
                publish_to(world, "ALL", tenant, LOAN, &all).await;
            }
        }
        world.until_committed().await;
        assert_eq!(world.block_flags(own_user).await, ALL);
        assert_eq!(
            (world.evaluation_source(own_user).await, world.users.request_count()),
            ("told-group".to_owned(), 0)
        );
        assert_eq!(world.get(&format!("/user-summary/{other_user}")).await.0, 404);
        assert_eq!(world.count("select count(*) from {schema}.inbox").await, 2);
        // The tenant's own topic contains the same loan.
        world
            .publish(LOAN, &entity_change("CREATED", &storage_loan(own_user, loan, &soon), now()))
            .await;
        publish_to(
            world,
            "ALL",
            TENANT,
            LOAN,
            &entity_change("UPDATED", &storage_loan(own_user, loan, &soon), now()),
        )
        .await;
        world.until_committed().await;
        assert_eq!(loans(world, own_user).await.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_storage_records_become_dead_letters() {
    World::run(async |world| {
        let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
        let loan_record = storage_loan(user, loan, &minutes_from_now(60));
        let created = entity_change("CREATED", &loan_record, now());
        world.publish(LOAN, &with_member(&created, "tenant", "southlib")).await;
        world
            .publish(
                USER,
                &with_member(
                    &entity_change("CREATED", &user_record(user, None), now()),
                    "tenant",
                    "southlib",
                ),
            )
            .await;
        world.publish(LOAN, &loan_record).await;
        world
            .publish(
                LOAN,
                &entity_change("CREATED", &with_member(&loan_record, "userId", Value::Null), now()),
            )
            .await;
        world
            .publish(
                USER,
                &entity_change(
                    "CREATED",
                    &with_member(&user_record(user, None), "patronGroup", 7),
                    now(),
                ),
            )
            .await;
        world.publish(LOAN, &entity_change("REINDEX", &loan_record, now())).await;
        world.publish(USER, &entity_change("ITERATE", &loan_record, now())).await;
        world.until_committed().await;
        let letters = world.take_dead_letters().await;
        assert_eq!(
            letters,
            ["bad_field", "missing_field", "missing_field", "tenant_mismatch", "tenant_mismatch"]
        );
        assert_eq!(world.count("select count(*) from {schema}.inbox").await, 0);
        let figures = world.get("/metrics").await.1;
        for line in [
            "patron_blocks_records_total{outcome=\"skipped\"}",
            "patron_blocks_events_total{kind=\"loan\"}",
            "patron_blocks_dead_letters_total{kind=\"users\",reason=\"bad_field\"}",
            "patron_blocks_evaluations_total{basis=\"told-group\"}",
        ] {
            assert!(figures.contains(line), "{line}");
        }
        // A valid record follows the bad records.
        world.publish(LOAN, &created).await;
        world.until_committed().await;
        assert_eq!(loans(world, user).await.len(), 1);
    })
    .await;
}
