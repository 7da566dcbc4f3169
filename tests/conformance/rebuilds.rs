//! Rebuilds and synchronisations (http contract 8 and `patron-blocks-operations`).

use serde_json::{Value, json};
use uuid::Uuid;

use super::{desk::Desk, told};
use crate::world::World;

async fn is(desk: &Desk<'_>, path: &str, status: &str) -> Value {
    let what = format!("{path} is {status}");
    let there = async |_: &World| desk.get(path).await.json()["status"] == status;
    desk.world.until(&what, there).await;
    desk.get(path).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn synchronisations_are_asked_for_and_told_of() {
    told("synchronisations_are_asked_for_and_told_of", async |desk| {
        const JOB: &str = "/automated-patron-blocks/synchronization/job";
        let user = Uuid::new_v4();
        // What the server decides is ignored where a client sends it.
        let sent = json!({
            "scope": "user", "userId": user, "id": Uuid::new_v4(), "status": "done", "errors": ["x"],
            "totalNumberOfLoans": 7, "totalNumberOfFeesFines": 7, "numberOfProcessedLoans": 7,
            "numberOfProcessedFeesFines": 7, "metadata": { "createdByUserId": "x" },
        });
        let asked = desk.post(JOB, &sent).await;
        assert_eq!(asked.status, 201);
        let asked = asked.json();
        let one = format!("{JOB}/{}", asked["id"].as_str().unwrap());
        let expected = json!({
            "id": asked["id"], "scope": "user", "userId": user, "status": "open", "errors": [],
        });
        assert_eq!(asked, expected);
        let told = desk.get(&one).await.json();
        let mut expected = expected;
        for number in [
            "totalNumberOfLoans",
            "totalNumberOfFeesFines",
            "numberOfProcessedLoans",
            "numberOfProcessedFeesFines",
        ] {
            expected[number] = json!(0);
        }
        assert_eq!(told, expected);
        let full = desk.post(JOB, &json!({ "scope": "full" })).await.json();
        assert_eq!(full["userId"], Value::Null);
        const START: &str = "/automated-patron-blocks/synchronization/start";
        desk.ask("POST", START, None).await.is(202, "");
        is(desk, &one, "done").await;
        // One call, one job.
        assert_eq!(desk.get(&format!("{JOB}/{}", full["id"].as_str().unwrap())).await.json()["status"], "open");

        let text = "UserId is required for synchronization job with scope: USER";
        desk.post(JOB, &json!({ "scope": "user" })).await.is(422, text);
        for (body, key) in [
            (json!({}), "scope"),
            (json!({ "scope": null }), "scope"),
            (json!({ "scope": "all" }), "scope"),
            (json!({ "scope": 1 }), "scope"),
            (json!({ "scope": "user", "userId": "x" }), "userId"),
            (json!({ "scope": "user", "userId": 7 }), "userId"),
            (json!({ "scope": "full", "tenant": "x" }), "tenant"),
        ] {
            assert_eq!(desk.post(JOB, &body).await.error()[2], key, "{body}");
        }
        let unknown = "This synchronization request does not exist";
        let rebuild = desk.post("/patron-blocks/rebuilds", &json!({ "source": "inbox" })).await;
        let rebuild = rebuild.json()["id"].as_str().unwrap().to_owned();
        for id in [Uuid::new_v4().to_string(), "abc".to_owned(), rebuild] {
            desk.get(&format!("{JOB}/{id}")).await.is(404, unknown);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilds_are_asked_for_told_of_applied_and_ended() {
    told("rebuilds_are_asked_for_told_of_applied_and_ended", async |desk| {
        const ALL: &str = "/patron-blocks/rebuilds";
        let asked = desk.post(ALL, &json!({ "source": "inbox", "dryRun": true })).await;
        assert_eq!(asked.status, 201);
        let one = asked.location.clone().unwrap();
        assert_eq!(one, format!("{ALL}/{}", asked.json()["id"].as_str().unwrap()));
        let told = is(desk, &one, "compared").await;
        assert_eq!(told["summary"]["patrons"], 0);
        let found = desk.get(&format!("{one}/differences?limit=5&offset=0")).await.json();
        assert_eq!(found, json!({ "patrons": [], "totalRecords": 0 }));
        let apply = format!("{one}/apply");
        assert_eq!(desk.ask("POST", &apply, None).await.status, 202);
        is(desk, &one, "done").await;
        assert_eq!(desk.ask("POST", &apply, None).await.error()[2], "status");
        assert_eq!(desk.delete(&one).await.error()[2], "status");
        let other = desk.post(ALL, &json!({ "source": "inbox", "dryRun": true })).await;
        let other = other.location.unwrap();
        is(desk, &other, "compared").await;
        desk.delete(&other).await.is(204, "");
        is(desk, &other, "cancelled").await;
        let list = desk.get(&format!("{ALL}?limit=1")).await.json();
        assert_eq!(
            (&list["totalRecords"], &list["rebuilds"][0]["status"]),
            (&json!(3), &json!("cancelled"))
        );
        assert_eq!(desk.post(ALL, &json!({ "source": "rumours" })).await.error()[2], "source");
        for bad in ["?limit=-1", "?offset=x"] {
            assert_eq!(desk.get(&format!("{ALL}{bad}")).await.status, 400, "{bad}");
            assert_eq!(desk.get(&format!("{one}/differences{bad}")).await.status, 400, "{bad}");
        }
        for id in [Uuid::new_v4().to_string(), "abc".to_owned()] {
            let one = format!("{ALL}/{id}");
            let (differences, apply) = (format!("{one}/differences"), format!("{one}/apply"));
            for (method, path) in
                [("GET", &one), ("DELETE", &one), ("GET", &differences), ("POST", &apply)]
            {
                desk.ask(method, path, None).await.is(404, &format!("No rebuild {id}"));
            }
        }
    })
    .await;
}
