//! The translation of CQL to SQL (docs/contract/http-api.md#16-collections): names become constants from
//! a closed table, and terms become bound parameters.

use sqlx::{Arguments, Encode, Postgres, Type, postgres::PgArguments};

use super::schema::Composed;
use crate::cql::{
    Comparison, Condition, Form, Modifiers, Operator, Relation, SortKey, Term, TermPart,
};

/// The searchable fields and the order of a collection.
#[derive(Debug)]
pub struct SearchTarget {
    /// The table.
    pub(super) table: &'static str,
    /// The fields that clients may name. Any other field matches nothing.
    pub(super) fields: &'static [Field],
    /// The order of a query without sort keys, and of records with equal sort keys.
    pub(super) order: &'static str,
}

/// A field that clients may name.
#[derive(Debug)]
pub struct Field {
    name: &'static str,
    kind: FieldKind,
    text: &'static str,
}

/// The type of a field's content.
#[derive(Debug, Clone, Copy)]
enum FieldKind {
    /// Prose, which consists of words.
    FullText,
    /// A name or an id, which is one word regardless of its characters.
    Keyword,
    /// A number, with the SQL expression for its numeric value, null for any other content.
    Number(&'static str),
}

impl Field {
    /// Creates a field of prose from its name and the SQL expression for its text.
    pub(super) const fn full_text(name: &'static str, text: &'static str) -> Self {
        Self { name, kind: FieldKind::FullText, text }
    }

    /// Creates a field that is one word.
    pub(super) const fn keyword(name: &'static str, text: &'static str) -> Self {
        Self { name, kind: FieldKind::Keyword, text }
    }

    /// Creates a field with a number, from the SQL expressions for its text and its numeric value.
    pub(super) const fn number(
        name: &'static str,
        text: &'static str,
        number: &'static str,
    ) -> Self {
        Self { name, kind: FieldKind::Number(number), text }
    }
}

impl SearchTarget {
    /// Returns the names of all fields.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.fields.iter().map(|field| field.name)
    }

    fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// SQL around a text to ignore accents: decomposition, and removal of combining marks.
const PLAIN: [&str; 2] = ["regexp_replace(normalize(", ", NFD), '[\\u0300-\\u036f]', '', 'g')"];

/// SQL around a text to compare accents: one normalization form.
const ACCENTED: [&str; 2] = ["normalize(", ", NFC)"];

/// SQL around a text to put each word between blanks. The separators equal the characters of
/// [`is_word_separator`].
const IN_WORDS: [&str; 2] =
    ["' ' || regexp_replace(", r", '[\u0001-/:-@\[-`{-\u00bf]+', ' ', 'g') || ' '"];

fn is_word_separator(c: char) -> bool {
    c <= '\u{bf}' && !c.is_ascii_alphanumeric()
}

/// A statement under construction, with its bound values.
#[derive(Default)]
pub(super) struct SearchBuilder {
    pub(super) text: Composed,
    pub(super) values: PgArguments,
}

impl SearchBuilder {
    /// Appends text to the statement.
    pub(super) fn push(&mut self, text: &'static str) -> &mut Self {
        self.text.push(text);
        self
    }

    /// Appends a parameter and binds its value.
    pub(super) fn bind<'v, T>(&mut self, value: T) -> &mut Self
    where
        T: Encode<'v, Postgres> + Type<Postgres> + 'v,
    {
        self.values.add(value).expect("PostgreSQL has an encoding for every text, id and number");
        self.text.push_parameter(self.values.len());
        self
    }

    /// Appends a condition, which is true or false but never null. With null, `not` would lose records
    /// without the field.
    pub(super) fn condition(&mut self, target: &SearchTarget, condition: &Condition) -> &mut Self {
        match condition {
            Condition::All => self.push("true"),
            Condition::Comparison(comparison) => match target.field(&comparison.field) {
                Some(field) => {
                    self.push("coalesce(").comparison(field, comparison).push(", false)")
                }
                None => self.push("false"),
            },
            Condition::Chain(first, rest) => {
                for _ in rest {
                    self.push("(");
                }
                self.condition(target, first);
                for (operator, condition) in rest {
                    self.push(match operator {
                        Operator::And => " and ",
                        Operator::Or => " or ",
                        Operator::Not => " and not ",
                    });
                    self.condition(target, condition).push(")");
                }
                self
            }
        }
    }

    fn comparison(&mut self, field: &Field, comparison: &Comparison) -> &mut Self {
        use Relation::{AllWords, AnyWord, Words};
        let Comparison { relation, term, modifiers, .. } = comparison;
        let is_prose = matches!(field.kind, FieldKind::FullText);
        let is_empty = term.words().next().is_none();
        match relation {
            // The field matches if it is set, regardless of its kind.
            Words | AllWords | AnyWord if is_empty => self.push(field.text).push(" is not null"),
            AllWords => self.each_word(field, term, *modifiers, " and "),
            AnyWord => self.each_word(field, term, *modifiers, " or "),
            Words if is_prose => self.words(field, term, *modifiers),
            _ => self.whole_comparison(field, *relation, term, *modifiers),
        }
    }

    /// Appends a comparison of the whole field with the whole term.
    fn whole_comparison(
        &mut self,
        field: &Field,
        relation: Relation,
        term: &Term,
        modifiers: Modifiers,
    ) -> &mut Self {
        let is_text = modifiers.form == Some(Form::Text);
        if let (FieldKind::Number(sql), Some(number), false) = (field.kind, number(term), is_text) {
            return self
                .push(sql)
                .push(comparison_operator(relation))
                .bind(number)
                .push("::text::numeric");
        }
        match relation {
            Relation::Equal | Relation::Words | Relation::NotEqual
                if term.literal_text().is_none() =>
            {
                let not = relation == Relation::NotEqual;
                let like = if not { " not like " } else { " like " };
                self.push_folded_field(field, modifiers)
                    .push(like)
                    .push_folded_value(pattern(term), modifiers)
            }
            _ => {
                self.push_folded_field(field, modifiers).push(comparison_operator(relation));
                self.push_folded_value(term.display_text(), modifiers)
            }
        }
    }

    /// Appends a condition per word of the term, on the words of prose or on the whole field. Words of
    /// punctuation alone are ignored in prose, because such a word would make the condition true.
    fn each_word(
        &mut self,
        field: &Field,
        term: &Term,
        modifiers: Modifiers,
        joined: &'static str,
    ) -> &mut Self {
        let is_prose = matches!(field.kind, FieldKind::FullText);
        let has_words = |word: &Term| !is_prose || !word_pattern(word).is_empty();
        let mut words = term.words().filter(has_words).peekable();
        if words.peek().is_none() {
            return self.push("false");
        }
        self.push("(");
        for (n, word) in words.enumerate() {
            if n > 0 {
                self.push(joined);
            }
            match field.kind {
                FieldKind::FullText => self.words(field, &word, modifiers),
                _ => self.whole_comparison(field, Relation::Equal, &word, modifiers),
            };
        }
        self.push(")")
    }

    /// Appends a condition on consecutive words of prose. A term of punctuation alone matches nothing.
    fn words(&mut self, field: &Field, term: &Term, modifiers: Modifiers) -> &mut Self {
        let words = word_pattern(term);
        if words.is_empty() {
            return self.push("false");
        }
        // Separating the words of a field costs far more than a search for the first word.
        let first = words.split(' ').next().filter(|word| !word.contains('_'));
        self.push("(");
        if let Some(first) = first {
            self.push_folded_field(field, modifiers).push(" like ");
            self.push_folded_value(format!("%{first}%"), modifiers).push(" and ");
        }
        self.push(IN_WORDS[0]).push_folded_field(field, modifiers).push(IN_WORDS[1]);
        self.push(" like ").push_folded_value(format!("% {words} %"), modifiers).push(")")
    }

    /// Appends the text of a field without differences of case and accents. A text of ASCII characters has no accents,
    /// and removing them costs far more than comparing two lengths.
    fn push_folded_field(&mut self, field: &Field, modifiers: Modifiers) -> &mut Self {
        let [before, after] = fold(modifiers);
        self.push(before[0]).push("case when octet_length(").push(field.text);
        self.push(") = char_length(").push(field.text).push(") then ").push(field.text);
        self.push(" else ").push(before[1]).push(field.text).push(after[0]).push(" end");
        self.push(after[1])
    }

    fn push_folded_value(&mut self, value: String, modifiers: Modifiers) -> &mut Self {
        let [before, after] = fold(modifiers);
        self.push(before[0]).push(before[1]).bind(value).push("::text");
        self.push(after[0]).push(after[1])
    }

    /// Appends the order: the sort keys that are fields, then the order of the collection.
    pub(super) fn order(&mut self, target: &SearchTarget, keys: &[SortKey]) -> &mut Self {
        self.push(" order by ");
        for key in keys {
            let Some(field) = target.field(&key.field) else { continue };
            match field.kind {
                FieldKind::Number(sql) if key.modifiers.form != Some(Form::Text) => self.push(sql),
                _ => self.push_folded_field(field, key.modifiers),
            };
            self.push(if key.descending { " desc nulls last, " } else { " asc nulls last, " });
        }
        self.push(target.order)
    }
}

fn comparison_operator(relation: Relation) -> &'static str {
    match relation {
        Relation::Equal | Relation::Words | Relation::AllWords | Relation::AnyWord => " = ",
        Relation::NotEqual => " <> ",
        Relation::Less => " < ",
        Relation::LessOrEqual => " <= ",
        Relation::Greater => " > ",
        Relation::GreaterOrEqual => " >= ",
    }
}

/// Returns the SQL before and after a compared text.
fn fold(modifiers: Modifiers) -> [[&'static str; 2]; 2] {
    let accents = if modifiers.respect_accents { ACCENTED } else { PLAIN };
    let case = if modifiers.respect_case { ["", ""] } else { ["lower(", ")"] };
    [[case[0], accents[0]], [accents[1], case[1]]]
}

/// Returns the number that a term contains, in a form that the database can parse. Any other term is
/// compared as text, and so equals no number.
fn number(term: &Term) -> Option<String> {
    let text = term.literal_text()?;
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (&*text, None),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let unsigned = |text: &'_ str| text.strip_prefix(['+', '-']).unwrap_or(text).to_owned();
    let (whole, fraction) = match unsigned(mantissa).split_once('.') {
        Some((whole, fraction)) => (whole.to_owned(), fraction.to_owned()),
        None => (unsigned(mantissa), String::new()),
    };
    if whole.len() + fraction.len() == 0 || !digits(&whole) || !digits(&fraction) {
        return None;
    }
    let Some(exponent) = exponent else { return Some(text) };
    if unsigned(exponent).is_empty() || !digits(&unsigned(exponent)) {
        return None;
    }
    // No field contains a number with a larger exponent, and the database would reject the number.
    let max = EXPONENT_MAX;
    let size = unsigned(exponent).parse::<i64>().map_or(max, |size| size.min(max));
    let sign = if exponent.starts_with('-') { "-" } else { "" };
    Some(format!("{mantissa}e{sign}{size}"))
}

/// The limit of an exponent. A larger exponent is replaced by this one.
const EXPONENT_MAX: i64 = 1000;

/// Returns the term as a pattern for `like`.
fn pattern(term: &Term) -> String {
    let mut pattern = String::new();
    for letter in &term.0 {
        match letter {
            TermPart::AnyChars => pattern.push('%'),
            TermPart::OneChar => pattern.push('_'),
            TermPart::Char(c @ ('%' | '_' | '\\')) => pattern.extend(['\\', *c]),
            TermPart::Char(c) => pattern.push(*c),
        }
    }
    pattern
}

/// Returns the words of the term as a pattern for `like`, separated by single blanks, as [`pattern`] does
/// for a whole term.
fn word_pattern(term: &Term) -> String {
    let separated = term.0.iter().map(|letter| match letter {
        TermPart::Char(c) if is_word_separator(*c) => TermPart::Char(' '),
        other => *other,
    });
    pattern(&Term(separated.collect())).split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}
