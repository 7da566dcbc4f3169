//! Sessions of the console: attempts to sign in, the end of a session, and requests that try to take one.

use chrono::TimeDelta;
use patron_blocks::{clock::Clock, config::CookieKey, event::Kind};
use reqwest::StatusCode;
use serde_json::json;
use url::Url;
use uuid::Uuid;

use super::console_acts::{REASON, park};
use crate::support::{
    browser::{Browser, Screen},
    oidc_provider::{TokenBehavior, person},
    payloads::{loan_event, now},
    sign_in_console::{ACT, Console, HOME, VIEW},
    visitor::Visitor,
    world::TENANT,
};

/// Returns an address with another value of a parameter.
fn with_parameter(url: &Url, name: &str, value: &str) -> Url {
    let others: Vec<(String, String)> =
        url.query_pairs().into_owned().filter(|(key, _)| key != name).collect();
    let mut changed = url.clone();
    changed.query_pairs_mut().clear().extend_pairs(others).append_pair(name, value);
    changed
}

fn session_of(visitor: &mut Visitor) -> Option<String> {
    visitor.cookies().get("patron-blocks-session").cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tabs_sign_in_at_the_same_time() {
    Console::run(
        |_| {},
        async |_, console| {
            console.provider.sign_in_as(person("kim", &[VIEW]));
            let mut visitor = console.visitor();
            let pages = ["home", "parked", "log"].map(|page| format!("tenants/{TENANT}/{page}"));
            let mut answers = Vec::new();
            for page in &pages {
                answers.push(visitor.begin(page).await);
            }
            assert_eq!(visitor.cookies().len(), 3);
            for (page, answer) in pages.iter().zip(&answers).rev() {
                let ended = visitor.request(answer).await;
                assert_eq!(ended.location(), Some(visitor.page(page)), "{}", ended.body);
            }
            assert_eq!(visitor.cookies().len(), 1, "{:?}", visitor.cookies());
            // The back button repeats the response of the provider.
            let repeated = visitor.request(&answers[0]).await;
            assert_eq!(repeated.location(), Some(console.front.url()), "{}", repeated.body);
            assert!(repeated.set_cookies().is_empty(), "a repeated response changes nothing");
            // A browser that begins again and again has a bounded number of cookies.
            let mut restless = console.visitor();
            let mut last = Vec::new();
            for _ in 0..12 {
                last.push(restless.begin(HOME).await);
            }
            assert_eq!(restless.cookies().len(), 5);
            let oldest = restless.request(&last[0]).await;
            assert_eq!(oldest.status, StatusCode::BAD_REQUEST);
            let newest = restless.request(&last[11]).await;
            assert_eq!(newest.status, StatusCode::SEE_OTHER);
            // Cookies of others that look like attempts are removed, some with each response.
            for number in 0..60 {
                let name = format!("patron-blocks-sign-in-{number}");
                restless.cookies().insert(name, "not-an-attempt".to_owned());
            }
            restless.cookies().remove("patron-blocks-session");
            let begun = restless.request(&restless.page(HOME)).await;
            assert_eq!(begun.set_cookies().len(), 11, "{begun:?}");
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn response_of_another_attempt_signs_no_one_in() {
    Console::run(
        |_| {},
        async |_, console| {
            console.provider.sign_in_as(person("mallory", &[ACT]));
            let mut attacker = console.visitor();
            let foreign = attacker.begin(HOME).await;
            // The victim opens the link of the attacker, without and with an attempt of the own.
            let mut victim = console.visitor();
            for _ in 0..2 {
                let shown = victim.request(&foreign).await;
                assert_eq!(shown.status, StatusCode::BAD_REQUEST, "{}", shown.body);
                assert!(
                    shown.body.contains("This browser has not begun this sign-in"),
                    "{}",
                    shown.body
                );
                assert_eq!(session_of(&mut victim), None);
                victim.begin(HOME).await;
            }
            let own = victim.begin(HOME).await;
            let code = |url: &Url| {
                let code = url.query_pairs().find(|(name, _)| name == "code").unwrap();
                code.1.into_owned()
            };
            // The code of the attacker with the state of the victim fails at PKCE and at the nonce.
            let shown = victim.request(&with_parameter(&own, "code", &code(&foreign))).await;
            assert_eq!(shown.status, StatusCode::BAD_REQUEST, "{}", shown.body);
            assert_eq!(session_of(&mut victim), None);
            // That ended the attempt.
            assert_eq!(victim.request(&own).await.status, StatusCode::BAD_REQUEST);
            // A browser that repeats the attempt has to redeem the code again.
            let own = victim.begin(HOME).await;
            let cookies = victim.cookies().clone();
            assert_eq!(victim.request(&own).await.status, StatusCode::SEE_OTHER);
            *victim.cookies() = cookies;
            let repeated = victim.request(&own).await;
            assert_eq!(repeated.status, StatusCode::BAD_REQUEST, "{}", repeated.body);
            assert_eq!(session_of(&mut victim), None);
            // Another issuer, and parameters that are no response.
            let own = victim.begin(HOME).await;
            let shown = victim.request(&with_parameter(&own, "iss", "https://evil.example")).await;
            assert_eq!(shown.status, StatusCode::BAD_GATEWAY, "{}", shown.body);
            for query in ["", "?state=", "?code=1&state=../../x", "?state=a&state=b", "?%ff=%ff"] {
                let url = console.front.url().join(&format!("sign-in/callback{query}")).unwrap();
                assert_eq!(victim.request(&url).await.status, StatusCode::BAD_REQUEST, "{query}");
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_provider_are_shown_as_text() {
    Console::run(
        |_| {},
        async |_, console| {
            let answered = async |error: &str| {
                let mut visitor = console.visitor();
                let url = visitor.begin(HOME).await;
                let shown = visitor.request(&with_parameter(&url, "error", error)).await;
                assert!(visitor.cookies().is_empty(), "{error}");
                assert_eq!(console.provider.requests().tokens, 0, "the code is not redeemed");
                shown
            };
            let denied = answered("access_denied").await;
            assert_eq!(denied.status, StatusCode::FORBIDDEN);
            assert!(
                denied.body.contains("The provider reports: access_denied."),
                "{}",
                denied.body
            );
            assert_eq!(
                answered("temporarily_unavailable").await.status,
                StatusCode::SERVICE_UNAVAILABLE
            );
            let markup =
                answered(&format!("<script>alert(1)</script>\u{202e}{}", "x".repeat(500))).await;
            assert_eq!(markup.status, StatusCode::BAD_GATEWAY);
            assert!(markup.body.contains("&#60;script&#62;") && !markup.body.contains("<script"));
            assert!(!markup.body.contains('\u{202e}') && !markup.body.contains(&"x".repeat(101)));
            // Without an attempt, the text of a link does not get onto a page.
            let url = console.front.url().join("sign-in/callback?state=a&error=call-0900").unwrap();
            let shown = console.visitor().request(&url).await;
            assert!(!shown.body.contains("0900"), "{}", shown.body);
        },
    )
    .await;
}

/// A session ends eight hours after its sign-in, whatever its person does, and an attempt after ten minutes.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_attempts_end() {
    Console::run(
        |_| {},
        async |world, console| {
            let begin = now();
            let clock = Clock::fixed_at(begin);
            world.start_with_clock(clock.clone()).await;
            console.front.forward_to(&world.console_url());
            let mut visitor = console.signed_in("kim", &[ACT]).await;
            let fetch = async |visitor: &mut Visitor| {
                let url = visitor.page(HOME);
                let request = visitor.get(&url).header("Sec-Fetch-Mode", "cors");
                visitor.send(&url, request).await
            };
            for minutes in [60, 240, 479] {
                clock.set(begin + TimeDelta::minutes(minutes));
                let shown = visitor.request(&visitor.page(HOME)).await;
                assert_eq!(shown.status, StatusCode::OK, "after {minutes} minutes");
                assert!(shown.set_cookies().is_empty(), "no page extends a session");
            }
            clock.set(begin + TimeDelta::hours(8));
            // The refresh of a page begins no sign-in.
            let shown = fetch(&mut visitor).await;
            assert_eq!(shown.status, StatusCode::UNAUTHORIZED, "{}", shown.body);
            assert!(shown.set_cookies().is_empty());
            let shown = visitor.submit(&format!("tenants/{TENANT}/limits"), &[]).await;
            assert_eq!(shown.status, StatusCode::UNAUTHORIZED, "{}", shown.body);
            let begun = visitor.request(&visitor.page(HOME)).await;
            assert_eq!(begun.status, StatusCode::SEE_OTHER);

            let in_time = |at: TimeDelta| {
                clock.set(begin + at);
                let seconds = clock.now().timestamp();
                let times = json!({ "iat": seconds, "exp": seconds + 300 });
                console.provider.behave(TokenBehavior::with_claims(times));
            };
            let attempt = async |after: TimeDelta| {
                in_time(TimeDelta::hours(9));
                let mut visitor = console.visitor();
                let answer = visitor.begin(HOME).await;
                in_time(TimeDelta::hours(9) + after);
                visitor.request(&answer).await.status
            };
            assert_eq!(attempt(TimeDelta::seconds(599)).await, StatusCode::SEE_OTHER);
            assert_eq!(attempt(TimeDelta::seconds(600)).await, StatusCode::BAD_REQUEST);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_is_valid_for_its_console_only() {
    Console::run(
        |_| {},
        async |world, console| {
            let mut visitor = console.signed_in("kim", &[ACT]).await;
            // A second instance with the key accepts the session, an instance with another key does not.
            world.start().await;
            console.front.forward_to(&world.console_url());
            assert_eq!(visitor.request(&visitor.page(HOME)).await.status, StatusCode::OK);
            world.config.console.sign_in.as_mut().unwrap().cookie_key = CookieKey::new(vec![8; 64]);
            world.start().await;
            console.front.forward_to(&world.console_url());
            let begun = visitor.request(&visitor.page(HOME)).await;
            assert_eq!(begun.status, StatusCode::SEE_OTHER);
            // An attempt is no session, and a session no attempt.
            let (name, value) = visitor.cookies().iter().next_back().unwrap();
            assert!(name.starts_with("patron-blocks-sign-in-"), "{name}");
            let value = value.clone();
            visitor.cookies().insert("patron-blocks-session".to_owned(), value);
            assert_eq!(visitor.request(&visitor.page(HOME)).await.status, StatusCode::SEE_OTHER);
        },
    )
    .await;
}

/// A session that an attacker left in a browser ends with the sign-in of the person.
#[tokio::test(flavor = "multi_thread")]
async fn sign_in_replaces_the_session() {
    Console::run(
        |_| {},
        async |_, console| {
            let mut visitor = console.signed_in("mallory", &[VIEW]).await;
            let before = session_of(&mut visitor).unwrap();
            let answer = {
                let mut other = console.visitor();
                console.provider.sign_in_as(person("kim", &[VIEW]));
                let answer = other.begin(HOME).await;
                visitor.cookies().append(other.cookies());
                answer
            };
            assert_eq!(visitor.request(&answer).await.status, StatusCode::SEE_OTHER);
            assert_ne!(session_of(&mut visitor).unwrap(), before);
            assert!(visitor.open(HOME).await.body.contains("<span>kim, reads only</span>"));
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_out_ends_the_session_here_and_at_the_provider() {
    Console::run(
        |_| {},
        async |_, console| {
            let mut visitor = console.signed_in("kim", &[VIEW]).await;
            for site in ["cross-site", "same-site"] {
                let shown = visitor.submit_from(site, "sign-out", &[]).await;
                assert_eq!(shown.status, StatusCode::FORBIDDEN, "{site}");
            }
            let by_link = visitor.request(&visitor.page("sign-out")).await;
            assert_eq!(by_link.status, StatusCode::METHOD_NOT_ALLOWED);
            assert!(session_of(&mut visitor).is_some());
            let shown = visitor.submit("sign-out", &[]).await;
            assert_eq!(shown.status, StatusCode::SEE_OTHER);
            assert_eq!(session_of(&mut visitor), None);
            let provider = shown.location().unwrap();
            assert!(
                provider
                    .as_str()
                    .starts_with(&format!("{}/end-session?", console.provider.issuer()))
            );
            let policy = shown.headers["Content-Security-Policy"].to_str().unwrap();
            assert!(
                policy.ends_with(&format!("form-action 'self' {}", console.provider.issuer())),
                "{policy}"
            );
            let returned = visitor.request(&provider).await.location().unwrap();
            assert_eq!(returned, visitor.page("signed-out"));
            let page = visitor.request(&returned).await;
            assert!(page.body.contains("Your session of this console has ended."), "{}", page.body);
            let german = visitor.get(&returned).header("Accept-Language", "de-AT");
            let page = visitor.send(&returned, german).await;
            assert!(page.body.contains("<h1>Sie sind abgemeldet</h1>"), "{}", page.body);
            // Without a session there is nothing to end.
            let shown = visitor.submit("sign-out", &[]).await;
            assert_eq!(shown.location(), Some(visitor.page("signed-out")));
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_host_of_the_public_url_is_served() {
    Console::run(
        |_| {},
        async |world, console| {
            let visitor = console.visitor();
            let port = console.front.url().port().unwrap();
            let direct = Url::parse(&world.console_url()).unwrap();
            let own = format!("127.0.0.1:{port}");
            for (host, expected) in [
                (own.as_str(), StatusCode::SEE_OTHER),
                ("127.0.0.1", StatusCode::NOT_FOUND),
                ("localhost", StatusCode::NOT_FOUND),
                ("evil.example", StatusCode::NOT_FOUND),
                (&format!("{own}.evil.example"), StatusCode::NOT_FOUND),
                (&format!("evil.example@{own}"), StatusCode::NOT_FOUND),
            ] {
                let response = visitor.get(&direct).header("Host", host).send().await.unwrap();
                assert_eq!(response.status(), expected, "{host}");
            }
            let both = visitor
                .get(&direct)
                .header("X-Forwarded-Host", "evil.example")
                .header("Host", &own);
            let location =
                both.send().await.unwrap().headers()["Location"].to_str().unwrap().to_owned();
            assert!(!location.contains("evil.example"), "{location}");
            // The other port has no sign-in and no page of this door.
            assert_eq!(world.get("/sign-in/callback").await.0, 404);
            assert_eq!(world.get(&format!("/{HOME}")).await.0, 404);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn person_signs_in_acts_and_signs_out_in_a_browser() {
    Console::run(|_| {}, async |world, console| {
        let id = park(world, Kind::LoanClosed, loan_event(Uuid::new_v4(), Uuid::new_v4())).await;
        let page = console.front.url().join(&format!("tenants/{TENANT}/parked/{id}")).unwrap();
        console.provider.ask();
        console.provider.sign_in_as(person("kim", &[VIEW]));
        Browser::run(async |browser: &Browser| {
            browser.show_on(Screen { width: 360, height: 740, is_dark: false }).await;
            let mut found = Vec::new();
            browser.open(page.as_str()).await;
            browser.click("#yes").await;
            browser.until_text("kim, reads only").await;
            assert_eq!(browser.url().await, page.as_str());
            let buttons = "return [...document.querySelectorAll('main form')].length;";
            assert_eq!(browser.evaluate(buttons).await, json!(0), "a reader has no forms");
            found.extend(browser.violations().await);
            browser.click("form.reader button").await;
            browser.until_text("You are signed out").await;
            found.extend(browser.violations().await);

            console.provider.sign_in_as(person("visitor-of-note", &[]));
            browser.click("main a").await;
            browser.click("#yes").await;
            browser.until_text("You have no role here").await;
            found.extend(browser.violations().await);

            console.provider.sign_in_as(person("robin", &[ACT]));
            browser.open(page.as_str()).await;
            browser.click("#yes").await;
            browser.type_into("form[action$='/discard'] input[name=reason]", REASON).await;
            browser.click("form[action$='/discard'] button").await;
            browser.until_text("The record is discarded.").await;
            browser.open(console.front.url().as_str()).await;
            browser.until_text("robin").await;
            found.extend(browser.violations().await);
            assert_eq!(found, [""; 0]);
            let errors = browser.take_errors().await;
            let unexpected = |error: &&String| !error.contains("403");
            assert_eq!(errors.iter().filter(unexpected).count(), 0, "{errors:?}");
        })
        .await;
        let actor = format!("select count(*) from {{schema}}.operator_action where actor = 'robin' and reason = '{REASON}'");
        assert_eq!(world.count(&actor).await, 1);
    })
    .await;
}

/// The pages that other stories of the browser do not see: those without a session, and the frame with a name.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_sign_in_are_accessible() {
    Console::run(
        |_| {},
        async |_, console| {
            let at = |path: &str| console.front.url().join(path).unwrap().to_string();
            let mut found = Vec::new();
            Browser::run(async |browser: &Browser| {
                for (width, is_dark) in [(1280, false), (1280, true), (360, false), (360, true)] {
                    browser.show_on(Screen { width, height: 740, is_dark }).await;
                    let mut check = async |path: &str, text: &str| {
                        browser.open(&at(path)).await;
                        browser.until_text(text).await;
                        for problem in browser.violations().await {
                            found.push(format!("{path} at {width}: {problem}"));
                        }
                    };
                    check("signed-out", "You are signed out").await;
                    check("sign-in/callback", "The sign-in has ended").await;
                    console.provider.sign_in_as(person("kim", &[]));
                    check(HOME, "You have no role here").await;
                    let name = format!("kim-{}", "of-the-consortium-".repeat(4));
                    console.provider.sign_in_as(person(&name, &[VIEW]));
                    check(HOME, "reads only").await;
                    check("", "reads only").await;
                    browser.click("form.reader button").await;
                    browser.until_text("You are signed out").await;
                }
            })
            .await;
            assert_eq!(found, [""; 0]);
        },
    )
    .await;
}
