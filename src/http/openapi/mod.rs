//! Parameters, shared responses and JSON bodies for the OpenAPI attributes of handlers.
#![expect(dead_code, reason = "the types describe bodies that other functions build")]

mod dead_letters;
pub(super) mod document;
mod iterations;
mod readiness;
mod rebuilds;
mod synchronization;

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
pub(super) use dead_letters::{DeadLetter, DeadLetters, DiscardReport, RetryReport};
pub(super) use iterations::{Iteration, IterationRequest, Iterations};
pub(super) use readiness::Readiness;
pub(super) use rebuilds::{Differences, ListPaging, Rebuild, RebuildRequest, Rebuilds};
use serde_json::Value;
pub(super) use synchronization::{InvalidOrText, Synchronization, SynchronizationRequest};
use utoipa::{
    IntoParams, IntoResponses, PartialSchema, ToSchema,
    openapi::{self, Content, ObjectBuilder, RefOr, ResponseBuilder, Type, schema::OneOfBuilder},
};
use uuid::Uuid;

type Responses = BTreeMap<String, RefOr<openapi::Response>>;

fn response(status: u16, what: &str, media: &str, body: RefOr<openapi::Schema>) -> Responses {
    let content = Content::new(Some(body));
    let response = ResponseBuilder::new().description(what).content(media, content).build();
    BTreeMap::from([(status.to_string(), RefOr::T(response))])
}

fn text(status: u16, what: &str) -> Responses {
    response(status, what, "text/plain", String::schema())
}

/// Responses that any request of a tenant may receive.
pub(super) struct Common;

impl IntoResponses for Common {
    fn responses() -> Responses {
        let bad = "The tenant is missing or not enabled, or the request is invalid";
        let mut all = text(400, bad);
        all.append(&mut text(500, "The database failed"));
        all
    }
}

/// The response if the operation is temporarily impossible; the client may retry soon.
pub(super) struct ServiceUnavailable;

impl IntoResponses for ServiceUnavailable {
    fn responses() -> Responses {
        text(503, "The operation is temporarily unavailable")
    }
}

/// The response if the record does not exist.
pub(super) struct NotFound;

impl IntoResponses for NotFound {
    fn responses() -> Responses {
        text(404, "The record does not exist")
    }
}

/// The response if the operation concerns all tenants.
pub(super) struct Forbidden;

impl IntoResponses for Forbidden {
    fn responses() -> Responses {
        text(403, "The operation concerns all tenants and is available only on the command line")
    }
}

/// The response if the tenant header is missing or invalid.
pub(super) struct TenantMissing;

impl IntoResponses for TenantMissing {
    fn responses() -> Responses {
        text(400, "The tenant header is missing or invalid")
    }
}

/// The responses if the body is too long or its transfer is too slow.
pub(super) struct BodyNotRead;

impl IntoResponses for BodyNotRead {
    fn responses() -> Responses {
        let mut all = text(413, "The body is longer than 1 MiB");
        all.append(&mut text(408, "The body did not arrive within 10 s"));
        all
    }
}

/// The response if a rule is violated.
pub(super) struct Invalid;

impl IntoResponses for Invalid {
    fn responses() -> Responses {
        let errors = openapi::Ref::from_schema_name("Errors").into();
        response(
            422,
            "The request violates a rule, and nothing was changed",
            "application/json",
            errors,
        )
    }
}

/// Query and page of a request to a collection.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// CQL query; without a query, all records match.
    query: Option<String>,
    #[param(minimum = 0, maximum = 2_147_483_647, default = 0)]
    offset: Option<i64>,
    /// Maximum number of records; 0 returns the count only. A page may have fewer records: dead letters end
    /// after 1,000 records, limits and conditions after 2 MiB. If the count is greater, continue with
    /// `offset`.
    #[param(minimum = 0, maximum = 2_147_483_647, default = 10)]
    limit: Option<i64>,
    /// Accepted; the count is always exact.
    #[param(inline, rename = "totalRecords")]
    total_records: Option<TotalRecordsMode>,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum TotalRecordsMode {
    Exact,
    Estimated,
    None,
    Auto,
}

/// The violated rules.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Errors {
    errors: Vec<ErrorEntry>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct ErrorEntry {
    message: String,
    r#type: String,
    /// `-1`, or the key of the schema's rule.
    code: String,
    parameters: Vec<ErrorParameter>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct ErrorParameter {
    key: String,
    value: String,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct UserSummary {
    id: Uuid,
    #[serde(rename = "_version")]
    #[schema(minimum = 1)]
    version: i64,
    user_id: Uuid,
    open_loans: Vec<SummaryLoan>,
    open_fees_fines: Vec<SummaryFee>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SummaryLoan {
    loan_id: Uuid,
    due_date: DateTime<Utc>,
    recall: bool,
    item_lost: bool,
    item_claimed_returned: bool,
    #[schema(nullable = false)]
    grace_period: Option<GracePeriod>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GracePeriod {
    #[schema(minimum = 1)]
    duration: i32,
    interval_id: Interval,
}

#[derive(ToSchema)]
enum Interval {
    Minutes,
    Hours,
    Days,
    Weeks,
    Months,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SummaryFee {
    fee_fine_id: Uuid,
    #[schema(nullable = false)]
    fee_fine_type_id: Option<Uuid>,
    #[schema(nullable = false)]
    loan_id: Option<Uuid>,
    balance: f64,
}

/// Set by the server; the server ignores the values of clients.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    created_date: DateTime<Utc>,
    /// Any text; usually a UUID.
    #[schema(nullable = false)]
    created_by_user_id: Option<String>,
    updated_date: DateTime<Utc>,
    #[schema(nullable = false)]
    updated_by_user_id: Option<String>,
}

/// Additional members are stored and returned.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Condition {
    id: Uuid,
    name: String,
    block_borrowing: bool,
    block_renewals: bool,
    block_requests: bool,
    value_type: ValueType,
    /// Required if the condition blocks an action.
    #[schema(nullable = false)]
    message: Option<String>,
    #[schema(nullable = false)]
    metadata: Option<Metadata>,
}

/// A condition as a client sends it. Additional members are stored and returned.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConditionRequest {
    /// A UUID; the id in the path overrides it.
    id: Uuid,
    name: String,
    block_borrowing: bool,
    block_renewals: bool,
    block_requests: bool,
    value_type: ValueType,
    /// Required if the condition blocks an action, and blank otherwise.
    message: Option<String>,
    /// Ignored; the server sets the metadata.
    metadata: Option<Value>,
}

#[derive(ToSchema)]
enum ValueType {
    Integer,
    Double,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Conditions {
    patron_block_conditions: Vec<Condition>,
    total_records: i64,
}

/// Additional members are stored and returned.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limit {
    id: Uuid,
    patron_group_id: Uuid,
    condition_id: Uuid,
    /// A whole number; for the condition on the fee/fine balance, an amount.
    #[schema(minimum = 0, maximum = 999_999.99)]
    value: f64,
    #[schema(nullable = false)]
    metadata: Option<Metadata>,
}

/// A limit as a client sends it. Additional members are stored and returned.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LimitRequest {
    /// A UUID; in a change, the id in the path overrides it.
    id: Uuid,
    patron_group_id: Uuid,
    condition_id: Uuid,
    value: LimitValue,
    /// Ignored; the server sets the metadata.
    metadata: Option<Value>,
}

/// From 0 to 999999.99 for the condition on the fee/fine balance; a whole number from 0 to 999999 for the
/// other conditions. A numeric string is accepted too.
struct LimitValue;

impl PartialSchema for LimitValue {
    fn schema() -> RefOr<openapi::Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Number);
        let number = number.minimum(Some(0.0)).maximum(Some(999_999.99));
        OneOfBuilder::new().item(number).item(String::schema()).into()
    }
}

impl ToSchema for LimitValue {}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Limits {
    patron_block_limits: Vec<Limit>,
    total_records: i64,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IngestStatus {
    knowledge: Completeness,
    /// Events before this time may be missing.
    #[schema(nullable = false)]
    incomplete_before: Option<DateTime<Utc>>,
    /// The recommended action if events are missing.
    #[schema(nullable = false)]
    advice: Option<String>,
    partitions: Vec<Partition>,
    lag: Option<i64>,
    /// The cause for which the log could not be read, if any.
    #[schema(nullable = false)]
    log_problem: Option<String>,
    /// Loans without a known check-out, and fees/fines without a known patron; they do not count yet.
    waiting: WaitingRecords,
    dead_letters: i64,
    incidents: Vec<Incident>,
    total_records: u64,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Partition {
    topic: String,
    partition: i32,
    /// The offset after the last durable record.
    position: Option<i64>,
    log_start: Option<i64>,
    log_end: Option<i64>,
    lag: Option<i64>,
    last_record_at: Option<DateTime<Utc>>,
    stopped: bool,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WaitingRecords {
    loans: i64,
    fees_fines: i64,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Incident {
    id: Uuid,
    kind: String,
    /// The rebuild that the incident concerns.
    #[schema(nullable = false)]
    rebuild_id: Option<Uuid>,
    /// Empty if the incident concerns a rebuild.
    topic: String,
    partition: i32,
    from_offset: i64,
    to_offset: i64,
    from_time: Option<DateTime<Utc>>,
    to_time: Option<DateTime<Utc>>,
    detail: String,
    raised_at: DateTime<Utc>,
    resolved_at: Option<DateTime<Utc>>,
    resolved_by: Option<String>,
}

/// Enable or upgrade to `module_to`, or disable `module_from`. Additional members are stored with the job.
#[derive(ToSchema)]
pub(super) struct TenantAttributes {
    module_to: Option<String>,
    module_from: Option<String>,
    purge: Option<bool>,
    parameters: Option<Vec<HashMap<String, Value>>>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TenantJob {
    id: Uuid,
    tenant: String,
    tenant_attributes: TenantAttributes,
    complete: bool,
    #[schema(nullable = false)]
    error: Option<String>,
    #[schema(nullable = false)]
    messages: Option<Vec<String>>,
}

/// The part of the tenant's history that the service has.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum Completeness {
    Complete,
    /// The initial fill is reading events from before the enabling.
    Filling,
    /// The topics did not contain all events.
    Incomplete,
}
