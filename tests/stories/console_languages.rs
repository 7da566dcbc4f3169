//! The language of pages: that of the reader, and English in the log.

use patron_blocks::{console::roles::permission, services::operator_actions::Action};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::{
    console::{GATEWAY, blocked_patron},
    console_acts::REASON,
};
use crate::support::{http_client, world::World};

/// Returns the status and the page for a reader of languages, with all permissions.
async fn page_for(world: &World, path: &str, languages: &[u8]) -> (u16, String) {
    let all: Vec<&str> = Action::ALL.into_iter().filter_map(permission).collect();
    let request = world
        .request(Method::GET, &format!("{GATEWAY}/{path}"))
        .header("X-Okapi-Permissions", json!(all).to_string())
        .header("Accept-Language", languages);
    world.send(request).await
}

/// Checks the language of a page by its attribute and by a text.
fn assert_language(body: &str, language: &str, text: &str) {
    assert!(body.contains(&format!("<html lang=\"{language}\">")), "{body}");
    assert!(body.contains(text), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_the_language_of_the_reader() {
    World::run(async |world| {
        for (languages, language, text) in [
            (&b"de-CH, de;q=0.9, en;q=0.5"[..], "de", "<h1>Verworfene Datensätze</h1>"),
            (b"fr, en;q=0.5", "en", "<h1>Discarded records</h1>"),
            (b"fr", "en", "<h1>Discarded records</h1>"),
            (b";q=1,,=", "en", "<h1>Discarded records</h1>"),
            (b"de\xff", "en", "<h1>Discarded records</h1>"),
        ] {
            let (status, body) = page_for(world, "discarded", languages).await;
            assert_eq!(status, 200);
            assert_language(&body, language, text);
        }
        let (status, body) = world.get(&format!("{GATEWAY}/discarded")).await;
        assert_eq!(status, 200);
        assert_language(&body, "en", "<h1>Discarded records</h1>");
        // An error page, and the rule of the HTTP interface in it.
        let (status, body) = page_for(world, "nowhere", b"de").await;
        assert_eq!(status, 404);
        assert_language(&body, "de", "<p>Diese Seite gibt es nicht.</p>");
        let (status, body) = page_for(world, "desk/7", b"de").await;
        assert_eq!(status, 400);
        assert_language(&body, "de", "Invalid user UUID: &#34;7&#34;");
        let request = http_client::client().get(world.console_url());
        let response = request.header("Accept-Language", "de").send().await.unwrap();
        let body = response.text().await.unwrap();
        assert_language(&body, "de", "<h1>Automatische Sperren: Mandanten</h1>");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_about_a_patron_follow_the_language_of_the_reader() {
    World::run(async |world| {
        let (user, loans) = blocked_patron(world).await;
        let (_, body) = page_for(world, &format!("desk/{user}"), b"de").await;
        assert_language(&body, "de", "<h2>Ausleihen: nein</h2>");
        let sentence =
            "<p>Zurückgeben: 3 von 7 Ausleihen, gleich welche. Gebühren begleichen: 2.50.</p>";
        assert!(body.contains(sentence), "{body}");
        assert!(body.contains("Damit möglich: ausleihen, verlängern, vormerken."), "{body}");
        let (_, body) = page_for(world, &format!("desk/{user}"), b"fr, en;q=0.5").await;
        assert_language(&body, "en", "<h2>Borrow: no</h2>");
        let (_, body) = page_for(world, &format!("patron/{user}"), b"de").await;
        assert_language(&body, "de", "7 von 7 offenen Ausleihen");
        let (_, body) = page_for(world, &format!("loan/{}", loans[0]), b"de").await;
        assert_language(&body, "de", "<p>Offen: nicht überfällig. Person <a");
        let (_, body) = page_for(world, "parked?query=rule%3Dnowhere", b"de").await;
        assert_language(&body, "de", "<p>Kein zurückgestellter Datensatz passt zum Filter.</p>");
        let (status, body) = page_for(world, &format!("parked/{}", Uuid::new_v4()), b"de").await;
        assert_eq!(status, 404);
        assert_language(&body, "de", "Ein solcher Datensatz ist nicht zurückgestellt.");
    })
    .await;
}

/// Readers of the log have several languages, so an error is stored in English and shown in the language of the reader.
#[tokio::test(flavor = "multi_thread")]
async fn log_of_acts_has_errors_in_english() {
    World::run(async |world| {
        let all: Vec<&str> = Action::ALL.into_iter().filter_map(permission).collect();
        let request = world
            .request(Method::POST, &format!("{GATEWAY}/exports/{}/cancel", Uuid::new_v4()))
            .header("X-Okapi-Permissions", json!(all).to_string())
            .header("Sec-Fetch-Site", "same-origin")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Accept-Language", "de")
            .body(serde_urlencoded::to_string([("reason", REASON)]).unwrap());
        let (status, body) = world.send(request).await;
        assert_eq!(status, 409);
        assert_language(&body, "de", "<p>Es läuft kein Export mit dieser ID.</p>");
        let sql = format!(
            "select detail->>'why' from {}.operator_action where action = 'cancel-export'",
            world.schema.name()
        );
        let stored: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&world.db).await.unwrap();
        assert_eq!(stored, "No export with this id runs.");
        let (_, body) = page_for(world, "log", b"de").await;
        assert_language(&body, "de", "Nicht ausgeführt: Es läuft kein Export mit dieser ID.");
        let (_, body) = page_for(world, "log", b"en").await;
        assert_language(&body, "en", "Not done: No export with this id runs.");
    })
    .await;
}
