//! Every path, method and status of the API, through the real service. Responses are validated against
//! the OpenAPI document. `docs/http-conformance.md` maps each case to its tests, and each test must see
//! exactly its cases.

mod api_client;
mod clients;
mod common;
mod forecast;
mod operations;
mod readers;
mod rebuilds;
mod records;
mod summary_exports;

use std::collections::{BTreeMap, BTreeSet};

use crate::support::world::World;
use api_client::{ApiClient, OpenApi, ResponseCase};

/// Returns the tests of each case, from the page.
fn page() -> BTreeMap<ResponseCase, Vec<String>> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/http-conformance.md");
    let text = std::fs::read_to_string(file).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [path, method, status, _, tests] = cells[..] else { panic!("five cells: {line}") };
        let row = (path.trim_matches('`').to_owned(), method.to_owned(), status.parse().unwrap());
        let tests = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert!(rows.insert(row, tests).is_none(), "twice: {line}");
    }
    rows
}

/// Runs a story that must see exactly the cases of `test` in the page.
async fn run(test: &str, story: impl AsyncFnOnce(&ApiClient<'_>)) {
    World::run(async |world| {
        let api = ApiClient::new(world);
        story(&api).await;
        compare(test, &api.into_seen());
    })
    .await;
}

fn compare(test: &str, seen: &BTreeSet<ResponseCase>) {
    let rows = page().into_iter().filter(|(_, tests)| tests.iter().any(|name| name == test));
    let documented: BTreeSet<ResponseCase> = rows.map(|(row, _)| row).collect();
    let undocumented: Vec<_> = seen.difference(&documented).collect();
    let unseen: Vec<_> = documented.difference(seen).collect();
    assert!(
        undocumented.is_empty() && unseen.is_empty(),
        "{test}: docs/http-conformance.md lacks {undocumented:?}, and lists responses that the test did not see: {unseen:?}"
    );
}

#[test]
fn conformance_page_lists_every_response_with_a_test() {
    let sources = [
        include_str!("common.rs"),
        include_str!("forecast.rs"),
        include_str!("summary_exports.rs"),
        include_str!("operations.rs"),
        include_str!("rebuilds.rs"),
        include_str!("records.rs"),
    ]
    .concat();
    let page = page();
    for (row, tests) in &page {
        assert!(!tests.is_empty(), "no test shows {row:?}");
        for test in tests {
            assert!(sources.contains(&format!("async fn {test}()")), "test {test} does not exist");
            assert!(sources.contains(&format!("\"{test}\"")), "{test} compares nothing");
        }
    }
    let any = |row: &ResponseCase| row.0 == "*";
    let documented: BTreeSet<ResponseCase> = page.into_keys().filter(|row| !any(row)).collect();
    assert_eq!(documented, OpenApi::read().response_cases());
}
