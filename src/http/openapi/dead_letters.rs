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

/// A dead letter without its bytes; a request for one dead letter returns them.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeadLetterHead {
    id: Uuid,
    reason: String,
    /// The member or header that violates the rule.
    #[schema(nullable = false)]
    field: Option<String>,
    /// The violated rule.
    rule: String,
    topic: String,
    partition: i32,
    offset: i64,
    #[schema(nullable = false)]
    record_at: Option<DateTime<Utc>>,
    received_at: DateTime<Utc>,
    /// Length of the payload, in bytes.
    payload_bytes: i64,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct DeadLetter {
    id: Uuid,
    reason: String,
    /// The member or header that violates the rule.
    #[schema(nullable = false)]
    field: Option<String>,
    /// The violated rule.
    rule: String,
    topic: String,
    partition: i32,
    offset: i64,
    #[schema(nullable = false)]
    record_at: Option<DateTime<Utc>>,
    received_at: DateTime<Utc>,
    /// Length of the payload, in bytes.
    payload_bytes: i64,
    #[schema(nullable = false)]
    key: Option<Bytes>,
    headers: Vec<Header>,
    payload: Bytes,
}

/// Text if the bytes are UTF-8, otherwise base64.
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
    /// The last attempt before the time limit; dead letters with greater ids remain. To continue, use
    /// `(query) and id>continueAfter`.
    #[schema(nullable = false)]
    continue_after: Option<Uuid>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct DiscardReport {
    discarded: u64,
    /// The last dead letter before the time limit. To continue with greater ids, repeat the request.
    #[schema(nullable = false)]
    continue_after: Option<Uuid>,
}
