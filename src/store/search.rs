//! CQL as SQL (docs/contract/http-api.md#16-collections): names become constants from a closed
//! table, terms are bound.

use sqlx::{Arguments, Encode, Postgres, Type, postgres::PgArguments};

use super::schema::Composed;
use crate::cql::{
    Comparison, Condition, Form, Modifiers, Operator, Relation, SortKey, Term, TermPart,
};

/// What a collection can be asked about.
#[derive(Debug)]
pub struct SearchTarget {
    /// The table.
    pub(super) table: &'static str,
    /// The fields that clients may name; any other matches nothing.
    pub(super) fields: &'static [Field],
    /// The order where a query has none, and of what a query takes for equal.
    pub(super) order: &'static str,
}

/// A field that clients may name.
#[derive(Debug)]
pub struct Field {
    name: &'static str,
    kind: FieldKind,
    text: &'static str,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
enum FieldKind {
    /// Prose, which has words.
    FullText,
    /// A name or an id, which is one word whatever is in it.
    Keyword,
    /// A number; and how SQL reads it, null where it is none.
    Number(&'static str),
}

impl Field {
    /// A field of prose: its name, and how SQL reads it as text.
    pub(super) const fn full_text(name: &'static str, text: &'static str) -> Self {
        Self { name, kind: FieldKind::FullText, text }
    }

    /// A field that is one word.
    pub(super) const fn keyword(name: &'static str, text: &'static str) -> Self {
        Self { name, kind: FieldKind::Keyword, text }
    }

    /// A number, as text and as number.
    pub(super) const fn number(
        name: &'static str,
        text: &'static str,
        number: &'static str,
    ) -> Self {
        Self { name, kind: FieldKind::Number(number), text }
    }
}

impl SearchTarget {
    /// Names of all fields.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.fields.iter().map(|field| field.name)
    }

    fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// Text without regard to accents: decomposed, and marks left out.
const PLAIN: [&str; 2] = ["regexp_replace(normalize(", ", NFD), '[\\u0300-\\u036f]', '', 'g')"];

/// Text with its accents, in one spelling.
const ACCENTED: [&str; 2] = ["normalize(", ", NFC)"];

/// Words of a text, each between blanks. What parts them is [`parts_words`], in SQL's spelling.
const IN_WORDS: [&str; 2] =
    ["' ' || regexp_replace(", r", '[\u0001-/:-@\[-`{-\u00bf]+', ' ', 'g') || ' '"];

fn is_word_separator(c: char) -> bool {
    c <= '\u{bf}' && !c.is_ascii_alphanumeric()
}

/// A statement in the making, with what is bound to it.
#[derive(Default)]
pub(super) struct SearchBuilder {
    pub(super) text: Composed,
    pub(super) values: PgArguments,
}

impl SearchBuilder {
    /// Adds text.
    pub(super) fn push(&mut self, text: &'static str) -> &mut Self {
        self.text.push(text);
        self
    }

    /// Adds a value.
    pub(super) fn bind<'v, T>(&mut self, value: T) -> &mut Self
    where
        T: Encode<'v, Postgres> + Type<Postgres> + 'v,
    {
        self.values.add(value).expect("text, ids and numbers can be encoded, whatever they are");
        self.text.push_parameter(self.values.len());
        self
    }

    /// Adds a condition. It is true or false, never null: `not` must not lose what lacks a field.
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
            // Whatever its kind, the field is set.
            Words | AllWords | AnyWord if is_empty => self.push(field.text).push(" is not null"),
            AllWords => self.each_word(field, term, *modifiers, " and "),
            AnyWord => self.each_word(field, term, *modifiers, " or "),
            Words if is_prose => self.words(field, term, *modifiers),
            _ => self.whole_comparison(field, *relation, term, *modifiers),
        }
    }

    /// The field as a whole against the term as a whole.
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

    /// Words of prose, or else the field against each of the words. Prose has no word of punctuation alone:
    /// such a word says nothing, and must not make a condition true.
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

    /// Words of prose, one after another. A term of punctuation alone has none and matches nothing.
    fn words(&mut self, field: &Field, term: &Term, modifiers: Modifiers) -> &mut Self {
        let words = word_pattern(term);
        if words.is_empty() {
            return self.push("false");
        }
        self.push(IN_WORDS[0]).push_folded_field(field, modifiers).push(IN_WORDS[1]);
        self.push(" like ").push_folded_value(format!("% {words} %"), modifiers)
    }

    fn push_folded_field(&mut self, field: &Field, modifiers: Modifiers) -> &mut Self {
        let [before, after] = fold(modifiers);
        self.push(before[0]).push(before[1]).push(field.text).push(after[0]).push(after[1])
    }

    fn push_folded_value(&mut self, value: String, modifiers: Modifiers) -> &mut Self {
        let [before, after] = fold(modifiers);
        self.push(before[0]).push(before[1]).bind(value).push("::text");
        self.push(after[0]).push(after[1])
    }

    /// Adds the order: the keys that are fields, then the collection's own.
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

/// What stands before and after a text that is compared.
fn fold(modifiers: Modifiers) -> [[&'static str; 2]; 2] {
    let accents = if modifiers.respect_accents { ACCENTED } else { PLAIN };
    let case = if modifiers.respect_case { ["", ""] } else { ["lower(", ")"] };
    [[case[0], accents[0]], [accents[1], case[1]]]
}

/// The number that a term is, as the database reads it; otherwise it is compared as text, and so equals no
/// number.
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
    // Beyond that no field has a number, and the database would refuse to read it.
    let max = EXPONENT_MAX;
    let size = unsigned(exponent).parse::<i64>().map_or(max, |size| size.min(max));
    let sign = if exponent.starts_with('-') { "-" } else { "" };
    Some(format!("{mantissa}e{sign}{size}"))
}

/// A larger exponent counts as this one.
const EXPONENT_MAX: i64 = 1000;

/// The term as a pattern for `like`.
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

/// As [`pattern`], of the term's words with one blank between them.
fn word_pattern(term: &Term) -> String {
    let separated = term.0.iter().map(|letter| match letter {
        TermPart::Char(c) if is_word_separator(*c) => TermPart::Char(' '),
        other => *other,
    });
    pattern(&Term(separated.collect())).split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}
