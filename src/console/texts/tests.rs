use std::collections::BTreeMap;

use actix_web::{http::header::ACCEPT_LANGUAGE, test::TestRequest};

use super::*;

fn language_for(header: &[u8]) -> &'static str {
    Texts::of(&TestRequest::default().insert_header((ACCEPT_LANGUAGE, header)).to_http_request())
        .language()
}

#[test]
fn reader_gets_the_preferred_language_that_exists() {
    for (header, expected) in [
        ("de", "de"),
        ("de-AT", "de"),
        ("DE-ch-1996", "de"),
        ("fr, de", "de"),
        ("fr, en;q=0.5", "en"),
        ("en;q=0.5, de;q=0.6", "de"),
        ("de;q=0, fr", "en"),
        ("de;q=0.5, en", "en"),
        ("*", "en"),
        ("fr, *;q=0.5, de;q=0.1", "en"),
        ("den", "en"),
        ("", "en"),
        (",;=,,", "en"),
        ("de;q=2", "en"),
        ("german please", "en"),
    ] {
        assert_eq!(language_for(header.as_bytes()), expected, "{header}");
    }
    assert_eq!(language_for(b"d\xe9, de"), "en");
    assert_eq!(Texts::of(&TestRequest::default().to_http_request()).language(), "en");
}

/// Returns texts with the key `text`.
fn texts(language: &'static str, text: &str) -> &'static Texts {
    let file = serde_json::json!({ "text": text }).to_string();
    Box::leak(Box::new(Texts::parse(language, &file)))
}

#[test]
fn arguments_have_their_values() {
    let texts = texts("en", "{shown} of {total} <b>, {shown}, {absent}.");
    let arguments: Arguments<'_> = &[("shown", &2), ("total", &"many")];
    assert_eq!(texts.fill("text", arguments), "2 of many <b>, 2, .");
    assert_eq!(texts.around("text", "total", arguments), ["2 of ", " <b>, 2, ."]);
}

#[test]
fn text_without_a_translation_is_its_key() {
    let texts = texts("en", "{count} records");
    assert_eq!(texts.text("page.absent"), "page.absent");
    assert_eq!(texts.fill("page.absent", &[("count", &1)]), "page.absent");
    assert_eq!(texts.around("page.absent", "count", &[]), ["page.absent", ""]);
    assert_eq!(texts.text("text"), "text");
}

#[test]
fn plural_follows_the_language() {
    let write =
        |language, text, count: &str| texts(language, text).fill("text", &[("count", &count)]);
    let english = "{count, plural, =0 {none} one {# loan} other {# loans}}";
    let found = ["0", "1", "2", "1000000", "many"].map(|count| write("en", english, count));
    assert_eq!(found, ["none", "1 loan", "2 loans", "1000000 loans", "many loans"]);
    let french = "{count, plural, one {un} many {millions} other {plus}}";
    let found = ["0", "1", "2", "1000000"].map(|count| write("fr", french, count));
    assert_eq!(found, ["un", "un", "plus", "millions"]);
    let polish = "{count, plural, one {rekord} few {rekordy} many {rekordów} other {rekordu}}";
    let found = ["1", "3", "5", "22", "x"].map(|count| write("pl", polish, count));
    assert_eq!(found, ["rekord", "rekordy", "rekordów", "rekordy", "rekordu"]);
}

#[test]
fn errors_of_the_log_are_translated() {
    let german = Texts::all().iter().find(|texts| texts.language == "de").unwrap();
    let english = Texts::english().text("error.noSuchPage");
    assert_eq!(german.translated_error(english), german.text("error.noSuchPage"));
    assert_ne!(german.translated_error(english), english);
    assert_eq!(german.translated_error("another error"), "another error");
    // A text of a page that is no error of the console.
    let other = Texts::english().text("tenants.none");
    assert_eq!(german.translated_error(other), other);
}

/// Returns the keys and texts of a file, in its order.
fn entries(file: &str) -> Vec<(String, String)> {
    let lines = file.trim().lines().filter(|line| !matches!(*line, "{" | "}"));
    let entry = |line: &str| {
        let line = format!("{{{}}}", line.trim_end_matches(','));
        let entry: BTreeMap<String, String> = serde_json::from_str(&line).unwrap();
        entry.into_iter().next().unwrap()
    };
    lines.map(entry).collect()
}

/// A file with another order, or with a key twice, would make a review hard.
#[test]
fn languages_have_the_same_keys_in_the_same_order() {
    let keys_of = |(_, file)| entries(file).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let english = keys_of(FILES[0]);
    assert!(english.len() == Texts::english().by_key.len(), "a key is in the file twice");
    for found in FILES {
        assert_eq!(keys_of(found), english, "{}", found.0);
    }
}

/// Markup would be shown as text, because the templates escape it.
#[test]
fn texts_have_no_markup_and_no_blanks_at_their_ends() {
    for (language, file) in FILES {
        for (key, text) in entries(file) {
            assert!(!text.contains(['<', '>', '&', '\n']), "{language}: {key}");
            assert!(!text.is_empty() && text.trim() == text, "{language}: {key}");
        }
    }
}

#[test]
fn languages_have_the_same_arguments() {
    let english = Texts::english().arguments();
    for texts in Texts::all() {
        assert_eq!(texts.arguments(), english, "{texts:?}");
    }
}

#[test]
fn plurals_have_a_variant_for_each_category_of_their_language() {
    for texts in Texts::all() {
        let rules = PluralRules::try_new_cardinal((&texts.identifier).into()).unwrap();
        let mut expected: Vec<_> = rules.categories().map(Selector::Category).collect();
        expected.sort_by_key(|selector| format!("{selector:?}"));
        for (key, parts) in &texts.by_key {
            syntax::arguments(parts, &mut |argument, selectors| {
                let is_category = |selector: &Selector| matches!(selector, Selector::Category(_));
                let mut found: Vec<_> = selectors.into_iter().filter(is_category).collect();
                found.sort_by_key(|selector| format!("{selector:?}"));
                let is_plural = !found.is_empty();
                assert!(!is_plural || found == expected, "{texts:?}, {key}, {argument}: {found:?}");
            });
        }
    }
}

/// An argument that selects a variant in English is a number, so other languages may select by it as well, and only by it.
#[test]
fn plurals_select_by_numbers() {
    let plurals = |texts: &'static Texts| {
        let mut found = BTreeSet::new();
        for (key, parts) in &texts.by_key {
            syntax::arguments(parts, &mut |argument, selectors| {
                if !selectors.is_empty() {
                    found.insert((key, argument));
                }
            });
        }
        found
    };
    let english = plurals(Texts::english());
    for texts in Texts::all() {
        let other: Vec<_> = plurals(texts).difference(&english).copied().collect();
        assert!(other.is_empty(), "{texts:?} selects by {other:?}, and English does not");
    }
}
