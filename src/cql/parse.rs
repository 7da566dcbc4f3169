//! The grammar. Each parser reports the expected syntax, and winnow reports the position.

use winnow::{
    Parser, Result,
    combinator::{alt, delimited, fail, opt, preceded, repeat},
    error::{AddContext, ParserError},
    stream::Stream,
    token::{any, none_of, take_while},
};

use super::{Comparison, Condition, Modifiers, Operator, Query, Relation, SortKey, Term, TermPart};

/// Size of a query in bytes, at most; sufficient for about two hundred record ids.
pub const QUERY_BYTES_MAX: usize = 8192;

/// Depth of nested groups, at most.
pub const GROUP_DEPTH_MAX: usize = 32;

/// The field that selects every record.
const ALL_RECORDS: &str = "cql.allRecords";

/// A syntax error, for the author of the query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("query: expected {expected} at character {character}, but {found}")]
pub struct ParseError {
    /// Position of the error in characters, from 1.
    pub character: usize,
    /// The syntax expected at that position.
    pub expected: &'static str,
    /// The text found at that position.
    pub found: String,
}

/// The syntax expected by a failed parser; the innermost parser decides.
#[derive(Debug, Clone, Copy)]
struct Expected(&'static str);

const UNSPECIFIED: &str = "";

pub(super) const EXPECTED_RELATION: &str = "a relation (==, =, <>, <, <=, >, >=, adj, all or any)";
pub(super) const EXPECTED_MODIFIER: &str =
    "a modifier (number, string, ignoreCase, respectCase, ignoreAccents or respectAccents)";
pub(super) const EXPECTED_SORT_MODIFIER: &str =
    "sort.ascending, sort.descending or a modifier such as number";

impl<I: Stream> ParserError<I> for Expected {
    type Inner = Self;

    fn from_input(_: &I) -> Self {
        Self(UNSPECIFIED)
    }

    fn into_inner(self) -> Result<Self, Self> {
        Ok(self)
    }
}

impl<I: Stream> AddContext<I> for Expected {
    fn add_context(self, _: &I, _: &I::Checkpoint, context: &'static str) -> Self {
        if self.0 == UNSPECIFIED { Self(context) } else { self }
    }
}

type Input<'a> = &'a str;

/// Parses a query; an empty query selects all records.
pub fn parse(text: &str) -> Result<Query, ParseError> {
    if text.len() > QUERY_BYTES_MAX {
        let expected = "the end within 8192 bytes";
        return Err(parse_error(text, text.floor_char_boundary(QUERY_BYTES_MAX), expected));
    }
    query.parse(text).map_err(|error| parse_error(text, error.offset(), error.inner().0))
}

fn parse_error(text: &str, offset: usize, expected: &'static str) -> ParseError {
    const EXCERPT_CHARS: usize = 20;
    let (before, rest) = text.split_at(offset);
    let found = match rest.chars().take(EXCERPT_CHARS).collect::<String>() {
        nothing if nothing.is_empty() => "the query ends there".to_owned(),
        something => format!("found {something:?}"),
    };
    ParseError { character: before.chars().count() + 1, expected, found }
}

fn query(input: &mut Input<'_>) -> Result<Query, Expected> {
    skip_blanks.parse_next(input)?;
    let condition = if input.is_empty() || starts_with_keyword("sortby", input) {
        Condition::All
    } else {
        condition(None, 0).parse_next(input)?
    };
    let sort = match opt(keyword("sortby")).parse_next(input)? {
        Some(()) => repeat(1.., key).parse_next(input)?,
        None => Vec::new(),
    };
    if !input.is_empty() {
        let expected = if sort.is_empty() {
            "and, or, not, sortby or the end"
        } else {
            "a field to sort by or the end"
        };
        return fail.context(expected).parse_next(input);
    }
    Ok(Query { condition, sort })
}

/// The field, relation and modifiers before a term; before a group they apply to each term of the group.
#[derive(Clone, Copy)]
struct Qualifier<'a> {
    field: &'a str,
    relation: Relation,
    modifiers: Modifiers,
}

fn condition<'i>(
    qualifier: Option<Qualifier<'_>>,
    depth: usize,
) -> impl Parser<Input<'i>, Condition, Expected> {
    move |input: &mut Input<'i>| {
        let first = operand(qualifier, depth).parse_next(input)?;
        let mut rest = Vec::new();
        while let Some(operator) = opt(operator).parse_next(input)? {
            rest.push((operator, operand(qualifier, depth).parse_next(input)?));
        }
        Ok(match rest.is_empty() {
            true => first,
            false => Condition::Chain(Box::new(first), rest),
        })
    }
}

fn operator(input: &mut Input<'_>) -> Result<Operator, Expected> {
    let found =
        Operator::ALL.into_iter().find(|operator| starts_with_keyword(operator.keyword(), input));
    let operator = found.ok_or(Expected(UNSPECIFIED))?;
    keyword(operator.keyword()).value(operator).parse_next(input)
}

fn operand<'i>(
    qualifier: Option<Qualifier<'_>>,
    depth: usize,
) -> impl Parser<Input<'i>, Condition, Expected> {
    move |input: &mut Input<'i>| {
        if input.starts_with('(') {
            return group(qualifier, depth).parse_next(input);
        }
        let start = input.checkpoint();
        let what = if qualifier.is_some() { "a value or (" } else { "a field name or (" };
        let field = token.context(what).parse_next(input)?;
        match (opt(relation).parse_next(input)?, qualifier) {
            (Some(relation), _) => {
                let modifiers = modifiers.parse_next(input)?;
                let qualifier = Qualifier { field: &field.display_text(), relation, modifiers };
                comparison_or_group(qualifier, depth).parse_next(input)
            }
            (None, Some(qualifier)) => {
                input.reset(&start); // the token is a value
                comparison(qualifier).parse_next(input)
            }
            (None, None) => fail.context(EXPECTED_RELATION).parse_next(input),
        }
    }
}

/// Parses the term or the group after a field and a relation.
fn comparison_or_group<'i>(
    qualifier: Qualifier<'_>,
    depth: usize,
) -> impl Parser<Input<'i>, Condition, Expected> {
    move |input: &mut Input<'i>| {
        if input.starts_with('(') {
            group(Some(qualifier), depth).parse_next(input)
        } else {
            comparison(qualifier).parse_next(input)
        }
    }
}

/// Parses a term. For `cql.allRecords` the only valid term is `1`, by `=`, `adj` or `==`; any other comparison
/// must not select all records.
fn comparison<'i>(qualifier: Qualifier<'_>) -> impl Parser<Input<'i>, Condition, Expected> {
    let Qualifier { field, relation, modifiers } = qualifier;
    let all = field.eq_ignore_ascii_case(ALL_RECORDS);
    let fits = move |word: &Term| {
        !all || matches!(relation, Relation::Equal | Relation::Words) && word.display_text() == "1"
    };
    let expected = if all { "cql.allRecords=1" } else { "a value or (" };
    token.verify(fits).context(expected).map(move |word| match all {
        true => Condition::All,
        false => {
            let field = field.to_owned();
            Condition::Comparison(Comparison { field, relation, modifiers, term: word })
        }
    })
}

fn group<'i>(
    qualifier: Option<Qualifier<'_>>,
    depth: usize,
) -> impl Parser<Input<'i>, Condition, Expected> {
    move |input: &mut Input<'i>| {
        if depth == GROUP_DEPTH_MAX {
            return fail.context("at most 32 groups within each other").parse_next(input);
        }
        let closed = symbol(")").context("and, or, not or )");
        delimited(symbol("("), condition(qualifier, depth + 1), closed).parse_next(input)
    }
}

fn relation(input: &mut Input<'_>) -> Result<Relation, Expected> {
    let worded = Relation::WORDS.into_iter().find(|(word, _)| starts_with_keyword(word, input));
    if let Some((word, relation)) = worded {
        return keyword(word).value(relation).parse_next(input);
    }
    let found = Relation::SYMBOLS.into_iter().find(|relation| input.starts_with(relation.symbol()));
    let relation = found.ok_or(Expected(UNSPECIFIED))?;
    symbol(relation.symbol()).value(relation).parse_next(input)
}

/// Parses all modifiers after a relation.
fn modifiers(input: &mut Input<'_>) -> Result<Modifiers, Expected> {
    let mut modifiers = Modifiers::default();
    while opt(symbol("/")).parse_next(input)?.is_some() {
        modifier(&mut modifiers, EXPECTED_MODIFIER, input)?;
    }
    Ok(modifiers)
}

/// Parses one modifier and adds it to the earlier ones.
fn modifier(
    to: &mut Modifiers,
    expected: &'static str,
    input: &mut Input<'_>,
) -> Result<(), Expected> {
    let found = Modifiers::ALL.into_iter().find(|(name, _)| starts_with_keyword(name, input));
    let (name, set) = found.ok_or(Expected(expected))?;
    set(to);
    keyword(name).parse_next(input)
}

fn key(input: &mut Input<'_>) -> Result<SortKey, Expected> {
    let field = token.context("a field to sort by").parse_next(input)?.display_text();
    let (mut descending, mut modifiers) = (false, Modifiers::default());
    while opt(symbol("/")).parse_next(input)?.is_some() {
        let ascending = keyword("sort.ascending").value(false);
        match opt(alt((ascending, keyword("sort.descending").value(true)))).parse_next(input)? {
            Some(order) => descending = order,
            None => modifier(&mut modifiers, EXPECTED_SORT_MODIFIER, input)?,
        }
    }
    Ok(SortKey { field, descending, modifiers })
}

/// Parses a name or a term, quoted or unquoted, and the blanks after it.
fn token(input: &mut Input<'_>) -> Result<Term, Expected> {
    let word = if input.starts_with('"') {
        delimited('"', repeat(0.., term_part(|c| c == '"')), '"'.context("a closing \""))
            .parse_next(input)?
    } else {
        repeat(1.., term_part(|c| c.is_whitespace() || "\"()=<>/".contains(c))).parse_next(input)?
    };
    skip_blanks.parse_next(input)?;
    Ok(Term(word))
}

/// Rejects the character 0, which PostgreSQL can't store in a text.
fn term_part<'i>(ends: fn(char) -> bool) -> impl Parser<Input<'i>, TermPart, Expected> {
    move |input: &mut Input<'i>| {
        alt((
            preceded('\\', any.verify(|c| *c != '\0')).map(TermPart::Char),
            '*'.value(TermPart::AnyChars),
            '?'.value(TermPart::OneChar),
            none_of(|c: char| ends(c) || matches!(c, '\\' | '\0')).map(TermPart::Char),
        ))
        .parse_next(input)
    }
}

fn skip_blanks(input: &mut Input<'_>) -> Result<(), Expected> {
    take_while(0.., char::is_whitespace).void().parse_next(input)
}

fn symbol<'i>(text: &'static str) -> impl Parser<Input<'i>, (), Expected> {
    (text, skip_blanks).void()
}

/// Parses a case-insensitive keyword that ends at a word boundary.
fn keyword<'i>(text: &'static str) -> impl Parser<Input<'i>, (), Expected> {
    move |input: &mut Input<'i>| {
        if !starts_with_keyword(text, input) {
            return Err(Expected(UNSPECIFIED));
        }
        *input = &input[text.len()..];
        skip_blanks.parse_next(input)
    }
}

fn starts_with_keyword(keyword: &str, input: &str) -> bool {
    let Some((start, rest)) = input.split_at_checked(keyword.len()) else { return false };
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '(' | ')' | '/');
    start.eq_ignore_ascii_case(keyword) && rest.chars().next().is_none_or(ends)
}
