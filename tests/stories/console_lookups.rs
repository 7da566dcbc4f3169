//! What pages show with the token of the reader: the patron of a barcode, and titles.

use patron_blocks::event::Kind;
use reqwest::Url;
use uuid::Uuid;

use super::console::{GATEWAY, blocked_patron, page};
use crate::support::{
    http_client,
    payloads::balance_change,
    world::{TENANT, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn search_finds_patrons_loans_and_fees() {
    World::run(async |world| {
        let (user, loans) = blocked_patron(world).await;
        let found = async |text: &str| {
            let url = format!("{}{GATEWAY}/search", world.url());
            let url = Url::parse_with_params(&url, [("id", text)]).unwrap();
            let client = http_client::client_without_redirects();
            let request = client.get(url).header("X-Okapi-Tenant", TENANT);
            let response = request.header("X-Okapi-Url", world.users.url()).send().await.unwrap();
            let location = response.headers().get("Location");
            let location = location.map(|location| location.to_str().unwrap().to_owned());
            (response.status().as_u16(), location)
        };
        let desk = format!("desk/{user}");
        assert_eq!(found(&format!(" {user} ")).await, (303, Some(desk.clone())));
        let loan = loans[0];
        assert_eq!(found(&loan.to_string()).await, (303, Some(format!("{desk}#loan-{loan}"))));
        world.users.set_barcode("12345", user);
        assert_eq!(found("12345").await, (303, Some(desk)));
        assert_eq!(found("67890").await, (404, None));
        world.users.forbid_lookups();
        assert_eq!(found("12345").await, (403, None));
    })
    .await;
}

/// A reader sees titles only with the own permission, and no page of the console port has one.
#[tokio::test(flavor = "multi_thread")]
async fn titles_follow_the_permission_of_the_reader() {
    const TITLE: &str = "Middlemarch <1871>";
    World::run(async |world| {
        let (user, loans) = blocked_patron(world).await;
        // The fee of the patron is for the last loan.
        let payload = balance_change(user, Uuid::new_v4(), Some(loans[6]), 20.0);
        world.publish(Kind::FeeFineBalanceChanged, &payload).await;
        world.until_committed().await;
        loans.iter().for_each(|loan| world.users.set_title(*loan, TITLE));
        const SHOWN: &str = "Middlemarch &#60;1871&#62;, 1000";
        let (desk, patron) = (format!("desk/{user}"), format!("patron/{user}"));
        let body = page(world, &desk).await;
        assert_eq!(body.matches(&format!(">{SHOWN}</a>, due <time")).count(), 3, "{body}");
        assert!(body.contains(&format!(">Fee or fine</a> for {SHOWN}, balance 20.")), "{body}");
        let body = page(world, &patron).await;
        assert_eq!(body.matches(&format!("<td>{SHOWN}</td>")).count(), 7, "{body}");
        for path in [&desk, &patron] {
            let url = format!("{}tenants/{TENANT}/{path}", world.console_url());
            let body = http_client::client().get(url).send().await.unwrap().text().await.unwrap();
            assert!(!body.contains("Middlemarch") && !body.contains("<th>Title</th>"), "{body}");
            assert!(!body.contains("permission"), "{body}");
        }
        world.users.forbid_lookups();
        for path in [&desk, &patron] {
            let body = page(world, path).await;
            assert!(body.contains("You have no permission to see the titles of loans."), "{body}");
            assert!(!body.contains("Middlemarch"), "{body}");
        }
    })
    .await;
}
