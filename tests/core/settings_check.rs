//! The check of settings: each kind of finding with its effect.

mod messages;

use Measure::{
    ChargedOut as CO, FeeFineBalance as FB, LostItems as LI, OverdueItems as OI,
    OverdueRecalls as OR, RecallOverdueDays as RD,
};
use SettingsFindingKind as Kind;
use patron_blocks::blocks::{
    Actions, Condition, Limit, Measure, PatronGroup, Settings, SettingsFinding,
    SettingsFindingKind, Severity, check_settings,
};
use uuid::Uuid;

use crate::support::policy;

const BORROWING: Actions = Actions { borrowing: true, ..Actions::NONE };
const REQUESTS: Actions = Actions { requests: true, ..Actions::NONE };
const RENEWALS: Actions = Actions { renewals: true, ..Actions::NONE };

fn limit(n: u128, group: &str, measure: Measure, value: f64) -> Limit {
    Limit { patron_group: group.to_owned(), ..policy::limit(n, measure, value) }
}

/// Returns the six conditions; those with actions have a message.
fn conditions(blocking: &[(Measure, Actions)]) -> Vec<Condition> {
    let condition = |measure: Measure| {
        let blocks = blocking.iter().find(|(blocking, _)| *blocking == measure);
        let blocks = blocks.map_or(Actions::NONE, |(_, blocks)| *blocks);
        let message = if blocks.is_empty() { "" } else { "Too many" };
        Condition { message: message.to_owned(), ..policy::condition(measure, blocks) }
    };
    Measure::ALL.map(condition).to_vec()
}

fn groups(ids: &[&str]) -> Vec<PatronGroup> {
    let group = |id: &&str| PatronGroup { id: (*id).to_owned(), name: format!("name of {id}") };
    ids.iter().map(group).collect()
}

fn check(
    limits: &[Limit],
    conditions: &[Condition],
    groups: Option<&[PatronGroup]>,
) -> Vec<SettingsFinding> {
    check_settings(&Settings {
        limits,
        unreadable_limits: 0,
        conditions,
        unreadable_conditions: 0,
        groups,
    })
}

fn kinds(findings: &[SettingsFinding]) -> Vec<Kind> {
    findings.iter().map(|finding| finding.kind).collect()
}

fn numbers(finding: &SettingsFinding) -> Vec<u128> {
    finding.limits.iter().map(|id| id.as_u128()).collect()
}

/// Returns kind and effect of the only finding.
fn only(findings: &[SettingsFinding]) -> (Kind, &str) {
    let [finding] = findings else { panic!("one finding: {findings:?}") };
    (finding.kind, &finding.effect)
}

#[test]
fn default_settings_have_no_finding() {
    assert_eq!(check(&[], &conditions(&[]), None), []);
    assert_eq!(check(&[], &conditions(&[]), Some(&groups(&["a", "b"]))), []);
    assert_eq!(check(&[], &[], Some(&[])), []);
}

#[test]
fn usual_settings_have_no_finding() {
    let all = Measure::ALL.map(|measure| (measure, Actions::ALL));
    let limits: Vec<Limit> =
        (0..).zip(&all[..3]).map(|(n, (measure, _))| limit(n, "a", *measure, 5.0)).collect();
    assert_eq!(check(&limits, &conditions(&all[..3]), Some(&groups(&["A"]))), []);
    let balance = [limit(1, "a", FB, 10.4), limit(2, "b", FB, 0.0)];
    assert_eq!(check(&balance, &conditions(&[(FB, Actions::ALL)]), None), []);
    let zero = [limit(1, "a", LI, 0.0), limit(2, "a", OI, 0.0), limit(3, "a", OR, 0.0)];
    let blocking = [(LI, Actions::ALL), (OI, Actions::ALL), (OR, Actions::ALL)];
    assert_eq!(check(&zero, &conditions(&blocking), None), [], "0 items is a usual limit");
}

#[test]
fn values_that_cannot_be_right_are_found_with_their_effect() {
    let both = Actions { requests: false, ..Actions::ALL };
    let others = Actions { borrowing: false, ..Actions::ALL };
    for (measure, value, blocks, kind, effect) in [
        (
            CO,
            0.0,
            Actions::ALL,
            Kind::ChargedOutZero,
            "The limit 0 blocks borrowing for every patron of the group with an open loan or fee/fine, and renewals \
             and requests from the first item.",
        ),
        (
            CO,
            -0.0,
            BORROWING,
            Kind::ChargedOutZero,
            "The limit 0 blocks borrowing for every patron of the group with an open loan or fee/fine.",
        ),
        (
            CO,
            0.0,
            others,
            Kind::ChargedOutZero,
            "The limit 0 blocks renewals and requests for every patron of the group with an item charged out.",
        ),
        (
            RD,
            0.0,
            REQUESTS,
            Kind::RecallDaysZero,
            "The limit 0 blocks requests for a patron of the group from the first overdue minute of a recalled item.",
        ),
        (
            OI,
            2.5,
            both,
            Kind::FractionalValue,
            "The limit 2.5 blocks borrowing and renewals from 3 overdue items for patrons of the group.",
        ),
        (
            CO,
            0.5,
            Actions::ALL,
            Kind::FractionalValue,
            "The limit 0.5 blocks borrowing, renewals and requests from 1 item for patrons of the group.",
        ),
        (
            RD,
            1.25,
            RENEWALS,
            Kind::FractionalValue,
            "The limit 1.25 blocks renewals from 2 days for patrons of the group.",
        ),
        (
            LI,
            -1.0,
            BORROWING,
            Kind::NegativeValue,
            "The limit -1 blocks borrowing for every patron of the group with an open loan or fee/fine.",
        ),
        (
            FB,
            -0.5,
            BORROWING,
            Kind::NegativeValue,
            "The limit -0.5 blocks borrowing for every patron of the group with an open loan or fee/fine.",
        ),
        (
            RD,
            -3.0,
            BORROWING,
            Kind::NegativeValue,
            "The limit -3 works as 0: it blocks borrowing for a patron of the group with any overdue recall.",
        ),
    ] {
        let findings =
            check(&[limit(7, "a", measure, value)], &conditions(&[(measure, blocks)]), None);
        assert_eq!(only(&findings), (kind, effect));
        let finding = &findings[0];
        assert_eq!((finding.condition, numbers(finding)), (Some(measure.condition_id()), vec![7]));
        assert_eq!(finding.groups, ["a"]);
    }
}

/// The condition without actions has a finding; a whole value has no other.
#[test]
fn values_of_conditions_without_actions_block_no_patron() {
    for (value, kind) in
        [(0.0, None), (2.5, Some(Kind::FractionalValue)), (-1.0, Some(Kind::NegativeValue))]
    {
        let findings = check(&[limit(1, "a", CO, value)], &conditions(&[]), None);
        let expected: Vec<Kind> = kind.into_iter().chain([Kind::ConditionBlocksNothing]).collect();
        let mut found = kinds(&findings);
        found.sort_by_key(|kind| *kind == Kind::ConditionBlocksNothing);
        assert_eq!(found, expected, "{value}");
        let with_value = findings.iter().filter(|finding| Some(finding.kind) == kind);
        for finding in with_value {
            assert!(finding.effect.contains("condition blocks no action"), "{finding:?}");
        }
    }
}

#[test]
fn limits_without_value_or_known_condition_block_no_patron() {
    let no_value = Limit { value: None, ..limit(1, "a", CO, 0.0) };
    let no_condition = Limit { condition: None, ..limit(2, "a", CO, 1.0) };
    let other_condition = Limit { condition: Some(Uuid::from_u128(9)), ..limit(3, "b", CO, -1.0) };
    let mut known = conditions(&[(CO, Actions::ALL)]);
    let limits = [no_value, no_condition, other_condition, limit(4, "b", CO, 5.0)];
    let expected = [Kind::LimitWithoutValue, Kind::UnknownCondition, Kind::UnknownCondition];
    assert_eq!(kinds(&check(&limits, &known, None)), expected);
    // A seventh condition has no measure.
    known.push(Condition {
        id: Uuid::from_u128(9),
        blocks: Actions::ALL,
        message: "{x}".to_owned(),
    });
    let findings = check(&limits, &known, None);
    assert_eq!(kinds(&findings), expected);
    assert_eq!(findings.iter().map(|f| numbers(f)[0]).collect::<Vec<_>>(), [1, 2, 3]);
    known.retain(|condition| condition.id != CO.condition_id());
    assert_eq!(kinds(&check(&limits, &known, None)), [Kind::UnknownCondition; 4]);
}

#[test]
fn unreadable_records_are_counted() {
    let settings = Settings {
        limits: &[],
        unreadable_limits: 2,
        conditions: &[],
        unreadable_conditions: 1,
        groups: None,
    };
    let findings = check_settings(&settings);
    assert_eq!(kinds(&findings), [Kind::UnreadableLimit, Kind::UnreadableCondition]);
    assert_eq!(
        findings[0].effect,
        "The service ignores 2 limits, because a limit needs an id and a patron group; an ignored limit blocks no \
         patron."
    );
    assert!(findings[1].effect.starts_with("The service ignores 1 condition, because"));
}

#[test]
fn several_limits_of_a_pair_are_one_finding() {
    let conditions = conditions(&[(CO, Actions::ALL), (FB, Actions::ALL)]);
    let [first, second] = [limit(1, "a", CO, 5.0), limit(2, "A", CO, 4.0)];
    let others = [limit(3, "b", CO, 4.0), limit(4, "a", FB, 4.0), limit(5, "b", FB, 4.0)];
    let with = |more: &[Limit]| [more, &others].concat();
    let findings = check(&with(&[first.clone(), second.clone()]), &conditions, None);
    assert_eq!(
        only(&findings),
        (
            Kind::DuplicateLimit,
            "Each of the 2 limits counts: 4 blocks first, and a patron above several has a block for each."
        )
    );
    assert_eq!((numbers(&findings[0]), &*findings[0].groups), (vec![1, 2], &["a".to_owned()][..]));
    let same = Limit { value: Some(5.0), ..second.clone() };
    let findings = check(&with(&[first.clone(), same]), &conditions, None);
    assert!(only(&findings).1.contains("several blocks with one message"));
    let none = Limit { value: None, ..second };
    let findings = check(&with(&[first.clone(), none.clone()]), &conditions, None);
    assert_eq!(kinds(&findings), [Kind::LimitWithoutValue, Kind::DuplicateLimit]);
    assert!(findings[1].effect.starts_with("Only 5 counts"));
    let nothing = Limit { value: None, ..first };
    let findings = check(&with(&[nothing, none]), &conditions, None);
    assert!(findings[2].effect.starts_with("The 2 limits have no value"));
}

#[test]
fn limits_of_missing_groups_have_one_finding() {
    let conditions = conditions(&[(CO, Actions::ALL)]);
    let gone = [limit(1, "gone", CO, 0.0), limit(2, "GONE", CO, -1.0), limit(3, "gone", OI, 2.5)];
    let limits = [&gone[..], &[limit(4, "AB", CO, 5.0)]].concat();
    let known = groups(&["ab"]);
    let findings = check(&limits, &conditions, Some(&known));
    assert_eq!(
        only(&findings),
        (
            Kind::UnknownGroup,
            "The users module has no such patron group, so its 3 limits block no patron."
        )
    );
    let finding = &findings[0];
    assert_eq!((numbers(finding), &*finding.groups), (vec![1, 2, 3], &["gone".to_owned()][..]));
    assert_eq!(finding.condition, None);
    // Without the list of groups no group is missing, and its limits have other findings.
    let unknown = check(&limits, &conditions, None);
    assert!(!kinds(&unknown).contains(&Kind::UnknownGroup));
    assert!(kinds(&unknown).contains(&Kind::ChargedOutZero));
    let findings = check(&limits[..1], &conditions, Some(&[]));
    assert_eq!(kinds(&findings), [Kind::UnknownGroup, Kind::GroupWithoutLimit]);
    assert!(findings[0].effect.ends_with("so its limit blocks no patron."));
}

#[test]
fn groups_after_the_200th_are_not_listed() {
    let ids: Vec<String> = (0..202).map(|n| format!("group {n:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let limits = [limit(1, "group 000", OI, 3.0), limit(2, "GROUP 200", OI, 3.0)];
    let conditions = conditions(&[]);
    let with = |count: usize| {
        let findings = check(&limits, &conditions, Some(&groups(&ids[..count])));
        let unlisted = findings.into_iter().find(|found| found.kind == Kind::GroupNotListed);
        unlisted.map(|found| (found.groups.clone(), numbers(&found), found.effect))
    };
    assert_eq!(with(200), None);
    let (groups, limits, effect) = with(201).unwrap();
    assert_eq!((groups, limits), (vec!["group 200".to_owned()], vec![2]));
    assert_eq!(
        effect,
        "The settings pages list 200 patron groups, so staff cannot see or change the limits of this group there."
    );
    let (groups, _, effect) = with(202).unwrap();
    assert_eq!(groups.len(), 2);
    assert!(effect.ends_with("the limits of these 2 groups there."));
}

#[test]
fn conditions_without_actions_have_no_effect() {
    let mut conditions = conditions(&[]);
    conditions[0].message = " Too many ".to_owned();
    conditions[1].message = " \t".to_owned();
    let limits = [limit(1, "a", CO, 5.0), limit(2, "A", CO, 0.0), limit(3, "b", CO, 7.0)];
    let findings = check(&limits[1..], &conditions, None);
    assert_eq!(kinds(&findings), [Kind::ConditionBlocksNothing, Kind::MessageWithoutAction]);
    assert_eq!(
        findings[0].effect,
        "The condition blocks no action, so its 2 limits block no patron."
    );
    assert_eq!((numbers(&findings[0]), findings[0].groups.len()), (vec![2, 3], 2));
    assert_eq!(findings[1].condition, Some(CO.condition_id()));
    let findings = check(&limits, &conditions, None);
    assert_eq!(findings[1].groups, ["a", "b"], "one group in upper and lower case");
    assert_eq!(kinds(&check(&[], &conditions, None)), [Kind::MessageWithoutAction]);
}

#[test]
fn groups_without_limit_of_a_blocking_condition_are_listed() {
    let conditions = conditions(&[(CO, BORROWING), (FB, Actions::ALL)]);
    let limits = [limit(1, "A", CO, 5.0), limit(2, "b", FB, 5.0), limit(3, "a", FB, 5.0)];
    let known = groups(&["a", "b", "c"]);
    let found = |limits: &[Limit], known: Option<&[PatronGroup]>| {
        let findings = check(limits, &conditions, known);
        assert!(findings.iter().all(|finding| finding.kind == Kind::GroupWithoutLimit));
        let of = |f: SettingsFinding| {
            (Measure::from_condition_id(f.condition.unwrap()).unwrap(), f.groups, f.effect)
        };
        findings.into_iter().map(of).collect::<Vec<_>>()
    };
    let [charged_out, balance] = &found(&limits, Some(&known))[..] else { panic!("two findings") };
    assert_eq!((charged_out.0, &*charged_out.1), (CO, &["b".to_owned(), "c".to_owned()][..]));
    assert_eq!(
        charged_out.2,
        "The condition blocks borrowing, and these 2 patron groups have no limit of it, so it never blocks their \
         patrons."
    );
    assert_eq!((balance.0, &*balance.1), (FB, &["c".to_owned()][..]));
    assert!(
        balance.2.contains("borrowing, renewals and requests, and this patron group has no limit")
    );
    let [charged_out] = &found(&limits, None)[..] else { panic!("only groups with limits") };
    assert_eq!((charged_out.0, &*charged_out.1), (CO, &["b".to_owned()][..]));
    for known in [None, Some(&known[..])] {
        let all = found(&[], known);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].1.len(), known.map_or(0, <[_]>::len));
        assert!(all[0].2.ends_with("no patron group has a limit of it, so it blocks no patron."));
    }
}

#[test]
fn findings_are_ordered_by_severity() {
    assert!(Kind::ALL.is_sorted());
    assert!(Kind::ALL.iter().map(|kind| kind.severity()).is_sorted());
    let mut names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Kind::ALL.len());
    let page = include_str!("../../docs/operations.md");
    for kind in Kind::ALL {
        let row = format!("| `{}` | {} |", kind.name(), kind.severity().name());
        assert!(page.contains(&row), "docs/operations.md lacks {row}");
    }
    let limits = [limit(1, "a", CO, 0.0), limit(2, "a", OI, -1.0), limit(3, "b", CO, 3.0)];
    let findings = check(&limits, &conditions(&[(CO, Actions::ALL), (OI, Actions::ALL)]), None);
    let severities: Vec<Severity> = findings.iter().map(|f| f.kind.severity()).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning, Severity::Info]);
}

/// Nothing about the settings makes the check slow or panic.
#[test]
fn extreme_settings_are_checked() {
    let values = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, 1e15 + 0.5, -f64::MIN_POSITIVE];
    let conditions = conditions(&Measure::ALL.map(|measure| (measure, Actions::ALL)));
    let all = Measure::ALL.iter().flat_map(|measure| values.map(|value| (*measure, value)));
    let limits: Vec<Limit> =
        (0..).zip(all).map(|(n, (measure, value))| limit(n, "a", measure, value)).collect();
    let found = check(&limits, &conditions, None);
    assert_eq!(found.iter().filter(|f| f.kind == Kind::NegativeValue).count(), 12);
    let thousands: Vec<Limit> = (0..20_000).map(|n| limit(n, "a", CO, 5.0)).collect();
    assert_eq!(
        check(&thousands, &conditions, None)
            .iter()
            .filter(|f| f.kind == Kind::DuplicateLimit)
            .count(),
        1
    );
}
