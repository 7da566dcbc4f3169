//! Messages with unknown placeholders, and messages behind three others in a block window.

use patron_blocks::blocks::{
    Actions, Condition, Limit, Measure, Measures, SettingsFinding, evaluate,
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    BORROWING, CO, FB, Kind, LI, OI, OR, RD, RENEWALS, REQUESTS, check, conditions, limit, numbers,
};

#[test]
fn unknown_placeholders_are_found_with_the_similar_one() {
    for (message, expected) in [
        ("{measured} {limit} {toReturn} {toSettle} {overdue}", &[][..]),
        ("no placeholder } { here", &[]),
        ("{see the desk} {} { } {{", &[]),
        ("{{measured}} of {limit}", &[]),
        ("{meassured} of {limit}", &[("{meassured}", Some("{measured}"))]),
        (
            "{Limit} {to_return}",
            &[("{Limit}", Some("{limit}")), ("{to_return}", Some("{toReturn}"))],
        ),
        ("{ measured }", &[("{ measured }", Some("{measured}"))]),
        ("{0} {0} {name}", &[("{0}", None), ("{name}", None)]),
        ("{a{b} {12345678901234567890123456789012}", &[("{b}", None)]),
        ("{gemahnt} {überfällig}", &[("{gemahnt}", None), ("{überfällig}", None)]),
    ] {
        let mut conditions = conditions(&[(CO, Actions::ALL)]);
        conditions[0].message = message.to_owned();
        let findings = check(&[limit(1, "a", CO, 5.0)], &conditions, None);
        let effects: Vec<String> = findings.into_iter().map(|finding| finding.effect).collect();
        assert_eq!(effects.len(), expected.len(), "{message}: {effects:?}");
        for (effect, (placeholder, similar)) in effects.iter().zip(expected) {
            let end = match similar {
                Some(similar) => format!("the known placeholder is {similar}."),
                None => "{measured}, {limit}, {toReturn}, {toSettle}, {overdue}.".to_owned(),
            };
            assert!(effect.contains(placeholder) && effect.ends_with(&end), "{effect}");
        }
    }
    let many: String = (0..100).map(|n| format!("{{x{n}}}")).collect();
    let mut conditions = conditions(&[(CO, Actions::ALL)]);
    conditions[0].message = many;
    assert_eq!(check(&[limit(1, "a", CO, 5.0)], &conditions, None).len(), 10);
}

/// Each known placeholder is filled in, so the check and the evaluation agree.
#[test]
fn known_placeholders_are_filled_in() {
    let mut conditions = conditions(&[(CO, Actions::ALL)]);
    conditions[0].message = patron_blocks::blocks::PLACEHOLDERS.concat();
    let measures = Measures { open_loans: 3, charged_out: 3, ..Measures::default() };
    let limits = [limit(1, "a", CO, 1.0)];
    let findings = evaluate(&measures, &limits, &conditions);
    assert_eq!(findings[0].message(&measures), "31300");
}

fn hidden(limits: &[Limit], conditions: &[Condition]) -> Vec<(Kind, Vec<u128>)> {
    let findings = check(limits, conditions, None);
    let of_messages = |finding: &&SettingsFinding| {
        matches!(finding.kind, Kind::MessageHidden | Kind::MessageSometimesHidden)
    };
    findings.iter().filter(of_messages).map(|finding| (finding.kind, numbers(finding))).collect()
}

#[test]
fn fourth_message_of_an_action_is_hidden_at_times() {
    let all = Measure::ALL.map(|measure| (measure, Actions::ALL));
    let limits: Vec<Limit> =
        (1..).zip(Measure::ALL).map(|(n, measure)| limit(n, "a", measure, 5.0)).collect();
    let found = hidden(&limits, &conditions(&all));
    let sometimes = |n| (Kind::MessageSometimesHidden, vec![n]);
    let mut expected: Vec<(Kind, Vec<u128>)> = vec![sometimes(4), sometimes(5), sometimes(6)];
    let mut sorted = found.clone();
    sorted.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(sorted, expected);
    // The earlier limits block other actions.
    let mut by_action = all;
    by_action[0].1 = BORROWING;
    by_action[1].1 = RENEWALS;
    by_action[2].1 = REQUESTS;
    assert_eq!(hidden(&limits[..4], &conditions(&by_action[..4])), []);
    // Without the first limit, only the last two follow three others.
    expected.remove(0);
    let mut found = hidden(&limits[1..], &conditions(&all));
    found.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(found, expected);
}

#[test]
fn message_is_hidden_if_three_earlier_limits_are_reached_first() {
    let all = Measure::ALL.map(|measure| (measure, Actions::ALL));
    let conditions = conditions(&all);
    // Three overdue recalls are three overdue items and three items, and overdue for a day.
    let earlier = [(CO, 2.0), (OI, 2.0), (RD, 0.0)];
    let with = |measure, value| {
        let mut limits: Vec<Limit> =
            (1..).zip(earlier).map(|(n, (measure, value))| limit(n, "a", measure, value)).collect();
        limits.push(limit(4, "a", measure, value));
        let found = hidden(&limits, &conditions);
        found.into_iter().find(|(_, limits)| limits == &[4]).map(|(kind, _)| kind)
    };
    assert_eq!(with(OR, 2.0), Some(Kind::MessageHidden));
    assert_eq!(with(OR, 1.0), Some(Kind::MessageSometimesHidden), "two recalls reach no other");
    assert_eq!(with(LI, 2.0), Some(Kind::MessageSometimesHidden));
    assert_eq!(with(FB, 2.0), Some(Kind::MessageSometimesHidden));
}

/// ui-users shows the latest change first, and ui-requests the oldest limit.
#[test]
fn order_of_changes_decides_windows_of_loans() {
    let blocking = [(CO, BORROWING), (OI, BORROWING), (OR, BORROWING), (LI, BORROWING)];
    let dated = |n: u128, measure, day: u32| Limit {
        updated_date: Some(format!("2026-09-{day:02}T12:00:00.000+00:00")),
        ..limit(n, "a", measure, 5.0)
    };
    let limits = [dated(1, CO, 1), dated(2, OI, 2), dated(3, OR, 3), dated(4, LI, 4)];
    let sometimes = |n| vec![(Kind::MessageSometimesHidden, vec![n])];
    assert_eq!(hidden(&limits, &conditions(&blocking)), sometimes(1));
    let for_requests = blocking.map(|(measure, _)| (measure, REQUESTS));
    assert_eq!(hidden(&limits, &conditions(&for_requests)), sometimes(4));
    let mut undated = limits.clone();
    undated[0].updated_date = None;
    assert_eq!(
        hidden(&undated, &conditions(&blocking)),
        sometimes(2),
        "a limit without date is first"
    );
}

/// Returns the measures of patrons with some open item.
fn measures() -> impl Strategy<Value = Measures> {
    (0..5_i64, vec(any::<bool>(), 5), vec((any::<bool>(), 0..4_i64), 5), 0..4_i64).prop_map(
        |(charged_out, lost, overdue, balance)| {
            let count = charged_out as usize;
            let lost = lost[..count].iter().filter(|lost| **lost).count() as i64;
            let overdue: Vec<i64> = overdue[..count]
                .iter()
                .filter(|(overdue, _)| *overdue)
                .map(|(_, days)| *days)
                .collect();
            Measures {
                open_loans: charged_out,
                open_fees_fines: 1,
                charged_out,
                lost,
                overdue: overdue.len() as i64,
                overdue_recalls: overdue.iter().filter(|days| **days > 0).count() as i64,
                recall_days: overdue.into_iter().filter(|days| *days > 0).collect(),
                fee_fine_balance: balance.into(),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whenever a hidden limit blocks an action, three limits before it block the action as well.
    #[test]
    fn hidden_messages_follow_three_others(
        chosen in vec((select(Measure::ALL.to_vec()), select(vec![-1.0, 0.0, 0.5, 1.0, 2.0])), 4..8),
        patrons in vec(measures(), 20),
    ) {
        let limits: Vec<Limit> = (0..)
            .zip(chosen)
            .map(|(n, (measure, value))| limit(n, "a", measure, value))
            .collect();
        let conditions = conditions(&Measure::ALL.map(|measure| (measure, Actions::ALL)));
        let hidden = hidden(&limits, &conditions);
        let always = hidden.iter().filter(|(kind, _)| *kind == Kind::MessageHidden);
        let always: Vec<u128> = always.flat_map(|(_, limits)| limits.clone()).collect();
        for measures in &patrons {
            let findings = evaluate(measures, &limits, &conditions);
            for (position, finding) in findings.iter().enumerate() {
                if !always.contains(&finding.limit.id.as_u128()) {
                    continue;
                }
                for action in finding.blocked.iter() {
                    let before = findings[..position].iter().filter(|f| f.blocked.contains(action));
                    prop_assert!(before.count() >= 3, "{finding:?} of {measures:?}");
                }
            }
        }
    }
}
