//! The allowed dependencies between the modules of `src/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use regex_lite::Regex;

/// A rule: files below the first path do not contain the second text. With `!`, the rule applies to all
/// other files.
const RULES: [(&str, &str); 30] = [
    ("!kafka/", "rdkafka"),
    ("!store/", "sqlx::"),
    ("!http/ console/ app/", "actix_web"),
    ("!console/", "askama"),
    ("http/ services/ store/ kafka/ okapi/ oidc/", "crate::console"),
    ("!okapi/ oidc/", "reqwest"),
    ("!oidc/", "openidconnect"),
    ("!cql/ console/texts/", "winnow"),
    ("!http/", "utoipa"),
    ("!store/schema.rs store/migrate.rs store/java/dependent_views.rs", "AssertSqlSafe"),
    ("cql/", "async "),
    ("cql/", "crate::"),
    ("cql/", "sqlx"),
    ("event/", "async "),
    ("patron/", "async "),
    ("blocks/", "async "),
    ("event/ patron/ blocks/", "crate::clock"),
    ("event/ patron/ blocks/", "crate::store"),
    ("event/ patron/ blocks/", "crate::services"),
    ("store/ kafka/ okapi/ oidc/", "crate::http"),
    ("store/ okapi/ oidc/ event/ patron/ blocks/ config/", "crate::kafka"),
    ("kafka/ store/ okapi/ oidc/ config/", "crate::services"),
    ("store/ kafka/ oidc/ event/ patron/ blocks/ config/", "crate::okapi"),
    ("http/ services/ store/ kafka/ okapi/ event/ patron/ blocks/ config/", "crate::oidc"),
    ("kafka/ okapi/ oidc/ config/", "crate::store"),
    ("event/", "crate::patron"),
    ("http/ console/ cli/", "store::begin"),
    ("http/ console/ cli/", "store::commit"),
    ("http/ console/ cli/", "store::roll_back"),
    ("console/", "crate::kafka"),
];

fn files(folder: &Path, found: &mut Vec<(String, String)>, root: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found, root);
        } else if path.extension().is_some_and(|extension| extension != "html") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn sources() -> Vec<(String, String)> {
    sources_of("src")
}

fn sources_of(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    files(&root, &mut found, &root);
    found.retain(|(name, _)| name.ends_with(".rs"));
    found
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn layers_import_only_permitted_modules() {
    let mut broken = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in RULES.iter().flat_map(|(paths, _)| paths.trim_start_matches('!').split(' ')) {
        assert!(root.join(path).exists(), "a rule names src/{path}");
    }
    for (name, text) in sources() {
        let imported = imported_text(&text);
        for (paths, forbidden) in RULES {
            let (outside, paths) = match paths.strip_prefix('!') {
                Some(paths) => (true, paths),
                None => (false, paths),
            };
            let below = paths.split(' ').any(|path| name.starts_with(path));
            let is_named = code(&text).any(|line| line.contains(forbidden));
            if below != outside && (is_named || imported.contains(forbidden)) {
                broken.push(format!("{name} names {forbidden}"));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn every_statement_is_listed_for_the_prepare_test() {
    let made: usize = sources()
        .iter()
        .filter(|(name, _)| name.starts_with("store/") && name != "store/schema.rs")
        .map(|(_, text)| {
            // A macro repeats its statements for each table.
            let repetitions = text.matches("\ncolumns! {").count().max(1);
            repetitions * text.matches("Statement::new(").count()
        })
        .sum();
    use patron_blocks::store::{
        rebuild::shadow,
        statements::{JAVA_STATEMENTS, SHADOW_STATEMENTS, STATEMENTS},
    };
    let lists = [STATEMENTS, JAVA_STATEMENTS, SHADOW_STATEMENTS];
    let listed: usize = lists.concat().iter().map(|list| list.len()).sum();
    // One statement has no list, because it drops the schema that all others need. Tests run the
    // statements that create a shadow.
    assert_eq!(made - 1 - shadow::CREATE.len(), listed);
}

#[test]
fn indexes_on_large_tables_are_built_concurrently() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/tenant");
    let mut migrations = Vec::new();
    files(&folder, &mut migrations, &folder);
    // Earlier migrations create new tables, or precede the first release that filled these tables.
    let later = migrations.iter().filter(|(name, _)| name.as_str() > "0023");
    for (name, sql) in later {
        let sql = sql.to_lowercase();
        for (at, _) in sql.match_indices("create index") {
            let table =
                sql[at..].split(" on ").nth(1).and_then(|rest| rest.split_whitespace().next());
            let table = table.expect("an index is on a table");
            let is_new = sql.contains(&format!("create table {table} "));
            let is_concurrent = sql.starts_with("-- no-transaction")
                && sql[at..].starts_with("create index concurrently");
            assert!(is_new || is_concurrent, "{name} blocks {table} while it builds an index");
        }
    }
}

/// A frozen instance may have lost its lease, so `RebuildContext::commit` checks the lease. A request
/// has no lease, and the end of a rebuild checks the lease by itself.
#[test]
fn rebuild_writes_are_fenced_by_the_lease() {
    let others =
        ["services/rebuild/context.rs", "services/rebuild/worker.rs", "services/rebuild/finish.rs"];
    let sources = sources();
    for other in others {
        assert!(sources.iter().any(|(name, _)| name == other), "{other} does not exist");
    }
    let unfenced: Vec<String> = sources
        .into_iter()
        .filter(|(name, _)| name.starts_with("services/rebuild/") && !others.contains(&&**name))
        .filter(|(_, text)| code(text).any(|line| line.contains("store::commit")))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(unfenced, [""; 0]);
}

/// Returns the module path of a file below `src/`.
fn module_of(name: &str) -> Vec<String> {
    let path = name.strip_suffix(".rs").unwrap();
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').filter(|part| !["lib", "main"].contains(part)).map(str::to_owned).collect()
}

/// Returns every path of a `use` tree, such as `a::{b, c::{d}}`.
fn use_paths(tree: &str) -> Vec<Vec<String>> {
    let Some((prefix, group)) = tree.split_once('{') else {
        let path = tree.split_once(" as ").map_or(tree, |(path, _)| path);
        return vec![path.split("::").map(|part| part.trim().to_owned()).collect()];
    };
    let prefix: Vec<String> = prefix.split("::").map(|part| part.trim().to_owned()).collect();
    let group = group.rsplit_once('}').unwrap().0;
    let (mut depth, mut start, mut branches) = (0, 0, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    branches.push(&group[start..]);
    let branches = branches.into_iter().map(str::trim).filter(|branch| !branch.is_empty());
    let prefix = &prefix[..prefix.len() - 1];
    branches.flat_map(use_paths).map(|path| [prefix, &path].concat()).collect()
}

/// Returns the trees of all `use` statements of a file, without those of its tests.
fn use_trees(text: &str) -> Vec<String> {
    let statement = Regex::new(r"(?m)^(?:pub(?:\([^)]*\))? )?use ([^;]+);").unwrap();
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    let tree = |found: regex_lite::Captures<'_>| found[1].replace('\n', " ");
    statement.captures_iter(&text[..end]).map(tree).collect()
}

/// Returns every imported path of a file, one per line.
fn imported_text(text: &str) -> String {
    let trees = use_trees(text);
    let paths = trees.iter().flat_map(|tree| use_paths(tree));
    paths.map(|path| path.join("::") + "\n").collect()
}

/// Returns the modules that a module imports, without its ancestors and descendants.
fn imports(
    module: &[String],
    text: &str,
    modules: &BTreeSet<Vec<String>>,
) -> BTreeSet<Vec<String>> {
    let mut paths: Vec<Vec<String>> =
        use_trees(text).iter().flat_map(|tree| use_paths(tree)).collect();
    // A path in an expression or a type, such as `crate::http::ApiError`.
    let inline = Regex::new(r"\bcrate(?:::[a-z_0-9]+)+").unwrap();
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    for line in code(&text[..end]) {
        let split = |path: &str| path.split("::").map(str::to_owned).collect();
        paths.extend(inline.find_iter(line).map(|found| split(found.as_str())));
    }
    let mut found = BTreeSet::new();
    for path in paths {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let mut target = match path[0].as_str() {
            "crate" => path[1..].to_vec(),
            "self" => [module, &path[1..]].concat(),
            "super" => [&module[..module.len() - supers], &path[supers..]].concat(),
            _ => continue,
        };
        while !target.is_empty() && !modules.contains(&target) {
            target.pop();
        }
        if !target.starts_with(module) && !module.starts_with(&target) {
            found.insert(target);
        }
    }
    found
}

/// Imports run one way. A module and its own children may import each other.
#[test]
fn modules_have_no_import_cycle() {
    assert_no_import_cycle(&sources(), 300);
}

#[test]
fn modules_of_the_simulator_have_no_import_cycle() {
    assert_no_import_cycle(&sources_of("simulator/src"), 100);
}

fn assert_no_import_cycle(sources: &[(String, String)], imports_min: usize) {
    let modules: BTreeSet<Vec<String>> = sources.iter().map(|(name, _)| module_of(name)).collect();
    let mut edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (name, text) in sources {
        let module = module_of(name);
        let imported = imports(&module, text, &modules);
        edges.entry(module).or_default().extend(imported);
    }
    assert!(
        edges.values().map(BTreeSet::len).sum::<usize>() > imports_min,
        "the imports are not found"
    );
    // Modules that import only removed modules are on no circle.
    loop {
        let free: Vec<_> =
            edges.iter().filter(|(_, to)| to.is_empty()).map(|(from, _)| from.clone()).collect();
        if free.is_empty() {
            break;
        }
        edges.retain(|module, _| !free.contains(module));
        for to in edges.values_mut() {
            to.retain(|module| !free.contains(module));
        }
    }
    // The rest leads to a circle; modules that no other module imports are only on the way to it.
    loop {
        let imported: BTreeSet<_> = edges.values().flatten().cloned().collect();
        let before = edges.len();
        edges.retain(|module, _| imported.contains(module));
        if edges.len() == before {
            break;
        }
    }
    let circle: Vec<String> = edges.keys().map(|module| module.join("::")).collect();
    assert_eq!(circle, [""; 0], "these modules import each other");
}

#[test]
fn use_trees_are_read_completely() {
    let paths = use_paths("crate::{a::{self, B}, c, d as e, f::{g::{H, I}}}");
    let paths: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(
        paths,
        [
            "crate::a::self",
            "crate::a::B",
            "crate::c",
            "crate::d",
            "crate::f::g::H",
            "crate::f::g::I"
        ]
    );
}
