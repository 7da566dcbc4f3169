//! A tenant of the Java module: switched in place during evaluations, and given back.

use std::cell::Cell;

use patron_blocks::{blocks::Measure, event::Kind, store::state::patrons};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    binary::run_cli,
    java::{self, Layout, Patron, days_ago, java_timestamp},
    log::OutgoingRecord,
    payloads::{balance_change, check_out, due_date_change, loan_event},
    world::{TENANT, World},
};

/// Patrons of the library, and the number of patrons with events in the log.
const PATRONS: usize = 3000;
const PATRONS_WITH_EVENTS: usize = 300;

/// Returns the number of patrons; `STORY_PATRONS` overrides the default.
#[expect(clippy::disallowed_methods, reason = "the environment may set the number of patrons")]
fn patrons_of_the_story() -> usize {
    std::env::var("STORY_PATRONS").ok().and_then(|n| n.parse().ok()).unwrap_or(PATRONS)
}

/// Creates the Java module's tenant, with limits, reports and the group of every patron.
async fn create_java_tenant(world: &World, group: Uuid, patrons: usize) {
    let purge = json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": true });
    assert_eq!(world.post("/_/tenant", &purge).await.0, 204);
    java::create_tables(&world.db, &world.schema, Layout::Late).await;
    java::fill(&world.db, &world.schema, patrons).await;
    java::create_report_views(&world.db, &world.schema).await;
    let limits = [
        (Measure::ChargedOut, 3.0),
        (Measure::LostItems, 0.0),
        (Measure::OverdueItems, 0.0),
        (Measure::FeeFineBalance, 5.0),
    ];
    let condition = |measure: Measure| {
        json!({
            "id": measure.condition_id(), "name": measure.name(), "message": "Ask at the desk",
            "blockBorrowing": true, "blockRenewals": true, "blockRequests": true,
            "valueType": measure.value_type(),
        })
    };
    let conditions = limits.map(|(measure, _)| condition(measure));
    java::insert_rows(&world.db, &world.schema, "patron_block_conditions", &conditions).await;
    for (measure, value) in limits {
        let limit = java::with_dates(
            days_ago(100 - measure as i64),
            json!({ "patronGroupId": group, "conditionId": measure.condition_id(), "value": value }),
        );
        java::insert_rows(&world.db, &world.schema, "patron_block_limits", &[limit]).await;
    }
    for patron in (0..patrons).map(Patron) {
        world.users.set_group(patron.user(), group);
    }
}

/// Returns the events of a patron in the log. The Java module's state is newer than all of them and
/// contradicts many.
fn history(patron: Patron) -> Vec<(Kind, i64, Value)> {
    let (user, past, long_ago) = (patron.user(), patron.past_loan(), java_timestamp(days_ago(4)));
    let mut events = vec![
        (Kind::ItemCheckedOut, 5, check_out(user, past, &long_ago)),
        (Kind::ItemCheckedIn, 4, loan_event(user, past)),
        (Kind::FeeFineBalanceChanged, 5, balance_change(user, patron.fee(), None, 60.0)),
    ];
    for loan in patron.loans() {
        events.push((Kind::ItemCheckedOut, 6, check_out(user, loan, &long_ago)));
        events.push((Kind::ItemDeclaredLost, 5, loan_event(user, loan)));
        events.push((Kind::LoanDueDateChanged, 4, due_date_change(user, loan, &long_ago, false)));
    }
    events
}

async fn publish(world: &World, events: &[(Kind, i64, Value)]) {
    let payloads: Vec<String> = events.iter().map(|(.., payload)| payload.to_string()).collect();
    let drafts = events.iter().zip(&payloads).map(|((kind, days, _), payload)| OutgoingRecord {
        topic: world.log.topic(TENANT, *kind),
        headers: vec![("folio.tenantId", TENANT)],
        payload: Some(payload.as_bytes()),
        timestamp: Some(days_ago(*days).timestamp_millis()),
    });
    world.log.send_all(drafts).await;
}

fn flags(body: &str) -> Vec<[bool; 3]> {
    let body: Value = serde_json::from_str(body).unwrap();
    let flag = |block: &Value, name: &str| block[name].as_bool().unwrap();
    let names = ["blockBorrowing", "blockRenewals", "blockRequests"];
    let blocks = body["automatedPatronBlocks"].as_array().unwrap();
    blocks.iter().map(|block| names.map(|name| flag(block, name))).collect()
}

/// Evaluates one patron after another until `done`, and returns the number of answers. The tenant is
/// refused before it is enabled, and every later answer is correct.
async fn evaluate_until(world: &World, patrons: usize, done: &Cell<bool>) -> usize {
    let (mut answers, mut patron) = (0, 0);
    while !done.get() || answers < 200 {
        patron = (patron + 7) % patrons;
        let requested = Patron(patron);
        let path = format!("/automated-patron-blocks/{}", requested.user());
        let (status, body) = world.get(&path).await;
        if status == 200 {
            assert_eq!(flags(&body), requested.blocks(), "{requested:?} after {answers} answers");
            answers += 1;
        } else {
            assert_eq!((status, answers), (400, 0), "{body}");
        }
    }
    answers
}

async fn report_totals(world: &World) -> (i64, i64) {
    let loans =
        world.count("select sum(loans)::int8 from northlib_mod_fqm_manager.\"Patrons\"").await;
    (loans, world.count("select summaries from northlib_mod_fqm_manager.on_cached").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn java_switch_under_load_gives_no_wrong_result() {
    World::run(async |world| {
        let (group, patrons) = (Uuid::new_v4(), patrons_of_the_story());
        create_java_tenant(world, group, patrons).await;
        let events: Vec<_> =
            (0..PATRONS_WITH_EVENTS.min(patrons)).flat_map(|n| history(Patron(n))).collect();
        publish(world, &events).await;
        let before = world.count("select count(*) from {schema}.user_summary").await;
        let loans: usize = (0..patrons).map(|n| Patron(n).loans().len()).sum();

        let done = Cell::new(false);
        let world = &*world;
        let switch = async {
            let install = json!({
                "module_from": "mod-patron-blocks-1.12.2", "module_to": "mod-patron-blocks-2.0.0",
            });
            let started_at = std::time::Instant::now();
            let (status, job) = world.post("/_/tenant", &install).await;
            assert_eq!(status, 201, "{job}");
            let job: Value = serde_json::from_str(&job).unwrap();
            let job = format!("/_/tenant/{}?wait=60000", job["id"].as_str().unwrap());
            let job = world.get_json(&job).await;
            assert_eq!(job["complete"], true, "{job}");
            let took = started_at.elapsed();
            world.until_committed().await;
            done.set(true);
            (job, took)
        };
        let ((job, took), answers) = tokio::join!(switch, evaluate_until(world, patrons, &done));
        tracing::info!(?took, answers, patrons, "switched");

        let taken = format!("{before} summaries with {loans} open loans");
        assert!(job["messages"][0].as_str().unwrap().contains(&taken), "{job}");
        assert_eq!(job["messages"][1], "3 views of other roles were moved to the new summaries");
        assert_eq!(report_totals(world).await, (i64::try_from(loans).unwrap(), before));
        assert!(patrons::list_drifted(&world.db, &world.schema).await.unwrap().is_empty());
        assert_eq!(world.get_json("/patron-block-limits").await["totalRecords"], 4);
        assert_eq!(world.get_json("/patron-block-conditions").await["totalRecords"], 6);

        // Events that are newer than the Java module's state count: a return, a loss, a payment.
        let (returns, loses, pays) = (Patron(8), Patron(2), Patron(15));
        let changes = [
            (Kind::ItemCheckedIn, 0, loan_event(returns.user(), returns.loans()[0])),
            (Kind::ItemDeclaredLost, 0, loan_event(loses.user(), loses.loans()[0])),
            (Kind::FeeFineBalanceChanged, 0, balance_change(pays.user(), pays.fee(), None, 0.0)),
        ];
        publish(world, &changes).await;
        world.until_committed().await;
        assert_eq!(world.block_flags(returns.user()).await, [[false; 3]; 0]);
        assert_eq!(world.block_flags(loses.user()).await, [[true; 3]]);
        assert_eq!(world.get(&format!("/user-summary/{}", pays.user())).await.0, 404);
        let summary = world.get_json(&format!("/user-summary/{}", loses.user())).await;
        assert_eq!(summary["id"], json!(loses.summary_id()), "the row of the report is unchanged");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_returns_to_java_module_and_switches_again() {
    World::run(async |world| {
        let (group, patrons) = (Uuid::new_v4(), 100);
        create_java_tenant(world, group, patrons).await;
        world.enable().await;
        let loses = Patron(2);
        world.publish(Kind::ItemDeclaredLost, &loan_event(loses.user(), loses.loans()[0])).await;
        world.until_committed().await;
        let expected = report_totals(world).await;

        let (code, output) = run_cli(world, &["give-back", "--tenant", TENANT]);
        assert_eq!((code, output.contains("summaries to the Java module")), (Some(0), true), "{output}");
        let act = "select count(*) from mod_patron_blocks.operator_action
                    where action = 'give-back-tenant' and outcome = 'done'
                      and (detail ->> 'returnedSummaries')::int8 > 0";
        assert_eq!(world.count(act).await, 1);
        world
            .until("the instance treats the tenant as disabled", async |world: &World| {
                world.get(&format!("/user-summary/{}", loses.user())).await.0 == 400
            })
            .await;
        // The Java module finds its table with the service's state, and writes to it as before.
        let lost = "select count(*) from {schema}.user_summary, jsonb_array_elements(jsonb -> 'openLoans') loan
                     where (loan ->> 'itemLost')::boolean";
        let javas = (0..patrons).map(Patron).filter(|p| p.0 % 11 == 0 && p.0 % 5 > 1).count();
        assert_eq!(world.count(lost).await, i64::try_from(javas).unwrap() + 1);
        assert_eq!(report_totals(world).await, expected);
        let owes = "update {schema}.user_summary
                       set jsonb = jsonb_set(jsonb, '{openFeesFines}',
                             '[{\"feeFineId\": \"a41c7e90-3b5d-4f68-92c7-8e0d5b1a6f33\", \"balance\": 9}]')";
        let user = loses.user();
        world.execute_sql(&format!("{owes} where jsonb ->> 'userId' = '{user}'")).await;
        let version = format!("select (jsonb ->> '_version')::int8 from {{schema}}.user_summary where jsonb ->> 'userId' = '{user}'");
        assert_eq!(world.count(&version).await, 2, "the triggers of the Java module fire");
        let (code, output) = run_cli(world, &["give-back", "--tenant", TENANT]);
        assert_eq!((code, output.contains("already given back")), (Some(1), true), "{output}");

        // After the next enabling, the service reads the records that arrived meanwhile, and no earlier
        // record again.
        let meanwhile = Patron(4);
        let lost = loan_event(meanwhile.user(), meanwhile.loans()[0]);
        world.publish(Kind::ItemDeclaredLost, &lost).await;
        world.enable().await;
        world.until_committed().await;
        assert_eq!(world.block_flags(user).await, [[true; 3]; 2], "the patron has lost items and a debt");
        assert_eq!(
            world.block_flags(meanwhile.user()).await,
            [[true; 3]; 2],
            "the patron has many items, one of them lost"
        );
        assert_eq!(world.count("select count(*) from {schema}.inbox").await, 1);
        assert_eq!(report_totals(world).await.0, expected.0);
    })
    .await;
}
