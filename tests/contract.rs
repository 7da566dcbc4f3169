//! `module-descriptor.json` against the routes, the settings and the kinds of event.

use std::{collections::BTreeSet, fs, path::Path};

use patron_blocks::event::Kind;
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

/// Method and path of every route in `src/http/mod.rs`, which is one expression a resource.
fn routes() -> BTreeSet<(String, String)> {
    let source = file("src/http/mod.rs");
    let mut routes = BTreeSet::new();
    for resource in source.split("web::resource(\"").skip(1) {
        let (path, rest) = resource.split_once('"').unwrap();
        let body = rest.split(".service(").next().unwrap();
        for method in ["get", "post", "put", "delete"] {
            if body.contains(&format!("web::{method}()")) {
                routes.insert((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    // The eight handlers of events are routed in a loop over the kinds.
    routes.extend(Kind::BUSINESS.map(|kind| ("POST".to_owned(), kind.callback())));
    routes
}

/// Who hands in events is known to the gateway; today's descriptor declares no permission set for it
/// (http contract 6).
fn is_declared(permission: &&str) -> bool {
    !permission.starts_with("patron-blocks.handlers.")
}

/// The operators' own paths, which no gateway routes.
const OPERATORS: [&str; 4] = ["/admin/health", "/admin/openapi.json", "/admin/ready", "/metrics"];

#[test]
fn every_route_is_in_the_descriptor_and_the_other_way_round() {
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
    assert_eq!(public, declared);
    let operators: Vec<_> = operators.into_iter().map(|(_, path)| path).collect();
    assert_eq!(operators, OPERATORS);
}

fn described() -> Value {
    serde_json::to_value(patron_blocks::http::description()).unwrap()
}

#[test]
fn every_route_is_described_and_the_other_way_round() {
    let described = described();
    let paths = described["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
        methods.map(move |method| (method.to_uppercase(), path.clone()))
    });
    assert_eq!(operations.collect::<BTreeSet<_>>(), routes());
}

#[test]
fn the_description_that_is_checked_in_is_the_one_that_is_served() {
    let served = serde_json::to_string_pretty(&described()).unwrap() + "\n";
    if served != file("docs/openapi.json") {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::write(root.join("target/openapi.json"), served).unwrap();
        panic!("docs/openapi.json is out of date: cp target/openapi.json docs/openapi.json");
    }
}

#[test]
fn every_permission_that_a_handler_needs_is_declared_once() {
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
fn the_launch_descriptor_sets_only_what_the_service_knows() {
    let settings: String = ["mod", "housekeeping", "kafka", "messages", "okapi", "security"]
        .map(|name| file(&format!("src/config/{name}.rs")))
        .concat();
    for variable in list(&descriptor()["launchDescriptor"]["env"]) {
        let name = variable["name"].as_str().unwrap();
        assert!(settings.contains(&format!("env = \"{name}\"")), "{name} is no setting");
    }
}

#[test]
fn the_catalogue_of_events_is_what_is_consumed() {
    let descriptor = descriptor();
    let told: BTreeSet<(String, String)> = list(&descriptor["metadata"]["consumedEvents"])
        .map(|event| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&event["eventType"]), text(&event["topics"][0]))
        })
        .collect();
    let consumed = Kind::ALL.map(|kind| {
        let topic = format!("{{ENV}}.{{tenant}}.{}.{}", kind.producer(), kind.name());
        (kind.name().to_owned(), topic)
    });
    assert_eq!(told, consumed.into_iter().collect());
}

#[test]
fn the_catalogue_of_messages_is_what_is_written() {
    use patron_blocks::flow::telling::{APPROACHING, BLOCKS};
    let descriptor = descriptor();
    let told: Vec<&Value> = list(&descriptor["metadata"]["producedEvents"]).collect();
    for (event, name) in told.iter().zip([BLOCKS, APPROACHING]) {
        assert_eq!(event["eventType"], name);
        assert_eq!(event["topics"][0], format!("{{ENV}}.{{tenant}}.patron-blocks.{name}"));
    }
    for event in told {
        let schema: Value = serde_json::from_str(&file(event["schema"].as_str().unwrap())).unwrap();
        assert!(schema["title"].is_string());
    }
}

#[test]
fn the_consumer_that_is_shown_is_the_one_that_is_tested() {
    let tested = file("tests/consumer.rs").replace("pub(crate) ", "");
    let (_, tested) = tested.split_once("\n\n").unwrap();
    assert!(file("docs/block-events.md").contains(&format!("```rust\n{tested}```")));
}

#[test]
fn the_module_id_is_the_crates_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(descriptor()["id"], format!("mod-patron-blocks-{version}"));
}
