//! `dashboards/patron-blocks.json`: its panels show each metric of the service and no other metric.

use std::{collections::BTreeSet, fs, path::Path};

use regex_lite::Regex;
use serde_json::Value;

/// Words of PromQL that are no metric, although no parenthesis follows them.
const PROMQL_OPERATORS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "atan2"];

/// Suffixes of the series of a histogram.
const HISTOGRAM_SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// Largest number of words of a description.
const WORDS_MAX: usize = 25;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn dashboard_text() -> String {
    fs::read_to_string(root().join("dashboards/patron-blocks.json")).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&dashboard_text()).unwrap()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is_row(panel: &Value) -> bool {
    panel["type"] == "row"
}

/// Returns all rows and panels. A collapsed row would contain its panels.
fn rows_and_panels(dashboard: &Value) -> Vec<&Value> {
    let all: Vec<&Value> = list(&dashboard["panels"]).collect();
    for row in all.iter().filter(|panel| is_row(panel)) {
        let message = "save the dashboard with all rows expanded";
        assert_eq!(list(&row["panels"]).count(), 0, "{}: {message}", row["title"]);
    }
    assert!(all.len() > 30, "only {} panels were found", all.len());
    all
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    rows_and_panels(dashboard).into_iter().filter(|panel| !is_row(panel)).collect()
}

/// Returns the title and the expression of each query of each panel.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let of_panel = |panel: &Value| {
        let title = text(&panel["title"]).to_owned();
        let targets = list(&panel["targets"]).map(|target| text(&target["expr"]).to_owned());
        targets.map(|expression| (title.clone(), expression)).collect::<Vec<_>>()
    };
    panels(dashboard).into_iter().flat_map(of_panel).collect()
}

/// Returns the names of all metrics of a PromQL expression.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let mut rest = expression.to_owned();
    for (pattern, replacement) in [
        (r#""(?:[^"\\]|\\.)*""#, ""),
        (r"\{[^}]*\}", ""),
        (r"\[[^\]]*\]", ""),
        (r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " "),
        (r"\$\w+", ""),
    ] {
        rest = Regex::new(pattern).unwrap().replace_all(&rest, replacement).into_owned();
    }
    let word = Regex::new(r"\b[a-zA-Z_:][a-zA-Z0-9_:]*").unwrap();
    let names = word.find_iter(&rest).filter(|found| {
        let is_function = rest[found.end()..].trim_start().starts_with('(');
        !is_function && !PROMQL_OPERATORS.contains(&found.as_str())
    });
    names.map(|found| found.as_str().to_owned()).collect()
}

/// The metrics that the sources register.
struct Registered {
    names: BTreeSet<String>,
    histograms: BTreeSet<String>,
}

impl Registered {
    fn read() -> Self {
        let mut code = String::new();
        read_code(&root().join("src"), &mut code);
        let captured = |pattern: &str| -> BTreeSet<String> {
            let pattern = Regex::new(pattern).unwrap();
            pattern.captures_iter(&code).map(|found| found[1].to_owned()).collect()
        };
        let names = captured(r#""(patron_blocks_[a-z0-9_]+)""#);
        let histograms = captured(r#"\bhistogram!?\(\s*"(patron_blocks_[a-z0-9_]+)""#);
        assert!(names.len() > 30, "only {} metrics were found", names.len());
        assert!(!histograms.is_empty(), "no histogram was found");
        Self { names, histograms }
    }

    /// Returns the registered name of a series, if the service exposes the series.
    fn name_of<'a>(&self, series: &'a str) -> Option<&'a str> {
        let family = HISTOGRAM_SUFFIXES.iter().find_map(|suffix| series.strip_suffix(*suffix));
        if let Some(family) = family.filter(|family| self.histograms.contains(*family)) {
            return Some(family);
        }
        // A histogram has no series without a suffix.
        let is_exposed = self.names.contains(series) && !self.histograms.contains(series);
        is_exposed.then_some(series)
    }
}

/// Appends the content of all Rust files below a folder.
fn read_code(folder: &Path, code: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_code(&path, code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn panels_use_only_metrics_of_the_service() {
    let (dashboard, registered) = (dashboard(), Registered::read());
    let variables = list(&dashboard["templating"]["list"]).filter_map(|variable| {
        let query = text(&variable["definition"]).strip_prefix("label_values(")?;
        let (metric, _) = query.rsplit_once(',')?;
        Some((text(&variable["name"]).to_owned(), metric.to_owned()))
    });
    let mut unknown = Vec::new();
    for (title, expression) in queries(&dashboard).into_iter().chain(variables) {
        let metrics = metrics_of(&expression);
        if metrics.is_empty() {
            unknown.push(format!("{title}: an expression has no metric: {expression}"));
        }
        let others = metrics.iter().filter(|series| registered.name_of(series).is_none());
        unknown.extend(others.map(|series| format!("{title}: {series}")));
    }
    assert_eq!(unknown, [""; 0], "the service exposes no such metric");
}

#[test]
fn each_metric_of_the_service_is_in_a_panel() {
    let (dashboard, registered) = (dashboard(), Registered::read());
    let shown: BTreeSet<String> = queries(&dashboard)
        .iter()
        .flat_map(|(_, expression)| metrics_of(expression))
        .filter_map(|series| registered.name_of(&series).map(str::to_owned))
        .collect();
    let missing: Vec<&String> = registered.names.difference(&shown).collect();
    assert_eq!(missing, [""; 0], "no panel shows these metrics");
}

/// A counter restarts at zero with its instance, so only its rate or its increase means something.
#[test]
fn panels_show_rates_of_counters() {
    let counter =
        Regex::new(r"(\w+\()?\b(\w+(?:_total|_bucket|_sum|_count))\b(?:\{[^}]*\})?(\[)?").unwrap();
    let (mut found, mut wrong) = (0, Vec::new());
    for (title, expression) in queries(&dashboard()) {
        for captured in counter.captures_iter(&expression) {
            found += 1;
            let function = captured.get(1).map_or("", |function| function.as_str());
            if !["rate(", "increase("].contains(&function) || captured.get(3).is_none() {
                wrong.push(format!("{title}: {}", &captured[2]));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(found > 20, "only {found} counters were found");
}

#[test]
fn each_panel_and_each_row_has_its_own_id() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    for panel in rows_and_panels(&dashboard) {
        let id = panel["id"].as_u64();
        assert!(id.is_some_and(|id| ids.insert(id)), "{}: {id:?} is not unique", panel["title"]);
    }
}

#[test]
fn panels_do_not_overlap() {
    let dashboard = dashboard();
    let place = |panel: &Value| {
        ["x", "y", "w", "h"].map(|member| panel["gridPos"][member].as_u64().unwrap())
    };
    let all = rows_and_panels(&dashboard);
    for (index, panel) in all.iter().enumerate() {
        let title = &panel["title"];
        let [x, y, w, h] = place(panel);
        assert!(w > 0 && h > 0 && x + w <= 24, "{title} is not within the grid of 24 columns");
        for other in &all[index + 1..] {
            let [other_x, other_y, other_w, other_h] = place(other);
            let is_apart = x + w <= other_x
                || other_x + other_w <= x
                || y + h <= other_y
                || other_y + other_h <= y;
            assert!(is_apart, "{title} overlaps {}", other["title"]);
        }
    }
}

#[test]
fn each_panel_has_a_title_and_a_short_description() {
    let dashboard = dashboard();
    let untitled = |panel: &&Value| text(&panel["title"]).is_empty();
    assert_eq!(rows_and_panels(&dashboard).into_iter().filter(untitled).count(), 0);
    let mut wrong = Vec::new();
    for panel in panels(&dashboard) {
        let (title, description) = (text(&panel["title"]), text(&panel["description"]));
        let words = description.split_whitespace().count();
        let is_sentence = description.ends_with('.') && !description.contains(". ");
        if !is_sentence || words > WORDS_MAX {
            wrong.push(format!("{title}: {description:?} has {words} words"));
        }
    }
    assert_eq!(wrong, [""; 0], "a description is one sentence of at most {WORDS_MAX} words");
}

#[test]
fn each_query_has_a_legend_and_each_panel_a_unit() {
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        assert!(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "{title}: no unit");
        assert!(list(&panel["targets"]).count() > 0, "{title}: no query");
        for target in list(&panel["targets"]) {
            assert!(!text(&target["legendFormat"]).is_empty(), "{title}: no legend");
        }
    }
}

/// An operator imports the file into any Grafana, so the file names no data source and no host.
#[test]
fn dashboard_fits_every_installation() {
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        for user in list(&panel["targets"]).chain([panel]) {
            assert_eq!(user["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
    let names: Vec<&str> =
        list(&dashboard["templating"]["list"]).map(|variable| text(&variable["name"])).collect();
    for name in ["datasource", "tenant"] {
        assert!(names.contains(&name), "the dashboard has no variable {name}");
    }
    let variable = Regex::new(r"\$\{?(\w+)").unwrap();
    for (title, expression) in queries(&dashboard) {
        for found in variable.captures_iter(&expression) {
            let is_known = found[1].starts_with("__") || names.contains(&&found[1]);
            assert!(is_known, "{title}: the variable {} is not defined", &found[1]);
        }
    }
    assert!(!dashboard_text().contains("://"), "the dashboard has the address of a host");
}

#[test]
fn names_of_metrics_are_found_in_expressions() {
    for (expression, expected) in [
        (r#"sum by (le) (rate(a_bucket{x="b", y=~"$y"}[$__rate_interval])) > 0"#, "a_bucket"),
        ("histogram_quantile(0.5, sum by (le) (b_total[5m]))", "b_total"),
        ("time() - max without (job) (c) and on (d) up", "c up"),
        (r#"label_replace(e, "f", "g} h(", "i", "")"#, "e"),
        ("60 * topk(10, j offset 1e3) > bool $threshold", "j"),
    ] {
        let found: Vec<String> = metrics_of(expression).into_iter().collect();
        assert_eq!(found.join(" "), expected);
    }
}
