//! The ordering hazards of docs/contract/events.md#10-hazards through the real service; REST shows the
//! results. `tests/core/hazards.rs` has the same as properties, `docs/hazards.md` the table.

mod duplicates;
mod failures;
mod order;

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    log::OutgoingRecord,
    payloads::{in_envelope, now},
    world::{TENANT, World},
};

/// The shapes of native records (docs/contract/events.md#41-flat and
/// docs/contract/events.md#42-envelope).
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

/// Publishes a fact of this instant. An envelope contains the instant; a bare record has it as
/// timestamp.
async fn publish_at(world: &World, shape: Shape, at: DateTime<Utc>, kind: Kind, payload: &Value) {
    let (text, timestamp) = match shape {
        Shape::Bare => (payload.to_string(), Some(at.timestamp_millis())),
        Shape::Enveloped => (in_envelope(payload, at).to_string(), None),
    };
    world.log.send(OutgoingRecord { timestamp, ..draft(world, kind, &text) }).await;
}

/// Returns a record of the tenant without a timestamp.
fn draft<'a>(world: &World, kind: Kind, text: &'a str) -> OutgoingRecord<'a> {
    OutgoingRecord {
        topic: world.log.topic(TENANT, kind),
        headers: vec![("folio.tenantId", TENANT)],
        payload: Some(text.as_bytes()),
        timestamp: None,
    }
}

/// Adds a group in which a single loan, or any balance, blocks every action.
async fn strict_group(world: &World) -> Uuid {
    let group = Uuid::new_v4();
    world.add_limit(group, Measure::ChargedOut, 0.0).await;
    world.add_limit(group, Measure::FeeFineBalance, 0.0).await;
    group
}

/// Returns the open loans or fees/fines of a patron's summary; empty without a summary.
async fn open_entries(world: &World, user: Uuid, what: &str) -> Vec<Value> {
    let path = format!("/user-summary/{user}");
    if world.get(&path).await.0 == 404 {
        return Vec::new();
    }
    world.get_json(&path).await[what].as_array().unwrap().clone()
}

/// Returns the due date and the flags (recalled, lost, claimed returned) of a patron's only loan.
async fn only_loan(world: &World, user: Uuid) -> (String, [bool; 3]) {
    let loans = open_entries(world, user, "openLoans").await;
    assert_eq!(loans.len(), 1, "{loans:?}");
    let flags = ["recall", "itemLost", "itemClaimedReturned"];
    let due_date = loans[0]["dueDate"].as_str().unwrap().replace("+00:00", "Z");
    (due_date, flags.map(|flag| loans[0][flag].as_bool().unwrap()))
}

/// Returns the balances of a patron's open fees/fines.
async fn balances(world: &World, user: Uuid) -> Vec<String> {
    let fees = open_entries(world, user, "openFeesFines").await;
    fees.iter().map(|fee| fee["balance"].to_string()).collect()
}

/// Checks that the patron has neither a summary nor blocks.
async fn assert_nothing_open(world: &World, user: Uuid, why: &str) {
    assert_eq!(world.get(&format!("/user-summary/{user}")).await.0, 404, "{why}");
    assert_eq!(world.block_flags(user).await, NONE, "{why}");
}
