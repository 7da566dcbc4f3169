//! Documents that the database stores or builds. Handlers return them unchanged, with members that this
//! version does not know.

use chrono::{DateTime, Utc};
use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{self, ObjectBuilder, RefOr, Type, schema::OneOfBuilder},
};
use uuid::Uuid;

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct UserSummary {
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
pub(in crate::http) struct Condition {
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
pub(in crate::http) struct ConditionRequest {
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

/// Additional members are stored and returned.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct Limit {
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
pub(in crate::http) struct LimitRequest {
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
