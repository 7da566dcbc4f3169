//! Conditions and limits over HTTP, with the requests of ui-users.

use patron_blocks::blocks::Measure;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::world::World;

const LOST: Uuid = Measure::LostItems.condition_id();

fn limit(id: Uuid, condition: Uuid, value: Value) -> Value {
    json!({ "id": id, "patronGroupId": Uuid::new_v4(), "conditionId": condition, "value": value })
}

fn error((status, body): (u16, String)) -> (u16, String, String, String) {
    let body: Value = serde_json::from_str(&body).expect("an errors object");
    let error = &body["errors"][0];
    let parameter = &error["parameters"][0];
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (status, text(&error["message"]), text(&parameter["key"]), text(&parameter["value"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_seeded_sorted_and_validated() {
    World::run(async |world| {
        let list = world
            .get_json("/patron-block-conditions/?query=cql.allRecords%3D1%20sortby%20name")
            .await;
        assert_eq!(list["totalRecords"], 6);
        let names: Vec<_> = list["patronBlockConditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|condition| condition["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "Maximum number of items charged out",
                "Maximum number of lost items",
                "Maximum number of overdue items",
                "Maximum number of overdue recalls",
                "Maximum outstanding fee/fine balance",
                "Recall overdue by maximum number of days",
            ]
        );

        let path = format!("/patron-block-conditions/{LOST}");
        let mut condition = world.get_json(&path).await;
        condition["blockBorrowing"] = json!(true);
        assert_eq!(
            error(world.put(&path, &condition).await).1,
            "Message to be displayed is a required field if one or more blocked actions selected"
        );
        condition["message"] = json!("Too many lost items");
        condition["unknown"] = json!({ "number": 1.50 });
        assert_eq!(world.put(&path, &condition).await, (204, String::new()));
        let stored = world.get_json(&path).await;
        assert_eq!(
            (&stored["message"], &stored["unknown"]),
            (&condition["message"], &condition["unknown"])
        );
        let created = stored["metadata"]["createdDate"].as_str().unwrap();
        assert!(created.ends_with("+00:00"), "{created}");
        condition["blockBorrowing"] = json!(false);
        assert_eq!(
            error(world.put(&path, &condition).await).1,
            "One or more blocked actions must be selected for message to be displayed to be used"
        );
        condition.as_object_mut().unwrap().remove("name");
        assert_eq!(
            error(world.put(&path, &condition).await),
            (422, "must not be null".to_owned(), "name".to_owned(), "null".to_owned())
        );

        assert_eq!(world.get("/patron-block-conditions/abc").await.0, 404);
        assert_eq!(world.delete(&path).await.0, 405);
        assert_eq!(world.post("/patron-block-conditions", &stored).await.0, 405);
        let unknown = format!("/patron-block-conditions/{}", Uuid::new_v4());
        assert_eq!(world.get(&unknown).await, (404, "Not found".to_owned()));
        assert_eq!(world.put(&unknown, &stored).await, (404, "Not found".to_owned()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_is_created_updated_listed_and_deleted() {
    World::run(async |world| {
        let id = Uuid::new_v4();
        let request = world
            .request(Method::POST, "/patron-block-limits")
            .header("X-Okapi-User-Id", "111111111")
            .json(&limit(id, LOST, json!("00.0")));
        let (status, body) = world.send(request).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, body["value"].as_f64()),
            (201, Some(0.0)),
            "a numeric string is a number"
        );
        assert_eq!(body["metadata"]["createdByUserId"], "111111111");

        let path = format!("/patron-block-limits/{id}");
        let mut changed = world.get_json(&path).await;
        assert_eq!(changed, body);
        changed["value"] = json!(7);
        assert_eq!(world.put(&path, &changed).await.0, 204);
        let stored = world.get_json(&path).await;
        assert_eq!(
            (
                &stored["value"],
                &stored["metadata"]["createdDate"],
                &stored["metadata"]["createdByUserId"]
            ),
            (&json!(7), &body["metadata"]["createdDate"], &json!("111111111"))
        );

        let list = world.get_json("/patron-block-limits?limit=1500").await;
        assert_eq!(
            (list["totalRecords"].as_i64(), list["patronBlockLimits"].as_array().unwrap().len()),
            (Some(1), 1)
        );
        let none = world.get_json("/patron-block-limits?limit=0").await;
        assert_eq!(none, json!({ "patronBlockLimits": [], "totalRecords": 1 }));
        for bad in ["limit=-1", "offset=x", "limit=2147483648", "query=name%3D", "totalRecords=all"]
        {
            assert_eq!(world.get(&format!("/patron-block-limits?{bad}")).await.0, 400, "{bad}");
        }
        assert_eq!(world.delete(&path).await, (204, String::new()));
        assert_eq!(world.delete(&path).await, (404, "Not found".to_owned()));
        assert_eq!(world.delete("/patron-block-limits/abc").await.0, 400);
        assert_eq!(world.get("/patron-block-limits/abc").await.0, 404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_limit_is_rejected_with_its_rule() {
    World::run(async |world| {
        let id = Uuid::new_v4();
        let balance = Measure::FeeFineBalance.condition_id();
        let post = async |body: Value| world.post("/patron-block-limits", &body).await;
        let integer = "Must be blank or an integer from 0 to 999999";
        let money = "Must be blank or a number from 0.00 to 999999.99";
        for (condition, value, message, shown) in [
            (LOST, json!(10.2), integer, "10.2"),
            (LOST, json!(1_000_000), integer, "1000000.0"),
            (LOST, json!(-1), integer, "-1.0"),
            (balance, json!(1_000_000), money, "1000000.0"),
            (balance, json!(-0.01), money, "-0.01"),
        ] {
            assert_eq!(error(post(limit(id, condition, value)).await),
                (422, message.to_owned(), "value".to_owned(), shown.to_owned()));
        }
        assert_eq!(error(post(limit(id, LOST, Value::Null)).await).1, "must not be null");
        let unknown = Uuid::new_v4();
        assert_eq!(error(post(limit(id, unknown, json!(1))).await).1,
            format!("Cannot set patron_block_limits.conditionid = {unknown} because it does not exist in patron_block_conditions.id."));
        assert_eq!(post(limit(id, LOST, json!(1))).await.0, 201);
        assert_eq!(error(post(limit(id, LOST, json!(1))).await).1,
            format!("id value already exists in table patron_block_limits: {id}"));
        assert_eq!(post(json!([])).await.0, 400);
        assert_eq!(post(limit(id, LOST, json!("ten"))).await.0, 400);
        let typed = world.request(Method::POST, "/patron-block-limits")
            .header("Content-Type", "text/xml").body("<limit/>");
        assert_eq!(world.send(typed).await,
            (400, "Content-type header must be [\"application/json\"] but it is \"text/xml\"".to_owned()));
    })
    .await;
}
