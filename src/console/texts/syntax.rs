//! The syntax of a text: the part of ICU MessageFormat that the pages use. A text has arguments, such as `{count}`,
//! and plurals, such as `{count, plural, one {# loan} other {# loans}}`. An apostrophe before a brace quotes.

use icu_plurals::PluralCategory;
use winnow::{
    Parser, Result,
    ascii::{digit1, multispace0},
    combinator::{alt, delimited, peek, preceded, repeat, terminated},
    token::{one_of, take_till, take_while},
};

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Characters that stay as they are.
    Literal(String),
    /// The value of an argument. A `#` in a variant is the argument of its plural.
    Argument(String),
    /// The variant that fits a number.
    Plural { argument: String, variants: Vec<Variant> },
}

/// A variant of a plural: the numbers that it is for, and its parts.
pub(super) type Variant = (Selector, Vec<Part>);

/// The numbers that a variant of a plural is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Selector {
    /// One number, such as `=0`.
    Exact(i64),
    /// The numbers of a category in the language of the text.
    Category(PluralCategory),
}

/// Parses a text. The error contains the place and the text.
pub(super) fn parse(text: &str) -> Result<Vec<Part>, String> {
    let mut all = |input: &mut &str| parts(input, None);
    all.parse(text).map_err(|error| error.to_string())
}

/// Passes each argument to `visit`, with the selectors of a plural.
pub(super) fn arguments<'a>(parts: &'a [Part], visit: &mut impl FnMut(&'a str, Vec<Selector>)) {
    for part in parts {
        match part {
            Part::Literal(_) => {}
            Part::Argument(name) => visit(name, Vec::new()),
            Part::Plural { argument, variants } => {
                visit(argument, variants.iter().map(|(selector, _)| *selector).collect());
                variants.iter().for_each(|(_, parts)| arguments(parts, visit));
            }
        }
    }
}

/// Parses the parts of a text, or of a variant of the plural with the argument `plural`.
fn parts(input: &mut &str, plural: Option<&str>) -> Result<Vec<Part>> {
    let part = |input: &mut &str| match plural {
        None => alt((argument, literal(false))).parse_next(input),
        Some(name) => {
            let number = '#'.value(Part::Argument(name.to_owned()));
            alt((number, argument, literal(true))).parse_next(input)
        }
    };
    repeat(0.., part).parse_next(input)
}

fn literal<'a>(is_variant: bool) -> impl Parser<&'a str, Part, winnow::error::ContextError> {
    let is_plain = move |c: char| match c {
        '{' | '}' | '\'' => false,
        '#' => !is_variant,
        _ => true,
    };
    let quoted = delimited(('\'', peek(one_of(['{', '}']))), take_till(1.., '\''), '\'');
    let piece = alt((take_while(1.., is_plain), "''".value("'"), quoted, "'"));
    let joined = repeat(1.., piece).fold(String::new, |text: String, piece: &str| text + piece);
    joined.map(Part::Literal)
}

/// Parses `{name}` or a plural.
fn argument(input: &mut &str) -> Result<Part> {
    let argument = delimited(('{', multispace0), name, multispace0).parse_next(input)?.to_owned();
    let none = '}'.map(|_| Vec::new());
    let variants = |input: &mut &str| variants(input, &argument);
    let variants = alt((none, variants)).parse_next(input)?;
    Ok(match variants.is_empty() {
        true => Part::Argument(argument),
        false => Part::Plural { argument, variants },
    })
}

fn name<'a>(input: &mut &'a str) -> Result<&'a str> {
    take_while(1.., |c: char| c.is_ascii_alphanumeric()).parse_next(input)
}

/// Parses the rest of a plural. Its variant `other` is required.
fn variants(input: &mut &str, argument: &str) -> Result<Vec<Variant>> {
    let comma = || (',', multispace0);
    let keyword = (comma(), "plural", multispace0, comma());
    let variant = |input: &mut &str| -> Result<Variant> {
        let selector = terminated(selector, multispace0).parse_next(input)?;
        let parts = |input: &mut &str| parts(input, Some(argument));
        let parts = delimited('{', parts, ('}', multispace0)).parse_next(input)?;
        Ok((selector, parts))
    };
    let variants = repeat(1.., variant);
    let is_complete = |variants: &Vec<Variant>| {
        variants.iter().any(|(of, _)| *of == Selector::Category(PluralCategory::Other))
    };
    delimited(keyword, variants, '}').verify(is_complete).parse_next(input)
}

fn selector(input: &mut &str) -> Result<Selector> {
    let exact = preceded('=', digit1.parse_to()).map(Selector::Exact);
    let category = name.verify_map(PluralCategory::get_for_cldr_string).map(Selector::Category);
    alt((exact, category)).parse_next(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Part {
        Part::Literal(text.to_owned())
    }

    fn argument(name: &str) -> Part {
        Part::Argument(name.to_owned())
    }

    #[test]
    fn text_consists_of_literals_arguments_and_plurals() {
        let text =
            "{ first } has {count, plural, =0 {no loan} one {# loan} other {# of {all} loans}}.";
        let variants = vec![
            (Selector::Exact(0), vec![literal("no loan")]),
            (Selector::Category(PluralCategory::One), vec![argument("count"), literal(" loan")]),
            (
                Selector::Category(PluralCategory::Other),
                vec![argument("count"), literal(" of "), argument("all"), literal(" loans")],
            ),
        ];
        let plural = Part::Plural { argument: "count".to_owned(), variants };
        let expected = vec![argument("first"), literal(" has "), plural, literal(".")];
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn apostrophes_quote_braces_only() {
        for (text, expected) in [
            ("the patron's id, #1", "the patron's id, #1"),
            ("it''s", "it's"),
            ("'{name}' is no argument", "{name} is no argument"),
            ("a 'quoted' word", "a 'quoted' word"),
        ] {
            assert_eq!(parse(text), Ok(vec![literal(expected)]), "{text}");
        }
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn other_syntax_is_an_error() {
        for text in [
            "{",
            "}",
            "{}",
            "{a b}",
            "{count, plural}",
            "{count, plural, one {# loan}}",
            "{count, plural, some {# loan} other {# loans}}",
            "{count, plural, =x {# loan} other {# loans}}",
            "{count, select, other {loans}}",
            "{count, number}",
            "'{unclosed",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
