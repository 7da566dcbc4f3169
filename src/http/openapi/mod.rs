//! Parameters and shared responses for the OpenAPI attributes of handlers, and the documents that handlers
//! pass on unchanged. The file of a handler contains the types of all other bodies.
#![expect(dead_code, reason = "handlers read parameters by name and pass documents on")]

pub(super) mod document;
mod documents;

use std::collections::BTreeMap;

pub(super) use documents::{Condition, ConditionRequest, Limit, LimitRequest, UserSummary};
use utoipa::{
    IntoParams, IntoResponses, PartialSchema, ToSchema,
    openapi::{self, Content, RefOr, ResponseBuilder},
};

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

/// The response if a rule is violated; for a missing user, the response is text.
pub(super) struct InvalidOrText;

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

/// The requested part of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListPaging {
    #[param(minimum = 0, maximum = 2_147_483_647, default = 0)]
    offset: Option<i64>,
    /// Maximum number of records; a page has at most 1,000 records.
    #[param(minimum = 0, maximum = 2_147_483_647, default = 10)]
    limit: Option<i64>,
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
