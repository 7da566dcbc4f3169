//! The vocabulary of the code: identifiers are terms of the field (docs/glossary.md).

use std::{fs, path::Path, str::FromStr};

use proc_macro2::{TokenStream, TokenTree};

/// Words without a meaning of their own. A reader has to guess their meaning.
const BANNED: [&str; 9] =
    ["told", "said", "whose", "beside", "hear", "heard", "held", "kept", "let_go"];

/// Folders with Rust code of this repository.
const FOLDERS: [&str; 5] = ["src", "tests", "benches", "fuzz", "simulator/src"];

fn rust_files(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_built = path.file_name().is_some_and(|name| name == "target");
        if path.is_dir() && !is_built {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.to_string_lossy().into_owned());
        }
    }
}

fn identifiers(tokens: TokenStream, found: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => identifiers(group.stream(), found),
            TokenTree::Ident(identifier) => found.push(identifier.to_string()),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// Returns the words of an identifier in lower case, joined and enclosed by underscores.
fn words(identifier: &str) -> String {
    let mut words = String::from("_");
    for (index, letter) in identifier.char_indices() {
        if letter.is_uppercase() && index > 0 && !words.ends_with('_') {
            let before = identifier[..index].chars().next_back();
            if before.is_some_and(char::is_lowercase) {
                words.push('_');
            }
        }
        words.extend(letter.to_lowercase());
    }
    words + "_"
}

#[test]
fn identifiers_contain_no_banned_word() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    FOLDERS.iter().for_each(|folder| rust_files(&root.join(folder), &mut files));
    assert!(files.len() > 100, "only {} files", files.len());
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let tokens = TokenStream::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut all = Vec::new();
        identifiers(tokens, &mut all);
        all.sort();
        all.dedup();
        for identifier in all {
            let words = words(&identifier);
            if BANNED.iter().any(|banned| words.contains(&format!("_{banned}_"))) {
                found.push(format!("{file}: {identifier}"));
            }
        }
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn words_of_identifiers_are_separated() {
    assert_eq!(words("told_group"), "_told_group_");
    assert_eq!(words("ToldGroup"), "_told_group_");
    assert_eq!(words("HELD_UNTIL"), "_held_until_");
    assert_eq!(words("withheld"), "_withheld_");
}

/// The glossary names the file of each type. An enum variant counts for its enum's file.
#[test]
fn glossary_terms_are_defined_in_their_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let glossary = fs::read_to_string(root.join("docs/glossary.md")).unwrap();
    let (mut checked, mut misplaced) = (0, Vec::new());
    for line in glossary.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, term, .., file, _] = cells[..] else { continue };
        let Some(file) = file.strip_prefix('`').and_then(|file| file.strip_suffix('`')) else {
            continue;
        };
        let source = fs::read_to_string(root.join("src").join(file))
            .or_else(|_| fs::read_to_string(root.join(file)));
        // tests/citations.rs checks that files and folders exist.
        let Ok(source) = source else { continue };
        let name = term.trim_matches('`');
        if name == term || !name.starts_with(char::is_uppercase) {
            continue;
        }
        checked += 1;
        let defines = |keyword: &str| {
            let text = format!("{keyword}{name}");
            source.match_indices(&text).any(|(at, _)| {
                !source[at + text.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
            })
        };
        if !["struct ", "enum ", "type ", "trait ", "    "].into_iter().any(defines) {
            misplaced.push(format!("{name} is not defined in {file}"));
        }
    }
    assert!(checked > 10, "the table of the glossary was not found");
    assert_eq!(misplaced, [""; 0]);
}
