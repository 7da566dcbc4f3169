//! The console in a real browser: accessibility, acts without a script and without a mouse, and live pages.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    browser::{Browser, Screen},
    gateway_stub::GatewayStub,
    payloads::{
        balance_change, check_out, due_date_change, in_envelope, loan_event, minutes_from_now, now,
    },
    world::{TENANT, World},
};

/// A page must show a change within this time.
const REFRESH_LIMIT: Duration = Duration::from_secs(6);

const REASON: &str = "ticket 4711";

/// A library with a blocked patron, parked records, an incident and acts.
pub(super) struct Library {
    pub(super) user: Uuid,
    pub(super) loans: Vec<Uuid>,
    pub(super) fee: Uuid,
    parked: Uuid,
    rebuild: String,
}

impl Library {
    pub(super) async fn new(world: &World) -> Self {
        let group = Uuid::new_v4();
        let user = world.users.add_patron(group);
        world.add_limit(group, Measure::ChargedOut, 5.0).await;
        world.add_limit(group, Measure::FeeFineBalance, 10.0).await;
        let (loans, fee) = ((0..7).map(|_| Uuid::new_v4()).collect::<Vec<_>>(), Uuid::new_v4());
        for loan in &loans {
            let payload = check_out(user, *loan, &minutes_from_now(1440));
            world.publish(Kind::ItemCheckedOut, &payload).await;
        }
        let payload = balance_change(user, fee, Some(loans[0]), 12.5);
        world.publish(Kind::FeeFineBalanceChanged, &payload).await;
        for loan in &loans[..2] {
            let broken = json!({ "userId": "<b>broken</b>", "loanId": loan });
            world.publish(Kind::LoanClosed, &broken).await;
        }
        world.until_committed().await;
        // An evaluation makes the patron group known.
        world.block_flags(user).await;
        let raise = "insert into mod_patron_blocks.incident
            (incident_id, kind, topic, partition, from_offset, to_offset, detail, tenant, raised_at)
            values (gen_random_uuid(), 'records_lost', 'lost.topic', 3, 7, 9, 'two records', $T, now())";
        world.execute_sql(&raise.replace("$T", &format!("'{TENANT}'"))).await;
        let request = json!({ "scope": "user", "userId": user, "dryRun": true });
        let (_, rebuild) = world.post("/patron-blocks/rebuilds", &request).await;
        let rebuild: serde_json::Value = serde_json::from_str(&rebuild).unwrap();
        let rebuild = rebuild["id"].as_str().unwrap().to_owned();
        let sql = format!("select dead_letter_id from {}.dead_letter limit 1", world.schema.name());
        let parked = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
        let parked = parked.fetch_one(&world.db).await.unwrap();
        Self { user, loans, fee, parked, rebuild }
    }

    /// Adds what makes the pictures worth looking at: a late event, a record that can be applied, and a lost row.
    async fn add_details(&self, world: &World) {
        let Self { user, loans, parked, .. } = self;
        let renewal = due_date_change(*user, loans[0], &minutes_from_now(30_000), false);
        let claim = in_envelope(&loan_event(*user, loans[0]), now() - TimeDelta::minutes(20));
        world.publish(Kind::LoanDueDateChanged, &renewal).await;
        world.until_committed().await;
        world.publish(Kind::ItemClaimedReturned, &claim).await;
        world.until_committed().await;
        for statement in [
            format!(
                "update {{schema}}.dead_letter
                    set payload = convert_to(replace(convert_from(payload, 'UTF8'), '<b>broken</b>', '{user}'), 'UTF8')
                  where dead_letter_id = '{parked}'"
            ),
            format!("delete from {{schema}}.loan where loan_id = '{}'", loans[6]),
        ] {
            world.execute_sql(&statement).await;
        }
        let request = json!({ "scope": "user", "userId": user, "dryRun": true });
        world.post("/patron-blocks/rebuilds", &request).await;
    }

    /// Returns the paths of all pages.
    fn pages(&self) -> Vec<String> {
        let Self { user, loans, fee, parked, rebuild } = self;
        vec![
            "home".to_owned(),
            format!("desk/{user}"),
            format!("desk/{}", Uuid::new_v4()),
            format!("patron/{user}"),
            format!("patron/{}", Uuid::new_v4()),
            format!("loan/{}", loans[0]),
            format!("fee-fine/{fee}"),
            "parked".to_owned(),
            format!("parked/{parked}"),
            "discarded".to_owned(),
            "ingest".to_owned(),
            "rebuilds".to_owned(),
            format!("rebuilds/{rebuild}"),
            "limits".to_owned(),
            "messages".to_owned(),
            "log".to_owned(),
            "help".to_owned(),
            "no-such-page".to_owned(),
        ]
    }
}

/// Returns the address of a page on the console port.
pub(super) fn url(world: &World, path: &str) -> String {
    format!("{}tenants/{TENANT}/{path}", world.console_url())
}

async fn check_pages(world: &World, language: &str, is_dark: bool) {
    let library = Library::new(world).await;
    let mut found = Vec::new();
    let preview = match language {
        "de" => "2 zurückgestellte Datensätze erneut verarbeiten",
        _ => "Retry 2 parked records",
    };
    Browser::run(async |browser: &Browser| {
        browser.set_languages(language).await;
        for (width, height) in [(1280, 720), (360, 740)] {
            browser.show_on(Screen { width, height, is_dark }).await;
            for path in library.pages() {
                browser.open(&url(world, &path)).await;
                for problem in browser.violations().await {
                    found.push(format!("{path} at {width}: {problem}"));
                }
                if path == "parked" {
                    browser.click("form[action$='parked/preview'] button").await;
                    browser.until_text(preview).await;
                    found.extend(browser.violations().await);
                }
                for problem in browser.take_errors().await {
                    // A page that does not exist has this status.
                    if !problem.contains("404") {
                        found.push(format!("{path} at {width}: {problem}"));
                    }
                }
            }
        }
    })
    .await;
    assert!(found.is_empty(), "{}", found.join("\n"));
    world.take_dead_letters().await;
    world.take_incidents().await;
}

/// The keys of the WebDriver protocol.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_accessible_in_light_colours() {
    World::run(async |world| check_pages(world, "en", false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_accessible_in_dark_colours() {
    World::run(async |world| check_pages(world, "en", true).await).await;
}

/// German words are longer, and must not make a page wider than a phone.
#[tokio::test(flavor = "multi_thread")]
async fn german_pages_are_accessible() {
    World::run(async |world| check_pages(world, "de", false).await).await;
}

/// The script writes times and sentences in the language of the page.
#[tokio::test(flavor = "multi_thread")]
async fn script_follows_the_language_of_the_page() {
    World::run(async |world| {
        let library = Library::new(world).await;
        Browser::run(async |browser: &Browser| {
            browser.set_languages("de").await;
            browser.open(&url(world, &format!("rebuilds/{}", library.rebuild))).await;
            let is_german = r"return /^\d{2}\.\d{2}\.\d{4}, /.test(document.querySelector('main time').textContent);";
            assert_eq!(browser.evaluate(is_german).await, json!(true));
            browser.click("#pause").await;
            browser.until_text("Aktualisierung fortsetzen").await;
            browser.click("#pause").await;
            browser.until_text("Aktualisierung anhalten").await;
            let fail = "showStale('failed');";
            browser.evaluate(fail).await;
            browser.until_text("Diese Seite konnte nicht aktualisiert werden").await;
            assert_eq!(browser.take_errors().await, [""; 0]);
        })
        .await;
        world.take_dead_letters().await;
        world.take_incidents().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_act_works_by_keyboard_and_without_a_script() {
    World::run(async |world| {
        let library = Library::new(world).await;
        let Library { user, parked, rebuild, .. } = &library;
        Browser::run(async |browser: &Browser| {
            browser.allow_scripts(false).await;
            let reason = |form: &str| format!("form[action$='{form}'] input[name=reason]");
            let act = async |path: &str, form: &str, sentence: &str| {
                browser.open(&url(world, path)).await;
                browser.type_into(&reason(form), &format!("{REASON}{ENTER}")).await;
                browser.until_text(sentence).await;
            };
            let page = format!("parked/{parked}");
            act(&page, &format!("{parked}/retry"), "Not done:").await;
            act(&page, &format!("{parked}/discard"), "The record is discarded.").await;
            act("discarded", &format!("{parked}/restore"), "The record is parked again.").await;
            act("ingest", "/resolve", "The incident is resolved.").await;
            act("rebuilds", "rebuilds", "The rebuild is requested.").await;
            let page = format!("rebuilds/{rebuild}");
            world
                .until("the rebuild waits for a decision", async |w: &World| {
                    let found = w.get_json(&format!("/patron-blocks/rebuilds/{rebuild}")).await;
                    found["status"] == "compared"
                })
                .await;
            act(&page, "/apply", "applied in the background").await;
            browser.open(&url(world, "parked")).await;
            browser.type_into("form:has(input[value=discard]) button", ENTER).await;
            browser.type_into("input[name=count]", "2").await;
            browser.type_into(&reason("parked/bulk"), &format!("{REASON}{ENTER}")).await;
            browser.until_text("Discarded: 2 records.").await;
            browser.open(&url(world, "limits")).await;
            browser.type_into("input[name=group]", &Uuid::new_v4().to_string()).await;
            browser.type_into("input[name=value]", "3").await;
            browser.type_into(&reason("limits"), &format!("{REASON}{ENTER}")).await;
            browser.until_text("The limit is 3.0 now. There was none before.").await;
            browser.open(&url(world, &format!("desk/{user}"))).await;
            browser.until_text("Borrow: no").await;
            assert_eq!(browser.take_errors().await, [""; 0]);
        })
        .await;
        world.take_dead_letters().await;
        world.take_incidents().await;
    })
    .await;
}

/// Behind a gateway, all links, forms and files work below its prefix.
#[tokio::test(flavor = "multi_thread")]
async fn pages_work_behind_the_prefix_of_a_gateway() {
    World::run(async |world| {
        let library = Library::new(world).await;
        library.loans.iter().for_each(|loan| world.users.set_title(*loan, "Middlemarch"));
        world.users.set_barcode("4711", library.user);
        let gateway = GatewayStub::start(world.url(), &world.users.url());
        Browser::run(async |browser: &Browser| {
            browser.open(&gateway.url("/patron-blocks/console")).await;
            browser.until_text("things need attention.").await;
            let has_style = "return getComputedStyle(document.body).marginTop;";
            assert_eq!(browser.evaluate(has_style).await, json!("0px"));
            browser.type_into("#search", "4711\u{e007}").await;
            browser.until_text("Middlemarch").await;
            browser.click("nav a[href$=parked]").await;
            browser.until_text("Parked records: 2.").await;
            browser.click("form:has(input[value=discard]) button").await;
            browser.type_into("input[name=count]", "2").await;
            browser.type_into("form[action$='parked/bulk'] input[name=reason]", REASON).await;
            browser.click("form[action$='parked/bulk'] button").await;
            browser.until_text("Discarded: 2 records.").await;
            assert!(browser.url().await.starts_with(&gateway.url("/patron-blocks/console/parked")));
            assert_eq!(browser.take_errors().await, [""; 0]);
        })
        .await;
        world.take_incidents().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desk_page_turns_to_yes_by_itself() {
    World::run(async |world| {
        let library = Library::new(world).await;
        Browser::run(async |browser: &Browser| {
            browser.open(&url(world, &format!("desk/{}", library.user))).await;
            browser.until_text("Return any 3 of 7 loans and settle 2.50.").await;
            let focus =
                "document.querySelector('nav a[href$=parked]').focus(); window.isSame = true;";
            browser.evaluate(focus).await;
            for loan in &library.loans[..3] {
                world.publish(Kind::ItemCheckedIn, &loan_event(library.user, *loan)).await;
            }
            let payload = balance_change(library.user, library.fee, None, 10.0);
            world.publish(Kind::FeeFineBalanceChanged, &payload).await;
            world.until_committed().await;
            let began = Instant::now();
            browser.until_text("Borrow: yes").await;
            assert!(began.elapsed() < REFRESH_LIMIT, "the page took {:?}", began.elapsed());
            let has_focus =
                "return window.isSame && document.activeElement.matches('nav a[href$=parked]');";
            assert_eq!(
                browser.evaluate(has_focus).await,
                json!(true),
                "neither reload nor lost focus"
            );
            assert_eq!(browser.take_errors().await, [""; 0]);
        })
        .await;
        world.take_dead_letters().await;
        world.take_incidents().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patron_is_found_and_a_record_discarded_by_keyboard() {
    World::run(async |world| {
        let library = Library::new(world).await;
        Browser::run(async |browser: &Browser| {
            browser.open(&url(world, "home")).await;
            browser.press("/").await;
            browser.press(&format!("{}{ENTER}", library.user)).await;
            browser.until_text("Borrow: no").await;
            browser.open(&url(world, &format!("parked/{}", library.parked))).await;
            let on_reason = "const at = document.activeElement;
                return at.name === 'reason' && at.form.action.endsWith('/discard');";
            for _ in 0..40 {
                if browser.evaluate(on_reason).await == json!(true) {
                    break;
                }
                browser.press(TAB).await;
            }
            browser.press(&format!("{REASON}{ENTER}")).await;
            browser.until_text("The record is discarded.").await;
        })
        .await;
        world.take_dead_letters().await;
        world.take_incidents().await;
    })
    .await;
}

/// A payload of a producer and a message of a library are text in the page, and nothing breaks the content policy.
#[tokio::test(flavor = "multi_thread")]
async fn markup_of_others_runs_nothing() {
    const MARKUP: &str = "<img src=x onerror=alert(1)><script>document.title='taken'</script>";
    World::run(async |world| {
        let library = Library::new(world).await;
        let path = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let mut condition = world.get_json(&path).await;
        condition["message"] = json!(MARKUP);
        assert_eq!(world.put(&path, &condition).await.0, 204);
        Browser::run(async |browser: &Browser| {
            let user = library.user;
            for page in [format!("desk/{user}"), format!("patron/{user}"), "limits".to_owned()] {
                browser.open(&url(world, &page)).await;
                browser.until_text(MARKUP).await;
            }
            browser.open(&url(world, &format!("parked/{}", library.parked))).await;
            browser.until_text("<b>broken</b>").await;
            assert_eq!(browser.take_errors().await, [""; 0]);
            let title = browser.evaluate("return document.title;").await;
            assert!(title.as_str().unwrap().starts_with("Parked record"), "{title}");
        })
        .await;
        world.take_dead_letters().await;
        world.take_incidents().await;
    })
    .await;
}

/// East of Greenwich, the evening of UTC is the next day.
#[tokio::test(flavor = "multi_thread")]
async fn instants_have_the_time_zone_of_the_reader() {
    World::run(async |world| {
        let user = world.users.add_patron(Uuid::new_v4());
        let payload = check_out(user, Uuid::new_v4(), "2031-03-31T21:59:59.000Z");
        world.publish(Kind::ItemCheckedOut, &payload).await;
        world.until_committed().await;
        Browser::run(async |browser: &Browser| {
            browser.set_time_zone("Asia/Tokyo").await;
            browser.open(&url(world, &format!("patron/{user}"))).await;
            let due = "const due = document.querySelector('tr[id^=loan] time');
                return [due.textContent, due.title];";
            let due = browser.evaluate(due).await;
            let (local, title) = (due[0].as_str().unwrap(), due[1].as_str().unwrap());
            assert!(local.contains("Apr 1, 2031") && local.contains("6:59:59"), "{local}");
            assert_eq!(title, "2031-03-31T21:59:59.000+00:00");
        })
        .await;
    })
    .await;
}

/// A tab in the background must not ask the service for hours. Virtual time replaces ten minutes of waiting.
#[tokio::test(flavor = "multi_thread")]
async fn hidden_page_sends_no_request_and_refreshes_on_return() {
    /// Counts the requests of the page, and hides it.
    const HIDE: &str = "window.requests = 0;
        const send = window.fetch;
        window.fetch = (...request) => { window.requests += 1; return send(...request); };
        Object.defineProperty(document, 'hidden', { configurable: true, get: () => window.isHidden });
        window.isHidden = true;
        window.hiddenAt = Date.now();
        document.dispatchEvent(new Event('visibilitychange'));";
    const SHOW: &str = "window.isHidden = false;
        document.dispatchEvent(new Event('visibilitychange'));";
    let minutes = |count: u64| Duration::from_secs(60 * count);
    World::run(async |world| {
        Browser::run(async |browser: &Browser| {
            let requests = async || browser.evaluate("return window.requests;").await;
            browser.open(&url(world, "home")).await;
            browser.until_text("All is well.").await;
            browser.evaluate(HIDE).await;
            browser.advance_time(minutes(10)).await;
            let passed = browser.evaluate("return Date.now() - window.hiddenAt;").await;
            assert!(passed.as_f64().unwrap() >= minutes(10).as_millis() as f64, "{passed} ms");
            assert_eq!(requests().await, json!(0));
            browser.evaluate(SHOW).await;
            assert_eq!(requests().await, json!(1));
            // The timer that sent nothing still runs.
            browser.advance_time(minutes(1)).await;
            assert!(requests().await.as_u64().unwrap() > 1);
        })
        .await;
    })
    .await;
}

/// Writes the pictures of the documentation; `dev/screenshots` runs it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes files of the repository"]
async fn pictures_of_the_documentation() {
    World::run(async |world| {
        let library = Library::new(world).await;
        library.add_details(world).await;
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
        std::fs::create_dir_all(&folder).unwrap();
        let newest =
            "select id::text from mod_patron_blocks.job order by requested_at desc limit 1";
        let rebuild: String = sqlx::query_scalar(newest).fetch_one(&world.db).await.unwrap();
        world
            .until("the rebuild has its differences", async |w: &World| {
                let found = w.get_json(&format!("/patron-blocks/rebuilds/{rebuild}")).await;
                found["status"] == "compared"
            })
            .await;
        let rebuild = format!("rebuilds/{rebuild}");
        Browser::run(async |browser: &Browser| {
            let user = library.user;
            for (name, path, (width, height), is_dark) in [
                ("home", "home".to_owned(), (1280, 720), false),
                ("desk", format!("desk/{user}"), (1280, 720), false),
                ("patron", format!("patron/{user}"), (1280, 900), false),
                ("desk-phone", format!("desk/{user}"), (390, 844), true),
                ("parked", "parked".to_owned(), (1280, 720), false),
                ("preview", "parked".to_owned(), (1280, 800), false),
                ("loan", format!("loan/{}", library.loans[0]), (1280, 800), false),
                ("rebuild", rebuild, (1280, 720), false),
                ("limits", "limits".to_owned(), (1280, 900), false),
                ("log", "log".to_owned(), (1280, 720), false),
            ] {
                browser.show_on(Screen { width, height, is_dark }).await;
                browser.open(&url(world, &path)).await;
                if name == "preview" {
                    browser.click("form:has(input[value=retry]) button").await;
                    browser.until_text("Nothing has changed yet.").await;
                }
                std::fs::write(folder.join(format!("{name}.png")), browser.picture().await)
                    .unwrap();
            }
        })
        .await;
        // The lost row leaves the counters wrong, which every story checks at its end.
        world
            .execute_sql("truncate {schema}.loan, {schema}.fee_fine, {schema}.patron_counter")
            .await;
        world.take_dead_letters().await;
        world.take_incidents().await;
    })
    .await;
}
