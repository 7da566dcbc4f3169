//! The texts of the console: each key that the code names has a text and is named with the arguments of the text, and
//! each text is used. Unit tests of `src/console/texts` compare the languages.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use patron_blocks::console::texts::Texts;
use regex_lite::Regex;

/// Words of an English sentence, at most.
const SENTENCE_WORDS_MAX: usize = 25;

/// The file with functions that pass the keys of templates on.
const PASSING: &str = "src/console/shell.rs";

/// Returns the path of a file or folder of the repository.
fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Returns the code and the templates of the console, without comments and unit tests.
fn sources(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.to_string_lossy().into_owned();
        if path.is_dir() {
            // The module of the texts names keys in its tests only.
            if !path.ends_with("texts") {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") || name.ends_with(".html") {
            let text = fs::read_to_string(&path).unwrap();
            let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
            let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
            found.insert(name, lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Returns the text in parentheses that begins at the start.
fn parenthesized(text: &str) -> &str {
    let mut depth = 0;
    let end = text.find(|c: char| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    });
    &text[..=end.expect("parentheses are balanced")]
}

/// Where the code names a key, and the arguments that the code adds; `None` if the key stands outside of a call.
#[derive(Debug, PartialEq, Eq)]
struct Use {
    key: String,
    place: String,
    arguments: Option<BTreeSet<String>>,
}

/// Returns the keys that a source names. A key of a text with arguments stands inside the call of `fill` or `around`. A
/// key of another text may stand elsewhere.
fn uses(place: &str, source: &str) -> Vec<Use> {
    let call = Regex::new(r"\.(?:text|fill|around)\(").unwrap();
    let key = Regex::new(r#""([a-z][A-Za-z0-9]*(?:\.[a-z][A-Za-z0-9]*)+)""#).unwrap();
    let argument = Regex::new(r#""([A-Za-z]+)"\s*,"#).unwrap();
    let is_file = Regex::new(r"\.(?:html|css|js)$").unwrap();
    let mut rest = source.to_owned();
    let mut found = Vec::new();
    let mut add = |text: &str, arguments: Option<BTreeSet<String>>| {
        let keys = key.captures_iter(text).map(|captures| captures[1].to_owned());
        let keys: Vec<String> = keys.filter(|key| !is_file.is_match(key)).collect();
        let make = |key: &String| Use {
            key: key.clone(),
            place: place.to_owned(),
            arguments: arguments.clone(),
        };
        found.extend(keys.iter().map(make));
        keys.len()
    };
    // The last call contains no other one. It is removed, so that the call around it contains none either.
    while let Some(start) = call.find_iter(&rest).last().map(|found| found.end() - 1) {
        let end = start + parenthesized(&rest[start..]).len();
        let text = &rest[start..end];
        let arguments = argument.captures_iter(text).map(|captures| captures[1].to_owned());
        let keys = add(text, Some(arguments.collect()));
        let may_have_none = rest[..start].ends_with("text") || place.ends_with(PASSING);
        assert!(keys > 0 || may_have_none, "{place}: fill or around names no key: {text}");
        rest.replace_range(start..end, "");
    }
    add(&rest, None);
    found
}

fn all_uses() -> Vec<Use> {
    let mut found = BTreeMap::new();
    sources(&path("src/console"), &mut found);
    assert!(found.len() > 30, "only {} files", found.len());
    found.iter().flat_map(|(name, source)| uses(name, source)).collect()
}

#[test]
fn every_key_has_a_text_with_the_arguments_of_the_code() {
    let english = Texts::all()[0].arguments();
    let mut wrong = Vec::new();
    for Use { key, place, arguments } in all_uses() {
        let Some(expected) = english.get(&*key) else {
            wrong.push(format!("{place}: {key} has no text"));
            continue;
        };
        let found = arguments.iter().flatten().map(String::as_str).collect::<BTreeSet<_>>();
        if found != *expected {
            wrong.push(format!("{place}: {key} has the arguments {found:?}, not {expected:?}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn every_text_is_used() {
    let used: BTreeSet<String> = all_uses().into_iter().map(|found| found.key).collect();
    let english = Texts::all()[0].arguments();
    let unused: Vec<_> = english.keys().filter(|key| !used.contains(**key)).collect();
    assert_eq!(unused, [&""; 0]);
}

#[test]
fn every_file_is_a_language_of_the_console() {
    let names = fs::read_dir(path("translations/mod-patron-blocks")).unwrap();
    let files = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // FOLIO writes pt_BR where HTTP and HTML write pt-BR.
    let name_of = |texts: &Texts| format!("{}.json", texts.language().replace('-', "_"));
    let languages: BTreeSet<String> = Texts::all().iter().map(name_of).collect();
    assert_eq!(files.collect::<BTreeSet<_>>(), languages);
}

/// CONTRIBUTING.md has this rule for all prose.
#[test]
fn english_sentences_are_short() {
    let file = fs::read_to_string(path("translations/mod-patron-blocks/en.json")).unwrap();
    let texts: BTreeMap<String, String> = serde_json::from_str(&file).unwrap();
    let end = Regex::new(r"[.:;?!] ").unwrap();
    let plural = Regex::new(r"\{[A-Za-z]+, plural, .*?other \{([^{}]*)\}\}").unwrap();
    for (key, text) in texts {
        let text = plural.replace_all(&text, "$1");
        for sentence in end.split(&text) {
            let words = sentence.split_whitespace().count();
            assert!(words <= SENTENCE_WORDS_MAX, "{key} has a sentence of {words} words");
        }
    }
}

#[test]
fn uses_of_keys_are_found() {
    let source = r#"
        let name = texts.text(match x { true => "a.yes", false => "a.no" });
        let other = texts.text(key);
        let both = texts.fill("a.both", &[("one", &texts.fill("a.inner", &[("x", &1)])), ("two", &2)]);
        let parts = texts.around(
            "a.around",
            "at",
            &[("by", &texts.text("a.by"))],
        );
        #[template(path = "home.html")] let later = "a.later";
    "#;
    let mut found: Vec<_> = uses("", source)
        .into_iter()
        .map(|found| {
            (
                found.key,
                found.arguments.map(|names| names.into_iter().collect::<Vec<_>>().join(" ")),
            )
        })
        .collect();
    found.sort();
    let some = |text: &str| Some(text.to_owned());
    let expected = [
        ("a.around", some("at by")),
        ("a.both", some("one two")),
        ("a.by", some("")),
        ("a.inner", some("x")),
        ("a.later", None),
        ("a.no", some("")),
        ("a.yes", some("")),
    ];
    assert_eq!(found, expected.map(|(key, names)| (key.to_owned(), names)));
}
