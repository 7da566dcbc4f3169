//! The description of all interfaces (OpenAPI 3.1): made of the handlers' own attributes, of the bodies in
//! `described` and of `docs/events`. `docs/openapi.json` is a copy; a test compares them, and others hold
//! what is really answered to it.

use serde_json::{Value, json};
use utoipa::{
    Modify, OpenApi, PartialSchema,
    openapi::{
        self, RefOr, Required,
        path::{ParameterBuilder, ParameterIn},
    },
};

use super::{
    admin, blocks, conditions, dead_letters, described::Errors, error::UUID_PATTERN, handlers,
    iterations, limits, operations, rebuilds, summary, synchronization, tenant_jobs,
};
use crate::event::Kind;

#[derive(OpenApi)]
#[openapi(
    info(title = "Patron blocks", contact(), license(name = "Apache-2.0", identifier = "Apache-2.0")),
    paths(
        blocks::get,
        summary::get,
        conditions::list,
        conditions::get,
        conditions::put,
        limits::list,
        limits::get,
        limits::post,
        limits::put,
        limits::delete,
        operations::ingest,
        operations::resolve,
        dead_letters::list,
        dead_letters::get,
        dead_letters::retry,
        dead_letters::retry_all,
        dead_letters::discard,
        dead_letters::discard_all,
        synchronization::post,
        synchronization::get,
        synchronization::start,
        rebuilds::list,
        rebuilds::post,
        rebuilds::get,
        rebuilds::delete,
        rebuilds::differences,
        rebuilds::apply,
        iterations::list,
        iterations::post,
        iterations::get,
        iterations::delete,
        handlers::post,
        tenant_jobs::post,
        tenant_jobs::get,
        tenant_jobs::delete,
        admin::health,
        admin::ready,
        admin::metrics,
        admin::description,
    ),
    components(schemas(Errors)),
    modifiers(&EventHandlers, &Gateway),
)]
struct Description;

/// What the service answers to, as OpenAPI 3.1.
pub fn description() -> Value {
    let mut described = serde_json::to_value(Description::openapi()).expect("it is JSON");
    for kind in Kind::BUSINESS {
        let body = format!("/paths/{}/post/requestBody", kind.callback().replace('/', "~1"));
        let body = described.pointer_mut(&body).expect("each kind has a handler");
        let schema = json!({ "$ref": format!("#/components/schemas/{}", kind.name()) });
        body["content"]["application/json"]["schema"] = schema;
        described["components"]["schemas"][kind.name()] = event(kind);
    }
    narrow_ids(&mut described);
    described
}

/// Makes eight of the one handler that is described.
struct EventHandlers;

impl Modify for EventHandlers {
    fn modify(&self, described: &mut openapi::OpenApi) {
        let paths = &mut described.paths.paths;
        let Some(one) = paths.remove("/automated-patron-blocks/handlers") else { return };
        for kind in Kind::BUSINESS {
            let mut item = one.clone();
            if let Some(post) = &mut item.post {
                post.operation_id = Some(format!("post_{}", kind.name()));
                post.summary = Some(format!("{}, as mod-pubsub delivers it", kind.name()));
            }
            paths.insert(kind.callback(), item);
        }
    }
}

/// Adds what a gateway sends with every request (http contract 1.1).
struct Gateway;

impl Modify for Gateway {
    fn modify(&self, described: &mut openapi::OpenApi) {
        let header = |name: &str, required, what: &str| {
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
            let parameter = parameter.required(required).description(Some(what));
            RefOr::T(parameter.schema(Some(String::schema())).build())
        };
        let headers = [
            header("X-Okapi-Tenant", Required::True, "Whose request it is"),
            header("X-Okapi-Url", Required::False, "Gateway for outgoing calls"),
            header("X-Okapi-Token", Required::False, "Passed on; read for the acting user's id"),
            header("X-Okapi-User-Id", Required::False, "Who acts, for metadata"),
            header("X-Okapi-Request-Id", Required::False, "Passed on"),
        ];
        for (path, item) in &mut described.paths.paths {
            if !path.starts_with("/admin/") && path != "/metrics" {
                item.parameters = Some(headers.to_vec());
            }
        }
    }
}

/// What an event's members must be. Over HTTP each but a fee/fine's has to name the patron too.
fn event(kind: Kind) -> Value {
    let text = match kind {
        Kind::ItemCheckedOut => include_str!("../../docs/events/ITEM_CHECKED_OUT.json"),
        Kind::LoanDueDateChanged => include_str!("../../docs/events/LOAN_DUE_DATE_CHANGED.json"),
        Kind::ItemAgedToLost => include_str!("../../docs/events/ITEM_AGED_TO_LOST.json"),
        Kind::ItemDeclaredLost => include_str!("../../docs/events/ITEM_DECLARED_LOST.json"),
        Kind::ItemClaimedReturned => include_str!("../../docs/events/ITEM_CLAIMED_RETURNED.json"),
        Kind::ItemCheckedIn => include_str!("../../docs/events/ITEM_CHECKED_IN.json"),
        Kind::LoanClosed => include_str!("../../docs/events/LOAN_CLOSED.json"),
        Kind::FeeFineBalanceChanged => {
            include_str!("../../docs/events/FEE_FINE_BALANCE_CHANGED.json")
        }
        Kind::StoredLoan | Kind::StoredUser => unreachable!("nothing posts what storage holds"),
    };
    let mut schema: Value = serde_json::from_str(text).expect("a test reads it as well");
    let members = schema.as_object_mut().expect("a schema is an object");
    members.remove("$schema");
    if kind != Kind::FeeFineBalanceChanged {
        let required = schema["required"].as_array_mut().expect("a loan's event names the loan");
        if !required.contains(&json!("userId")) {
            required.push(json!("userId"));
            schema["properties"]["userId"]["type"] = json!("string");
            schema["properties"]["userId"]["pattern"] = json!(UUID_PATTERN);
        }
    }
    schema
}

/// Every id is a UUID of a version that Java's pattern takes.
fn narrow_ids(described: &mut Value) {
    match described {
        Value::Object(members) => {
            if members.get("format").is_some_and(|format| format == "uuid") {
                members.insert("pattern".to_owned(), json!(UUID_PATTERN));
            }
            members.values_mut().for_each(narrow_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(narrow_ids),
        _ => {}
    }
}
