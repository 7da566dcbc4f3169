//! The ordering hazards of the events contract (10) through the real service: what must come of them
//! is asked for over REST. `tests/hazards.rs` has the same as properties, `docs/hazards.md` the table.

mod copies;
mod order;
mod weather;

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    facts::{enveloped, now},
    log::Draft,
    world::{TENANT, World},
};

/// The shapes of native records (contract 4.1 and 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Bare,
    Enveloped,
}

const SHAPES: [Shape; 2] = [Shape::Bare, Shape::Enveloped];

const NONE: [[bool; 3]; 0] = [];
const ALL: [[bool; 3]; 1] = [[true; 3]];

fn minutes_ago(minutes: i64) -> DateTime<Utc> {
    now() - TimeDelta::minutes(minutes)
}

/// Publishes what happened at an instant: an envelope says so itself, a bare record's timestamp does.
async fn say(world: &World, shape: Shape, at: DateTime<Utc>, kind: Kind, payload: &Value) {
    let (text, timestamp) = match shape {
        Shape::Bare => (payload.to_string(), Some(at.timestamp_millis())),
        Shape::Enveloped => (enveloped(payload, at).to_string(), None),
    };
    world.log.send(Draft { timestamp, ..draft(world, kind, &text) }).await;
}

/// A record of the tenant, of now.
fn draft<'a>(world: &World, kind: Kind, text: &'a str) -> Draft<'a> {
    Draft {
        topic: world.log.topic(TENANT, kind),
        headers: vec![("folio.tenantId", TENANT)],
        payload: Some(text.as_bytes()),
        timestamp: None,
    }
}

/// A group in which a single loan, or any balance, blocks everything.
async fn strict_group(world: &World) -> Uuid {
    let group = Uuid::new_v4();
    world.limit(group, Measure::ChargedOut, 0.0).await;
    world.limit(group, Measure::FeeFineBalance, 0.0).await;
    group
}

/// The open loans, or fees/fines, of a patron's summary; none where there is no summary.
async fn open(world: &World, user: Uuid, what: &str) -> Vec<Value> {
    let path = format!("/user-summary/{user}");
    if world.get(&path).await.0 == 404 {
        return Vec::new();
    }
    world.read(&path).await[what].as_array().unwrap().clone()
}

/// The due date and the flags (recalled, lost, claimed returned) of a patron's only loan.
async fn only_loan(world: &World, user: Uuid) -> (String, [bool; 3]) {
    let loans = open(world, user, "openLoans").await;
    assert_eq!(loans.len(), 1, "{loans:?}");
    let flags = ["recall", "itemLost", "itemClaimedReturned"];
    let due_date = loans[0]["dueDate"].as_str().unwrap().replace("+00:00", "Z");
    (due_date, flags.map(|flag| loans[0][flag].as_bool().unwrap()))
}

/// The balances of a patron's open fees/fines.
async fn balances(world: &World, user: Uuid) -> Vec<String> {
    let fees = open(world, user, "openFeesFines").await;
    fees.iter().map(|fee| fee["balance"].to_string()).collect()
}

/// Nothing counts for the patron: no summary, no blocks.
async fn has_nothing(world: &World, user: Uuid, why: &str) {
    assert_eq!(world.get(&format!("/user-summary/{user}")).await.0, 404, "{why}");
    assert_eq!(world.blocks(user).await, NONE, "{why}");
}
