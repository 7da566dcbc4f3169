//! The desk page in a real browser: it fits the screen of a desk, and a slip.

use serde_json::json;

use super::browser::{Library, url};
use crate::support::{
    browser::{Browser, Screen},
    gateway_stub::GatewayStub,
    world::World,
};

/// Everything that a librarian needs is on the first screen, and a phone has the answers there.
#[tokio::test(flavor = "multi_thread")]
async fn desk_page_fits_the_screen_of_a_desk() {
    World::run(async |world| {
        let library = Library::new(world).await;
        Browser::run(async |browser: &Browser| {
            let path = url(world, &format!("desk/{}", library.user));
            browser.show_on(Screen { width: 1280, height: 720, is_dark: false }).await;
            browser.open(&path).await;
            let height = browser.evaluate("return document.documentElement.scrollHeight;").await;
            assert!(height.as_i64().unwrap() <= 720, "the page has {height} pixels");
            browser.show_on(Screen { width: 360, height: 740, is_dark: false }).await;
            browser.open(&path).await;
            let overflow = "return [...document.querySelectorAll('main *')]
                .filter((part) => part.scrollWidth > part.clientWidth + 1 && part.clientWidth > 0
                    && getComputedStyle(part).display !== 'inline')
                .map((part) => part.outerHTML);";
            assert_eq!(browser.evaluate(overflow).await, json!([]), "no part scrolls sideways");
            let bottom =
                "return document.querySelector('.actions').getBoundingClientRect().bottom;";
            let bottom = browser.evaluate(bottom).await.as_f64().unwrap();
            assert!(bottom <= 740.0, "the answers end at {bottom}");
        })
        .await;
        world.take_dead_letters().await;
        world.take_incidents().await;
    })
    .await;
}

/// Single keys collide with those of speech input, so a reader can switch them off.
#[tokio::test(flavor = "multi_thread")]
async fn single_keys_can_be_switched_off() {
    World::run(async |world| {
        let is_at = async |browser: &Browser, path: &str| {
            let address = url(world, path);
            world
                .until(&format!("the page {path} is open"), async |_: &World| {
                    browser.url().await == address
                })
                .await;
        };
        Browser::run(async |browser: &Browser| {
            browser.open(&url(world, "log")).await;
            browser.press("gp").await;
            is_at(browser, "parked").await;
            browser.press("gh").await;
            is_at(browser, "home").await;
            browser.press("?").await;
            is_at(browser, "help").await;
            browser.until_text("Single keys are on.").await;
            browser.click("#keys").await;
            browser.until_text("Single keys are off.").await;
            // The choice is remembered, and no key does anything.
            browser.open(&url(world, "log")).await;
            browser.press("?gh/").await;
            let focused = browser.evaluate("return document.activeElement.tagName;").await;
            assert_eq!(focused, json!("BODY"));
            is_at(browser, "log").await;
            browser.open(&url(world, "help")).await;
            browser.until_text("Single keys are off.").await;
            browser.click("#keys").await;
            browser.until_text("Single keys are on.").await;
            browser.press("/").await;
            let focused = browser.evaluate("return document.activeElement.id;").await;
            assert_eq!(focused, json!("search"));
            assert_eq!(browser.take_errors().await, [""; 0]);
        })
        .await;
    })
    .await;
}

/// Without a script, the help has the same text, and no button that does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn help_works_without_a_script() {
    World::run(async |world| {
        Browser::run(async |browser: &Browser| {
            browser.allow_scripts(false).await;
            browser.open(&url(world, "home")).await;
            browser.click("#help").await;
            browser.until_text("moves to the search").await;
            assert!(!browser.text().await.contains("Switch single keys"));
        })
        .await;
    })
    .await;
}

/// A slip for the patron has what to return and what to settle, and no id.
#[tokio::test(flavor = "multi_thread")]
async fn slip_lists_what_to_return_and_to_settle() {
    World::run(async |world| {
        let library = Library::new(world).await;
        library.loans.iter().for_each(|loan| world.users.set_title(*loan, "Middlemarch"));
        let gateway = GatewayStub::start(world.url(), &world.users.url());
        Browser::run(async |browser: &Browser| {
            let desk = format!("/patron-blocks/console/desk/{}", library.user);
            browser.open(&gateway.url(&desk)).await;
            browser.until_text("Middlemarch").await;
            browser.print(true).await;
            let slip = browser.text().await;
            for text in ["Borrow: no", "To return", "To settle", "settle 2.50", "balance 12.50"] {
                assert!(slip.contains(text), "{text}: {slip}");
            }
            assert_eq!(slip.matches("Middlemarch, 1000, due").count(), 3, "{slip}");
            let ids = library.loans.iter().chain([&library.user, &library.fee]);
            let ids = ids.filter(|id| slip.contains(&id.to_string())).count();
            assert_eq!(ids, 0, "{slip}");
            for text in ["Limits reached", "Search", "Pause refresh"] {
                assert!(!slip.contains(text), "{text}: {slip}");
            }
            browser.print(false).await;
            assert!(browser.text().await.contains("Limits reached"));
        })
        .await;
        world.take_dead_letters().await;
        world.take_incidents().await;
    })
    .await;
}
