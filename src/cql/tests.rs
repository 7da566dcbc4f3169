use proptest::{collection::vec, prelude::*};

use super::{
    parse::{EXPECTED_MODIFIER, EXPECTED_RELATION, EXPECTED_SORT_MODIFIER},
    *,
};

fn is(field: &str, term: &str) -> Condition {
    compared(field, Relation::Equal, term)
}

fn compared(field: &str, relation: Relation, term: &str) -> Condition {
    let (field, term, modifiers) = (field.to_owned(), Term::literal(term), Modifiers::default());
    Condition::Comparison(Comparison { field, relation, modifiers, term })
}

fn chain(first: Condition, rest: impl Into<Vec<(Operator, Condition)>>) -> Condition {
    Condition::Chain(Box::new(first), rest.into())
}

fn read(text: &str) -> Condition {
    let query = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(query.sort, [], "{text}");
    query.condition
}

#[test]
fn empty_query_and_all_records_match_everything() {
    for text in ["", "  ", "cql.allRecords=1", " CQL.ALLRECORDS == \"1\" ", "(cql.allrecords=1)"] {
        assert_eq!(read(text), Condition::All, "{text}");
    }
    let sorted = parse("SortBy name value/Sort.Descending").unwrap();
    let modifiers = Modifiers::default();
    let key = |field: &str, descending| SortKey { field: field.to_owned(), descending, modifiers };
    assert_eq!(sorted.condition, Condition::All);
    assert_eq!(sorted.sort, [key("name", false), key("value", true)]);
}

#[test]
fn operators_associate_left_to_right_without_parentheses() {
    use Operator::{And, Not, Or};
    assert_eq!(
        read("a==1 OR b==2 and c==3 Not d==4"),
        chain(is("a", "1"), [(Or, is("b", "2")), (And, is("c", "3")), (Not, is("d", "4"))])
    );
    let inner = chain(is("b", "2"), [(And, is("c", "3"))]);
    assert_eq!(read("a==1 or(b==2 and c==3)"), chain(is("a", "1"), [(Or, inner)]));
    let either = chain(is("id", "x"), [(Or, is("id", "y")), (Or, is("name", "z"))]);
    assert_eq!(read("id==(x or y or name==z)"), either, "a field before a group");
}

#[test]
fn relations_and_terms_are_parsed_literally() {
    for relation in relations() {
        let text = format!("value {} 7", relation.symbol());
        assert_eq!(read(&text), compared("value", relation, "7"), "{text}");
        if !relation.symbol().starts_with(' ') {
            assert_eq!(read(&text.replace(' ', "")), compared("value", relation, "7"), "{text}");
        }
    }
    assert_eq!(read(r#"name=="a \"b\" \\ \* and""#), is("name", r#"a "b" \ * and"#));
    assert_eq!(read("name==\"\""), is("name", ""));
    assert_eq!(
        read("metadata.updatedDate==2026-01-01T00:00:00.000+00:00").to_string(),
        "\"metadata.updatedDate\"==\"2026-01-01T00:00:00.000+00:00\""
    );
    let Condition::Comparison(wild) = read("name==L?st*") else { panic!("it is one comparison") };
    let (c, any, one) = (TermPart::Char, TermPart::AnyChars, TermPart::OneChar);
    assert_eq!(wild.term.0, [c('L'), one, c('s'), c('t'), any]);
    assert_eq!(wild.term.literal_text(), None);
}

#[test]
fn parse_error_points_at_the_character_and_expectation() {
    for (text, character, expected) in [
        ("name", 5, EXPECTED_RELATION),
        ("name ~ x", 6, EXPECTED_RELATION),
        ("name==", 7, "a value or ("),
        ("name== )", 8, "a value or ("),
        ("name==/x", 8, EXPECTED_MODIFIER),
        ("value >=/number/up 1", 17, EXPECTED_MODIFIER),
        ("value >=/numbers 1", 10, EXPECTED_MODIFIER),
        ("name any", 9, "a value or ("),
        ("name anything x", 6, EXPECTED_RELATION),
        ("é==1 and", 9, "a field name or ("),
        ("a==1 b==2", 6, "and, or, not, sortby or the end"),
        ("(a==1", 6, "and, or, not or )"),
        ("a==1)", 5, "and, or, not, sortby or the end"),
        ("a==\"x", 6, "a closing \""),
        ("a==x\\", 5, "and, or, not, sortby or the end"),
        ("a==\"x\0\"", 6, "a closing \""),
        ("a==1 sortby", 12, "a field to sort by"),
        ("a==1 sortby x/up", 15, EXPECTED_SORT_MODIFIER),
        ("a==1 sortby x)", 14, "a field to sort by or the end"),
        ("cql.allRecords=0", 16, "cql.allRecords=1"),
        ("cql.allRecords<>1", 17, "cql.allRecords=1"),
        ("and", 4, EXPECTED_RELATION),
        ("=", 1, "a field name or ("),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!((error.character, error.expected), (character, expected), "{text}");
    }
    let message = parse("name==a nam==b").unwrap_err().to_string();
    assert_eq!(
        message,
        "query: expected and, or, not, sortby or the end at character 9, but found \"nam==b\""
    );
    let message = parse("name==").unwrap_err().to_string();
    assert_eq!(message, "query: expected a value or ( at character 7, but the query ends there");
}

#[test]
fn modifiers_and_word_relations_parse_in_any_case() {
    let modified = |relation, modifiers, term: &str| {
        let (field, term) = ("value".to_owned(), Term::literal(term));
        Condition::Comparison(Comparison { field, relation, modifiers, term })
    };
    let number = Modifiers { form: Some(Form::Number), ..Modifiers::default() };
    let text = Modifiers { form: Some(Form::Text), ..Modifiers::default() };
    let case = Modifiers { respect_case: true, ..Modifiers::default() };
    let all = Modifiers { form: Some(Form::Text), respect_case: true, respect_accents: true };
    for (query, expected) in [
        ("value >=/number 10", modified(Relation::GreaterOrEqual, number, "10")),
        ("value>= / Number 10", modified(Relation::GreaterOrEqual, number, "10")),
        ("value ==/number/string \"10\"", modified(Relation::Equal, text, "10")),
        ("value=/respectCase/ignoreAccents x", modified(Relation::Words, case, "x")),
        ("value any/respectCase\"x\"", modified(Relation::AnyWord, case, "x")),
        ("value ADJ \"a b\"", modified(Relation::Words, Modifiers::default(), "a b")),
        ("value All/string/respectaccents/RESPECTCASE x", modified(Relation::AllWords, all, "x")),
        ("value any (x)", modified(Relation::AnyWord, Modifiers::default(), "x")),
    ] {
        assert_eq!(read(query), expected, "{query}");
    }
    // Keywords are ordinary words as field names and as terms.
    assert_eq!(read("any==all"), is("any", "all"));
    assert_eq!(
        read("name==(any or adj)"),
        chain(is("name", "any"), [(Operator::Or, is("name", "adj"))])
    );
    let group = read("value >/number (1 or 2)");
    let each = |term| modified(Relation::Greater, number, term);
    assert_eq!(group, chain(each("1"), [(Operator::Or, each("2"))]));
    let sorted = parse("sortBy value/number name/respectCase/sort.descending").unwrap().sort;
    let key = |field: &str, descending, modifiers| SortKey {
        field: field.to_owned(),
        descending,
        modifiers,
    };
    assert_eq!(sorted, [key("value", false, number), key("name", true, case)]);
}

#[test]
fn query_length_and_depth_are_bounded() {
    let nested = |depth| format!("{}a==1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(read(&nested(GROUP_DEPTH_MAX)), is("a", "1"));
    let error = parse(&nested(GROUP_DEPTH_MAX + 1)).unwrap_err();
    assert_eq!(error.character, GROUP_DEPTH_MAX + 1);
    let long = |length: usize| format!("a=={}", "é".repeat((length - 3) / 2));
    assert!(parse(&long(QUERY_BYTES_MAX)).is_ok());
    let error = parse(&long(QUERY_BYTES_MAX + 2)).unwrap_err();
    assert!(error.expected.contains(&QUERY_BYTES_MAX.to_string()), "{error}");
    assert!(parse(&"(".repeat(QUERY_BYTES_MAX)).is_err());
}

fn term_part() -> impl Strategy<Value = TermPart> {
    let char =
        any::<char>().prop_filter("not in a database", |c| *c != '\0').prop_map(TermPart::Char);
    let odd = prop::sample::select(r#""\*?()=<>/ anot"#.chars().collect::<Vec<_>>());
    prop_oneof![
        char,
        odd.prop_map(TermPart::Char),
        Just(TermPart::AnyChars),
        Just(TermPart::OneChar)
    ]
}

fn relations() -> impl Iterator<Item = Relation> {
    Relation::SYMBOLS.into_iter().chain([Relation::AllWords, Relation::AnyWord])
}

fn modifiers() -> impl Strategy<Value = Modifiers> {
    let form = prop::option::of(prop::sample::select(vec![Form::Number, Form::Text]));
    (form, any::<bool>(), any::<bool>()).prop_map(|(form, respect_case, respect_accents)| {
        Modifiers { form, respect_case, respect_accents }
    })
}

fn field() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z.]{1,8}", "\\PC{0,8}"]
}

fn condition() -> impl Strategy<Value = Condition> {
    let relation = prop::sample::select(relations().collect::<Vec<_>>());
    let comparison = (field(), relation, modifiers(), vec(term_part(), 0..8)).prop_map(
        |(field, relation, modifiers, term)| {
            Condition::Comparison(Comparison { field, relation, modifiers, term: Term(term) })
        },
    );
    let leaf = prop_oneof![1 => Just(Condition::All), 9 => comparison];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let operator = prop::sample::select(Operator::ALL.to_vec());
        (inner.clone(), vec((operator, inner), 1..4)).prop_map(|(first, rest)| chain(first, rest))
    })
}

fn query() -> impl Strategy<Value = Query> {
    let key = (field(), any::<bool>(), modifiers())
        .prop_map(|(field, descending, modifiers)| SortKey { field, descending, modifiers });
    (condition(), vec(key, 0..3)).prop_map(|(condition, sort)| Query { condition, sort })
}

proptest! {
    #[test]
    fn printed_query_parses_to_the_same_query(query in query()) {
        let printed = query.to_string();
        prop_assume!(printed.len() <= QUERY_BYTES_MAX);
        prop_assert_eq!(parse(&printed), Ok(query));
    }

    #[test]
    fn no_text_panics_the_parser(text in any::<String>()) {
        if let Ok(query) = parse(&text) {
            prop_assert_eq!(parse(&query.to_string()), Ok(query));
        }
    }

    /// Mostly fragments of the query syntax.
    #[test]
    fn no_query_like_text_panics_the_parser(
        parts in vec(prop::sample::select(vec![
            "a", "name", "==", "=", "<>", "<=", " and ", " or ", "not ", "(", ")", "\"", "\\", "*",
            "sortby ", "/sort.descending", " ", "é", "cql.allRecords", "1", "/", "\0", "/number",
            " any ", " all", "adj", "/respectCase ",
        ]), 0..24),
    ) {
        if let Ok(query) = parse(&parts.concat()) {
            prop_assert_eq!(parse(&query.to_string()), Ok(query));
        }
    }
}
