//! Summary exports (`patron-blocks-operations`).

use serde_json::json;
use uuid::Uuid;

use super::run;
use crate::support::world::{TENANT, World};

#[tokio::test(flavor = "multi_thread")]
async fn summary_exports_are_created_read_and_cancelled() {
    run("summary_exports_are_created_read_and_cancelled", async |api| {
        const ALL: &str = "/patron-blocks/user-summaries/iteration";
        let topic = format!("{}.{TENANT}.search.patrons", api.world.log.environment());
        api.world.log.create_topics(vec![topic.clone()]).await;
        let asked = api.post(ALL, &json!({ "topicName": "search.patrons" })).await;
        assert_eq!(asked.status, 201);
        let one = asked.location.clone().unwrap();
        assert_eq!(one, format!("{ALL}/{}", asked.json()["id"].as_str().unwrap()));
        let params = json!({ "topicName": topic, "eventType": "ITERATE" });
        assert_eq!(asked.json()["jobParams"], params);
        let done = async |_: &World| api.get(&one).await.json()["status"] == "done";
        api.world.until("the export is done", done).await;
        assert_eq!(api.delete(&one).await.validation_error()[2], "status");
        let again = format!(
            "update mod_patron_blocks.job set status = 'publishing', ended_at = null,
                    lease_expires_at = now() + interval '1 hour' where id = '{}'",
            one.rsplit('/').next().unwrap()
        );
        api.world.execute_sql(&again).await;
        api.delete(&one).await.assert_is(204, "");
        let list = api.get(&format!("{ALL}?limit=1")).await.json();
        assert_eq!(
            (&list["totalRecords"], &list["iterations"][0]["status"]),
            (&json!(1), &json!("cancelled"))
        );
        let wrong = json!({ "topicName": "circulation.loan" });
        assert_eq!(api.post(ALL, &wrong).await.validation_error()[2], "topicName");
        for bad in ["?limit=-1", "?offset=x"] {
            assert_eq!(api.get(&format!("{ALL}{bad}")).await.status, 400, "{bad}");
        }
        for id in [Uuid::new_v4().to_string(), "abc".to_owned()] {
            for method in ["GET", "DELETE"] {
                let path = format!("{ALL}/{id}");
                api.request(method, &path, None)
                    .await
                    .assert_is(404, &format!("No iteration {id}"));
            }
        }
    })
    .await;
}
