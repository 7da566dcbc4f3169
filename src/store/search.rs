//! CQL as SQL (http contract 1.6): names become constants from a closed table, terms are bound.

use rust_decimal::Decimal;
use sqlx::{Arguments, Encode, Postgres, Type, postgres::PgArguments};

use super::schema::Composed;
use crate::cql::{Comparison, Condition, Key, Letter, Operator, Relation, Term};

/// What a collection can be asked about.
#[derive(Debug)]
pub struct Searchable {
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
    kind: Kind,
    text: &'static str,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Prose, which has words.
    Words,
    /// A name or an id, which is one word whatever is in it.
    Name,
    /// A number; and how SQL reads it, null where it is none.
    Number(&'static str),
}

impl Field {
    /// A field of prose: its name, and how SQL reads it as text.
    pub(super) const fn words(name: &'static str, text: &'static str) -> Self {
        Self { name, kind: Kind::Words, text }
    }

    /// A field that is one word.
    pub(super) const fn name(name: &'static str, text: &'static str) -> Self {
        Self { name, kind: Kind::Name, text }
    }

    /// A number, as text and as number.
    pub(super) const fn number(
        name: &'static str,
        text: &'static str,
        number: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Number(number), text }
    }
}

impl Searchable {
    /// Names of all fields.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.fields.iter().map(|field| field.name)
    }

    fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// Text without regard to case and accents: decomposed, and marks left out.
const FOLDED: [&str; 2] =
    ["lower(regexp_replace(normalize(", ", NFD), '[\\u0300-\\u036f]', '', 'g'))"];

/// Words of a text, each between blanks. What parts them is [`parts_words`], in SQL's spelling.
const IN_WORDS: [&str; 2] =
    ["' ' || regexp_replace(", r", '[\u0001-/:-@\[-`{-\u00bf]+', ' ', 'g') || ' '"];

fn parts_words(c: char) -> bool {
    c <= '\u{bf}' && !c.is_ascii_alphanumeric()
}

/// A statement in the making, with what is bound to it.
#[derive(Default)]
pub(super) struct Search {
    pub(super) text: Composed,
    pub(super) values: PgArguments,
}

impl Search {
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
    pub(super) fn condition(&mut self, of: &Searchable, condition: &Condition) -> &mut Self {
        match condition {
            Condition::All => self.push("true"),
            Condition::Comparison(comparison) => match of.field(&comparison.field) {
                Some(field) => {
                    self.push("coalesce(").comparison(field, comparison).push(", false)")
                }
                None => self.push("false"),
            },
            Condition::Chain(first, rest) => {
                for _ in rest {
                    self.push("(");
                }
                self.condition(of, first);
                for (operator, condition) in rest {
                    self.push(match operator {
                        Operator::And => " and ",
                        Operator::Or => " or ",
                        Operator::Not => " and not ",
                    });
                    self.condition(of, condition).push(")");
                }
                self
            }
        }
    }

    fn comparison(&mut self, field: &Field, comparison: &Comparison) -> &mut Self {
        let Comparison { relation, term, .. } = comparison;
        if let (Kind::Number(sql), Some(number)) = (field.kind, number(term)) {
            return self.push(sql).push(compares(*relation)).bind(number).push("::numeric");
        }
        match (field.kind, relation) {
            (Kind::Words, Relation::Words) => self.words(field, term),
            (_, Relation::Is | Relation::Words | Relation::IsNot) if term.text().is_none() => {
                let not = *relation == Relation::IsNot;
                let like = if not { " not like " } else { " like " };
                self.folded(field).push(like).folded_value(pattern(term))
            }
            _ => self.folded(field).push(compares(*relation)).folded_value(term.written()),
        }
    }

    fn words(&mut self, field: &Field, term: &Term) -> &mut Self {
        let words = word_pattern(term);
        if words.is_empty() {
            return self.push(field.text).push(" is not null");
        }
        self.push(IN_WORDS[0]).folded(field).push(IN_WORDS[1]);
        self.push(" like ").folded_value(format!("% {words} %"))
    }

    fn folded(&mut self, field: &Field) -> &mut Self {
        self.push(FOLDED[0]).push(field.text).push(FOLDED[1])
    }

    fn folded_value(&mut self, value: String) -> &mut Self {
        self.push(FOLDED[0]).bind(value).push("::text").push(FOLDED[1])
    }

    /// Adds the order: the keys that are fields, then the collection's own.
    pub(super) fn order(&mut self, of: &Searchable, keys: &[Key]) -> &mut Self {
        self.push(" order by ");
        for key in keys {
            let Some(field) = of.field(&key.field) else { continue };
            match field.kind {
                Kind::Number(sql) => self.push(sql),
                Kind::Words | Kind::Name => self.folded(field),
            };
            self.push(if key.descending { " desc nulls last, " } else { " asc nulls last, " });
        }
        self.push(of.order)
    }
}

fn compares(relation: Relation) -> &'static str {
    match relation {
        Relation::Is | Relation::Words => " = ",
        Relation::IsNot => " <> ",
        Relation::Below => " < ",
        Relation::AtMost => " <= ",
        Relation::Above => " > ",
        Relation::AtLeast => " >= ",
    }
}

/// The number that a term is; otherwise it is compared as text, and so equals no number.
fn number(term: &Term) -> Option<Decimal> {
    let text = term.text()?;
    let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
    if !text.bytes().all(plain) {
        return None;
    }
    Decimal::from_str_exact(&text).or_else(|_| Decimal::from_scientific(&text)).ok()
}

/// The term as a pattern for `like`.
fn pattern(term: &Term) -> String {
    let mut pattern = String::new();
    for letter in &term.0 {
        match letter {
            Letter::Any => pattern.push('%'),
            Letter::One => pattern.push('_'),
            Letter::Char(c @ ('%' | '_' | '\\')) => pattern.extend(['\\', *c]),
            Letter::Char(c) => pattern.push(*c),
        }
    }
    pattern
}

/// As [`pattern`], of the term's words with one blank between them.
fn word_pattern(term: &Term) -> String {
    let parted = term.0.iter().map(|letter| match letter {
        Letter::Char(c) if parts_words(*c) => Letter::Char(' '),
        other => *other,
    });
    pattern(&Term(parted.collect())).split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}
