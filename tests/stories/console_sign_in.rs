//! The sign-in at the console port: who gets a session, what the session permits, and when it ends.

use patron_blocks::{blocks::Measure, config::SignInConfig, event::Kind};
use regex_lite::Regex;
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use super::console_acts::{REASON, park};
use crate::support::{
    oidc_provider::{OidcProvider, Signature, TokenBehavior, person},
    payloads::loan_event,
    sign_in_console::{ACT, Console, HOME, VIEW, sign_in_config},
    visitor::{Front, Shown, Visitor},
    world::{TENANT, World},
};

/// Returns the style of a page.
fn style_of(shown: &Shown) -> String {
    let style = Regex::new(r#"rel="stylesheet" href="([^"]+)""#).unwrap();
    shown.url.join(&style.captures(&shown.body).expect("a style")[1]).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn person_signs_in_and_returns_to_the_page() {
    Console::run(
        |_| {},
        async |_, console| {
            console.provider.sign_in_as(person("kim", &[VIEW]));
            let mut visitor = console.visitor();
            let path = "tenants/northlib/parked?query=reason%3D%3D%22a%26b%22";
            let begun = visitor.request(&visitor.page(path)).await;
            assert_eq!(begun.status, StatusCode::SEE_OTHER);
            let [attempt] = &begun.set_cookies()[..] else { panic!("{begun:?}") };
            assert!(attempt.starts_with("patron-blocks-sign-in-"), "{attempt}");
            assert!(
                attempt.ends_with("; HttpOnly; SameSite=Lax; Path=/; Max-Age=600"),
                "{attempt}"
            );
            let provider = begun.location().unwrap();
            let parameters: Vec<(String, String)> = provider.query_pairs().into_owned().collect();
            for name in ["state", "nonce", "code_challenge"] {
                let (_, value) = parameters.iter().find(|(key, _)| key == name).expect(name);
                assert!(value.len() >= 22 && !attempt.contains(value.as_str()), "{name}={value}");
            }
            let answered = visitor.request(&provider).await;
            let ended = visitor.request(&answered.location().unwrap()).await;
            assert_eq!(ended.location(), Some(visitor.page(path)), "{}", ended.body);
            let cookies = ended.set_cookies();
            let session = cookies.iter().find(|cookie| cookie.contains("-session=")).unwrap();
            assert!(session.ends_with("; HttpOnly; SameSite=Lax; Path=/"), "{session}");
            assert!(!session.contains("kim") && session.len() < 600, "{session}");
            assert_eq!(visitor.cookies().len(), 1, "the cookie of the attempt is gone");
            let page = visitor.request(&visitor.page(path)).await;
            assert_eq!(page.status, StatusCode::OK, "{}", page.body);
            assert!(page.body.contains("<span>kim, reads only</span>"), "{}", page.body);
            assert_eq!(page.headers["Cache-Control"], "no-store");
            // The files of a page need no session.
            let mut other = console.visitor();
            let style = style_of(&page).parse().unwrap();
            assert_eq!(other.request(&style).await.status, StatusCode::OK);
            assert_eq!(
                other.request(&style_of(&visitor.open("").await).parse().unwrap()).await.status,
                200
            );
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn public_client_signs_in_without_a_secret() {
    let (provider, front) = (OidcProvider::start(None).await, Front::open());
    let sign_in = SignInConfig { client_secret: None, ..sign_in_config(&provider, &front) };
    World::run_with(
        |config| config.console.sign_in = Some(sign_in),
        async |world| {
            front.forward_to(&world.console_url());
            provider.sign_in_as(person("kim", &[ACT]));
            let mut visitor = Visitor::new(front.url());
            let shown = visitor.open("").await;
            assert_eq!(shown.status, StatusCode::OK, "{}", shown.body);
            assert!(shown.body.contains("<span>kim</span>"), "{}", shown.body);
            provider.behave(TokenBehavior::signed_by(Signature::Hs256));
            let shown = Visitor::new(front.url()).open("").await;
            assert_eq!(shown.status, StatusCode::BAD_GATEWAY, "{}", shown.body);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn person_without_a_role_sees_which_roles_are_missing() {
    Console::run(
        |_| {},
        async |_, console| {
            console.provider.sign_in_as(person("<b>kim</b>", &["offline_access"]));
            let mut visitor = console.visitor();
            let shown = visitor.open(HOME).await;
            assert_eq!(shown.status, StatusCode::FORBIDDEN, "{}", shown.body);
            assert!(shown.body.contains(VIEW) && shown.body.contains(ACT), "{}", shown.body);
            assert!(
                shown.body.contains("&#60;b&#62;kim") && !shown.body.contains("<b>"),
                "{}",
                shown.body
            );
            assert!(shown.body.contains("/end-session?client_id="), "{}", shown.body);
            assert!(visitor.cookies().is_empty(), "{:?}", visitor.cookies());
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn act_names_its_person() {
    Console::run(
        |_| {},
        async |world, console| {
            let id =
                park(world, Kind::LoanClosed, loan_event(Uuid::new_v4(), Uuid::new_v4())).await;
            let page = format!("tenants/{TENANT}/parked/{id}");
            let (discard, form) = (format!("{page}/discard"), [("reason", REASON)]);
            let actors = async || {
                let sql = "select actor from {schema}.operator_action order by number";
                let sql = sql.replace("{schema}", world.schema.name());
                let actors =
                    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&world.db).await;
                actors.unwrap() as Vec<String>
            };

            let mut stranger = console.visitor();
            let shown = stranger.submit(&discard, &form).await;
            assert_eq!(shown.status, StatusCode::UNAUTHORIZED, "{}", shown.body);
            assert!(shown.body.contains("Nothing was done."), "{}", shown.body);
            assert!(stranger.cookies().is_empty(), "a form begins no sign-in");

            let mut operator = console.signed_in("robin", &[ACT, VIEW]).await;
            for site in ["cross-site", "same-site", "none"] {
                let shown = operator.submit_from(site, &discard, &form).await;
                assert_eq!(shown.status, StatusCode::FORBIDDEN, "{site}: {}", shown.body);
            }
            assert_eq!(actors().await, [""; 0]);
            // The headers of a gateway have no meaning at this door.
            let url = operator.page(&page);
            let request = operator
                .get(&url)
                .header("X-Okapi-Tenant", "southlib")
                .header("X-Okapi-User-Id", "eve");
            assert_eq!(operator.send(&url, request).await.status, StatusCode::OK);
            let shown = operator.submit(&discard, &form).await;
            assert_eq!(shown.status, StatusCode::SEE_OTHER, "{}", shown.body);
            assert_eq!(actors().await, ["robin"]);
            let log = operator.open(&format!("tenants/{TENANT}/log")).await;
            assert!(log.body.contains("<td>robin<br>"), "{}", log.body);
        },
    )
    .await;
}

/// A tenant that a person may not see looks like one that does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn other_tenants_are_hidden() {
    let with_claim =
        |config: &mut SignInConfig| config.tenants_claim = Some("folio.tenants".to_owned());
    Console::run(with_claim, async |world, console| {
        let visitor_of = async |tenants: Value| {
            let mut claims = person("kim", &[ACT]);
            claims["folio"] = json!({ "tenants": tenants });
            console.provider.sign_in_as(claims);
            let mut visitor = console.visitor();
            let start = visitor.open("").await;
            assert_eq!(start.status, StatusCode::OK, "{}", start.body);
            (visitor, start.body.contains("href=\"tenants/northlib/home\""))
        };
        let (mut own, is_listed) = visitor_of(json!([TENANT, "southlib"])).await;
        assert!(is_listed);
        assert_eq!(own.open(HOME).await.status, StatusCode::OK);
        let (mut all, is_listed) = visitor_of(json!(["*"])).await;
        assert!(is_listed);
        assert_eq!(all.open(HOME).await.status, StatusCode::OK);
        assert_eq!(all.open("tenants/absent/home").await.status, StatusCode::BAD_REQUEST);
        for tenants in [json!(["southlib"]), json!([]), Value::Null] {
            let (mut other, is_listed) = visitor_of(tenants.clone()).await;
            assert!(!is_listed, "{tenants}");
            for path in ["home", "log", "desk/7", "search?id=7", "parked"] {
                let [existing, absent] =
                    [TENANT, "absent"].map(|id| format!("tenants/{id}/{path}"));
                let (existing, absent) = (other.open(&existing).await, other.open(&absent).await);
                assert_eq!(existing.status, StatusCode::NOT_FOUND, "{tenants} {path}");
                assert_eq!(
                    (existing.status, &existing.body),
                    (absent.status, &absent.body),
                    "{path}"
                );
                assert!(!existing.body.contains(TENANT), "{}", existing.body);
            }
            let form = [("group", "7"), ("condition", "7"), ("value", "1"), ("reason", REASON)];
            let shown = other.submit(&format!("tenants/{TENANT}/limits"), &form).await;
            assert_eq!(shown.status, StatusCode::NOT_FOUND, "{}", shown.body);
        }
        assert_eq!(world.count("select count(*) from {schema}.operator_action").await, 0);
        let many: Vec<String> = (0..200).map(|n| format!("consortium_library_{n}")).collect();
        let mut claims = person("kim", &[ACT]);
        claims["folio"] = json!({ "tenants": many });
        console.provider.sign_in_as(claims);
        let mut visitor = console.visitor();
        let shown = visitor.open("").await;
        assert_eq!(shown.status, StatusCode::FORBIDDEN, "{}", shown.body);
        assert!(shown.body.contains("too long for a session"), "{}", shown.body);
        assert!(visitor.cookies().is_empty());
    })
    .await;
}

/// Returns the path and the form of every act.
fn forged_acts(id: &str) -> Vec<(String, Vec<(&'static str, String)>)> {
    let (other, group) = (Uuid::new_v4(), Uuid::new_v4().to_string());
    let condition = Measure::ChargedOut.condition_id().to_string();
    let form = |fields: &[(&'static str, &str)]| {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned()));
        fields.chain([("reason", REASON.to_owned())]).collect::<Vec<_>>()
    };
    let until = "2999-01-01T00:00:00.000+00:00";
    let bulk =
        |act| form(&[("act", act), ("query", ""), ("until", until), ("count", "1"), ("after", "")]);
    let limit = [("group", &*group), ("condition", &*condition), ("value", "3")];
    vec![
        (format!("parked/{id}/retry"), form(&[])),
        (format!("parked/{id}/discard"), form(&[])),
        ("parked/preview".to_owned(), form(&[("act", "retry"), ("query", "")])),
        ("parked/preview".to_owned(), form(&[("act", "discard"), ("query", "")])),
        ("parked/bulk".to_owned(), bulk("retry")),
        ("parked/bulk".to_owned(), bulk("discard")),
        (format!("discarded/{id}/restore"), form(&[])),
        ("discarded/restore".to_owned(), form(&[("count", "0")])),
        (format!("incidents/{other}/resolve"), form(&[])),
        ("rebuilds".to_owned(), form(&[("source", "inbox"), ("from", ""), ("user", &group)])),
        (format!("rebuilds/{other}/apply"), form(&[])),
        (format!("rebuilds/{other}/cancel"), form(&[])),
        ("limits".to_owned(), form(&limit)),
        ("exports".to_owned(), form(&[("topic", "x.y")])),
        (format!("exports/{other}/cancel"), form(&[])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_finds_no_form_and_cannot_act() {
    Console::run(
        |_| {},
        async |world, console| {
            let id =
                park(world, Kind::LoanClosed, loan_event(Uuid::new_v4(), Uuid::new_v4())).await;
            let mut reader = console.signed_in("kim", &[VIEW]).await;
            let forms = Regex::new(r#"<form[^>]*method="post""#).unwrap();
            let [desk, patron] =
                ["desk", "patron"].map(|page| format!("{page}/{}", Uuid::new_v4()));
            let of_record = format!("parked/{id}");
            for path in [
                "home",
                &desk,
                &patron,
                "parked",
                &of_record,
                "discarded",
                "ingest",
                "rebuilds",
                "limits",
                "messages",
                "log",
                "help",
            ] {
                let shown = reader.open(&format!("tenants/{TENANT}/{path}")).await;
                assert_eq!(shown.status, StatusCode::OK, "{path}: {}", shown.body);
                let count = forms.find_iter(&shown.body).count();
                assert_eq!(count, 1, "only the sign-out is a form of {path}: {}", shown.body);
            }
            for (path, form) in forged_acts(&id) {
                let form: Vec<(&str, &str)> =
                    form.iter().map(|(name, value)| (*name, &**value)).collect();
                let shown = reader.submit(&format!("tenants/{TENANT}/{path}"), &form).await;
                assert_eq!(shown.status, StatusCode::FORBIDDEN, "{path}: {}", shown.body);
                assert!(
                    shown.body.contains("but not act. Nothing was done."),
                    "{path}: {}",
                    shown.body
                );
            }
            assert_eq!(world.count("select count(*) from {schema}.operator_action").await, 0);
            world.take_dead_letters().await;
        },
    )
    .await;
}
