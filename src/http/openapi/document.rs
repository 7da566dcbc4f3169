//! The OpenAPI 3.1 document of all interfaces, built from the handlers' attributes, their bodies and
//! `docs/events`.
//!
//! `docs/openapi.json` is a copy. One test compares the copy with this document, and other tests validate
//! real responses.

use actix_web::web::Json;
use serde_json::{Value, json};
use utoipa::{
    Modify, OpenApi, PartialSchema,
    openapi::{
        self, RefOr, Required,
        path::{ParameterBuilder, ParameterIn},
    },
};

use crate::{
    event::Kind,
    http::{
        api::{
            automated_blocks, conditions, events, limits, synchronization, tenant_jobs,
            user_summary,
        },
        error::{Errors, UUID_PATTERN},
        insight::{certainty, certainty_policy, explanations, forecast, settings_check},
        operations::{admin, dead_letters, exports, ingest, rebuilds},
    },
};

macro_rules! define_document {
    ($($path:literal => $($method:ident $($handler:ident)::+),+;)+) => {
        #[derive(OpenApi)]
        #[openapi(
            info(
                title = "Patron blocks",
                contact(),
                license(name = "Apache-2.0", identifier = "Apache-2.0")
            ),
            paths($($($($handler)::+,)+)+ events::post),
            components(schemas(Errors)),
            modifiers(&EventHandlers, &Gateway),
        )]
        struct OpenApiDocument;
    };
}

operation_table!(define_document);

/// Returns the OpenAPI 3.1 document of the service.
pub fn openapi_json() -> Value {
    let mut document = serde_json::to_value(OpenApiDocument::openapi())
        .expect("serialization of the document cannot fail");
    for kind in Kind::BUSINESS {
        let body = format!("/paths/{}/post/requestBody", kind.http_path().replace('/', "~1"));
        let body = document.pointer_mut(&body).expect("the document has a path for each kind");
        let schema = json!({ "$ref": format!("#/components/schemas/{}", kind.name()) });
        body["content"]["application/json"]["schema"] = schema;
        document["components"]["schemas"][kind.name()] = event_schema(kind);
    }
    add_uuid_patterns(&mut document);
    document
}

/// Replaces the one documented event handler with eight paths, one per kind.
struct EventHandlers;

impl Modify for EventHandlers {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let paths = &mut document.paths.paths;
        let Some(handlers) = paths.remove("/automated-patron-blocks/handlers") else { return };
        for kind in Kind::BUSINESS {
            let mut item = handlers.clone();
            if let Some(post) = &mut item.post {
                post.operation_id = Some(format!("post_{}", kind.name()));
                post.summary = Some(format!("Apply {}, delivered by mod-pubsub", kind.name()));
            }
            paths.insert(kind.http_path(), item);
        }
    }
}

/// Adds the headers of the gateway to every path that the gateway routes
/// (docs/contract/http-api.md#11-headers).
struct Gateway;

impl Modify for Gateway {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let header = |name: &str, required, what: &str| {
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
            let parameter = parameter.required(required).description(Some(what));
            RefOr::T(parameter.schema(Some(String::schema())).build())
        };
        let headers = [
            header("X-Okapi-Tenant", Required::True, "Tenant of the request"),
            header("X-Okapi-Url", Required::False, "Gateway for outgoing calls"),
            header(
                "X-Okapi-Token",
                Required::False,
                "Token of the caller, for calls of other modules and for the id of the acting user",
            ),
            header(
                "X-Okapi-User-Id",
                Required::False,
                "Id of the acting user, for the metadata of records",
            ),
            header(
                "X-Okapi-Request-Id",
                Required::False,
                "Id of the request, for logs and for calls of other modules",
            ),
        ];
        for (path, item) in &mut document.paths.paths {
            if !path.starts_with("/admin/") && path != "/metrics" && path != "/" {
                item.parameters = Some(headers.to_vec());
            }
        }
    }
}

/// Returns this OpenAPI document.
#[utoipa::path(
    get,
    path = "/admin/openapi.json",
    operation_id = "getDescription",
    summary = "Get this document",
    responses(
        (status = 200, body = Object, description = "OpenAPI 3.1"),
    ),
)]
pub(in crate::http) async fn description() -> Json<Value> {
    Json(openapi_json())
}

/// Returns the schema of an event. Over HTTP, every event except those of fees/fines must also name the
/// patron.
fn event_schema(kind: Kind) -> Value {
    let text = match kind {
        Kind::ItemCheckedOut => include_str!("../../../docs/events/ITEM_CHECKED_OUT.json"),
        Kind::LoanDueDateChanged => include_str!("../../../docs/events/LOAN_DUE_DATE_CHANGED.json"),
        Kind::ItemAgedToLost => include_str!("../../../docs/events/ITEM_AGED_TO_LOST.json"),
        Kind::ItemDeclaredLost => include_str!("../../../docs/events/ITEM_DECLARED_LOST.json"),
        Kind::ItemClaimedReturned => {
            include_str!("../../../docs/events/ITEM_CLAIMED_RETURNED.json")
        }
        Kind::ItemCheckedIn => include_str!("../../../docs/events/ITEM_CHECKED_IN.json"),
        Kind::LoanClosed => include_str!("../../../docs/events/LOAN_CLOSED.json"),
        Kind::FeeFineBalanceChanged => {
            include_str!("../../../docs/events/FEE_FINE_BALANCE_CHANGED.json")
        }
        Kind::StoredLoan | Kind::StoredUser => unreachable!("storage events have no HTTP path"),
    };
    let mut schema: Value =
        serde_json::from_str(text).expect("the schema is a constant with valid JSON");
    let members = schema.as_object_mut().expect("a schema is an object");
    members.remove("$schema");
    if kind != Kind::FeeFineBalanceChanged {
        let required = schema["required"]
            .as_array_mut()
            .expect("every schema of a loan event has required members");
        if !required.contains(&json!("userId")) {
            required.push(json!("userId"));
            schema["properties"]["userId"]["type"] = json!("string");
            schema["properties"]["userId"]["pattern"] = json!(UUID_PATTERN);
        }
    }
    schema
}

/// Adds the Java module's pattern of UUIDs to every id.
fn add_uuid_patterns(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.get("format").is_some_and(|format| format == "uuid") {
                members.insert("pattern".to_owned(), json!(UUID_PATTERN));
            }
            members.values_mut().for_each(add_uuid_patterns);
        }
        Value::Array(items) => items.iter_mut().for_each(add_uuid_patterns),
        _ => {}
    }
}
