//! The bands of the tree: who may name what.

use std::{fs, path::Path};

/// A rule: files below the first path (or all but those, with `!`) do not contain the second text.
const RULES: [(&str, &str); 18] = [
    ("!kafka/", "rdkafka"),
    ("!store/", "sqlx::"),
    ("!http/ app.rs", "actix_web"),
    ("!okapi/", "reqwest"),
    ("!cql/", "winnow"),
    ("!http/", "utoipa"),
    ("!store/schema.rs store/migrate.rs store/dependent_views.rs", "AssertSqlSafe"),
    ("cql/", "async "),
    ("cql/", "crate::"),
    ("cql/", "sqlx"),
    ("event/", "async "),
    ("patron/", "async "),
    ("blocks/", "async "),
    ("event/ patron/ blocks/", "crate::clock"),
    ("event/ patron/ blocks/", "crate::store"),
    ("event/ patron/ blocks/", "crate::services"),
    ("store/ kafka/ okapi/", "crate::http"),
    ("store/ okapi/ event/ patron/ blocks/", "crate::kafka"),
];

fn files(folder: &Path, found: &mut Vec<(String, String)>, root: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found, root);
        } else {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found, &root);
    found
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn layers_import_only_permitted_modules() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        for (paths, forbidden) in RULES {
            let (outside, paths) = match paths.strip_prefix('!') {
                Some(paths) => (true, paths),
                None => (false, paths),
            };
            let below = paths.split(' ').any(|path| name.starts_with(path));
            if below != outside && code(&text).any(|line| line.contains(forbidden)) {
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
        .map(|(_, text)| text.matches("Statement::new(").count())
        .sum();
    use patron_blocks::store::{JAVA_STATEMENTS, SHADOW_STATEMENTS, STATEMENTS, shadow};
    let lists = [STATEMENTS, JAVA_STATEMENTS, SHADOW_STATEMENTS];
    let listed: usize = lists.concat().iter().map(|list| list.len()).sum();
    // One is made on the spot: it drops the schema that all others need. Those that make a shadow are run.
    assert_eq!(made - 1 - shadow::CREATE.len(), listed);
}

#[test]
fn indexes_on_large_tables_are_built_concurrently() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/tenant");
    let mut migrations = Vec::new();
    files(&folder, &mut migrations, &folder);
    // Up to then tables are new, or nothing was released that had filled them.
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

/// One that was frozen may have lost its lease: `Work::commit` looks. Who enters a rebuild has none, and who ends one
/// looks by itself.
#[test]
fn rebuild_writes_are_fenced_by_the_lease() {
    let others =
        ["services/rebuild/worker.rs", "services/rebuild/queue.rs", "services/rebuild/finish.rs"];
    let unfenced: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| name.starts_with("services/rebuild/") && !others.contains(&&**name))
        .filter(|(_, text)| code(text).any(|line| line.contains("store::commit")))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(unfenced, [""; 0]);
}
