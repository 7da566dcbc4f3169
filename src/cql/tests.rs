use proptest::{collection::vec, prelude::*};

use super::*;

fn is(field: &str, term: &str) -> Condition {
    compared(field, Relation::Is, term)
}

fn compared(field: &str, relation: Relation, term: &str) -> Condition {
    let term = Term::literal(term);
    Condition::Comparison(Comparison { field: field.to_owned(), relation, term })
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
fn all_records_are_asked_for_by_nothing_or_by_name() {
    for text in ["", "  ", "cql.allRecords=1", " CQL.ALLRECORDS == \"1\" ", "(cql.allrecords=1)"] {
        assert_eq!(read(text), Condition::All, "{text}");
    }
    let sorted = parse("SortBy name value/Sort.Descending").unwrap();
    let key = |field: &str, descending| Key { field: field.to_owned(), descending };
    assert_eq!(sorted.condition, Condition::All);
    assert_eq!(sorted.sort, [key("name", false), key("value", true)]);
}

#[test]
fn operators_join_from_left_to_right_unless_there_are_parentheses() {
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
fn relations_and_terms_are_read_to_the_letter() {
    for relation in Relation::ALL {
        let text = format!("value {} 7", relation.sign());
        assert_eq!(read(&text), compared("value", relation, "7"), "{text}");
        assert_eq!(read(&text.replace(' ', "")), compared("value", relation, "7"), "{text}");
    }
    assert_eq!(read(r#"name=="a \"b\" \\ \* and""#), is("name", r#"a "b" \ * and"#));
    assert_eq!(read("name==\"\""), is("name", ""));
    assert_eq!(
        read("metadata.updatedDate==2026-01-01T00:00:00.000+00:00").to_string(),
        "\"metadata.updatedDate\"==\"2026-01-01T00:00:00.000+00:00\""
    );
    let Condition::Comparison(wild) = read("name==L?st*") else { panic!("it is one comparison") };
    let (c, any, one) = (Letter::Char, Letter::Any, Letter::One);
    assert_eq!(wild.term.0, [c('L'), one, c('s'), c('t'), any]);
    assert_eq!(wild.term.text(), None);
}

#[test]
fn an_error_points_at_the_character_and_says_what_would_fit() {
    for (text, character, expected) in [
        ("name", 5, "a relation (==, =, <>, <, <=, > or >=)"),
        ("name ~ x", 6, "a relation (==, =, <>, <, <=, > or >=)"),
        ("name==", 7, "a value or ("),
        ("name== )", 8, "a value or ("),
        ("name==/x", 7, "a value or ("),
        ("é==1 and", 9, "a field name or ("),
        ("a==1 b==2", 6, "and, or, not, sortby or the end"),
        ("(a==1", 6, "and, or, not or )"),
        ("a==1)", 5, "and, or, not, sortby or the end"),
        ("a==\"x", 6, "a closing \""),
        ("a==x\\", 5, "and, or, not, sortby or the end"),
        ("a==\"x\0\"", 6, "a closing \""),
        ("a==1 sortby", 12, "a field to sort by"),
        ("a==1 sortby x/up", 15, "sort.ascending or sort.descending"),
        ("a==1 sortby x)", 14, "a field to sort by or the end"),
        ("cql.allRecords=0", 16, "cql.allRecords=1"),
        ("cql.allRecords<>1", 17, "cql.allRecords=1"),
        ("and", 4, "a relation (==, =, <>, <, <=, > or >=)"),
        ("=", 1, "a field name or ("),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!((error.character, error.expected), (character, expected), "{text}");
    }
    let said = parse("name==a nam==b").unwrap_err().to_string();
    assert_eq!(
        said,
        "query: expected and, or, not, sortby or the end at character 9, but found \"nam==b\""
    );
    let said = parse("name==").unwrap_err().to_string();
    assert_eq!(said, "query: expected a value or ( at character 7, but the query ends there");
}

#[test]
fn length_and_depth_are_bounded() {
    let nested = |depth| format!("{}a==1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(read(&nested(DEPTH_MOST)), is("a", "1"));
    let error = parse(&nested(DEPTH_MOST + 1)).unwrap_err();
    assert_eq!(error.character, DEPTH_MOST + 1);
    let long = |length: usize| format!("a=={}", "é".repeat((length - 3) / 2));
    assert!(parse(&long(LENGTH_MOST)).is_ok());
    let error = parse(&long(LENGTH_MOST + 2)).unwrap_err();
    assert!(error.expected.contains(&LENGTH_MOST.to_string()), "{error}");
    assert!(parse(&"(".repeat(LENGTH_MOST)).is_err());
}

fn letter() -> impl Strategy<Value = Letter> {
    let char =
        any::<char>().prop_filter("not in a database", |c| *c != '\0').prop_map(Letter::Char);
    let odd = prop::sample::select(r#""\*?()=<>/ anot"#.chars().collect::<Vec<_>>());
    prop_oneof![char, odd.prop_map(Letter::Char), Just(Letter::Any), Just(Letter::One)]
}

fn field() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z.]{1,8}", "\\PC{0,8}"]
}

fn condition() -> impl Strategy<Value = Condition> {
    let relation = prop::sample::select(Relation::ALL.to_vec());
    let comparison =
        (field(), relation, vec(letter(), 0..8)).prop_map(|(field, relation, term)| {
            Condition::Comparison(Comparison { field, relation, term: Term(term) })
        });
    let leaf = prop_oneof![1 => Just(Condition::All), 9 => comparison];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let operator = prop::sample::select(Operator::ALL.to_vec());
        (inner.clone(), vec((operator, inner), 1..4)).prop_map(|(first, rest)| chain(first, rest))
    })
}

fn query() -> impl Strategy<Value = Query> {
    let key = (field(), any::<bool>()).prop_map(|(field, descending)| Key { field, descending });
    (condition(), vec(key, 0..3)).prop_map(|(condition, sort)| Query { condition, sort })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_as_the_same(query in query()) {
        let printed = query.to_string();
        prop_assume!(printed.len() <= LENGTH_MOST);
        prop_assert_eq!(parse(&printed), Ok(query));
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        if let Ok(query) = parse(&text) {
            prop_assert_eq!(parse(&query.to_string()), Ok(query));
        }
    }

    /// Mostly what a query is made of.
    #[test]
    fn nor_does_a_text_of_its_own_signs(
        parts in vec(prop::sample::select(vec![
            "a", "name", "==", "=", "<>", "<=", " and ", " or ", "not ", "(", ")", "\"", "\\", "*",
            "sortby ", "/sort.descending", " ", "é", "cql.allRecords", "1", "/", "\0",
        ]), 0..24),
    ) {
        if let Ok(query) = parse(&parts.concat()) {
            prop_assert_eq!(parse(&query.to_string()), Ok(query));
        }
    }
}
