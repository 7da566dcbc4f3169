//! The texts of the pages, in the language of the reader. The folder `translations/mod-patron-blocks` has a file for each
//! language, as in other modules of FOLIO: one flat JSON object, with texts in the syntax of ICU.

mod syntax;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::{self, Display},
    sync::LazyLock,
};

use actix_web::{
    HttpRequest,
    http::header::{AcceptLanguage, Header, Preference, Quality},
};
use icu_locale_core::LanguageIdentifier;
use icu_plurals::{PluralCategory, PluralRules};

use self::syntax::{Part, Selector, Variant};

/// The languages with their files. The first one is that of readers whose languages are all absent.
const FILES: [(&str, &str); 2] = [
    ("en", include_str!("../../../translations/mod-patron-blocks/en.json")),
    ("de", include_str!("../../../translations/mod-patron-blocks/de.json")),
];

/// The texts of each language, in the order of [`FILES`].
static LANGUAGES: LazyLock<[Texts; FILES.len()]> =
    LazyLock::new(|| FILES.map(|(language, file)| Texts::parse(language, file)));

/// The names and values of arguments.
pub(super) type Arguments<'a> = &'a [(&'a str, &'a dyn Display)];

/// The texts of one language.
pub struct Texts {
    /// The tag of the language, such as `en` or `pt-BR`.
    language: &'static str,
    identifier: LanguageIdentifier,
    by_key: HashMap<String, Vec<Part>>,
}

impl Texts {
    fn parse(language: &'static str, file: &str) -> Self {
        let texts: HashMap<String, String> =
            serde_json::from_str(file).expect("a test parses the file");
        let parse = |(key, text): (String, String)| {
            let parts = syntax::parse(&text).expect("a test parses the text");
            (key, parts)
        };
        Self {
            language,
            identifier: language.parse().expect("a test parses the tag"),
            by_key: texts.into_iter().map(parse).collect(),
        }
    }

    /// Returns the texts of all languages, English first.
    pub fn all() -> &'static [Self] {
        &*LANGUAGES
    }

    /// Returns the English texts.
    pub(super) fn english() -> &'static Self {
        &LANGUAGES[0]
    }

    /// Returns the keys, each with the names of its arguments.
    pub fn arguments(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let names = |parts| {
            let mut names = BTreeSet::new();
            syntax::arguments(parts, &mut |name, _| {
                names.insert(name);
            });
            names
        };
        self.by_key.iter().map(|(key, parts)| (&**key, names(parts))).collect()
    }

    /// Returns the texts of the language that a reader prefers, of those that exist.
    pub(super) fn of(request: &HttpRequest) -> &'static Self {
        Self::preferred(AcceptLanguage::parse(request).unwrap_or(AcceptLanguage(Vec::new())))
    }

    /// Finds a language as RFC 4647 describes it: `de-AT` means `de` if `de-AT` does not exist.
    fn preferred(AcceptLanguage(mut accepted): AcceptLanguage) -> &'static Self {
        accepted.retain(|item| item.quality > Quality::ZERO);
        for range in AcceptLanguage(accepted).ranked() {
            let Preference::Specific(tag) = range else { break };
            let mut tag = tag.as_str();
            while !tag.is_empty() {
                let is_named = |texts: &&Self| texts.language.eq_ignore_ascii_case(tag);
                if let Some(found) = LANGUAGES.iter().find(is_named) {
                    return found;
                }
                tag = tag.rsplit_once('-').map_or("", |(shorter, _)| shorter);
            }
        }
        Self::english()
    }

    /// Returns the tag of the language.
    pub fn language(&self) -> &'static str {
        self.language
    }

    /// Returns the translation of an error of the console. The log of acts has the errors in English, because its readers
    /// have several languages. Other errors stay as they are.
    pub(super) fn translated_error<'a>(&'static self, english: &'a str) -> &'a str {
        let is_same = |(key, parts): &(&String, &Vec<Part>)| {
            let is_text = matches!(&parts[..], [Part::Literal(text)] if text == english);
            is_text && key.starts_with("error.")
        };
        let found = Self::english().by_key.iter().find(is_same);
        found.map_or(english, |(key, _)| self.text(key))
    }

    /// Returns the text with this key, which has no arguments.
    pub(super) fn text(&'static self, key: &'static str) -> &'static str {
        match self.by_key.get(key).map(Vec::as_slice) {
            Some([Part::Literal(text)]) => text,
            // A test finds a key without a text, and arguments of a text.
            _ => key,
        }
    }

    /// Returns the text with this key and the values of its arguments. Numbers have no separators.
    pub(super) fn fill(&self, key: &'static str, arguments: Arguments<'_>) -> String {
        let Some(parts) = self.by_key.get(key) else { return key.to_owned() };
        self.write(parts, arguments)
    }

    /// Returns the text before an argument and the text after it. The page puts an element between them.
    pub(super) fn around(
        &self,
        key: &'static str,
        argument: &str,
        others: Arguments<'_>,
    ) -> [String; 2] {
        let parts = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
        let is_argument = |part: &Part| matches!(part, Part::Argument(name) if name == argument);
        match parts.iter().position(is_argument) {
            Some(at) => [&parts[..at], &parts[at + 1..]].map(|parts| self.write(parts, others)),
            // A test finds an absent key or argument.
            None => [key.to_owned(), String::new()],
        }
    }

    fn write(&self, parts: &[Part], arguments: Arguments<'_>) -> String {
        let value = |name: &str| {
            let found = arguments.iter().find(|(argument, _)| *argument == name);
            found.map_or_else(String::new, |(_, value)| value.to_string())
        };
        let text = |part: &Part| match part {
            Part::Literal(text) => text.clone(),
            Part::Argument(name) => value(name),
            Part::Plural { argument, variants } => {
                let number = value(argument).parse().ok();
                self.write(self.select(variants, number), arguments)
            }
        };
        parts.iter().map(text).collect()
    }

    /// Returns the variant for a number. A variant of one number has priority over that of its category.
    fn select<'a>(&self, variants: &'a [Variant], number: Option<i64>) -> &'a [Part] {
        let find = |wanted| variants.iter().find(|(selector, _)| *selector == wanted);
        let category = number.map(|number| {
            let rules = PluralRules::try_new_cardinal((&self.identifier).into());
            rules.expect("the crate contains the rules of all languages").category_for(number)
        });
        let exact = number.and_then(|number| find(Selector::Exact(number)));
        exact
            .or_else(|| find(Selector::Category(category?)))
            .or_else(|| find(Selector::Category(PluralCategory::Other)))
            .map_or(&[], |(_, parts)| parts)
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Texts").field(&self.language).finish()
    }
}
