//! Invalid input of clients: the service rejects it at the edge, and nothing changes.

use patron_blocks::event::Kind;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    binary::run_cli,
    payloads::{check_out, in_envelope, minutes_from_now, now},
    world::{TENANT, World},
};

const REBUILDS: &str = "/patron-blocks/rebuilds";
const JOB: &str = "/automated-patron-blocks/synchronization/job";
const ITERATIONS: &str = "/patron-blocks/user-summaries/iteration";

async fn open_loan(world: &World) -> Uuid {
    let user = world.users.add_patron(Uuid::new_v4());
    let hour_ago = now() - chrono::TimeDelta::hours(1);
    let out = in_envelope(&check_out(user, Uuid::new_v4(), &minutes_from_now(60)), hour_ago);
    world.publish(Kind::ItemCheckedOut, &out).await;
    world.until_committed().await;
    user
}

/// Inserts a rebuild as an earlier version accepted it, and returns its path.
async fn insert_rebuild(world: &World, request: Value) -> String {
    let id = Uuid::new_v4();
    world
        .execute_sql(&format!(
            "insert into mod_patron_blocks.job (id, kind, tenant, request, requested_by, requested_at)
             values ('{id}', 'rebuild', '{TENANT}', '{request}', 'an earlier version', now())"
        ))
        .await;
    format!("{REBUILDS}/{id}")
}

async fn until_ended(world: &World, rebuild: &str) -> Value {
    let is_at_rest = async |world: &World| {
        ["done", "failed"].contains(&world.get_json(rebuild).await["status"].as_str().unwrap())
    };
    world.until("the rebuild ends", is_at_rest).await;
    world.get_json(rebuild).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nil_user_id_never_means_the_whole_tenant() {
    World::run(async |world| {
        let user = open_loan(world).await;
        let nil = Uuid::nil();
        for source in ["storage", "topics", "inbox"] {
            let ask = json!({ "source": source, "scope": "user", "userId": nil });
            let (status, body) = world.post(REBUILDS, &ask).await;
            assert_eq!(status, 422, "{source}: {body}");
        }
        let (status, body) = world.post(JOB, &json!({ "scope": "user", "userId": nil })).await;
        assert_eq!(status, 422, "{body}");
        let topic = json!({ "topicName": "any", "patronGroupId": nil });
        let (status, body) = world.post(ITERATIONS, &topic).await;
        assert_eq!(status, 422, "{body}");
        let nil_user = nil.to_string();
        let arguments = ["rebuild", "--tenant", TENANT, "--source", "inbox", "--user", &*nil_user];
        let (code, output) = run_cli(world, &arguments);
        assert_eq!(code, Some(2), "{output}");

        // A rebuild that an earlier version accepted still waits.
        let request =
            json!({ "source": "storage", "scope": "user", "userId": nil, "dryRun": false });
        let rebuild = insert_rebuild(world, request).await;
        let timer = "/automated-patron-blocks/synchronization/start";
        assert_eq!(world.post(timer, &Value::Null).await.0, 202);
        let answer = until_ended(world, &rebuild).await;
        assert_eq!(answer["status"], "failed", "{answer}");
        assert_eq!(
            world.get(&format!("/user-summary/{user}")).await.0,
            200,
            "the patron has an open loan"
        );
    })
    .await;
}

/// Years that a date-time can express, and that the service's arithmetic or the database cannot
/// represent.
const INVALID_DATES: [&str; 4] = [
    "+262142-12-31T23:59:59Z",
    "-262143-01-01T00:00:00Z",
    "+10000-01-01T00:00:00Z",
    "-0001-12-31T23:59:59Z",
];

#[tokio::test(flavor = "multi_thread")]
async fn date_outside_the_calendar_is_rejected() {
    World::run(async |world| {
        for time in INVALID_DATES {
            for source in ["topics", "inbox"] {
                let ask = json!({ "source": source, "from": time, "dryRun": true });
                let (status, body) = world.post(REBUILDS, &ask).await;
                assert_eq!(status, 422, "{source} from {time}: {body}");
            }
            let ask = json!({ "topicName": "any", "changedSince": time });
            let (status, body) = world.post(ITERATIONS, &ask).await;
            assert_eq!(status, 422, "changed since {time}: {body}");
        }
        let arguments = ["rebuild", "--tenant", TENANT, "--from", INVALID_DATES[0]];
        let (code, output) = run_cli(world, &arguments);
        assert_eq!(code, Some(2), "{output}");
        for time in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
            let ask = json!({ "from": time, "dryRun": true });
            assert_eq!(world.post(REBUILDS, &ask).await.0, 201, "{time}");
        }
        for source in ["topics", "inbox"] {
            let request = json!({ "source": source, "from": INVALID_DATES[0], "dryRun": true });
            let answer = until_ended(world, &insert_rebuild(world, request).await).await;
            assert_eq!(answer["status"], "failed", "{answer}");
        }
    })
    .await;
}

/// NUL is a character of JSON, of CQL and of a path, and PostgreSQL cannot store it as text.
#[tokio::test(flavor = "multi_thread")]
async fn nul_character_is_rejected_everywhere() {
    World::run(async |world| {
        let id = Uuid::new_v4();
        let limit = json!({ "id": id, "patronGroupId": id, "conditionId": id, "value": 1 });
        let with = |name: &str, value: &str| {
            let mut limit = limit.clone();
            limit[name] = json!(value);
            limit
        };
        let mut failed = Vec::new();
        let mut check_response = |asked: String, (status, answer): (u16, String)| {
            if status >= 500 {
                failed.push(format!("{asked}: {status} {answer}"));
            }
        };
        let nul = "folio.northlib.circulation.LOAN_CLOSED\0";
        for (path, body) in [
            (REBUILDS, json!({ "from": nul })),
            (REBUILDS, json!({ "from": format!("{nul}/3@7") })),
            (REBUILDS, json!({ "source": "\0" })),
            (REBUILDS, json!({ "\0": true })),
            (JOB, json!({ "scope": "full", "id": "\0" })),
            (JOB, json!({ "scope": "\0" })),
            (ITERATIONS, json!({ "topicName": "any\0" })),
            (ITERATIONS, json!({ "topicName": "any", "eventType": "\0" })),
            (ITERATIONS, json!({ "topicName": "any", "patronGroupId": "\0" })),
            ("/patron-block-limits", with("patronGroupId", "\0")),
            ("/patron-block-limits", with("note", "\0")),
            ("/patron-block-limits", with("\0", "note")),
            ("/_/tenant", json!({ "module_to": "mod-patron-blocks-2.0.0\0" })),
            ("/_/tenant", json!({ "module_from": "mod-patron-blocks-2.0.0\0", "purge": false })),
            (
                "/automated-patron-blocks/handlers/loan-closed",
                json!({ "userId": id, "loanId": id, "note": "\0" }),
            ),
        ] {
            check_response(format!("{path} {body}"), world.post(path, &body).await);
        }
        for path in [
            "/patron-block-limits?query=patronGroupId==%22a%00b%22",
            "/patron-block-limits?query=%00",
            "/patron-block-conditions?query=message==%22a%00b%22",
            "/patron-block-conditions?query=message=%22a%00*%22%20sortby%20name",
            "/patron-blocks/dead-letters?query=reason==%22a%00b%22",
            "/patron-blocks/rebuilds/%00",
            "/patron-blocks/user-summaries/iteration/%00",
            "/patron-blocks/dead-letters/%00",
            "/automated-patron-blocks/%00",
            "/user-summary/%00",
            "/_/tenant/%00",
        ] {
            check_response(path.to_owned(), world.get(path).await);
        }
        for path in ["/patron-blocks/rebuilds/%00/apply", "/patron-blocks/incidents/%00/resolve"] {
            check_response(path.to_owned(), world.post(path, &json!({})).await);
        }
        assert_eq!(failed, [""; 0]);
    })
    .await;
}

/// Such a record in a topic must not prevent a rebuild: ingest stores a dead letter, and the rebuild
/// skips the record.
#[tokio::test(flavor = "multi_thread")]
async fn unstorable_patron_group_does_not_stop_a_rebuild() {
    World::run(async |world| {
        let user = open_loan(world).await;
        let mut record = crate::support::payloads::user_record(user, Uuid::new_v4());
        record["patronGroup"] = json!("a\0b");
        let answer = crate::support::payloads::entity_change("UPDATED", &record, now());
        world.publish(Kind::StoredUser, &answer).await;
        world.until_committed().await;
        let letters = world.take_dead_letters().await;
        let (status, body) = world.post(REBUILDS, &json!({})).await;
        assert_eq!(status, 201, "{body}");
        let asked: Value = serde_json::from_str(&body).unwrap();
        let rebuild = format!("{REBUILDS}/{}", asked["id"].as_str().unwrap());
        let answer = until_ended(world, &rebuild).await;
        assert_eq!(
            (&*letters, &answer["status"]),
            (&["bad_field".to_owned()][..], &json!("done")),
            "{answer}"
        );
    })
    .await;
}
