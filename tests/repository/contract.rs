//! `module-descriptor.json` against the routes, the settings and the kinds of event.

use std::{collections::BTreeSet, fs, path::Path};

use patron_blocks::{console, event::Kind, http::OPERATIONS, services::operator_actions::Action};
use serde_json::Value;

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn descriptor() -> Value {
    serde_json::from_str(&file("module-descriptor.json")).unwrap()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn handlers(descriptor: &Value) -> impl Iterator<Item = &Value> {
    list(&descriptor["provides"]).flat_map(|interface| list(&interface["handlers"]))
}

/// Returns method and path of every route.
fn routes() -> BTreeSet<(String, String)> {
    let operations =
        OPERATIONS.iter().map(|(method, path)| (method.to_uppercase(), (*path).to_owned()));
    operations.chain(Kind::BUSINESS.map(|kind| ("POST".to_owned(), kind.http_path()))).collect()
}

/// Returns whether the descriptor declares the permission. The gateway controls the callers of event
/// handlers, and today's descriptor declares no permission set for the handlers
/// (docs/contract/http-api.md#6-handlers).
fn is_declared(permission: &&str) -> bool {
    !permission.starts_with("patron-blocks.handlers.")
}

/// Paths for operators, which the gateway does not route.
const OPERATORS: [&str; 5] =
    ["/", "/admin/health", "/admin/openapi.json", "/admin/ready", "/metrics"];

/// The console shows an act to those who have the permission of the same over HTTP, so the gateway has to report it.
#[test]
fn console_desires_the_permission_of_every_action() {
    let descriptor = descriptor();
    let path = format!("{}/*", console::GATEWAY_ROOT);
    let handler = handlers(&descriptor).find(|handler| handler["pathPattern"] == path).unwrap();
    let desired: BTreeSet<&str> =
        list(&handler["permissionsDesired"]).map(|name| name.as_str().unwrap()).collect();
    let needed: BTreeSet<&str> =
        Action::ALL.into_iter().filter_map(console::roles::permission).collect();
    assert_eq!(desired, needed);
    let declared: BTreeSet<&str> = list(&descriptor["permissionSets"])
        .map(|set| set["permissionName"].as_str().unwrap())
        .collect();
    assert_eq!(needed.difference(&declared).count(), 0, "each permission is declared");
}

#[test]
fn routes_match_the_module_descriptor() {
    let descriptor = descriptor();
    let declared: BTreeSet<(String, String)> = handlers(&descriptor)
        .flat_map(|handler| {
            let path = handler["pathPattern"].as_str().unwrap();
            list(&handler["methods"])
                .map(move |m| (m.as_str().unwrap().to_owned(), path.to_owned()))
        })
        .collect();
    let (public, operators): (BTreeSet<_>, BTreeSet<_>) =
        routes().into_iter().partition(|(_, path)| !OPERATORS.contains(&path.as_str()));
    assert!(public.len() >= 13, "the routes were not found: {public:?}");
    // Pages are for people, so the OpenAPI document does not describe them.
    let pages =
        ["GET", "POST"].map(|method| (method.to_owned(), format!("{}/*", console::GATEWAY_ROOT)));
    assert_eq!(public.into_iter().chain(pages).collect::<BTreeSet<_>>(), declared);
    let operators: Vec<_> = operators.into_iter().map(|(_, path)| path).collect();
    assert_eq!(operators, OPERATORS);
}

fn openapi() -> Value {
    serde_json::to_value(patron_blocks::http::openapi_json()).unwrap()
}

/// The gateway sets the tenant, and it routes no path of operators.
#[test]
fn only_paths_of_the_gateway_require_a_tenant() {
    let described = openapi();
    for (path, item) in described["paths"].as_object().unwrap() {
        let mut headers = item["parameters"].as_array().into_iter().flatten();
        let names_tenant = headers.any(|header| header["name"] == "X-Okapi-Tenant");
        assert_eq!(names_tenant, !OPERATORS.contains(&path.as_str()), "{path}");
    }
}

#[test]
fn routes_match_the_openapi_description() {
    let described = openapi();
    let paths = described["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
        methods.map(move |method| (method.to_uppercase(), path.clone()))
    });
    assert_eq!(operations.collect::<BTreeSet<_>>(), routes());
}

#[test]
fn checked_in_openapi_matches_the_served_one() {
    let served = serde_json::to_string_pretty(&openapi()).unwrap() + "\n";
    if served != file("docs/openapi.json") {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::write(root.join("target/openapi.json"), served).unwrap();
        panic!("docs/openapi.json is out of date: cp target/openapi.json docs/openapi.json");
    }
}

#[test]
fn handler_permissions_are_declared_exactly_once() {
    let descriptor = descriptor();
    let needed: BTreeSet<&str> = handlers(&descriptor)
        .flat_map(|handler| list(&handler["permissionsRequired"]))
        .map(|permission| permission.as_str().unwrap())
        .filter(is_declared)
        .collect();
    let sets: Vec<&Value> = list(&descriptor["permissionSets"]).collect();
    let declared: Vec<&str> =
        sets.iter().map(|set| set["permissionName"].as_str().unwrap()).collect();
    let unique: BTreeSet<&str> = declared.iter().copied().collect();
    assert_eq!(unique.len(), declared.len());
    let all = sets.iter().find(|set| set["permissionName"] == "patron-blocks.all").unwrap();
    let gathered: BTreeSet<&str> =
        list(&all["subPermissions"]).map(|permission| permission.as_str().unwrap()).collect();
    assert_eq!(gathered, needed);
    assert_eq!(unique, needed.into_iter().chain(["patron-blocks.all"]).collect());
}

#[test]
fn launch_descriptor_lists_only_known_settings() {
    let definition = patron_blocks::cli::CommandLine::definition();
    let settings: BTreeSet<&str> =
        definition.get_arguments().filter_map(|argument| argument.get_env()?.to_str()).collect();
    for variable in list(&descriptor()["launchDescriptor"]["env"]) {
        let name = variable["name"].as_str().unwrap();
        assert!(settings.contains(name), "{name} is not a setting");
    }
}

#[test]
fn consumed_events_match_the_event_kinds() {
    let descriptor = descriptor();
    let declared: BTreeSet<(String, String)> = list(&descriptor["metadata"]["consumedEvents"])
        .map(|event| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&event["eventType"]), text(&event["topics"][0]))
        })
        .collect();
    let consumed = Kind::ALL.map(|kind| {
        let topic = format!("{{ENV}}.{{tenant}}.{}.{}", kind.producer(), kind.name());
        (kind.name().to_owned(), topic)
    });
    assert_eq!(declared, consumed.into_iter().collect());
}

#[test]
fn produced_events_match_the_published_ones() {
    use patron_blocks::services::block_events::{APPROACHING_LIMIT_TOPIC, AUTOMATED_BLOCK_TOPIC};
    let descriptor = descriptor();
    let declared: Vec<&Value> = list(&descriptor["metadata"]["producedEvents"]).collect();
    for (event, name) in declared.iter().zip([AUTOMATED_BLOCK_TOPIC, APPROACHING_LIMIT_TOPIC]) {
        assert_eq!(event["eventType"], name);
        assert_eq!(event["topics"][0], format!("{{ENV}}.{{tenant}}.patron-blocks.{name}"));
    }
    for event in declared {
        let schema: Value = serde_json::from_str(&file(event["schema"].as_str().unwrap())).unwrap();
        assert!(schema["title"].is_string());
    }
}

#[test]
fn documented_consumer_is_the_tested_one() {
    let tested = file("tests/support/block_event_consumer.rs").replace("pub(crate) ", "");
    let (_, tested) = tested.split_once("\n\n").unwrap();
    assert!(file("docs/block-events.md").contains(&format!("```rust\n{tested}```")));
}

#[test]
fn module_id_contains_the_crate_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(descriptor()["id"], format!("mod-patron-blocks-{version}"));
}
