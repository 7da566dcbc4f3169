//! Bodies of synchronisations for the OpenAPI document.

use serde_json::Value;
use utoipa::{
    IntoResponses, PartialSchema, ToSchema,
    openapi::{self, Content, RefOr, ResponseBuilder},
};
use uuid::Uuid;

use super::Responses;

/// Scope of a synchronisation.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct SynchronizationRequest {
    scope: SynchronizationScope,
    /// Required for scope `user`.
    user_id: Option<Uuid>,
    /// Ignored, like all following members: the server sets them.
    id: Option<Value>,
    status: Option<Value>,
    total_number_of_loans: Option<Value>,
    total_number_of_fees_fines: Option<Value>,
    number_of_processed_loans: Option<Value>,
    number_of_processed_fees_fines: Option<Value>,
    errors: Option<Value>,
    metadata: Option<Value>,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum SynchronizationScope {
    User,
    Full,
}

#[derive(ToSchema)]
#[serde(rename_all = "kebab-case")]
enum SynchronizationStatus {
    Open,
    InProgress,
    Done,
    Failed,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct Synchronization {
    id: Uuid,
    scope: SynchronizationScope,
    #[schema(nullable = false)]
    user_id: Option<Uuid>,
    status: SynchronizationStatus,
    /// Always 0.
    #[schema(nullable = false)]
    total_number_of_loans: Option<i32>,
    /// Always 0.
    #[schema(nullable = false)]
    total_number_of_fees_fines: Option<i32>,
    #[schema(nullable = false)]
    number_of_processed_loans: Option<i32>,
    #[schema(nullable = false)]
    number_of_processed_fees_fines: Option<i32>,
    /// Skipped records, rejected tokens, and the cause of a failure.
    errors: Vec<String>,
}

/// The response if a rule is violated; for a missing user, the response is text.
pub(in crate::http) struct InvalidOrText;

impl IntoResponses for InvalidOrText {
    fn responses() -> Responses {
        let errors = Content::new(Some(openapi::Ref::from_schema_name("Errors")));
        let response = ResponseBuilder::new()
            .description("The request violates a rule, and nothing was changed")
            .content("application/json", errors)
            .content("text/plain", Content::new(Some(String::schema())))
            .build();
        Responses::from([("422".to_owned(), RefOr::T(response))])
    }
}
