//! H1 to H7, H17 and H18: events overtake each other, and clocks differ.

use patron_blocks::event::Kind;
use serde_json::json;
use uuid::Uuid;

use super::{
    ALL, NONE, SHAPES, Shape, balances, draft, has_nothing, minutes_ago, only_loan, open, say,
    strict_group,
};
use crate::{
    facts::{about, check_out, done, due, enveloped, fee, held, minutes_from_now},
    log::Draft,
    world::World,
};

const ENDS: [Kind; 2] = [Kind::ItemCheckedIn, Kind::LoanClosed];
const OUT: Kind = Kind::ItemCheckedOut;
const DUE: Kind = Kind::LoanDueDateChanged;
const FEE: Kind = Kind::FeeFineBalanceChanged;

#[tokio::test(flavor = "multi_thread")]
async fn h01_a_check_in_or_a_closing_that_overtakes_the_check_out_keeps_the_loan_closed() {
    World::tell(async |world| {
        let group = strict_group(world).await;
        let mut patrons = Vec::new();
        for shape in SHAPES {
            for (end, ended_ago) in ENDS.into_iter().flat_map(|end| [(end, 5), (end, 30)]) {
                let (user, loan) = (world.users.patron(group), Uuid::new_v4());
                say(world, shape, minutes_ago(ended_ago), end, &about(user, loan)).await;
                patrons.push((shape, user, loan));
            }
        }
        world.settled().await;
        for (shape, user, loan) in &patrons {
            has_nothing(world, *user, "an end alone").await;
            let out = check_out(*user, *loan, &minutes_from_now(60));
            say(world, *shape, minutes_ago(20), OUT, &out).await;
        }
        world.settled().await;
        for (shape, user, _) in patrons {
            has_nothing(world, user, &format!("{shape:?}")).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h02_a_check_out_delivered_again_after_the_end_opens_nothing() {
    World::tell(async |world| {
        let group = strict_group(world).await;
        let mut patrons = Vec::new();
        for end in ENDS {
            let (user, loan) = (world.users.patron(group), Uuid::new_v4());
            let out = check_out(user, loan, &minutes_from_now(60));
            let envelope = enveloped(&out, minutes_ago(30));
            world.publish(OUT, &envelope).await;
            patrons.push((end, user, loan, out, envelope));
        }
        world.settled().await;
        for (end, user, loan, ..) in &patrons {
            assert_eq!(world.blocks(*user).await, ALL, "while it is open");
            say(world, Shape::Bare, minutes_ago(20), *end, &about(*user, *loan)).await;
        }
        world.settled().await;
        for (_, user, _, out, envelope) in &patrons {
            has_nothing(world, *user, "once it has ended").await;
            world.publish(OUT, envelope).await;
            // As a producer would resend it: with an old time, with the present one, and as news.
            say(world, Shape::Bare, minutes_ago(30), OUT, out).await;
            world.publish(OUT, out).await;
            world.publish(OUT, &enveloped(out, minutes_ago(0))).await;
        }
        world.settled().await;
        for (_, user, ..) in patrons {
            has_nothing(world, user, "however often it comes again").await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h03_what_comes_before_the_check_out_waits_and_then_counts() {
    World::tell(async |world| {
        let group = strict_group(world).await;
        let (first, moved) = (minutes_from_now(60), minutes_from_now(2000));
        let mut patrons = Vec::new();
        for shape in SHAPES {
            // Older and newer than the check-out.
            for ago in [30, 10] {
                for (kind, by_recall, expected) in [
                    (Kind::ItemDeclaredLost, None, (&first, [false, true, false])),
                    (Kind::ItemAgedToLost, None, (&first, [false, true, false])),
                    (Kind::ItemClaimedReturned, None, (&first, [false, false, true])),
                    (DUE, Some(true), (&moved, [true, false, false])),
                    (DUE, Some(false), (&moved, [false, false, false])),
                ] {
                    let (user, loan) = (world.users.patron(group), Uuid::new_v4());
                    let payload = match by_recall {
                        Some(by_recall) => due(user, loan, &moved, by_recall),
                        None => about(user, loan),
                    };
                    say(world, shape, minutes_ago(ago), kind, &payload).await;
                    patrons.push((shape, kind, user, loan, expected));
                }
            }
        }
        world.settled().await;
        for (shape, kind, user, loan, _) in &patrons {
            has_nothing(world, *user, &format!("{kind:?} waits")).await;
            say(world, *shape, minutes_ago(20), OUT, &check_out(*user, *loan, &first)).await;
        }
        world.settled().await;
        for (shape, kind, user, _, (due_date, flags)) in patrons {
            let expected = (due_date.clone(), flags);
            assert_eq!(only_loan(world, user).await, expected, "{shape:?} {kind:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h04_of_due_date_changes_in_two_partitions_the_latest_wins() {
    World::tell(async |world| {
        let (first, recalled, renewed) =
            (minutes_from_now(60), minutes_from_now(600), minutes_from_now(6000));
        let mut patrons = Vec::new();
        for shape in SHAPES {
            for late_partition in [0, 1] {
                let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
                say(world, shape, minutes_ago(30), OUT, &check_out(user, loan, &first)).await;
                let later = due(user, loan, &recalled, true);
                let earlier = due(user, loan, &renewed, false);
                for (n, (ago, payload)) in [(10, later), (20, earlier)].into_iter().enumerate() {
                    let at = minutes_ago(ago);
                    let text = match shape {
                        Shape::Bare => payload.to_string(),
                        Shape::Enveloped => enveloped(&payload, at).to_string(),
                    };
                    let timestamp = (shape == Shape::Bare).then_some(at.timestamp_millis());
                    let record = Draft { timestamp, ..draft(world, DUE, &text) };
                    world.log.send_to((late_partition + n as i32) % 2, record).await;
                }
                patrons.push((shape, user));
            }
        }
        world.settled().await;
        for (shape, user) in patrons {
            let expected = (recalled.clone(), [true, false, false]);
            assert_eq!(only_loan(world, user).await, expected, "{shape:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h05_lost_claimed_and_renewed_in_the_other_order_leave_the_latest_flags() {
    World::tell(async |world| {
        let (first, moved) = (minutes_from_now(60), minutes_from_now(2000));
        const LOST: Kind = Kind::ItemDeclaredLost;
        const AGED: Kind = Kind::ItemAgedToLost;
        const CLAIMED: Kind = Kind::ItemClaimedReturned;
        let renewal = (DUE, Some(false));
        let recall = (DUE, Some(true));
        let mut patrons = Vec::new();
        for shape in SHAPES {
            // As it happened; it arrives the other way round.
            for (happened, flags) in [
                ([(LOST, None), (CLAIMED, None)], [false, false, true]),
                ([(CLAIMED, None), (AGED, None)], [false, true, false]),
                ([(AGED, None), renewal], [false, false, false]),
                ([renewal, (LOST, None)], [false, true, false]),
                ([(LOST, None), recall], [true, true, false]),
                ([(CLAIMED, None), renewal], [false, false, true]),
            ] {
                let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
                say(world, shape, minutes_ago(30), OUT, &check_out(user, loan, &first)).await;
                patrons.push((shape, user, loan, happened, flags));
            }
        }
        for (nth, ago) in [(1, 10), (0, 20)] {
            for (shape, user, loan, happened, _) in &patrons {
                let (kind, by_recall) = happened[nth];
                let payload = match by_recall {
                    Some(by_recall) => due(*user, *loan, &moved, by_recall),
                    None => about(*user, *loan),
                };
                say(world, *shape, minutes_ago(ago), kind, &payload).await;
            }
            world.settled().await;
        }
        for (shape, user, _, happened, flags) in patrons {
            assert_eq!(only_loan(world, user).await.1, flags, "{shape:?} {happened:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h06_a_paid_fee_is_not_charged_again_by_an_older_balance() {
    World::tell(async |world| {
        let group = strict_group(world).await;
        let mut patrons = Vec::new();
        for shape in SHAPES {
            let (user, id) = (world.users.patron(group), Uuid::new_v4());
            say(world, shape, minutes_ago(10), FEE, &fee(user, id, None, 0.0)).await;
            patrons.push((shape, user, id));
        }
        world.settled().await;
        for (shape, user, id) in &patrons {
            for _ in 0..2 {
                say(world, *shape, minutes_ago(20), FEE, &fee(*user, *id, None, 15.0)).await;
            }
        }
        world.settled().await;
        for (shape, user, id) in &patrons {
            has_nothing(world, *user, "15 to 0 seen as 0 to 15").await;
            say(world, *shape, minutes_ago(5), FEE, &fee(*user, *id, None, 7.5)).await;
            say(world, *shape, minutes_ago(15), FEE, &fee(*user, *id, None, 12.0)).await;
        }
        world.settled().await;
        for (shape, user, _) in patrons {
            assert_eq!(balances(world, user).await, ["7.5"], "{shape:?}: a refund after payment");
            assert!(world.blocks(user).await.contains(&[true; 3]));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h07_a_fee_deleted_before_its_creation_came_is_not_owed() {
    World::tell(async |world| {
        let group = strict_group(world).await;
        let mut patrons = Vec::new();
        for shape in SHAPES {
            let (user, deleted, nobodys) =
                (world.users.patron(group), Uuid::new_v4(), Uuid::new_v4());
            let deletion = json!({ "feeFineId": deleted, "balance": 0.0 });
            say(world, shape, minutes_ago(10), FEE, &deletion).await;
            let unowned = json!({ "feeFineId": nobodys, "balance": 4.5 });
            say(world, shape, minutes_ago(10), FEE, &unowned).await;
            patrons.push((shape, user, deleted, nobodys));
        }
        world.settled().await;
        assert_eq!(world.count("select count(*) from {schema}.patron_counter").await, 0);
        for (shape, user, deleted, nobodys) in &patrons {
            say(world, *shape, minutes_ago(20), FEE, &fee(*user, *deleted, None, 15.0)).await;
            say(world, *shape, minutes_ago(20), FEE, &fee(*user, *nobodys, None, 15.0)).await;
        }
        world.settled().await;
        for (shape, user, ..) in patrons {
            let owed = balances(world, user).await;
            assert_eq!(owed, ["4.5"], "{shape:?}: one is gone, the other waited for its owner");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h17_the_latest_check_out_decides_whose_the_loan_is_whoever_was_named() {
    World::tell(async |world| {
        let group = strict_group(world).await;
        let due_date = minutes_from_now(60);
        let mut loans = Vec::new();
        for shape in SHAPES {
            let (a, b) = (world.users.patron(group), world.users.patron(group));
            let (named, moved) = (Uuid::new_v4(), Uuid::new_v4());
            say(world, shape, minutes_ago(30), DUE, &due(a, named, &due_date, true)).await;
            say(world, shape, minutes_ago(10), Kind::ItemDeclaredLost, &about(a, named)).await;
            say(world, shape, minutes_ago(30), OUT, &check_out(a, moved, &due_date)).await;
            loans.push((shape, a, b, named, moved));
        }
        world.settled().await;
        for (shape, a, b, named, moved) in &loans {
            assert_eq!(open(world, *a, "openLoans").await.len(), 1, "the one checked out");
            for loan in [named, moved] {
                say(world, *shape, minutes_ago(20), OUT, &check_out(*b, *loan, &due_date)).await;
            }
        }
        world.settled().await;
        for (shape, a, b, _, moved) in &loans {
            has_nothing(world, *a, "both loans are B's").await;
            assert_eq!(open(world, *b, "openLoans").await.len(), 2, "{shape:?}");
            // A's older check-out again, and an event that names A, change nothing.
            say(world, *shape, minutes_ago(25), OUT, &check_out(*a, *moved, &due_date)).await;
            say(world, *shape, minutes_ago(1), Kind::ItemAgedToLost, &about(*a, *moved)).await;
        }
        world.settled().await;
        for (_, a, b, ..) in &loans {
            has_nothing(world, *a, "still").await;
            assert_eq!(open(world, *b, "openLoans").await.len(), 2);
        }
        // By its storage it is A's again.
        for (_, a, _, _, moved) in &loans {
            let held = done("UPDATED", &held(*a, *moved, &due_date), minutes_ago(5));
            world.publish(Kind::StoredLoan, &held).await;
        }
        world.settled().await;
        for (_, a, b, ..) in loans {
            assert_eq!(open(world, a, "openLoans").await.len(), 1);
            assert_eq!(open(world, b, "openLoans").await.len(), 1);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h18_clocks_that_differ_reopen_no_loan_and_an_envelope_far_ahead_gives_way() {
    World::tell(async |world| {
        let group = strict_group(world).await;
        let (first, second) = (minutes_from_now(60), minutes_from_now(600));
        let mut returned = Vec::new();
        for shape in SHAPES {
            for end in ENDS {
                let (user, loan) = (world.users.patron(group), Uuid::new_v4());
                say(world, shape, minutes_ago(0), OUT, &check_out(user, loan, &first)).await;
                // The clock of the desk that takes it back is a day behind.
                say(world, shape, minutes_ago(1440), end, &about(user, loan)).await;
                say(world, shape, minutes_ago(-2), DUE, &due(user, loan, &second, false)).await;
                returned.push(user);
            }
        }
        // So far ahead of their records, ten minutes ago, are envelopes that say `second`; others said
        // `first` two minutes later, by all clocks.
        let mut moved = Vec::new();
        for (ahead, expected) in [(4, &second), (60, &first)] {
            let (user, loan) = (world.users.patron(group), Uuid::new_v4());
            world.publish(OUT, &check_out(user, loan, &first)).await;
            for (recorded, said, due_date) in [(10, 10 - ahead, &second), (8, 8, &first)] {
                let change = enveloped(&due(user, loan, due_date, false), minutes_ago(said));
                let timestamp = Some(minutes_ago(recorded).timestamp_millis());
                let text = change.to_string();
                world.log.send(Draft { timestamp, ..draft(world, DUE, &text) }).await;
            }
            moved.push((user, expected));
        }
        world.settled().await;
        for user in returned {
            has_nothing(world, user, "an end is an end").await;
        }
        for (user, due_date) in moved {
            assert_eq!(only_loan(world, user).await.0, *due_date);
            assert_ne!(world.blocks(user).await, NONE);
        }
        let cut_back = "select count(*) from {schema}.inbox
                         where timed_by = 'record_as_envelope_is_ahead'";
        assert_eq!(world.count(cut_back).await, 1);
    })
    .await;
}
