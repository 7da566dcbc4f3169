//! Messages as others read them: the platform's envelope of a changed entity
//! (docs/contract/events.md#43-change), and one number that orders all that is told of a patron.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::event::TenantId;

/// Last part of the name of the topic that tells of blocks.
pub const AUTOMATED_BLOCK_TOPIC: &str = "automated-block";

/// And of the one that tells of limits that are near.
pub const APPROACHING_LIMIT_TOPIC: &str = "approaching-limit";

/// Headers of a message: whose it is, twice as the platform writes it, and its id.
pub(in crate::services) fn headers(tenant: &TenantId, id: Uuid) -> Vec<(String, String)> {
    [
        ("folio.tenantId", tenant.to_string()),
        ("x-okapi-tenant", tenant.to_string()),
        ("event-id", id.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// The envelope with members of its own.
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
