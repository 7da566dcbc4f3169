//! Bodies of dead letters.

use chrono::{DateTime, Utc};
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct DeadLetters {
    dead_letters: Vec<DeadLetterHead>,
    total_records: i64,
}

/// All but its bytes, which are there when it is asked for by its id.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeadLetterHead {
    id: Uuid,
    reason: String,
    /// The member or header that it is about.
    #[schema(nullable = false)]
    field: Option<String>,
    /// The rule that it breaks.
    rule: String,
    topic: String,
    partition: i32,
    offset: i64,
    #[schema(nullable = false)]
    record_at: Option<DateTime<Utc>>,
    received_at: DateTime<Utc>,
    /// The length of its payload.
    payload_bytes: i64,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct DeadLetter {
    id: Uuid,
    reason: String,
    /// The member or header that it is about.
    #[schema(nullable = false)]
    field: Option<String>,
    /// The rule that it breaks.
    rule: String,
    topic: String,
    partition: i32,
    offset: i64,
    #[schema(nullable = false)]
    record_at: Option<DateTime<Utc>>,
    received_at: DateTime<Utc>,
    /// The length of its payload.
    payload_bytes: i64,
    #[schema(nullable = false)]
    key: Option<Bytes>,
    headers: Vec<Header>,
    payload: Bytes,
}

/// As text where it is text, else in base64.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
enum Bytes {
    Text(String),
    Base64(String),
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    value: String,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct RetryReport {
    applied: u64,
    still_parked: u64,
    /// Time was up after this letter. Those of greater ids were not tried: `(query) and id>continueAfter`.
    #[schema(nullable = false)]
    continue_after: Option<Uuid>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct DiscardReport {
    discarded: u64,
    /// Time was up after this letter. The same request goes on with those of greater ids.
    #[schema(nullable = false)]
    continue_after: Option<Uuid>,
}
