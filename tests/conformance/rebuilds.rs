//! Rebuilds and synchronizations (docs/contract/http-api.md#8-synchronization and
//! `patron-blocks-operations`).

use serde_json::{Value, json};
use uuid::Uuid;

use super::{api_client::ApiClient, run};
use crate::support::world::World;

async fn until_status(api: &ApiClient<'_>, path: &str, status: &str) -> Value {
    let what = format!("{path} is {status}");
    let there = async |_: &World| api.get(path).await.json()["status"] == status;
    api.world.until(&what, there).await;
    api.get(path).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn synchronizations_are_created_and_read() {
    run("synchronizations_are_created_and_read", async |api| {
        const JOB: &str = "/automated-patron-blocks/synchronization/job";
        let user = Uuid::new_v4();
        // The service ignores members that only the service sets.
        let sent = json!({
            "scope": "user", "userId": user, "id": Uuid::new_v4(), "status": "done", "errors": ["x"],
            "totalNumberOfLoans": 7, "totalNumberOfFeesFines": 7, "numberOfProcessedLoans": 7,
            "numberOfProcessedFeesFines": 7, "metadata": { "createdByUserId": "x" },
        });
        let asked = api.post(JOB, &sent).await;
        assert_eq!(asked.status, 201);
        let asked = asked.json();
        let one = format!("{JOB}/{}", asked["id"].as_str().unwrap());
        let expected = json!({
            "id": asked["id"], "scope": "user", "userId": user, "status": "open", "errors": [],
        });
        assert_eq!(asked, expected);
        let stored = api.get(&one).await.json();
        let mut expected = expected;
        for number in [
            "totalNumberOfLoans",
            "totalNumberOfFeesFines",
            "numberOfProcessedLoans",
            "numberOfProcessedFeesFines",
        ] {
            expected[number] = json!(0);
        }
        assert_eq!(stored, expected);
        let full = api.post(JOB, &json!({ "scope": "full" })).await.json();
        assert_eq!(full["userId"], Value::Null);
        const START: &str = "/automated-patron-blocks/synchronization/start";
        api.request("POST", START, None).await.assert_is(202, "");
        until_status(api, &one, "done").await;
        // One call starts one job.
        assert_eq!(api.get(&format!("{JOB}/{}", full["id"].as_str().unwrap())).await.json()["status"], "open");

        let text = "UserId is required for synchronization job with scope: USER";
        api.post(JOB, &json!({ "scope": "user" })).await.assert_is(422, text);
        for (body, key) in [
            (json!({}), "scope"),
            (json!({ "scope": null }), "scope"),
            (json!({ "scope": "all" }), "scope"),
            (json!({ "scope": 1 }), "scope"),
            (json!({ "scope": "user", "userId": "x" }), "userId"),
            (json!({ "scope": "user", "userId": 7 }), "userId"),
            (json!({ "scope": "full", "tenant": "x" }), "tenant"),
        ] {
            assert_eq!(api.post(JOB, &body).await.validation_error()[2], key, "{body}");
        }
        let unknown = "This synchronization request does not exist";
        let rebuild = api.post("/patron-blocks/rebuilds", &json!({ "source": "inbox" })).await;
        let rebuild = rebuild.json()["id"].as_str().unwrap().to_owned();
        for id in [Uuid::new_v4().to_string(), "abc".to_owned(), rebuild] {
            api.get(&format!("{JOB}/{id}")).await.assert_is(404, unknown);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilds_are_created_read_applied_and_cancelled() {
    run("rebuilds_are_created_read_applied_and_cancelled", async |api| {
        const ALL: &str = "/patron-blocks/rebuilds";
        let asked = api.post(ALL, &json!({ "source": "inbox", "dryRun": true })).await;
        assert_eq!(asked.status, 201);
        let one = asked.location.clone().unwrap();
        assert_eq!(one, format!("{ALL}/{}", asked.json()["id"].as_str().unwrap()));
        let compared = until_status(api, &one, "compared").await;
        assert_eq!(compared["summary"]["patrons"], 0);
        let found = api.get(&format!("{one}/differences?limit=5&offset=0")).await.json();
        assert_eq!(found, json!({ "patrons": [], "totalRecords": 0 }));
        let apply = format!("{one}/apply");
        assert_eq!(api.request("POST", &apply, None).await.status, 202);
        until_status(api, &one, "done").await;
        assert_eq!(api.request("POST", &apply, None).await.validation_error()[2], "status");
        assert_eq!(api.delete(&one).await.validation_error()[2], "status");
        let other = api.post(ALL, &json!({ "source": "inbox", "dryRun": true })).await;
        let other = other.location.unwrap();
        until_status(api, &other, "compared").await;
        api.delete(&other).await.assert_is(204, "");
        until_status(api, &other, "cancelled").await;
        let list = api.get(&format!("{ALL}?limit=1")).await.json();
        assert_eq!(
            (&list["totalRecords"], &list["rebuilds"][0]["status"]),
            (&json!(3), &json!("cancelled"))
        );
        assert_eq!(
            api.post(ALL, &json!({ "source": "rumours" })).await.validation_error()[2],
            "source"
        );
        for bad in ["?limit=-1", "?offset=x"] {
            assert_eq!(api.get(&format!("{ALL}{bad}")).await.status, 400, "{bad}");
            assert_eq!(api.get(&format!("{one}/differences{bad}")).await.status, 400, "{bad}");
        }
        for id in [Uuid::new_v4().to_string(), "abc".to_owned()] {
            let one = format!("{ALL}/{id}");
            let (differences, apply) = (format!("{one}/differences"), format!("{one}/apply"));
            for (method, path) in
                [("GET", &one), ("DELETE", &one), ("GET", &differences), ("POST", &apply)]
            {
                api.request(method, path, None).await.assert_is(404, &format!("No rebuild {id}"));
            }
        }
    })
    .await;
}
