//! The page of a patron in the console: what set each value, parked records, and the comparison with storage.

use chrono::TimeDelta;
use patron_blocks::event::Kind;
use serde_json::json;
use uuid::Uuid;

use super::{
    console::{GATEWAY, blocked_patron},
    console_acts::{REASON, log, page, park, patron, submit},
};
use crate::support::{
    payloads::{
        check_out, due_date_change, in_envelope, loan_event, minutes_from_now, now, storage_loan,
    },
    storage_stub::LOANS,
    world::World,
};

/// Returns the line of a page that contains a text.
fn line<'a>(body: &'a str, text: &str) -> &'a str {
    body.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text}: {body}"))
}

/// Returns the lines from the row of an item to the end of the row.
fn row<'a>(body: &'a str, id: &str) -> &'a str {
    let (_, rest) =
        body.split_once(&format!("<tr id=\"{id}\"")).unwrap_or_else(|| panic!("{body}"));
    rest.split("</tr>").next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn patron_page_names_what_set_each_value() {
    World::run(async |world| {
        let (user, loans) = blocked_patron(world).await;
        let renewal = due_date_change(user, loans[0], &minutes_from_now(30_000), true);
        world.publish(Kind::LoanDueDateChanged, &renewal).await;
        world.publish(Kind::ItemDeclaredLost, &loan_event(user, loans[1])).await;
        // Its check-out is missing.
        world.publish(Kind::ItemClaimedReturned, &loan_event(user, Uuid::new_v4())).await;
        world.until_committed().await;
        let body = page(world, &format!("patron/{user}")).await;
        assert!(body.contains("<span class=\"tag no\">Borrow: no</span>"), "{body}");
        assert!(body.contains(&format!("href=\"../desk/{user}\"")), "{body}");
        let limit = line(&body, "<td>Items charged out</td>");
        assert!(limit.contains(">7</td><td class=\"number\">5</td>"), "{limit}");
        assert!(limit.contains("<td>7 counted</td>"), "{limit}");
        assert!(body.contains("7 of 7 open loans, earliest due date first."), "{body}");
        let recalled = row(&body, &format!("loan-{}", loans[0]));
        for part in [
            "<li>Checked out, due: <time",
            ", this patron. <span class=\"muted\">By a check-out at <time",
            "<li>Due date: <time",
            ", by a recall. <span class=\"muted\">By a change of the due date at <time",
        ] {
            assert!(recalled.contains(part), "{part}: {recalled}");
        }
        let lost = row(&body, &format!("loan-{}", loans[1]));
        assert!(
            lost.contains("<li>Lost: yes. <span class=\"muted\">By a declaration as lost"),
            "{lost}"
        );
        assert!(
            body.contains("<li>Balance: 12.50. <span class=\"muted\">By a change of the balance")
        );
        assert!(body.contains("1 loan names the patron, waits for its check-out"), "{body}");
        assert!(body.contains("The stored counts agree with these numbers"), "{body}");
        assert!(body.contains("<dt>Open loans</dt><dd>7</dd>"), "{body}");
        assert!(body.contains("No parked record of the library names the patron"), "{body}");
        for path in [format!("loan/{}", loans[0]), format!("patron/{user}")] {
            let body = page(world, &path).await;
            assert!(body.contains(&format!("../patron/{user}")) || path.starts_with("patron"));
            assert!(body.contains(&format!("../desk/{user}")), "{body}");
        }
        let drift = "update {schema}.patron_counter set open_loans = open_loans + ";
        world.execute_sql(&format!("{drift} 1")).await;
        let drifted = page(world, &format!("patron/{user}")).await;
        world.execute_sql(&format!("{drift} -1")).await;
        assert!(drifted.contains("The stored counts differ from these numbers"), "{drifted}");
        assert!(drifted.contains("<dt>Open loans</dt><dd>7</dd>"), "{drifted}");
        let stranger = page(world, &format!("patron/{}", Uuid::new_v4())).await;
        assert!(stranger.contains("No loan, fee or fine of this id is known."), "{stranger}");
        assert!(stranger.contains("No open loans.") && stranger.contains("No open fees or fines."));
        assert_eq!(world.get(&format!("{GATEWAY}/patron/7")).await.0, 400);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patron_page_lists_parked_and_discarded_records() {
    World::run(async |world| {
        let (user, loans) = patron(world, Uuid::new_v4(), 2).await;
        let parked = park(world, Kind::LoanClosed, loan_event(user, loans[0])).await;
        let discarded = park(world, Kind::LoanClosed, loan_event(user, loans[1])).await;
        let done =
            submit(world, &format!("parked/{discarded}/discard"), &[("reason", REASON)]).await;
        assert!(done.path().starts_with("discarded"));
        let path = format!("patron/{user}");
        // Whether records are parked is known for a second.
        world
            .until("the answers are doubtful", async |w: &World| {
                page(w, &path).await.contains("<li>The answers are doubtful.</li>")
            })
            .await;
        let body = page(world, &path).await;
        assert!(body.contains(&format!("href=\"../parked/{parked}\"")), "{body}");
        assert!(!body.contains(&discarded), "{body}");
        assert!(body.contains("<li>Discarded at <time"), "{body}");
        assert!(body.contains("or an open item of the patron, was parked at <time"), "{body}");
        // The tables of the module have records of unknown tenants.
        let moved = "with gone as (delete from {schema}.dead_letter returning *)
            insert into mod_patron_blocks.dead_letter select * from gone";
        world.execute_sql(moved).await;
        let body = page(world, &path).await;
        assert!(body.contains("A parked record in the tables of the module names the patron."));
        assert!(!body.contains(&parked), "{body}");
        assert_eq!(world.take_dead_letters().await.len(), 1);
    })
    .await;
}

/// A comparison changes nothing. Its page repairs the patron.
#[tokio::test(flavor = "multi_thread")]
async fn patron_is_compared_with_storage() {
    World::run(async |world| {
        let (user, loans) = (Uuid::new_v4(), [Uuid::new_v4(), Uuid::new_v4()]);
        // A comparison changes no loan of the last minutes.
        let hour_ago = now() - TimeDelta::hours(1);
        for loan in loans {
            let payload = check_out(user, loan, &minutes_from_now(1440));
            world.publish(Kind::ItemCheckedOut, &in_envelope(&payload, hour_ago)).await;
        }
        world.until_committed().await;
        let (id, path) = (user.to_string(), format!("patron/{user}"));
        // Loan storage has one of the loans.
        world.users.storage.insert(LOANS, storage_loan(user, loans[0], &minutes_from_now(1440)));
        let body = page(world, &path).await;
        assert!(body.contains("The patron was not compared with a source"), "{body}");
        assert!(body.contains("<button>Compare with storage now</button>"), "{body}");
        let form = [("source", "storage"), ("from", ""), ("user", &*id), ("reason", REASON)];
        let after = submit(world, "rebuilds", &form).await;
        let rebuild = after.path().split('?').next().unwrap().to_owned();
        assert!(page(world, after.path()).await.contains("The rebuild is requested."));
        const REPAIR: &str = "Look at the differences, and repair";
        world
            .until("the patron page offers the repair", async |w: &World| {
                page(w, &path).await.contains(REPAIR)
            })
            .await;
        let body = page(world, &path).await;
        assert!(body.contains("Last compared with the storage modules at <time"), "{body}");
        assert!(body.contains(&format!("<a href=\"../{rebuild}\">{REPAIR}</a>")), "{body}");
        assert!(body.contains("2 of 2 open loans"), "nothing has changed: {body}");
        submit(world, &format!("{rebuild}/apply"), &[("reason", REASON)]).await;
        world
            .until("the patron is repaired", async |w: &World| {
                page(w, &path).await.contains("1 of 1 open loans")
            })
            .await;
        let body = page(world, &path).await;
        assert!(!body.contains(REPAIR) && body.contains("Look at the comparison"), "{body}");
        assert!(
            row(&body, &format!("loan-{}", loans[0])).contains("By a comparison with the storage")
        );
        let ends: Vec<String> = log(world).await.into_iter().map(|(_, _, end)| end).collect();
        assert_eq!(ends, ["done", "done"]);
        // Without the permission, the page has no form.
        let (_, body) = world.get(&format!("{GATEWAY}/{path}")).await;
        assert!(!body.contains("<form class=\"act\""), "{body}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patron_with_many_loans_has_several_pages() {
    World::run(async |world| {
        let user = world.users.add_patron(Uuid::new_v4());
        for _ in 0..70 {
            let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(1440));
            world.publish(Kind::ItemCheckedOut, &payload).await;
        }
        world.until_committed().await;
        let first = page(world, &format!("patron/{user}")).await;
        assert!(first.contains("50 of 70 open loans"), "{first}");
        assert!(
            first.contains("?offset=50#loans\">Next") && !first.contains("Previous"),
            "{first}"
        );
        let last = page(world, &format!("patron/{user}?offset=50")).await;
        assert!(last.contains("20 of 70 open loans"), "{last}");
        assert!(last.contains("?offset=0#loans\">Previous") && !last.contains("Next"), "{last}");
        let of_page = |body: &str| body.matches("<tr id=\"loan-").count();
        assert_eq!((of_page(&first), of_page(&last)), (50, 20));
    })
    .await;
}

/// Text of a producer and of a library is no markup on the page.
#[tokio::test(flavor = "multi_thread")]
async fn patron_page_escapes_text_of_others() {
    const MARKUP: &str = "<script>alert(1)</script>\"'&";
    World::run(async |world| {
        let (user, loans) = blocked_patron(world).await;
        loans.iter().for_each(|loan| world.users.set_title(*loan, MARKUP));
        let condition = patron_blocks::blocks::Measure::ChargedOut.condition_id();
        let path = format!("/patron-block-conditions/{condition}");
        let mut condition = world.get_json(&path).await;
        condition["message"] = json!(MARKUP);
        assert_eq!(world.put(&path, &condition).await.0, 204);
        let rule = format!(
            "insert into {{schema}}.dead_letter (dead_letter_id, reason, rule, topic, partition, \"offset\",
                                               received_at, headers, payload, subjects)
             values (gen_random_uuid(), 'bad_field', '{}', 't', 0, 0, now(), '[]', '', array['{user}'::uuid])",
            MARKUP.replace('\'', "''")
        );
        world.execute_sql(&rule).await;
        for path in [format!("patron/{user}"), format!("desk/{user}")] {
            let body = page(world, &path).await;
            assert_eq!(body.matches("<script").count(), 1, "only the script of the page: {body}");
            assert!(body.matches("&#60;script&#62;alert(1)").count() > 3, "{body}");
        }
        world.take_dead_letters().await;
    })
    .await;
}
