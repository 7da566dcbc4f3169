//! CQL, the query language of FOLIO's collections (docs/contract/http-api.md#16-collections): parses a text
//! into an expression, and formats the expression.
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
//! A term is in double quotes or contains no blank. In a term `*` and `?` match any text and any character;
//! a backslash before them makes them literal. The caller that runs the query defines fields and equality.

mod parse;
#[cfg(test)]
mod tests;

use std::fmt;

pub use parse::{GROUP_DEPTH_MAX, ParseError, QUERY_BYTES_MAX, parse};

/// The condition and the order of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Selects the records.
    pub condition: Condition,
    /// The sort keys, the first key first; empty means the default order of the collection.
    pub sort: Vec<SortKey>,
}

/// A condition on records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Every record.
    All,
    /// One comparison.
    Comparison(Comparison),
    /// Conditions joined from left to right.
    Chain(Box<Condition>, Vec<(Operator, Condition)>),
}

/// A comparison of a field with a term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Name of the field, case-sensitive; the field may be unknown.
    pub field: String,
    /// The kind of comparison.
    pub relation: Relation,
    /// The modifiers of the relation.
    pub modifiers: Modifiers,
    /// The term.
    pub term: Term,
}

/// The operator between two conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The two conditions are true.
    And,
    /// At least one condition is true.
    Or,
    /// The first condition is true, the second is false.
    Not,
}

/// The modifiers of a comparison or a sort key. By default the type of the field decides the form, and
/// comparison ignores case and accents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Modifiers {
    /// The requested form; `None` for the form of the field.
    pub form: Option<Form>,
    /// `/respectCase`: comparison distinguishes upper and lower case.
    pub respect_case: bool,
    /// `/respectAccents`: comparison distinguishes accents.
    pub respect_accents: bool,
}

/// The form in which values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/number`: as numbers, if the two values are numbers.
    Number,
    /// `/string`: as text, even if the two values are numbers.
    Text,
}

/// The relation between a field and a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// `=` or `adj`: the field contains the words of the term, in their order.
    Words,
    /// `all`: the field contains all words of the term, in any order.
    AllWords,
    /// `any`: the field contains at least one word of the term.
    AnyWord,
    /// `==`: the field equals the term.
    Equal,
    /// `<>`: the field exists and differs from the term.
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

/// The text pattern that a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term(pub Vec<TermPart>);

/// A character or a wildcard of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TermPart {
    /// One literal character.
    Char(char),
    /// `*`: any number of characters.
    AnyChars,
    /// `?`: exactly one character.
    OneChar,
}

/// One key of the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// Name of the field, case-sensitive.
    pub field: String,
    /// Whether the order is descending.
    pub descending: bool,
    /// The modifiers of the key.
    pub modifiers: Modifiers,
}

impl Condition {
    /// Returns the condition that both hold.
    pub fn and(self, other: Self) -> Self {
        Self::Chain(Box::new(self), vec![(Operator::And, other)])
    }

    /// Returns the condition that each field equals its text, such as `reason==bad_json and topic==…`.
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
    /// Returns a term for this text without wildcards.
    pub fn literal(text: &str) -> Self {
        Self(text.chars().map(TermPart::Char).collect())
    }

    /// Returns the blank-separated words, each as a term.
    pub fn words(&self) -> impl Iterator<Item = Self> {
        let is_blank = |letter: &TermPart| matches!(letter, TermPart::Char(c) if c.is_whitespace());
        let words = self.0.split(is_blank).filter(|word| !word.is_empty());
        words.map(|word| Self(word.to_vec()))
    }

    /// Returns the text; a wildcard becomes `*` or `?`.
    pub fn display_text(&self) -> String {
        let each = self.0.iter().map(|letter| match letter {
            TermPart::Char(c) => *c,
            TermPart::AnyChars => '*',
            TermPart::OneChar => '?',
        });
        each.collect()
    }

    /// Returns the text, or `None` if the term contains a wildcard.
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

    /// Returns the keyword, which is case-insensitive.
    fn keyword(self) -> &'static str {
        match self {
            Self::And => "and",
            Self::Or => "or",
            Self::Not => "not",
        }
    }
}

impl Relation {
    /// A symbol precedes the shorter symbol that it starts with.
    const SYMBOLS: [Self; 7] = [
        Self::Equal,
        Self::Words,
        Self::NotEqual,
        Self::LessOrEqual,
        Self::Less,
        Self::GreaterOrEqual,
        Self::Greater,
    ];

    /// Relations with a keyword.
    const WORDS: [(&str, Self); 3] =
        [("adj", Self::Words), ("all", Self::AllWords), ("any", Self::AnyWord)];

    /// Returns the notation in a query.
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

/// The name of a modifier, and its effect.
type ModifierSetter = (&'static str, fn(&mut Modifiers));

impl Modifiers {
    /// All modifiers; their names are case-insensitive.
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

/// Formats a query that parses to an equal query.
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
                // A keyword needs a blank after it; a quoted term ends a modifier.
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
