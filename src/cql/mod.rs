//! CQL, the query language of FOLIO's collections (docs/contract/http-api.md#16-collections): text
//! to an expression and back.
//!
//! ```text
//! query      = [condition] ["sortby" key+]
//! condition  = operand (("and" | "or" | "not") operand)*      from left to right, none binds tighter
//! operand    = [field relation] (term | "(" condition ")")    a field may stand before a group of terms
//! relation   = ("==" | "=" | "<>" | "<" | "<=" | ">" | ">=" | "adj" | "all" | "any") modifier*
//! key        = field (modifier | "/sort.ascending" | "/sort.descending")*
//! modifier   = "/number" | "/string" | "/ignoreCase" | "/respectCase" | "/ignoreAccents" | "/respectAccents"
//! ```
//!
//! A term stands in double quotes or has no blank in it; `*` and `?` in it stand for any text and any
//! character, and `\` takes their meaning from them. What a field is, and what equals what, is said by
//! whoever runs the query.

mod parse;
#[cfg(test)]
mod tests;

use std::fmt;

pub use parse::{GROUP_DEPTH_MAX, ParseError, QUERY_BYTES_MAX, parse};

/// Which records, in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which records.
    pub condition: Condition,
    /// The order, the first key first; empty is the collection's own.
    pub sort: Vec<SortKey>,
}

/// Which records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Every record.
    All,
    /// One comparison.
    Comparison(Comparison),
    /// Conditions that are joined from left to right.
    Chain(Box<Condition>, Vec<(Operator, Condition)>),
}

/// A field against a term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The field's name, to the letter; there may be no such field.
    pub field: String,
    /// How they are compared.
    pub relation: Relation,
    /// What is compared of them.
    pub modifiers: Modifiers,
    /// With what.
    pub term: Term,
}

/// How two conditions are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Both hold.
    And,
    /// At least one holds.
    Or,
    /// The first holds, and the second doesn't.
    Not,
}

/// What of a field is compared or sorted by. The default is what a field's kind says, without regard to case and
/// accents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Modifiers {
    /// As a number or as text, where that is asked for.
    pub form: Option<Form>,
    /// `/respectCase`: a letter is not the same in capitals.
    pub respect_case: bool,
    /// `/respectAccents`: a letter is not the same with an accent.
    pub respect_accents: bool,
}

/// As what a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/number`: as a number, where both are one.
    Number,
    /// `/string`: as text, even where both are numbers.
    Text,
}

/// How a field is compared with a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// `=` or `adj`: the field has the term's words, in their order.
    Words,
    /// `all`: the field has all of the term's words, in any order.
    AllWords,
    /// `any`: the field has one of the term's words.
    AnyWord,
    /// `==`: the field is the term.
    Equal,
    /// `<>`: the field is there and is not the term.
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term(pub Vec<TermPart>);

/// A part of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TermPart {
    /// This character.
    Char(char),
    /// `*`: any characters, or none.
    AnyChars,
    /// `?`: any one character.
    OneChar,
}

/// A field to sort by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// The field's name, to the letter.
    pub field: String,
    /// Whether the greatest comes first.
    pub descending: bool,
    /// What is sorted by.
    pub modifiers: Modifiers,
}

impl Condition {
    /// That all of these fields are the texts given: `reason==bad_json and topic==…`.
    pub fn all_equal(fields: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let mut each = fields.into_iter().map(|(field, text)| {
            Self::Comparison(Comparison {
                field: field.to_owned(),
                relation: Relation::Equal,
                modifiers: Modifiers::default(),
                term: Term::literal(&text),
            })
        });
        match (each.next(), each.map(|condition| (Operator::And, condition)).collect::<Vec<_>>()) {
            (None, _) => Self::All,
            (Some(only), rest) if rest.is_empty() => only,
            (Some(first), rest) => Self::Chain(Box::new(first), rest),
        }
    }
}

impl From<Condition> for Query {
    fn from(condition: Condition) -> Self {
        Self { condition, sort: Vec::new() }
    }
}

impl Term {
    /// This text, nothing of which is a wildcard.
    pub fn literal(text: &str) -> Self {
        Self(text.chars().map(TermPart::Char).collect())
    }

    /// The words that blanks part, each as a term.
    pub fn words(&self) -> impl Iterator<Item = Self> {
        let is_blank = |letter: &TermPart| matches!(letter, TermPart::Char(c) if c.is_whitespace());
        let words = self.0.split(is_blank).filter(|word| !word.is_empty());
        words.map(|word| Self(word.to_vec()))
    }

    /// The text, in which a wildcard stands for itself.
    pub fn display_text(&self) -> String {
        let each = self.0.iter().map(|letter| match letter {
            TermPart::Char(c) => *c,
            TermPart::AnyChars => '*',
            TermPart::OneChar => '?',
        });
        each.collect()
    }

    /// The text, where it has no wildcard.
    pub fn literal_text(&self) -> Option<String> {
        let each = self.0.iter().map(|letter| match letter {
            TermPart::Char(c) => Some(*c),
            TermPart::AnyChars | TermPart::OneChar => None,
        });
        each.collect()
    }
}

impl Operator {
    const ALL: [Self; 3] = [Self::And, Self::Or, Self::Not];

    /// The keyword, which is the same in capitals.
    fn keyword(self) -> &'static str {
        match self {
            Self::And => "and",
            Self::Or => "or",
            Self::Not => "not",
        }
    }
}

impl Relation {
    /// Those that begin with another one stand before it.
    const SYMBOLS: [Self; 7] = [
        Self::Equal,
        Self::Words,
        Self::NotEqual,
        Self::LessOrEqual,
        Self::Less,
        Self::GreaterOrEqual,
        Self::Greater,
    ];

    /// Relations that are written as a word.
    const WORDS: [(&str, Self); 3] =
        [("adj", Self::Words), ("all", Self::AllWords), ("any", Self::AnyWord)];

    /// As it is written.
    fn symbol(self) -> &'static str {
        match self {
            Self::Words => "=",
            Self::AllWords => " all ",
            Self::AnyWord => " any ",
            Self::Equal => "==",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// A modifier's name, and what it sets.
type ModifierSetter = (&'static str, fn(&mut Modifiers));

impl Modifiers {
    /// What each modifier is written as, in any case, and what it does.
    const ALL: [ModifierSetter; 6] = [
        ("number", |modifiers| modifiers.form = Some(Form::Number)),
        ("string", |modifiers| modifiers.form = Some(Form::Text)),
        ("ignoreCase", |modifiers| modifiers.respect_case = false),
        ("respectCase", |modifiers| modifiers.respect_case = true),
        ("ignoreAccents", |modifiers| modifiers.respect_accents = false),
        ("respectAccents", |modifiers| modifiers.respect_accents = true),
    ];
}

impl fmt::Display for Modifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            Some(Form::Number) => f.write_str("/number")?,
            Some(Form::Text) => f.write_str("/string")?,
            None => {}
        }
        if self.respect_case {
            f.write_str("/respectCase")?;
        }
        if self.respect_accents {
            f.write_str("/respectAccents")?;
        }
        Ok(())
    }
}

/// As a query that is read as the same again.
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.condition)?;
        if !self.sort.is_empty() {
            f.write_str(" sortby")?;
        }
        for SortKey { field, descending, modifiers } in &self.sort {
            let order = if *descending { "descending" } else { "ascending" };
            write!(f, " {}{modifiers}/sort.{order}", Term::literal(field))?;
        }
        Ok(())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("cql.allRecords=1"),
            Self::Comparison(Comparison { field, relation, modifiers, term }) => {
                let (field, sign) = (Term::literal(field), relation.symbol());
                // A word needs a blank to end; a quoted term ends a modifier.
                write!(f, "{field}{}{modifiers}{term}", sign.trim_end())
            }
            Self::Chain(first, rest) => {
                write!(f, "({first}")?;
                for (operator, condition) in rest {
                    write!(f, " {} {condition}", operator.keyword())?;
                }
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for letter in &self.0 {
            match letter {
                TermPart::AnyChars => f.write_str("*")?,
                TermPart::OneChar => f.write_str("?")?,
                TermPart::Char(c @ ('"' | '\\' | '*' | '?')) => write!(f, "\\{c}")?,
                TermPart::Char(c) => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}
