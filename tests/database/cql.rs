//! CQL on real tables: the matches of each relation and their order. No client query causes a database
//! error.

use patron_blocks::{
    cql,
    store::{
        Db, Schema,
        ingest::{dead_letters, discarded_dead_letters},
        search::SearchTarget,
        settings::{
            conditions,
            limits::{self, LimitRow},
            records,
        },
    },
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{database::sql::with_tenant, support::history::noon};

const NAMES: [&str; 5] =
    ["Café Zürich", "cafe noir", "Lost items", "a_b 100% \\", "fee/fine balance"];

/// Inserts a condition per name and a limit per value.
async fn fill(db: &Db, schema: &Schema) {
    let values = [json!(1), json!(9.5), json!(10), json!(100), json!("7")];
    for (n, (name, value)) in NAMES.into_iter().zip(values).enumerate() {
        let id = Uuid::from_u128(0x4000_8000_0000_0000_0000 + n as u128);
        let mut condition = json!({ "id": id, "name": name, "blockBorrowing": n % 2 == 0 });
        if n > 2 {
            condition["message"] = json!(format!("Ask {n}"));
        }
        conditions::seed(db, schema, id, &condition).await.unwrap();
        let record = json!({ "id": id, "conditionId": id, "value": value });
        let row = LimitRow { id, condition: id, record: &record };
        limits::insert(db, schema, row, None, noon()).await.unwrap();
    }
}

async fn search(db: &Db, schema: &Schema, of: &records::Collection, query: &str) -> Vec<Value> {
    let query = cql::parse(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    let page = records::list(db, schema, of, &query, (0, 100)).await.unwrap();
    let total = records::count(db, schema, &of.search, &query.condition).await.unwrap();
    assert_eq!(i64::try_from(page.len()).unwrap(), total, "{query}");
    page
}

#[tokio::test]
async fn text_matching_ignores_case_and_accents_and_splits_words() {
    with_tenant(async |db, schema| {
        fill(db, schema).await;
        for (query, expected) in [
            ("", vec![0, 1, 2, 3, 4]),
            ("name==\"CAFÉ zurich\"", vec![0]),
            ("name==Cafe*", vec![0, 1]),
            ("name==caf?", vec![]),
            ("name==\"caf? noir\"", vec![1]),
            ("name==\"caf\\? noir\"", vec![]),
            ("name==\"a_b 100% \\\\\"", vec![3]),
            ("name==\"a?b*\"", vec![3]),
            ("name==\"a%\"", vec![]),
            ("name==\"\"", vec![]),
            ("name=\"\"", vec![0, 1, 2, 3, 4]),
            ("message=\"\"", vec![3, 4]),
            ("name=ITEMS", vec![2]),
            ("name=item", vec![]),
            ("name=item*", vec![2]),
            ("name=\"fine balance\"", vec![4]),
            ("name=\"balance fee\"", vec![]),
            ("name<>\"lost items\"", vec![0, 1, 3, 4]),
            ("name<>cafe*", vec![2, 3, 4]),
            ("message<>\"ask 3\"", vec![4]),
            ("name<b", vec![3]),
            ("name>=\"LOST items\"", vec![2]),
            ("Name==cafe*", vec![]),
            ("unknown<>x", vec![]),
            ("cql.allRecords=1 not unknown==x", vec![0, 1, 2, 3, 4]),
            ("cql.allRecords=1 not message==\"ask 3\"", vec![0, 1, 2, 4]),
            ("blockBorrowing==true", vec![0, 2, 4]),
            ("blockBorrowing==true and name==cafe* or name=items not name=x", vec![0, 2]),
            ("name=items or name==cafe* and blockBorrowing==true", vec![0, 2]),
            ("name=items or (name==cafe* and blockBorrowing==false)", vec![1, 2]),
            ("name==(cafe* or lost*) not blockBorrowing==false", vec![0, 2]),
        ] {
            let page =
                search(db, schema, &conditions::RECORDS, &format!("{query} sortby id")).await;
            let names: Vec<_> =
                page.iter().map(|record| record["name"].as_str().unwrap()).collect();
            assert_eq!(names, expected.iter().map(|n| NAMES[*n]).collect::<Vec<_>>(), "{query}");
        }
    })
    .await;
}

#[tokio::test]
async fn numbers_are_compared_and_sorted_numerically() {
    with_tenant(async |db, schema| {
        fill(db, schema).await;
        for (query, expected) in [
            ("value==10.0", "10"),
            ("value=1e1", "10"),
            ("value<10 sortby value", "1 9.5"),
            ("value<>10 sortby value/sort.descending", "100 9.5 1"),
            ("value>=9.5 sortby value", "9.5 10 100"),
            ("value==1* sortby value", "1 10 100"),
            ("value==ten", ""),
            ("cql.allRecords=1 sortby unknown value/sort.descending", "100 10 9.5 1 \"7\""),
        ] {
            let page = search(db, schema, &limits::RECORDS, query).await;
            let values: Vec<_> = page.iter().map(|record| record["value"].to_string()).collect();
            assert_eq!(values.join(" "), expected, "{query}");
        }
    })
    .await;
}

/// Scripts for the framework of today's module use these forms.
#[tokio::test]
async fn modifiers_and_word_relations_are_applied() {
    with_tenant(async |db, schema| {
        fill(db, schema).await;
        for (query, expected) in [
            ("value >=/number 10 sortBy value/number", "10 100"),
            ("value ==/number 1e1", "10"),
            ("value ==/number \"10.00\"", "10"),
            ("value ==/string 10.0", ""),
            ("value ==/string 10", "10"),
            ("value >/string 9", "9.5"),
            ("value < 1e30 sortBy value/number/sort.descending", "100 10 9.5 1"),
            ("value < 1e999999999999 sortby value", "1 9.5 10 100"),
            ("value > -1e999999999999 sortby value", "1 9.5 10 100"),
            ("value > 1e-999999999999 sortby value/sort.ascending/number", "1 9.5 10 100"),
            ("value any \"1 100\" sortby value", "1 100"),
            ("value all \"10 10.0\"", "10"),
            ("value=\"\" sortby value", "1 9.5 10 100 \"7\""),
        ] {
            let page = search(db, schema, &limits::RECORDS, query).await;
            let values: Vec<_> = page.iter().map(|record| record["value"].to_string()).collect();
            assert_eq!(values.join(" "), expected, "{query}");
        }
        for (query, expected) in [
            ("name any \"noir items\"", vec![1, 2]),
            ("name any/ignoreCase \"NOIR Items nothing\"", vec![1, 2]),
            ("name all \"balance fee\"", vec![4]),
            ("name all \"balance cafe\"", vec![]),
            ("name adj \"fee fine\"", vec![4]),
            ("name adj \"fine fee\"", vec![]),
            ("name ALL \"zur* caf*\"", vec![0]),
            ("name any \"\"", vec![0, 1, 2, 3, 4]),
            ("name any \"items - nothing\"", vec![2]),
            ("name any \"nothing / -\"", vec![]),
            ("name all \"balance / fee\"", vec![4]),
            ("name all \"- /\"", vec![]),
            ("name adj \"fee / fine\"", vec![4]),
            ("name any \"/\"", vec![]),
            ("name = -", vec![]),
            ("name any \" \"", vec![0, 1, 2, 3, 4]),
            ("name == \"/\"", vec![]),
            ("cql.allRecords=1 not name any \"items /\"", vec![0, 1, 3, 4]),
            ("message all \"\"", vec![3, 4]),
            ("name=/respectCase cafe", vec![1]),
            ("name==/respectcase/ignoreaccents \"Cafe*\"", vec![0]),
            ("name==/respectAccents \"CAFE*\"", vec![1]),
            ("name==/respectAccents/respectCase \"Café Z*\"", vec![0]),
            ("name==/respectAccents/respectCase \"café*\"", vec![]),
            ("name any/respectCase \"lost items Cafe\"", vec![0, 2]),
            ("name ==/number cafe*", vec![0, 1]),
            ("blockBorrowing any \"true maybe\"", vec![0, 2, 4]),
        ] {
            let page =
                search(db, schema, &conditions::RECORDS, &format!("{query} sortby id")).await;
            let names: Vec<_> =
                page.iter().map(|record| record["name"].as_str().unwrap()).collect();
            assert_eq!(names, expected.iter().map(|n| NAMES[*n]).collect::<Vec<_>>(), "{query}");
        }
        let sorted =
            search(db, schema, &conditions::RECORDS, "sortby name/respectCase/sort.descending")
                .await;
        assert_eq!(sorted[0]["name"], NAMES[4]);
    })
    .await;
}

#[tokio::test]
async fn empty_term_matches_every_field_that_has_a_value() {
    with_tenant(async |db, schema| {
        fill(db, schema).await;
        let bare = Uuid::from_u128(0x4000_8000_0000_0000_0000 + 77);
        conditions::seed(db, schema, bare, &json!({})).await.unwrap();
        let lacks = json!({ "conditionId": bare });
        let row = LimitRow { id: bare, condition: bare, record: &lacks };
        limits::insert(db, schema, row, None, noon()).await.unwrap();
        for (of, field, expected) in [
            (&limits::RECORDS, "id", 6),
            (&limits::RECORDS, "conditionId", 6),
            (&limits::RECORDS, "patronGroupId", 0),
            (&limits::RECORDS, "value", 5),
            (&limits::RECORDS, "metadata.createdDate", 0),
            (&conditions::RECORDS, "id", 6),
            (&conditions::RECORDS, "name", 5),
            (&conditions::RECORDS, "message", 2),
            (&conditions::RECORDS, "blockBorrowing", 5),
            (&conditions::RECORDS, "blockRenewals", 0),
        ] {
            for relation in ["=", " any ", " all ", " adj ", "=/respectCase ", "=/number "] {
                let query = format!("{field}{relation}\"\"");
                assert_eq!(search(db, schema, of, &query).await.len(), expected, "{query}");
            }
        }
        let letters = ["id", "reason", "rule", "topic", "partition", "offset", "receivedAt"];
        for field in letters {
            let query = cql::parse(&format!("{field}=\"\"")).unwrap();
            let count =
                records::count(db, schema, &dead_letters::SEARCH_TARGET, &query.condition).await;
            assert_eq!(count.unwrap(), 0, "{field}");
        }
    })
    .await;
}

#[tokio::test]
async fn text_sorting_ignores_case_and_accents() {
    with_tenant(async |db, schema| {
        fill(db, schema).await;
        let page = search(db, schema, &conditions::RECORDS, "sortby name").await;
        let names: Vec<_> = page.iter().map(|record| record["name"].as_str().unwrap()).collect();
        assert_eq!(names, [3, 1, 0, 4, 2].map(|n: usize| NAMES[n]));
        let query = "message=\"\" or name==cafe* sortby message/sort.descending name";
        let page = search(db, schema, &conditions::RECORDS, query).await;
        let names: Vec<_> = page.iter().map(|record| record["name"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            [4, 3, 1, 0].map(|n: usize| NAMES[n]),
            "records without the field come last"
        );
    })
    .await;
}

/// Members from clients may be long, and an evaluation loads all limits of its tenant.
#[tokio::test]
async fn evaluation_loads_only_required_members() {
    with_tenant(async |db, schema| {
        let id = Uuid::from_u128(0x4000_8000_0000_0000_0000);
        let added = json!({ "note": "x", "metadata": { "createdDate": "y" } });
        let with_added = |mut record: Value| {
            record.as_object_mut().unwrap().extend(added.as_object().unwrap().clone());
            record
        };
        let condition =
            json!({ "id": id, "blockBorrowing": "true", "blockRenewals": 1, "message": "m" });
        conditions::seed(db, schema, id, &with_added(condition.clone())).await.unwrap();
        let limit = json!({ "id": id, "patronGroupId": "g", "value": "7", "conditionId": id });
        let record = with_added(limit.clone());
        let row = LimitRow { id, condition: id, record: &record };
        limits::insert(db, schema, row, None, noon()).await.unwrap();

        let read = records::all(db, schema, &limits::RECORDS).await.unwrap();
        let mut expected = limit;
        expected["createdDate"] = json!("y");
        expected["updatedDate"] = Value::Null;
        assert_eq!(read, [expected]);
        let mut expected = condition;
        expected["blockRequests"] = Value::Null;
        let read = records::all(db, schema, &conditions::RECORDS).await.unwrap();
        assert_eq!(read, [expected], "absent members are null, and other members are unchanged");
    })
    .await;
}

fn collections() -> [&'static SearchTarget; 3] {
    [&limits::RECORDS.search, &conditions::RECORDS.search, &dead_letters::SEARCH_TARGET]
}

/// Every field with every relation and every kind of term, and the longest allowed queries.
#[tokio::test]
async fn no_query_causes_a_database_error() {
    with_tenant(async |db, schema| {
        fill(db, schema).await;
        let long = |part: &str| part.repeat(cql::QUERY_BYTES_MAX / part.len()) + "z==1";
        let mut queries = vec![
            long("a==1 or "),
            long("name=1 and name==x or "),
            format!("name={}", "*".repeat(4000)),
            format!("value=={}", "9".repeat(4000)),
            "value==1e28 or value==-1E-28 or value==1e999999999 or value==+.e".to_owned(),
            "name==\"'; drop table x; --\" or name==\"{schema} $1 \\u{0}\"".to_owned(),
        ];
        let plain = ["=", "==", "<>", "<", "<=", ">", ">="];
        let terms = ["x", "7", "\"\"", "a*", "*", "?", "\"a b\"", "-1.50", "\u{300}"];
        let more = [
            " any ",
            " all ",
            " adj ",
            "==/number ",
            ">/string ",
            " any/respectCase ",
            "<>/respectAccents/respectCase ",
        ];
        for field in collections().iter().flat_map(|of| of.names()) {
            for (relations, terms) in
                [(plain, &terms[..]), (more, &["1e-9999", "\"a* 7\"", "\" \""][..])]
            {
                for relation in relations {
                    for term in terms {
                        queries.push(format!("{field}{relation}{term} sortby {field}"));
                    }
                }
            }
        }
        for query in &queries {
            run(db, schema, query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        }
    })
    .await;
}

async fn run(db: &Db, schema: &Schema, query: &str) -> Result<(), String> {
    let Ok(query) = cql::parse(query) else { return Ok(()) };
    for of in collections() {
        let counted = records::count(db, schema, of, &query.condition).await;
        counted.map_err(|error| format!("{:?}", error))?;
    }
    for of in [&limits::RECORDS, &conditions::RECORDS] {
        let listed = records::list(db, schema, of, &query, (0, 10)).await;
        listed.map_err(|error| format!("{:?}", error))?;
    }
    let listed = dead_letters::list(db, schema, &query, None, (0, 10)).await;
    listed.map(drop).map_err(|error| format!("{:?}", error))
}

#[test]
fn random_queries_cause_no_database_error() {
    let part = prop_oneof![
        prop::sample::select(vec![
            "name",
            "value",
            "reason",
            "offset",
            "id",
            "==",
            "=",
            "<>",
            ">",
            " and ",
            " or ",
            " not ",
            "(",
            ")",
            "*",
            "?",
            "\\",
            "\"",
            "sortby ",
            "1",
            "cafe",
            " ",
            " any ",
            " all ",
            "/number ",
            "/respectCase ",
            "1e9999",
        ])
        .prop_map(str::to_owned),
        "\\PC{1,3}",
    ];
    let comparison = ("(name|value|reason|offset|id)", "(==|=|<>|>)", "\"[^\"\\\\]{0,9}\"")
        .prop_map(|(field, relation, term)| format!("{field}{relation}{term} or "));
    let text = (vec(comparison, 0..4), vec(part, 1..9)).prop_map(|(a, b)| a.concat() + &b.concat());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(with_tenant(async |db, schema| {
        fill(db, schema).await;
        let config = proptest::test_runner::Config { cases: 300, ..Default::default() };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let outcome = runner.run(&text, |text| {
            let ran = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(run(db, schema, &text))
            });
            ran.map_err(TestCaseError::fail)
        });
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }));
}

#[tokio::test]
async fn unmatched_condition_discards_no_dead_letter() {
    with_tenant(async |db, schema| {
        let park =
            "insert into {schema}.dead_letter (dead_letter_id, reason, rule, topic, partition,
            \"offset\", received_at, headers, payload)
            select gen_random_uuid(), 'bad_json', 'is no JSON', 't', n % 2, n, now(), '[]', ''
              from generate_series(1, 10) n";
        let park = park.replace("{schema}", schema.name());
        sqlx::query(sqlx::AssertSqlSafe(park)).execute(db).await.unwrap();
        let discard = async |query: &str| {
            let condition = cql::parse(query).unwrap().condition;
            let discarded =
                discarded_dead_letters::discard_matching(db, schema, &condition, None, 100);
            discarded.await.unwrap().len()
        };
        assert_eq!(discard("tenant==x").await, 0);
        assert_eq!(discard("reason=bad").await, 0, "a reason is one word");
        assert_eq!(discard("partition==one").await, 0);
        for query in [
            "any \"tenant / header\"",
            "any \"- /\"",
            "all \"- /\"",
            "adj -",
            "= \"/\"",
            "=\" - \"",
        ] {
            assert_eq!(discard(&format!("rule {query}")).await, 0, "{query}");
        }
        assert_eq!(discard("partition==1 and offset>7 and receivedAt>2020").await, 1);
        assert_eq!(discard("partition==1").await, 4);
        let none = discarded_dead_letters::discard(db, schema, Uuid::nil()).await;
        assert!(!none.unwrap());
        assert_eq!(discard("cql.allRecords=1").await, 5);
    })
    .await;
}
