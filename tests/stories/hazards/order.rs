//! H1 to H7, H17 and H18: events that overtake each other, and clocks that differ.

use patron_blocks::event::Kind;
use serde_json::json;
use uuid::Uuid;

use super::{
    ALL, NONE, SHAPES, Shape, assert_nothing_open, balances, draft, minutes_ago, only_loan,
    open_entries, publish_at, strict_group,
};
use crate::support::{
    log::OutgoingRecord,
    payloads::{
        balance_change, check_out, due_date_change, entity_change, in_envelope, loan_event,
        minutes_from_now, storage_loan,
    },
    world::World,
};

const ENDS: [Kind; 2] = [Kind::ItemCheckedIn, Kind::LoanClosed];
const OUT: Kind = Kind::ItemCheckedOut;
const DUE: Kind = Kind::LoanDueDateChanged;
const FEE: Kind = Kind::FeeFineBalanceChanged;

#[tokio::test(flavor = "multi_thread")]
async fn h01_check_in_or_closing_before_check_out_stays_closed() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let mut patrons = Vec::new();
        for shape in SHAPES {
            for (end, ended_ago) in ENDS.into_iter().flat_map(|end| [(end, 5), (end, 30)]) {
                let (user, loan) = (world.users.add_patron(group), Uuid::new_v4());
                publish_at(world, shape, minutes_ago(ended_ago), end, &loan_event(user, loan))
                    .await;
                patrons.push((shape, user, loan));
            }
        }
        world.until_committed().await;
        for (shape, user, loan) in &patrons {
            assert_nothing_open(world, *user, "only the end").await;
            let out = check_out(*user, *loan, &minutes_from_now(60));
            publish_at(world, *shape, minutes_ago(20), OUT, &out).await;
        }
        world.until_committed().await;
        for (shape, user, _) in patrons {
            assert_nothing_open(world, user, &format!("{shape:?}")).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h02_check_out_redelivered_after_end_opens_nothing() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let mut patrons = Vec::new();
        for end in ENDS {
            let (user, loan) = (world.users.add_patron(group), Uuid::new_v4());
            let out = check_out(user, loan, &minutes_from_now(60));
            let envelope = in_envelope(&out, minutes_ago(30));
            world.publish(OUT, &envelope).await;
            patrons.push((end, user, loan, out, envelope));
        }
        world.until_committed().await;
        for (end, user, loan, ..) in &patrons {
            assert_eq!(world.block_flags(*user).await, ALL, "the fee/fine is open");
            publish_at(world, Shape::Bare, minutes_ago(20), *end, &loan_event(*user, *loan)).await;
        }
        world.until_committed().await;
        for (_, user, _, out, envelope) in &patrons {
            assert_nothing_open(world, *user, "after the end").await;
            world.publish(OUT, envelope).await;
            // A producer may resend the check-out with the old time, with the present time, or in a new
            // envelope.
            publish_at(world, Shape::Bare, minutes_ago(30), OUT, out).await;
            world.publish(OUT, out).await;
            world.publish(OUT, &in_envelope(out, minutes_ago(0))).await;
        }
        world.until_committed().await;
        for (_, user, ..) in patrons {
            assert_nothing_open(world, user, "after further repeats").await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h03_events_before_check_out_wait_and_then_count() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let (first, moved) = (minutes_from_now(60), minutes_from_now(2000));
        let mut patrons = Vec::new();
        for shape in SHAPES {
            // The fact is older, then newer, than the check-out.
            for ago in [30, 10] {
                for (kind, by_recall, expected) in [
                    (Kind::ItemDeclaredLost, None, (&first, [false, true, false])),
                    (Kind::ItemAgedToLost, None, (&first, [false, true, false])),
                    (Kind::ItemClaimedReturned, None, (&first, [false, false, true])),
                    (DUE, Some(true), (&moved, [true, false, false])),
                    (DUE, Some(false), (&moved, [false, false, false])),
                ] {
                    let (user, loan) = (world.users.add_patron(group), Uuid::new_v4());
                    let payload = match by_recall {
                        Some(by_recall) => due_date_change(user, loan, &moved, by_recall),
                        None => loan_event(user, loan),
                    };
                    publish_at(world, shape, minutes_ago(ago), kind, &payload).await;
                    patrons.push((shape, kind, user, loan, expected));
                }
            }
        }
        world.until_committed().await;
        for (shape, kind, user, loan, _) in &patrons {
            assert_nothing_open(world, *user, &format!("{kind:?} waits")).await;
            publish_at(world, *shape, minutes_ago(20), OUT, &check_out(*user, *loan, &first)).await;
        }
        world.until_committed().await;
        for (shape, kind, user, _, (due_date, flags)) in patrons {
            let expected = (due_date.clone(), flags);
            assert_eq!(only_loan(world, user).await, expected, "{shape:?} {kind:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h04_latest_due_date_change_of_two_partitions_wins() {
    World::run(async |world| {
        let (first, recalled, renewed) =
            (minutes_from_now(60), minutes_from_now(600), minutes_from_now(6000));
        let mut patrons = Vec::new();
        for shape in SHAPES {
            for late_partition in [0, 1] {
                let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
                publish_at(world, shape, minutes_ago(30), OUT, &check_out(user, loan, &first))
                    .await;
                let later = due_date_change(user, loan, &recalled, true);
                let earlier = due_date_change(user, loan, &renewed, false);
                for (n, (ago, payload)) in [(10, later), (20, earlier)].into_iter().enumerate() {
                    let at = minutes_ago(ago);
                    let text = match shape {
                        Shape::Bare => payload.to_string(),
                        Shape::Enveloped => in_envelope(&payload, at).to_string(),
                    };
                    let timestamp = (shape == Shape::Bare).then_some(at.timestamp_millis());
                    let record = OutgoingRecord { timestamp, ..draft(world, DUE, &text) };
                    world.log.send_to_partition((late_partition + n as i32) % 2, record).await;
                }
                patrons.push((shape, user));
            }
        }
        world.until_committed().await;
        for (shape, user) in patrons {
            let expected = (recalled.clone(), [true, false, false]);
            assert_eq!(only_loan(world, user).await, expected, "{shape:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h05_lost_claimed_and_renewed_out_of_order_set_latest_flags() {
    World::run(async |world| {
        let (first, moved) = (minutes_from_now(60), minutes_from_now(2000));
        const LOST: Kind = Kind::ItemDeclaredLost;
        const AGED: Kind = Kind::ItemAgedToLost;
        const CLAIMED: Kind = Kind::ItemClaimedReturned;
        let renewal = (DUE, Some(false));
        let recall = (DUE, Some(true));
        let mut patrons = Vec::new();
        for shape in SHAPES {
            // The facts are listed in order of occurrence and arrive in reverse order.
            for (changes, flags) in [
                ([(LOST, None), (CLAIMED, None)], [false, false, true]),
                ([(CLAIMED, None), (AGED, None)], [false, true, false]),
                ([(AGED, None), renewal], [false, false, false]),
                ([renewal, (LOST, None)], [false, true, false]),
                ([(LOST, None), recall], [true, true, false]),
                ([(CLAIMED, None), renewal], [false, false, true]),
            ] {
                let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
                publish_at(world, shape, minutes_ago(30), OUT, &check_out(user, loan, &first))
                    .await;
                patrons.push((shape, user, loan, changes, flags));
            }
        }
        for (nth, ago) in [(1, 10), (0, 20)] {
            for (shape, user, loan, changes, _) in &patrons {
                let (kind, by_recall) = changes[nth];
                let payload = match by_recall {
                    Some(by_recall) => due_date_change(*user, *loan, &moved, by_recall),
                    None => loan_event(*user, *loan),
                };
                publish_at(world, *shape, minutes_ago(ago), kind, &payload).await;
            }
            world.until_committed().await;
        }
        for (shape, user, _, changes, flags) in patrons {
            assert_eq!(only_loan(world, user).await.1, flags, "{shape:?} {changes:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h06_older_balance_does_not_charge_a_paid_fee() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let mut patrons = Vec::new();
        for shape in SHAPES {
            let (user, id) = (world.users.add_patron(group), Uuid::new_v4());
            publish_at(world, shape, minutes_ago(10), FEE, &balance_change(user, id, None, 0.0))
                .await;
            patrons.push((shape, user, id));
        }
        world.until_committed().await;
        for (shape, user, id) in &patrons {
            for _ in 0..2 {
                publish_at(
                    world,
                    *shape,
                    minutes_ago(20),
                    FEE,
                    &balance_change(*user, *id, None, 15.0),
                )
                .await;
            }
        }
        world.until_committed().await;
        for (shape, user, id) in &patrons {
            assert_nothing_open(world, *user, "15 then 0, received as 0 then 15").await;
            publish_at(world, *shape, minutes_ago(5), FEE, &balance_change(*user, *id, None, 7.5))
                .await;
            publish_at(
                world,
                *shape,
                minutes_ago(15),
                FEE,
                &balance_change(*user, *id, None, 12.0),
            )
            .await;
        }
        world.until_committed().await;
        for (shape, user, _) in patrons {
            assert_eq!(balances(world, user).await, ["7.5"], "{shape:?}: a refund after payment");
            assert!(world.block_flags(user).await.contains(&[true; 3]));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h07_fee_deleted_before_creation_is_not_owed() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let mut patrons = Vec::new();
        for shape in SHAPES {
            let (user, deleted, unowned_fee) =
                (world.users.add_patron(group), Uuid::new_v4(), Uuid::new_v4());
            let deletion = json!({ "feeFineId": deleted, "balance": 0.0 });
            publish_at(world, shape, minutes_ago(10), FEE, &deletion).await;
            let unowned = json!({ "feeFineId": unowned_fee, "balance": 4.5 });
            publish_at(world, shape, minutes_ago(10), FEE, &unowned).await;
            patrons.push((shape, user, deleted, unowned_fee));
        }
        world.until_committed().await;
        assert_eq!(world.count("select count(*) from {schema}.patron_counter").await, 0);
        for (shape, user, deleted, unowned_fee) in &patrons {
            publish_at(
                world,
                *shape,
                minutes_ago(20),
                FEE,
                &balance_change(*user, *deleted, None, 15.0),
            )
            .await;
            publish_at(
                world,
                *shape,
                minutes_ago(20),
                FEE,
                &balance_change(*user, *unowned_fee, None, 15.0),
            )
            .await;
        }
        world.until_committed().await;
        for (shape, user, ..) in patrons {
            let owed = balances(world, user).await;
            assert_eq!(
                owed,
                ["4.5"],
                "{shape:?}: the deleted fee/fine does not count, the other one has an owner"
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h17_owner_follows_check_out_not_other_named_patrons() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let due_date = minutes_from_now(60);
        let mut loans = Vec::new();
        for shape in SHAPES {
            let (a, b) = (world.users.add_patron(group), world.users.add_patron(group));
            let (named, moved) = (Uuid::new_v4(), Uuid::new_v4());
            publish_at(
                world,
                shape,
                minutes_ago(30),
                DUE,
                &due_date_change(a, named, &due_date, true),
            )
            .await;
            publish_at(
                world,
                shape,
                minutes_ago(10),
                Kind::ItemDeclaredLost,
                &loan_event(a, named),
            )
            .await;
            publish_at(world, shape, minutes_ago(30), OUT, &check_out(a, moved, &due_date)).await;
            loans.push((shape, a, b, named, moved));
        }
        world.until_committed().await;
        for (shape, a, b, named, moved) in &loans {
            assert_eq!(
                open_entries(world, *a, "openLoans").await.len(),
                1,
                "the loan with the check-out"
            );
            for loan in [named, moved] {
                publish_at(world, *shape, minutes_ago(20), OUT, &check_out(*b, *loan, &due_date))
                    .await;
            }
        }
        world.until_committed().await;
        for (shape, a, b, _, moved) in &loans {
            assert_nothing_open(world, *a, "both loans are B's").await;
            assert_eq!(open_entries(world, *b, "openLoans").await.len(), 2, "{shape:?}");
            // An older check-out of A, and an event that names A, change nothing.
            publish_at(world, *shape, minutes_ago(25), OUT, &check_out(*a, *moved, &due_date))
                .await;
            publish_at(
                world,
                *shape,
                minutes_ago(1),
                Kind::ItemAgedToLost,
                &loan_event(*a, *moved),
            )
            .await;
        }
        world.until_committed().await;
        for (_, a, b, ..) in &loans {
            assert_nothing_open(world, *a, "still").await;
            assert_eq!(open_entries(world, *b, "openLoans").await.len(), 2);
        }
        // Storage returns the loan to A.
        for (_, a, _, _, moved) in &loans {
            let snapshot =
                entity_change("UPDATED", &storage_loan(*a, *moved, &due_date), minutes_ago(5));
            world.publish(Kind::StoredLoan, &snapshot).await;
        }
        world.until_committed().await;
        for (_, a, b, ..) in loans {
            assert_eq!(open_entries(world, a, "openLoans").await.len(), 1);
            assert_eq!(open_entries(world, b, "openLoans").await.len(), 1);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h18_skewed_clocks_reopen_no_loan_and_envelope_is_capped() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let (first, second) = (minutes_from_now(60), minutes_from_now(600));
        let mut returned = Vec::new();
        for shape in SHAPES {
            for end in ENDS {
                let (user, loan) = (world.users.add_patron(group), Uuid::new_v4());
                publish_at(world, shape, minutes_ago(0), OUT, &check_out(user, loan, &first)).await;
                // The clock of the desk that checks in the item is a day slow.
                publish_at(world, shape, minutes_ago(1440), end, &loan_event(user, loan)).await;
                publish_at(
                    world,
                    shape,
                    minutes_ago(-2),
                    DUE,
                    &due_date_change(user, loan, &second, false),
                )
                .await;
                returned.push(user);
            }
        }
        // An envelope of a record from ten minutes ago, with a time ahead of the record, sets `second`.
        // By all clocks, the second envelope sets `first` two minutes later.
        let mut moved = Vec::new();
        for (ahead, expected) in [(4, &second), (60, &first)] {
            let (user, loan) = (world.users.add_patron(group), Uuid::new_v4());
            world.publish(OUT, &check_out(user, loan, &first)).await;
            for (recorded, envelope_ago, due_date) in [(10, 10 - ahead, &second), (8, 8, &first)] {
                let change = in_envelope(
                    &due_date_change(user, loan, due_date, false),
                    minutes_ago(envelope_ago),
                );
                let timestamp = Some(minutes_ago(recorded).timestamp_millis());
                let text = change.to_string();
                world.log.send(OutgoingRecord { timestamp, ..draft(world, DUE, &text) }).await;
            }
            moved.push((user, expected));
        }
        world.until_committed().await;
        for user in returned {
            assert_nothing_open(world, user, "the loan stays closed").await;
        }
        for (user, due_date) in moved {
            assert_eq!(only_loan(world, user).await.0, *due_date);
            assert_ne!(world.block_flags(user).await, NONE);
        }
        let capped = "select count(*) from {schema}.inbox
                         where timed_by = 'record_envelope_ahead'";
        assert_eq!(world.count(capped).await, 1);
    })
    .await;
}
