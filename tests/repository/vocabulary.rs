//! The vocabulary of the repository: identifiers are terms of the field (docs/glossary.md). Texts of scripts,
//! of the simulator, of tests and of benches contain no banned word either.

use std::{fs, path::Path, str::FromStr};

use proc_macro2::{TokenStream, TokenTree};

/// Words that no identifier contains. A reader has to guess their meaning.
const BANNED: [&str; 19] = [
    "told", "tell", "tells", "telling", "said", "says", "whose", "beside", "hear", "heard", "held",
    "kept", "keeps", "let_go", "spoken", "laid", "anew", "nobodys", "whoever",
];

/// Further words that no text outside `src` contains.
const BANNED_IN_TEXTS: [&str; 6] = ["hears", "holds", "say", "speaks", "somebody", "nobody"];

/// Texts with a banned word that stay: the file or folder, the text, and the reason.
const EXCEPTIONS: [(&str, &str, &str); 8] = [
    ("dev/kafka/pom.xml", "Kafka speaks slf4j", "a changed file would download Kafka again"),
    ("dev/lib.sh", "echo nobody", "the name of a Unix user"),
    ("fuzz/check.rs", "holds a member twice", "a rule of src/event/decode/json.rs"),
    ("fuzz/check.rs", "the record says when it happened", "a rule of src/event/decode"),
    ("simulator/src/model", "recalls, holds and charges", "a patron places a hold on an item"),
    ("simulator/src/model", "recalls and holds", "a patron places a hold on an item"),
    ("simulator/src/model", "HOLDS_PER_LOAN_DAY", "a patron places a hold on an item"),
    ("tests/stories", "told-group", "a value of the header X-Patron-Blocks-Basis"),
];

/// Folders with Rust code of this repository.
const FOLDERS: [&str; 5] = ["src", "tests", "benches", "fuzz", "simulator/src"];

/// Other files and folders with texts, without the copied code of `dev/mutants.list`.
const TEXTS: [&str; 11] = [
    "dashboards",
    "dev",
    "tests/fixtures",
    "translations/mod-patron-blocks/en.json",
    "Dockerfile",
    "Makefile",
    "docker-compose.yml",
    ".ci/run",
    "clippy.toml",
    "deny.toml",
    "Cargo.toml",
];

/// Returns all files below a path, without the files of builds.
fn files(path: &Path, found: &mut Vec<String>) {
    if !path.is_dir() {
        found.push(path.to_string_lossy().into_owned());
    } else if !path.ends_with("target") {
        fs::read_dir(path).unwrap().for_each(|entry| files(&entry.unwrap().path(), found));
    }
}

fn rust_files(folder: &Path, found: &mut Vec<String>) {
    let mut all = Vec::new();
    files(folder, &mut all);
    found.extend(all.into_iter().filter(|file| file.ends_with(".rs")));
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

/// Returns the banned words of a text outside `src`.
fn banned_words(text: &str) -> Vec<String> {
    let tokens = text.split(|c: char| !(c.is_ascii_alphabetic() || c == '_')).map(words);
    let is_banned = |token: &String| {
        let mut banned = BANNED.iter().chain(&BANNED_IN_TEXTS);
        banned.any(|banned| token.contains(&format!("_{banned}_")))
    };
    tokens.filter(is_banned).map(|token| token.trim_matches('_').to_owned()).collect()
}

#[test]
fn texts_outside_src_contain_no_banned_word() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    let folders = FOLDERS.iter().filter(|folder| **folder != "src");
    folders.for_each(|folder| rust_files(&root.join(folder), &mut all));
    TEXTS.iter().for_each(|path| files(&root.join(path), &mut all));
    assert!(all.len() > 100, "only {} files", all.len());
    let (mut found, mut unused) = (Vec::new(), EXCEPTIONS.to_vec());
    for file in all {
        let name = file.strip_prefix(root.to_str().unwrap()).unwrap().trim_start_matches('/');
        // This file contains the banned words.
        if name == "tests/repository/vocabulary.rs" {
            continue;
        }
        let mut text = fs::read_to_string(&file).unwrap();
        for (path, exception, _) in EXCEPTIONS {
            if name.starts_with(path) && text.contains(exception) {
                text = text.replace(exception, "");
                unused.retain(|entry| (entry.0, entry.1) != (path, exception));
            }
        }
        for (number, line) in text.lines().enumerate() {
            let is_code = name == "dev/mutants.list" && line.starts_with(['-', '+']);
            let banned = if is_code { Vec::new() } else { banned_words(line) };
            found.extend(banned.iter().map(|word| format!("{name}:{}: {word}", number + 1)));
        }
    }
    assert_eq!(found, [""; 0]);
    assert!(unused.is_empty(), "no file needs these exceptions: {unused:?}");
}

#[test]
fn banned_words_of_a_text_are_found() {
    assert_eq!(banned_words("run() { # Held until told-group"), ["held", "told"]);
    assert_eq!(banned_words("a holder keepalive, withheld"), [""; 0]);
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
        // tests/repository/citations.rs checks that files and folders exist.
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
