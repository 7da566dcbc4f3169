//! The sign-in with a real Keycloak and a real browser. `dev/keycloak test` starts Keycloak and runs these stories.

use patron_blocks::{
    config::{CookieKey, SignInConfig},
    event::Kind,
};
use serde_json::json;
use uuid::Uuid;

use super::console_acts::{REASON, park};
use crate::support::{
    browser::Browser,
    engines::variable,
    payloads::loan_event,
    sign_in_console::{ACT, HOME, VIEW},
    visitor::Front,
    world::{TENANT, World},
};

/// The client of `dev/provider/realm.json`.
fn sign_in_config(front: &Front) -> SignInConfig {
    SignInConfig {
        issuer: variable("KEYCLOAK_ISSUER"),
        client_id: "mod-patron-blocks".to_owned(),
        client_secret: Some("secret-of-tests".to_owned()),
        roles_claim: "realm_access.roles".to_owned(),
        view_role: VIEW.to_owned(),
        act_role: ACT.to_owned(),
        tenants_claim: Some("tenants".to_owned()),
        public_url: front.url(),
        cookie_key: CookieKey::new(vec![7; CookieKey::BYTES]),
    }
}

/// Fills in the form of Keycloak. Each person of the realm has the own name as password.
async fn sign_in(browser: &Browser, name: &str) {
    browser.type_into("#username", name).await;
    browser.type_into("#password", name).await;
    browser.click("#kc-login").await;
}

/// Signs out of the console, and confirms it at Keycloak.
async fn sign_out(browser: &Browser) {
    browser.click("form.reader button").await;
    browser.click("#kc-logout").await;
    browser.until_text("Your session of this console has ended.").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Keycloak: dev/keycloak test runs it"]
async fn persons_of_keycloak_read_act_and_sign_out() {
    let front = Front::open();
    let sign_in_settings = sign_in_config(&front);
    World::run_with(
        |config| config.console.sign_in = Some(sign_in_settings),
        async |world| {
            front.forward_to(&world.console_url());
            let id =
                park(world, Kind::LoanClosed, loan_event(Uuid::new_v4(), Uuid::new_v4())).await;
            let at = |path: &str| front.url().join(path).unwrap().to_string();
            let record = at(&format!("tenants/{TENANT}/parked/{id}"));
            Browser::run(async |browser: &Browser| {
                browser.open(&record).await;
                sign_in(browser, "reader").await;
                browser.until_text("reader, reads only").await;
                assert_eq!(browser.url().await, record);
                let forms = "return document.querySelectorAll('main form').length;";
                assert_eq!(browser.evaluate(forms).await, json!(0), "a reader has no forms");
                browser.open(&at("tenants/southlib/home")).await;
                browser.until_text("There is no such page.").await;
                browser.open(&at(HOME)).await;
                sign_out(browser).await;

                // Keycloak asks again, because its session has ended too.
                browser.click("main a").await;
                sign_in(browser, "guest").await;
                browser.until_text("You signed in as guest, who has no role").await;
                browser.until_text("To read pages, you need the role patron-blocks-view.").await;
                browser.click("main a[href*=logout]").await;
                browser.click("#kc-logout").await;
                browser.until_text("You are signed out").await;

                browser.open(&record).await;
                sign_in(browser, "operator").await;
                let reason = "form[action$='/discard'] input[name=reason]";
                browser.type_into(reason, REASON).await;
                browser.click("form[action$='/discard'] button").await;
                browser.until_text("The record is discarded.").await;
                sign_out(browser).await;
            })
            .await;
            let actor = "select count(*) from {schema}.operator_action where actor = 'operator'";
            assert_eq!(world.count(actor).await, 1);
        },
    )
    .await;
}

/// Keycloak checks the client when the service redeems the code.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Keycloak: dev/keycloak test runs it"]
async fn wrong_secret_signs_no_one_in() {
    let front = Front::open();
    let client_secret = Some("another".to_owned());
    let sign_in_settings = SignInConfig { client_secret, ..sign_in_config(&front) };
    World::run_with(
        |config| config.console.sign_in = Some(sign_in_settings),
        async |world| {
            front.forward_to(&world.console_url());
            Browser::run(async |browser: &Browser| {
                browser.open(front.url().as_str()).await;
                sign_in(browser, "operator").await;
                browser.until_text("does not accept this console").await;
            })
            .await;
        },
    )
    .await;
}
