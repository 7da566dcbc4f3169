//! Properties of explanations: the way out against brute force, and thresholds and `next` against the evaluation.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use patron_blocks::{
    blocks::{
        Action, Actions, Measure, Measure::FeeFineBalance as FB, OpenItems, Threshold, evaluate,
    },
    event::{Grace, GraceUnit},
    patron::OpenLoan,
};
use proptest::{collection::vec, prelude::*, sample::select};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::{DAY, Patron, ago, decimal, loan_id, now, patron, way_out};

fn any_loan() -> impl Strategy<Value = OpenLoan> {
    let due_date =
        select(vec![None, Some(-7 * DAY), Some(30), Some(DAY), Some(3 * DAY), Some(5 * DAY)]);
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    (due_date, flags).prop_map(|(due_date, (recall, lost, claimed_returned, has_grace))| OpenLoan {
        user: Uuid::nil(),
        due_date: due_date.map(ago),
        grace: has_grace.then_some(Grace { duration: 1, unit: GraceUnit::Days }),
        recall,
        lost,
        claimed_returned,
    })
}

fn any_patron(loans_max: usize) -> impl Strategy<Value = Patron> {
    let value = select(vec![-1.0, 0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 4.0]);
    let limits = vec((select(Measure::ALL.to_vec()), value), 0..6);
    let loans = vec(any_loan(), 0..=loans_max);
    let fees = vec((-200_i64..400, proptest::option::of(0..8_u32)), 0..5);
    let flags = vec(prop::array::uniform3(prop::bool::weighted(0.8)), 6);
    (limits, loans, fees, flags).prop_map(|(limits, loans, fees, flags)| {
        let mut patron = patron(&limits);
        for (condition, [borrowing, renewals, requests]) in patron.conditions.iter_mut().zip(flags)
        {
            condition.blocks = Actions { borrowing, renewals, requests };
        }
        patron.items.loans = (0..).map(loan_id).zip(loans).collect();
        for (n, (cents, loan)) in (0..).zip(fees).filter(|(_, (cents, _))| *cents != 0) {
            patron = patron.owing(n, &Decimal::new(cents, 2).to_string(), loan);
        }
        patron
    })
}

/// Returns the smallest number of returns after which `action` is free, for any payment.
fn fewest_returns(patron: &Patron, action: Action) -> Option<usize> {
    let loans: Vec<_> = patron.items.loans.iter().collect();
    let sufficient = |subset: &u32| {
        let is_left = |n: usize| subset >> n & 1 == 0;
        let left = loans.iter().enumerate().filter(|(n, _)| is_left(*n));
        let items = OpenItems {
            loans: left.map(|(_, (id, loan))| (**id, **loan)).collect(),
            fees: patron.items.fees.clone(),
        };
        // A claimed loan that is returned makes its fees count; the question concerns loans alone.
        let findings = evaluate(&items.measures(now()), &patron.limits, &patron.conditions);
        let mut blocking = findings.iter().filter(|finding| finding.blocked.contains(action));
        blocking.all(|finding| finding.measure() == Some(FB))
    };
    (0..1_u32 << loans.len()).filter(sufficient).map(|subset| subset.count_ones() as usize).min()
}

proptest! {
    /// No smaller set of returns frees the action, and each alternative replaces a suggested loan.
    #[test]
    fn way_out_is_as_small_as_brute_force(patron in any_patron(7)) {
        patron.explained(|explanation| {
            for action in Action::ALL {
                let Some(way_out) = way_out(explanation, action) else { continue };
                if way_out.only_when_nothing_is_open {
                    continue;
                }
                let returns = way_out.returns.clone();
                let suggested = returns.as_ref().map_or(0, |returns| returns.suggested.len());
                assert_eq!(Some(suggested), fewest_returns(&patron, action), "{patron:?} {way_out:?}");
                let Some(returns) = returns else { continue };
                for alternative in &returns.alternatives {
                    let replaces = |index: &usize| {
                        let mut replaced = way_out.clone();
                        replaced.returns.as_mut().unwrap().suggested[*index] = *alternative;
                        !patron.is_blocked(&replaced.apply(&patron.items), action)
                    };
                    let mut indexes = returns.required.len()..suggested;
                    assert!(indexes.any(|index| replaces(&index)), "{patron:?} {alternative}");
                }
            }
        });
    }

    /// If any of the loans suffice, every choice of that many loans frees the action.
    #[test]
    fn any_choice_of_loans_suffices_where_a_way_out_names_any(patron in any_patron(7)) {
        patron.explained(|explanation| {
            for action in Action::ALL {
                let Some(way_out) = way_out(explanation, action) else { continue };
                let Some(returns) = way_out.returns.as_ref().filter(|returns| returns.is_any) else {
                    continue;
                };
                let choice: Vec<_> =
                    returns.suggested.iter().chain(&returns.alternatives).copied().collect();
                let count = returns.suggested.len();
                for subset in 0..1_u32 << choice.len() {
                    if subset.count_ones() as usize != count {
                        continue;
                    }
                    let chosen = (0..choice.len()).filter(|n| subset >> n & 1 == 1);
                    let mut other = way_out.clone();
                    other.returns.as_mut().unwrap().suggested =
                        chosen.map(|n| choice[n]).collect();
                    assert!(!patron.is_blocked(&other.apply(&patron.items), action), "{patron:?}");
                }
            }
        });
    }

    /// Where only nothing open frees the action, no smaller set of returns and payments does.
    #[test]
    fn nothing_open_is_required_only_if_nothing_else_helps(mut patron in any_patron(5)) {
        for fee in patron.items.fees.values_mut() {
            fee.balance = fee.balance.abs();
        }
        patron.explained(|explanation| {
            for action in Action::ALL {
                let Some(way_out) = way_out(explanation, action) else { continue };
                if !way_out.only_when_nothing_is_open {
                    continue;
                }
                let loans: Vec<_> = patron.items.loans.keys().collect();
                let fees: Vec<_> = patron.items.fees.keys().collect();
                for subset in 0..(1_u32 << (loans.len() + fees.len())) - 1 {
                    let mut items = patron.items.clone();
                    let removed = |n: usize| subset >> n & 1 == 1;
                    for (n, loan) in loans.iter().enumerate().filter(|(n, _)| removed(*n)) {
                        let _ = (n, items.loans.remove(loan));
                    }
                    for (n, fee) in fees.iter().enumerate() {
                        if removed(loans.len() + n) {
                            items.fees.remove(*fee);
                        }
                    }
                    let is_empty = items.measures(now()).is_empty();
                    assert!(is_empty || patron.is_blocked(&items, action), "{patron:?} {subset:b}");
                }
            }
        });
    }

    /// A limit is reached exactly from its threshold on.
    #[test]
    fn thresholds_agree_with_the_evaluation(patron in any_patron(7)) {
        patron.explained(|explanation| {
            for limit in &explanation.limits {
                let finding = &limit.finding;
                for action in Action::ALL {
                    let measured = finding.measured.unwrap().to_json().to_string();
                    let measured = decimal(&measured);
                    let reached = match finding.threshold(action).unwrap() {
                        Threshold::Count(count) => measured >= Decimal::from(count),
                        Threshold::Above(limit) => measured > limit,
                    };
                    assert_eq!(reached, finding.reached.contains(action), "{patron:?} {finding:?}");
                }
            }
        });
    }

    /// The numbers of a message are those of the way out, if the limit were the only one.
    #[test]
    fn numbers_of_a_message_are_those_of_the_way_out(patron in any_patron(7)) {
        let measures = patron.items.measures(now());
        for limit in &patron.limits {
            let alone = Patron { limits: vec![limit.clone()], ..patron.clone() };
            alone.explained(|explanation| {
                let Some(explained) = explanation.limits.first() else { return };
                let finding = &explained.finding;
                let ways_out: Vec<_> =
                    Action::ALL.iter().filter_map(|action| way_out(explanation, *action)).collect();
                let returns = ways_out.iter().filter_map(|way_out| way_out.returns.as_ref());
                let loans = returns.map(|returns| returns.suggested.len()).max().unwrap_or_default();
                let payments = ways_out.iter().filter_map(|way_out| way_out.payment.as_ref());
                let amount = payments.map(|payment| payment.amount).max().unwrap_or_default();
                let is_whole = ways_out.iter().any(|way_out| way_out.only_when_nothing_is_open);
                if finding.measure() != Some(FB) {
                    assert_eq!(finding.loans_to_return(&measures), loans as i64, "{alone:?}");
                    assert_eq!(finding.amount_to_pay(&measures), Decimal::ZERO);
                } else {
                    assert_eq!(finding.loans_to_return(&measures), 0);
                    let whole = measures.fee_fine_balance.max(Decimal::ZERO);
                    let expected = if is_whole { whole } else { amount };
                    assert_eq!(finding.amount_to_pay(&measures), expected.min(whole), "{alone:?}");
                }
            });
        }
    }

    /// After the way out, one more check-out blocks by the named measures and no others.
    #[test]
    fn one_more_check_out_blocks_by_the_named_measures(patron in any_patron(7)) {
        patron.explained(|explanation| {
            for action in Action::ALL {
                let Some(way_out) = way_out(explanation, action) else { continue };
                let mut after = patron.clone();
                after.items = way_out.apply(&patron.items);
                let after = after.loans(100..=100);
                let measures = after.items.measures(now());
                let findings = evaluate(&measures, &after.limits, &after.conditions);
                let blocking = findings.iter().filter(|finding| finding.blocked.contains(action));
                let measures: BTreeSet<_> = blocking.filter_map(|finding| finding.measure()).collect();
                assert_eq!(way_out.one_more_blocks, measures.into_iter().collect::<Vec<_>>());
            }
        });
    }

    /// A limit counts as many items as its measure, and each other item has a reason.
    #[test]
    fn counted_items_are_the_measured_number(patron in any_patron(7)) {
        patron.explained(|explanation| {
            let (loans, fees) = (patron.items.loans.len(), patron.items.fees.len());
            for limit in &explanation.limits {
                let measured = limit.finding.measured.unwrap().to_json();
                let left_out: usize = limit.left_out.values().sum();
                match limit.finding.measure().unwrap() {
                    Measure::FeeFineBalance => assert_eq!(limit.counted + left_out, fees),
                    Measure::RecallOverdueDays => assert_eq!(limit.counted + left_out, loans),
                    _ => {
                        assert_eq!(measured, limit.counted);
                        assert_eq!(limit.counted + left_out, loans);
                    }
                }
            }
            for loan in &explanation.loans {
                let is_overdue = loan.counts_for.contains(&Measure::OverdueItems);
                assert_eq!(is_overdue, loan.left_out.is_none());
                assert!(!is_overdue || loan.overdue_days > 0);
            }
        });
    }

    /// Until `next`, time alone changes no action; then it does.
    #[test]
    fn next_is_the_first_block_that_time_causes(patron in any_patron(7)) {
        patron.explained(|explanation| {
            let blocked = |at| -> Vec<_> {
                let findings = evaluate(&patron.items.measures(at), &patron.limits, &patron.conditions);
                findings.iter().map(|finding| finding.blocked).collect()
            };
            match explanation.next {
                Some(next) => {
                    assert_eq!(blocked(next.at - TimeDelta::milliseconds(1)), blocked(now()));
                    assert_ne!(blocked(next.at), blocked(now()));
                }
                None => assert_eq!(blocked(now() + TimeDelta::days(1000)), blocked(now())),
            }
        });
    }
}
