//! The links between the pages of the console, through both doors, and the separation of tenants.

use std::collections::BTreeSet;

use patron_blocks::event::Kind;
use regex_lite::Regex;
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};
use uuid::Uuid;

use super::console::{GATEWAY, blocked_patron};
use crate::support::{
    http_client,
    payloads::{check_out, minutes_from_now},
    world::{TENANT, World},
};

/// Returns the locations of all links, searches, styles and scripts of a page.
fn links(body: &str) -> Vec<String> {
    let link = Regex::new(r#"(?:href|src|action)="([^"]*)""#).unwrap();
    let body = body.replace("method=\"post\" action=", "");
    let all = link.captures_iter(&body).map(|found| found[1].replace("&amp;", "&"));
    all.filter(|location| !location.starts_with("data:")).collect()
}

/// Visits all pages from `start`, and returns their addresses and bodies. Fails at a page that is not found.
async fn crawl(start: Url) -> Vec<(Url, String)> {
    let client = http_client::client();
    let (mut waiting, mut known, mut pages) = (vec![start], BTreeSet::new(), Vec::new());
    while let Some(url) = waiting.pop() {
        if !known.insert(url.to_string()) {
            continue;
        }
        let request = client.get(url.clone()).header("X-Okapi-Tenant", TENANT);
        let response = request.send().await.unwrap();
        let (status, at) = (response.status(), response.url().clone());
        let body = response.text().await.unwrap();
        // The form of the search has no id yet.
        assert!(status == 200 || status == 400 && url.path().ends_with("/search"), "{url}: {body}");
        if at.path().contains("/assets/") {
            continue;
        }
        for link in links(&body) {
            let mut target = at.join(&link).unwrap();
            target.set_fragment(None);
            waiting.push(target);
        }
        pages.push((at, body));
    }
    pages
}

/// A browser resolves the relative links of a page against its address, so each page has one address.
#[tokio::test(flavor = "multi_thread")]
async fn slash_at_the_end_of_an_address_redirects() {
    World::run(async |world| {
        let user = world.users.add_patron(Uuid::new_v4());
        let client = http_client::client_without_redirects();
        let gateway = format!("{}{GATEWAY}", world.url());
        let console = format!("{}tenants/{TENANT}", world.console_url());
        for root in [gateway, console] {
            for (path, location) in [
                ("/home/".to_owned(), "../home".to_owned()),
                ("/home//".to_owned(), "../../home".to_owned()),
                (
                    "/parked/?query=id==%22x/%22".to_owned(),
                    "../parked?query=id==%22x/%22".to_owned(),
                ),
                (format!("/desk/{user}/"), format!("../{user}")),
            ] {
                let request = client.get(format!("{root}{path}")).header("X-Okapi-Tenant", TENANT);
                let response = request.send().await.unwrap();
                assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT, "{root}{path}");
                assert_eq!(response.headers()["Location"], *location, "{root}{path}");
                assert_eq!(response.headers()["Cache-Control"], "no-store", "{root}{path}");
            }
            let pages = crawl(Url::parse(&format!("{root}/desk/{user}/")).unwrap()).await;
            assert!(pages.len() >= 4, "{root}: {} pages", pages.len());
        }
        // The interfaces accept the slash without a redirect.
        assert_eq!(world.get("/patron-block-limits/").await.0, 200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_work_through_both_doors() {
    World::run(async |world| {
        let (user, _) = blocked_patron(world).await;
        world.publish(Kind::LoanClosed, &json!({ "userId": user })).await;
        world.until_committed().await;
        let gateway = Url::parse(&format!("{}{GATEWAY}", world.url())).unwrap();
        let with_slash = Url::parse(&format!("{gateway}/")).unwrap();
        let console = Url::parse(&world.console_url()).unwrap();
        let local = console.join(&format!("tenants/{TENANT}/home")).unwrap();
        let local_root = console.join(&format!("tenants/{TENANT}")).unwrap();
        for (start, root) in [
            (gateway.clone(), GATEWAY.to_owned()),
            (with_slash, GATEWAY.to_owned()),
            (Url::parse(&format!("{local_root}/")).unwrap(), local_root.path().to_owned()),
            (local_root.clone(), local_root.path().to_owned()),
            (local, format!("/tenants/{TENANT}")),
        ] {
            let pages = crawl(start.clone()).await;
            assert!(pages.len() >= 4, "{start}: {} pages", pages.len());
            for (at, _) in &pages {
                assert!(at.path().starts_with(&root), "{at} is not below {root}");
            }
            for page in ["/parked/", "/patron/", "/desk/", "/loan/"] {
                assert!(pages.iter().any(|(at, _)| at.path().contains(page)), "{start}: no {page}");
            }
        }
        let tenants =
            http_client::client().get(console.clone()).send().await.unwrap().text().await.unwrap();
        assert!(tenants.contains(&format!("href=\"tenants/{TENANT}/home\"")), "{tenants}");
        let disabled = console.join("tenants/southlib/home").unwrap();
        assert_eq!(http_client::client().get(disabled).send().await.unwrap().status(), 400);
        world.take_dead_letters().await;
    })
    .await;
}

/// On the console port the path names the tenant, and a header has no effect.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_tenant_name_no_id_of_another() {
    const OTHER: &str = "southlib";
    World::run(async |world| {
        let (user, _) = blocked_patron(world).await;
        let of_other =
            |method, path: &str| world.request(method, path).header("X-Okapi-Tenant", OTHER);
        let body = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        let job = of_other(Method::POST, "/_/tenant").json(&body).send().await.unwrap();
        let job: Value = job.json().await.unwrap();
        let job = format!("/_/tenant/{}?wait=60000", job["id"].as_str().unwrap());
        of_other(Method::GET, &job).send().await.unwrap();
        let (stranger, loan) = (Uuid::new_v4(), Uuid::new_v4());
        let path = Kind::ItemCheckedOut.http_path();
        let event = check_out(stranger, loan, &minutes_from_now(1440));
        let sent = of_other(Method::POST, &path).json(&event).send().await.unwrap();
        assert!(sent.status().is_success());
        let console = Url::parse(&world.console_url()).unwrap();
        let pages = async |tenant: &str, user: Uuid| {
            let mut pages = Vec::new();
            for path in ["home".to_owned(), format!("patron/{user}"), "ingest".to_owned()] {
                let start = console.join(&format!("tenants/{tenant}/{path}")).unwrap();
                pages.extend(crawl(start).await);
            }
            pages
        };
        for (tenant, own, foreign) in
            [(TENANT, user, stranger), (OTHER, stranger, user), (OTHER, loan, user)]
        {
            let is_patron = own != loan;
            let pages = pages(tenant, if is_patron { own } else { stranger }).await;
            assert!(pages.iter().any(|(_, body)| body.contains(&own.to_string())), "{tenant}");
            for (at, body) in pages {
                assert!(!body.contains(&foreign.to_string()), "{at}");
            }
        }
        // A patron of the other tenant is unknown here.
        for (path, sentence) in
            [("desk", "No loan, fee or fine of this id is known."), ("patron", "No open loans.")]
        {
            let foreign = console.join(&format!("tenants/{TENANT}/{path}/{stranger}")).unwrap();
            let foreign = http_client::client().get(foreign).send().await.unwrap();
            let foreign = foreign.text().await.unwrap();
            assert!(foreign.contains(sentence) && !foreign.contains("loan-"), "{foreign}");
        }
    })
    .await;
}
