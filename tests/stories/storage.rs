//! What storage modules tell: loans that no business event tells of, and patron groups.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    facts::{about, but, check_out, done, due, fee, held, member, minutes_from_now, now},
    log::Draft,
    users::Mood,
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

/// A group in which a single loan blocks everything.
async fn strict_group(world: &World) -> Uuid {
    let group = Uuid::new_v4();
    world.limit(group, Measure::ChargedOut, 0.0).await;
    group
}

/// The patron's open loans, as due date and flags (recalled, lost, claimed returned), with their grace.
async fn loans(world: &World, user: Uuid) -> Vec<(String, [bool; 3], Value)> {
    let summary = world.read_whatever_there_is(&format!("/user-summary/{user}")).await;
    let read = |loan: &Value| {
        let flags = ["recall", "itemLost", "itemClaimedReturned"];
        let due_date = loan["dueDate"].as_str().unwrap().replace("+00:00", "Z");
        (due_date, flags.map(|flag| loan[flag].as_bool().unwrap()), loan["gracePeriod"].clone())
    };
    summary["openLoans"].as_array().into_iter().flatten().map(read).collect()
}

/// A record in a topic of a tenant or of a collection, with the tenant that its headers name.
async fn send(world: &World, part: &str, named: &str, kind: Kind, value: &Value) {
    let payload = value.to_string();
    let draft = Draft {
        topic: world.log.topic(part, kind),
        headers: vec![("folio.tenantId", named)],
        payload: Some(payload.as_bytes()),
        timestamp: None,
    };
    if named == TENANT {
        world.log.send(draft).await;
    } else {
        world.log.place(draft).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loan_of_which_no_business_event_tells_is_opened_changed_given_to_another_and_closed() {
    World::tell(async |world| {
        let group = strict_group(world).await;
        let (a, b, loan) = (world.users.patron(group), world.users.patron(group), Uuid::new_v4());
        let (first, second) = (minutes_from_now(60), minutes_from_now(600));
        let storage = held(a, loan, &first);
        let told = async |what: &str, storage: &Value| {
            world.publish(LOAN, &done(what, storage, now())).await;
            world.settled().await;
        };
        told("CREATED", &storage).await;
        assert_eq!(loans(world, a).await, [(first, [false; 3], Value::Null)]);
        assert_eq!(world.blocks(a).await, ALL);

        let storage = but(&but(&storage, "dueDate", &*second), "dueDateChangedByRecall", true);
        let storage = but(&storage, "itemStatus", "Declared lost");
        told("UPDATED", &storage).await;
        assert_eq!(loans(world, a).await, [(second.clone(), [true, true, false], Value::Null)]);
        let storage = but(&storage, "itemStatus", "Claimed returned");
        told("UPDATED", &storage).await;
        assert_eq!(loans(world, a).await, [(second.clone(), [true, false, true], Value::Null)]);

        let storage = but(&but(&storage, "userId", json!(b)), "itemStatus", "Checked out");
        told("UPDATED", &storage).await;
        assert_eq!(loans(world, a).await, []);
        assert_eq!(loans(world, b).await, [(second, [true, false, false], Value::Null)]);
        assert_eq!((world.blocks(a).await, world.blocks(b).await), (NONE.to_vec(), ALL.to_vec()));

        // A claimed returned item that is declared missing: nothing but this tells of it.
        let mut storage = but(&storage, "status", json!({ "name": "Closed" }));
        storage.as_object_mut().unwrap().remove("userId");
        told("UPDATED", &storage).await;
        assert_eq!((loans(world, b).await, world.blocks(b).await), (vec![], NONE.to_vec()));
    })
    .await;
}

/// What a desk knows and storage does not, a loan's grace, is kept; and what storage tells of a loan that
/// events opened corrects it: closed, deleted, and open again.
#[tokio::test(flavor = "multi_thread")]
async fn storage_corrects_what_events_have_said_by_its_time() {
    World::tell(async |world| {
        let group = strict_group(world).await;
        let (first, second) = (minutes_from_now(60), minutes_from_now(600));
        let grace = json!({ "duration": 2, "intervalId": "Days" });
        for end in ["closed", "deleted"] {
            let (user, loan) = (world.users.patron(group), Uuid::new_v4());
            let storage = held(user, loan, &second);
            // The newest first.
            world.publish(LOAN, &done("UPDATED", &storage, minutes_ago(20))).await;
            let envelope =
                |payload: &Value, minutes| crate::facts::enveloped(payload, minutes_ago(minutes));
            let out = but(&check_out(user, loan, &first), "gracePeriod", grace.clone());
            world.publish(OUT, &envelope(&out, 30)).await;
            let older = due(user, loan, &first, true);
            world.publish(Kind::LoanDueDateChanged, &envelope(&older, 25)).await;
            world.settled().await;
            let expected = [(second.clone(), [false; 3], grace.clone())];
            assert_eq!(loans(world, user).await, expected, "{end}");

            let ended = match end {
                "closed" => done(
                    "UPDATED",
                    &but(&storage, "status", json!({ "name": "Closed" })),
                    minutes_ago(10),
                ),
                _ => done("DELETED", &storage, minutes_ago(10)),
            };
            world.publish(LOAN, &ended).await;
            world.settled().await;
            assert_eq!(
                (loans(world, user).await, world.blocks(user).await),
                (vec![], NONE.to_vec())
            );
            // No business event opens it again, whatever its time; only storage does.
            world.publish(OUT, &envelope(&out, 1)).await;
            world.publish(LOAN, &done("UPDATED", &storage, minutes_ago(15))).await;
            world.settled().await;
            assert_eq!(loans(world, user).await, [], "{end}");
            world.publish(LOAN, &done("UPDATED", &storage, minutes_ago(5))).await;
            world.settled().await;
            assert_eq!(loans(world, user).await, expected, "{end}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_storage_deletes_all_loans_those_opened_before_are_gone_and_fees_are_not() {
    World::tell(async |world| {
        let soon = minutes_from_now(60);
        let users: Vec<Uuid> = (0..20).map(|_| Uuid::new_v4()).collect();
        let (by_event, by_storage, later, late) =
            (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        for user in &users {
            for _ in 0..5 {
                let out = check_out(*user, Uuid::new_v4(), &soon);
                world.publish(OUT, &crate::facts::enveloped(&out, minutes_ago(20))).await;
            }
        }
        let user = users[0];
        let out = |loan, minutes| {
            crate::facts::enveloped(&check_out(user, loan, &soon), minutes_ago(minutes))
        };
        world.publish(OUT, &out(by_event, 20)).await;
        world
            .publish(LOAN, &done("CREATED", &held(user, by_storage, &soon), minutes_ago(20)))
            .await;
        world.publish(OUT, &out(later, 5)).await;
        // A fact about a loan that nothing has opened yet.
        world.publish(Kind::ItemDeclaredLost, &about(user, late)).await;
        let owed = fee(user, Uuid::new_v4(), None, 4.5);
        let owed = crate::facts::enveloped(&owed, minutes_ago(20));
        world.publish(Kind::FeeFineBalanceChanged, &owed).await;
        world.settled().await;
        assert_eq!(loans(world, user).await.len(), 8);

        world.publish(LOAN, &done("ALL_DELETED", &Value::Null, minutes_ago(10))).await;
        world.settled().await;
        let open = "select count(*) from {schema}.loan where is_open";
        assert_eq!(world.count(open).await, 1);
        assert_eq!(loans(world, user).await.len(), 1, "the one opened later");
        let summary = world.read(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openFeesFines"].as_array().unwrap().len(), 1);
        for user in &users[1..] {
            assert_eq!(world.get(&format!("/user-summary/{user}")).await.0, 404);
        }
        // Older evidence that comes late opens neither what is known nor what is not.
        world.publish(OUT, &out(late, 15)).await;
        world.publish(OUT, &out(Uuid::new_v4(), 15)).await;
        world.publish(LOAN, &done("UPDATED", &held(user, by_event, &soon), minutes_ago(11))).await;
        world.settled().await;
        assert_eq!(world.count(open).await, 1);
        world.publish(LOAN, &done("UPDATED", &held(user, by_event, &soon), minutes_ago(9))).await;
        world.settled().await;
        assert_eq!(world.count(open).await, 2, "storage holds it again");
    })
    .await;
}

/// A record of this minute is as good as an answer of it.
fn for_a_minute(config: &mut patron_blocks::config::Config) {
    config.okapi.usable = TimeDelta::seconds(60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_the_topic_tells_counts_at_once() {
    World::tell_with(for_a_minute, async |world| {
        let (strict, lenient) = (strict_group(world).await, Uuid::new_v4());
        world.limit(lenient, Measure::ChargedOut, 10.0).await;
        // The users module would say something else, if it were asked.
        let user = world.users.patron(lenient);
        let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
        world.publish(OUT, &out).await;
        let told = async |what: &str, group: Option<Uuid>| {
            world.publish(USER, &done(what, &member(user, group), now())).await;
        };
        told("CREATED", Some(strict)).await;
        world.settled().await;
        assert_eq!(
            (world.blocks(user).await, world.basis(user).await),
            (ALL.to_vec(), "told-group".to_owned())
        );

        let mut waited = Vec::new();
        for n in 0..10 {
            let (group, expected) =
                if n % 2 == 0 { (lenient, NONE.to_vec()) } else { (strict, ALL.to_vec()) };
            let began = Instant::now();
            told("UPDATED", Some(group)).await;
            while world.blocks(user).await != expected {
                assert!(began.elapsed() < Duration::from_secs(20));
            }
            waited.push(began.elapsed().as_millis());
        }
        eprintln!("a group told by the topic was seen after {waited:?} ms");
        // Older news changes nothing.
        world.publish(USER, &done("UPDATED", &member(user, lenient), minutes_ago(5))).await;
        world.settled().await;
        assert_eq!(world.blocks(user).await, ALL);
        assert_eq!(world.users.asked(), 0);

        // That there is no group is always asked about, and a newer record counts again.
        told("UPDATED", None).await;
        world.settled().await;
        assert_eq!(
            (world.blocks(user).await, world.users.asked()),
            (NONE.to_vec(), 1),
            "the users module says lenient"
        );
        told("UPDATED", Some(strict)).await;
        world.settled().await;
        assert_eq!(world.blocks(user).await, ALL);
        told("DELETED", Some(strict)).await;
        world.users.forget(user);
        world.settled().await;
        assert_eq!(world.basis(user).await, "no-group");
        // Names and addresses are of no use here.
        let kept = "select count(*) from {schema}.inbox where kind = 'users' and payload <> ''";
        assert_eq!(world.count(kept).await, 0);
    })
    .await;
}

/// A topic in which only others' records stand tells nothing of a tenant.
#[tokio::test(flavor = "multi_thread")]
async fn a_collections_topic_of_users_tells_of_none_but_its_own() {
    World::tell(async |world| {
        let (strict, lenient) = (strict_group(world).await, Uuid::new_v4());
        let user = world.users.patron(lenient);
        world.publish(OUT, &check_out(user, Uuid::new_v4(), &minutes_from_now(60))).await;
        world.publish(USER, &done("CREATED", &member(user, strict), minutes_ago(9000))).await;
        world.settled().await;
        assert_eq!(world.basis(user).await, "told-group");
        world.log.make(vec![world.log.topic("ALL", USER)]).await;
        world.log.delete(&world.log.topic(TENANT, USER)).await;
        world
            .until("its own topic is missed", async |w: &World| w.blocks(user).await == NONE)
            .await;
        // Once its records stand there, that topic tells of it; no answer is newer.
        world.users.set_mood(Mood::Broken);
        let told = done("UPDATED", &member(user, strict), now());
        send(world, "ALL", TENANT, USER, &told).await;
        world.settled().await;
        world.until("it is told of", async |w: &World| w.blocks(user).await == ALL).await;
    })
    .await;
}

/// While its topic is there a told group serves after a restart and while the users module is away, however old it
/// is; without it, as long as an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_the_topic_serves_as_long_as_it_is_there() {
    World::tell(async |world| {
        let (strict, lenient) = (strict_group(world).await, Uuid::new_v4());
        let (told, asked) = (world.users.patron(lenient), world.users.patron(strict));
        for user in [told, asked] {
            let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
            world.publish(OUT, &out).await;
        }
        world.settled().await;
        assert_eq!(world.basis(asked).await, "asked-group", "of this one the topic told nothing");
        world.users.set_mood(Mood::Broken);
        let long_ago = now() - TimeDelta::days(300);
        world.publish(USER, &done("CREATED", &member(told, strict), long_ago)).await;
        world.settled().await;
        assert_eq!(world.blocks(told).await, ALL);
        world.stop().await;
        world.start().await;
        assert_eq!(
            (world.blocks(told).await, world.basis(told).await),
            (ALL.to_vec(), "told-group".to_owned())
        );
        assert_eq!(world.basis(asked).await, "last-known-group");

        let topic = world.log.topic(TENANT, USER);
        world.log.delete(&topic).await;
        world
            .until("the topic is missed", async |world: &World| {
                world.basis(told).await == "group-not-told"
            })
            .await;
        world.users.set_mood(Mood::Right);
        assert_eq!(world.basis(told).await, "asked-group");
        world.users.forget(told);
        assert_eq!(
            world.basis(told).await,
            "no-group",
            "the last answer counts, not what was told before it"
        );
        world.users.set_mood(Mood::Broken);
        assert_eq!(world.basis(told).await, "group-not-told");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_topics_of_tenant_collections_serve_their_tenants() {
    World::tell_with(for_a_minute, async |world| {
        let group = strict_group(world).await;
        world.log.make([LOAN, USER].map(|kind| world.log.topic("ALL", kind)).to_vec()).await;
        let (ours, theirs, loan) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let soon = minutes_from_now(60);
        for (tenant, user) in [("southlib", theirs), (TENANT, ours)] {
            let of = |record: Value| but(&record, "tenant", tenant);
            let created = of(done("CREATED", &held(user, Uuid::new_v4(), &soon), now()));
            send(world, "ALL", tenant, LOAN, &created).await;
            let told = of(done("CREATED", &member(user, group), now()));
            send(world, "ALL", tenant, USER, &told).await;
            // Storage of another tenant is emptied, which is no business of ours.
            if tenant != TENANT {
                let all = of(done("ALL_DELETED", &Value::Null, minutes_ago(-1)));
                send(world, "ALL", tenant, LOAN, &all).await;
            }
        }
        world.settled().await;
        assert_eq!(world.blocks(ours).await, ALL);
        assert_eq!((world.basis(ours).await, world.users.asked()), ("told-group".to_owned(), 0));
        assert_eq!(world.get(&format!("/user-summary/{theirs}")).await.0, 404);
        assert_eq!(world.count("select count(*) from {schema}.inbox").await, 2);
        // The same loan by the tenant's own topic.
        world.publish(LOAN, &done("CREATED", &held(ours, loan, &soon), now())).await;
        send(world, "ALL", TENANT, LOAN, &done("UPDATED", &held(ours, loan, &soon), now())).await;
        world.settled().await;
        assert_eq!(loans(world, ours).await.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_storage_tells_wrongly_is_parked_and_what_means_nothing_is_passed_by() {
    World::tell(async |world| {
        let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
        let held = held(user, loan, &minutes_from_now(60));
        let created = done("CREATED", &held, now());
        world.publish(LOAN, &but(&created, "tenant", "southlib")).await;
        world
            .publish(USER, &but(&done("CREATED", &member(user, None), now()), "tenant", "southlib"))
            .await;
        world.publish(LOAN, &held).await;
        world.publish(LOAN, &done("CREATED", &but(&held, "userId", Value::Null), now())).await;
        world
            .publish(USER, &done("CREATED", &but(&member(user, None), "patronGroup", 7), now()))
            .await;
        world.publish(LOAN, &done("REINDEX", &held, now())).await;
        world.publish(USER, &done("ITERATE", &held, now())).await;
        world.settled().await;
        let letters = world.take_dead_letters().await;
        assert_eq!(
            letters,
            ["bad_field", "missing_field", "missing_field", "tenant_disagrees", "tenant_disagrees"]
        );
        assert_eq!(world.count("select count(*) from {schema}.inbox").await, 0);
        let figures = world.get("/metrics").await.1;
        for line in [
            "patron_blocks_records_total{outcome=\"skipped\"}",
            "patron_blocks_events_total{kind=\"loan\"}",
            "patron_blocks_parked_total{kind=\"users\",reason=\"bad_field\"}",
            "patron_blocks_answers_total{basis=\"told-group\"}",
        ] {
            assert!(figures.contains(line), "{line}");
        }
        // The neighbour of all these.
        world.publish(LOAN, &created).await;
        world.settled().await;
        assert_eq!(loans(world, user).await.len(), 1);
    })
    .await;
}
