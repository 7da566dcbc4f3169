//! `dev/mutants.list`: each deliberate change must fit the code, or `dev/mutants` ends before its first test.

use std::{fs, path::Path};

/// A deliberate change, as far as this test reads it.
#[derive(Default)]
struct Mutation {
    name: String,
    file: String,
    old_lines: Vec<String>,
}

fn mutations(list: &str) -> Vec<Mutation> {
    let mut mutations: Vec<Mutation> = Vec::new();
    for line in list.lines() {
        if let Some((name, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            mutations.push(Mutation { name: name.to_owned(), ..Mutation::default() });
        }
        let Some(mutation) = mutations.last_mut() else { continue };
        if line.starts_with("src/") || line.starts_with("sql src/") {
            mutation.file = line.trim_start_matches("sql ").to_owned();
        } else if let Some(old) = line.strip_prefix('-') {
            mutation.old_lines.push(old.strip_prefix(' ').unwrap_or(old).to_owned());
        }
    }
    mutations
}

#[test]
fn each_changed_text_occurs_once_in_its_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(root.join("dev/mutants.list")).unwrap();
    let mutations = mutations(&list);
    assert!(mutations.len() > 100, "the list is not read");
    let mut mismatches = Vec::new();
    for Mutation { name, file, old_lines } in mutations {
        let code = fs::read_to_string(root.join(&file)).unwrap_or_default();
        // « and » mark the part that changes.
        let old = old_lines.join("\n").replace(['«', '»'], "");
        let number = code.matches(&old).count();
        if number != 1 {
            mismatches.push(format!("{name}: {file} contains the text {number} times"));
        }
    }
    assert_eq!(mismatches, [""; 0]);
}
