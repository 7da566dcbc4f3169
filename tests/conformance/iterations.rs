//! Iterations (`patron-blocks-operations`).

use serde_json::json;
use uuid::Uuid;

use super::told;
use crate::world::{TENANT, World};

#[tokio::test(flavor = "multi_thread")]
async fn iterations_are_asked_for_told_of_and_ended() {
    told("iterations_are_asked_for_told_of_and_ended", async |desk| {
        const ALL: &str = "/patron-blocks/user-summaries/iteration";
        let topic = format!("{}.{TENANT}.search.patrons", desk.world.log.environment());
        desk.world.log.make(vec![topic.clone()]).await;
        let asked = desk.post(ALL, &json!({ "topicName": "search.patrons" })).await;
        assert_eq!(asked.status, 201);
        let one = asked.location.clone().unwrap();
        assert_eq!(one, format!("{ALL}/{}", asked.json()["id"].as_str().unwrap()));
        let params = json!({ "topicName": topic, "eventType": "ITERATE" });
        assert_eq!(asked.json()["jobParams"], params);
        let done = async |_: &World| desk.get(&one).await.json()["status"] == "done";
        desk.world.until("it is done", done).await;
        assert_eq!(desk.delete(&one).await.error()[2], "status");
        let again = format!(
            "update mod_patron_blocks.iteration set status = 'publishing', ended_at = null,
                    held_until = now() + interval '1 hour' where id = '{}'",
            one.rsplit('/').next().unwrap()
        );
        desk.world.meddle(&again).await;
        desk.delete(&one).await.is(204, "");
        let list = desk.get(&format!("{ALL}?limit=1")).await.json();
        assert_eq!(
            (&list["totalRecords"], &list["iterations"][0]["status"]),
            (&json!(1), &json!("cancelled"))
        );
        let wrong = json!({ "topicName": "circulation.loan" });
        assert_eq!(desk.post(ALL, &wrong).await.error()[2], "topicName");
        for bad in ["?limit=-1", "?offset=x"] {
            assert_eq!(desk.get(&format!("{ALL}{bad}")).await.status, 400, "{bad}");
        }
        for id in [Uuid::new_v4().to_string(), "abc".to_owned()] {
            for method in ["GET", "DELETE"] {
                let path = format!("{ALL}/{id}");
                desk.ask(method, &path, None).await.is(404, &format!("No iteration {id}"));
            }
        }
    })
    .await;
}
