//! The format of messages: FOLIO's envelope of a changed entity (docs/contract/events.md#43-change), with a
//! sequence that orders all messages of a patron.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::event::TenantId;

/// Last part of the topic name for blocks.
pub const AUTOMATED_BLOCK_TOPIC: &str = "automated-block";

/// Last part of the topic name for limits that a patron approaches.
pub const APPROACHING_LIMIT_TOPIC: &str = "approaching-limit";

/// Returns the headers of a message: the tenant, under both names that FOLIO uses, and the message id.
pub(in crate::services) fn headers(tenant: &TenantId, id: Uuid) -> Vec<(String, String)> {
    [
        ("folio.tenantId", tenant.to_string()),
        ("x-okapi-tenant", tenant.to_string()),
        ("event-id", id.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Returns the envelope with additional `members`, as JSON.
pub(in crate::services) fn envelope(
    id: Uuid,
    event_type: &str,
    tenant: &TenantId,
    sequence: i64,
    time: DateTime<Utc>,
    members: impl IntoIterator<Item = (&'static str, Value)>,
) -> String {
    let mut envelope = json!({
        "id": id, "type": event_type, "tenant": tenant.as_str(), "timestamp": time.timestamp_millis(),
        "sequence": sequence,
    });
    for (name, value) in members {
        envelope[name] = value;
    }
    envelope.to_string()
}
