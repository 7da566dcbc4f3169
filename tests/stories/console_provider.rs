//! The provider of the sign-in: tokens that must not sign anyone in, keys that change, and a provider that is away.

use std::time::Instant;

use chrono::TimeDelta;
use patron_blocks::clock::Clock;
use reqwest::StatusCode;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    oidc_provider::{CLIENT, Signature, TokenBehavior, person},
    payloads::now,
    sign_in_console::{ACT, Console, HOME, VIEW},
    world::World,
};

/// Returns tokens and responses that each fail one check.
fn rejected_behaviors() -> Vec<TokenBehavior> {
    let at = now().timestamp();
    let claims = TokenBehavior::with_claims;
    vec![
        claims(json!({ "nonce": "another" })),
        claims(json!({ "nonce": null })),
        claims(json!({ "iss": "http://127.0.0.1:1" })),
        claims(json!({ "aud": "another" })),
        claims(json!({ "aud": [] })),
        claims(json!({ "aud": [CLIENT, "another"], "azp": null })),
        claims(json!({ "azp": "another" })),
        claims(json!({ "exp": at - 70 })),
        claims(json!({ "iat": at + 120 })),
        claims(json!({ "nbf": at + 120 })),
        claims(json!({ "sub": "" })),
        claims(json!({ "sub": "a\nb" })),
        claims(json!({ "sub": null })),
        claims(json!({ "exp": null })),
        TokenBehavior::signed_by(Signature::OtherKey),
        TokenBehavior::signed_by(Signature::Hs256),
        TokenBehavior::signed_by(Signature::None),
        TokenBehavior::responding(200, r#"{"access_token":"a","token_type":"Bearer"}"#),
        TokenBehavior::responding(
            200,
            r#"{"access_token":"a","token_type":"Bearer","id_token":"a.b.c"}"#,
        ),
        TokenBehavior::responding(200, "<html>"),
    ]
}

/// Returns tokens that pass all checks.
fn accepted_behaviors() -> Vec<TokenBehavior> {
    let at = now().timestamp();
    let claims = TokenBehavior::with_claims;
    vec![
        TokenBehavior::default(),
        TokenBehavior::signed_by(Signature::Es256),
        claims(json!({ "azp": null })),
        claims(json!({ "aud": [CLIENT] })),
        claims(json!({ "aud": [CLIENT, "another"] })),
        // Clocks may differ by a minute.
        claims(json!({ "exp": at - 30, "iat": at - 330 })),
        claims(json!({ "iat": at + 40, "nbf": at + 40 })),
        claims(json!({ "preferred_username": null })),
    ]
}

/// Each check of an ID token, by a token that fails only this check.
#[tokio::test(flavor = "multi_thread")]
async fn token_that_fails_a_check_signs_no_one_in() {
    Console::run(
        |_| {},
        async |_, console| {
            console.provider.sign_in_as(person("kim", &[ACT]));
            for behavior in rejected_behaviors() {
                console.provider.behave(behavior.clone());
                let mut visitor = console.visitor();
                let shown = visitor.open(HOME).await;
                assert_eq!(shown.status, StatusCode::BAD_GATEWAY, "{behavior:?}: {}", shown.body);
                assert!(
                    shown.body.contains("did not pass the checks"),
                    "{behavior:?}: {}",
                    shown.body
                );
                assert!(visitor.cookies().is_empty(), "{behavior:?}");
            }
            for behavior in accepted_behaviors() {
                console.provider.behave(behavior.clone());
                let shown = console.visitor().open(HOME).await;
                assert_eq!(shown.status, StatusCode::OK, "{behavior:?}: {}", shown.body);
            }
            assert!(console.visitor().open("").await.body.contains("<span>subject-of-kim</span>"));
            for (status, body, expected) in [
                (400, r#"{"error":"invalid_grant"}"#, StatusCode::BAD_REQUEST),
                (401, r#"{"error":"invalid_client"}"#, StatusCode::BAD_GATEWAY),
                (500, "down", StatusCode::BAD_GATEWAY),
            ] {
                console.provider.behave(TokenBehavior::responding(status, body));
                let shown = console.visitor().open(HOME).await;
                assert_eq!(shown.status, expected, "{body}: {}", shown.body);
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_that_is_away_stops_only_the_sign_in() {
    Console::run(
        |_| {},
        async |world, console| {
            let mut reader = console.signed_in("kim", &[VIEW]).await;
            // Another instance has asked the provider for nothing yet.
            world.start().await;
            console.front.forward_to(&world.console_url());
            for is_silent in [true, false] {
                if is_silent {
                    console.provider.proxy.freeze()
                } else {
                    console.provider.proxy.disconnect()
                }
                let began = Instant::now();
                let mut visitor = console.visitor();
                let shown = visitor.open(HOME).await;
                assert_eq!(shown.status, StatusCode::SERVICE_UNAVAILABLE, "{}", shown.body);
                assert!(
                    shown.body.contains("The OpenID Connect provider does not respond."),
                    "{}",
                    shown.body
                );
                assert!(began.elapsed().as_millis() < 3_000, "{:?}", began.elapsed());
                assert_eq!(reader.open(HOME).await.status, StatusCode::OK, "a session goes on");
                let began = Instant::now();
                world.block_flags(Uuid::new_v4()).await;
                assert!(began.elapsed().as_millis() < 1_000, "{:?}", began.elapsed());
            }
            // A person who signs out loses the session also while the provider is away.
            let shown = reader.submit("sign-out", &[]).await;
            assert_eq!(shown.location(), Some(reader.page("signed-out")), "{}", shown.body);
            assert_eq!(reader.open(HOME).await.status, StatusCode::SERVICE_UNAVAILABLE);
            console.provider.proxy.restore();
            world
                .until("persons can sign in again", async |_: &World| {
                    console.visitor().open(HOME).await.status == StatusCode::OK
                })
                .await;
            // The endpoints are known now; the code cannot be redeemed.
            let mut visitor = console.visitor();
            let answer = visitor.begin(HOME).await;
            console.provider.proxy.freeze();
            let began = Instant::now();
            let shown = visitor.request(&answer).await;
            assert_eq!(shown.status, StatusCode::SERVICE_UNAVAILABLE, "{}", shown.body);
            assert!(began.elapsed().as_millis() < 3_000, "{:?}", began.elapsed());
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_loaded_again_when_they_change_and_after_an_hour() {
    Console::run(
        |_| {},
        async |world, console| {
            let clock = Clock::fixed_at(now());
            world.start_with_clock(clock.clone()).await;
            console.front.forward_to(&world.console_url());
            console.provider.sign_in_as(person("kim", &[VIEW]));
            let sign_in = async || console.visitor().open(HOME).await.status;
            let discoveries = || console.provider.requests().discoveries;
            for _ in 0..3 {
                assert_eq!(sign_in().await, StatusCode::OK);
            }
            assert_eq!(discoveries(), 1, "the metadata is cached");
            console.provider.rotate_keys();
            assert_eq!(sign_in().await, StatusCode::OK);
            assert_eq!(discoveries(), 2);
            // Keys that change all the time cause no load each.
            for _ in 0..3 {
                console.provider.rotate_keys();
                assert_eq!(sign_in().await, StatusCode::BAD_GATEWAY);
            }
            assert_eq!(discoveries(), 2);
            clock.set(clock.now() + TimeDelta::seconds(10));
            assert_eq!(sign_in().await, StatusCode::OK);
            assert_eq!(discoveries(), 3);
            clock.set(clock.now() + TimeDelta::hours(1));
            console.provider.behave(TokenBehavior::with_claims(json!({
                "iat": clock.now().timestamp(), "exp": clock.now().timestamp() + 300,
            })));
            assert_eq!(sign_in().await, StatusCode::OK);
            assert_eq!(discoveries(), 4);
        },
    )
    .await;
}

/// The provider names its endpoints, so none of them may carry a secret in the clear, or belong to another provider.
#[tokio::test(flavor = "multi_thread")]
async fn unusable_metadata_stops_the_sign_in() {
    Console::run(
        |_| {},
        async |world, console| {
            let clock = Clock::fixed_at(now());
            world.start_with_clock(clock.clone()).await;
            console.front.forward_to(&world.console_url());
            console.provider.sign_in_as(person("kim", &[VIEW]));
            for metadata in [
                json!({ "issuer": "http://127.0.0.1:1" }),
                json!({ "issuer": format!("{}/", console.provider.issuer()) }),
                json!({ "jwks_uri": "http://id.example/keys" }),
                json!({ "jwks_uri": null }),
                json!({ "padding": "x".repeat(2 << 20) }),
                // From here on, the metadata is usable, and one endpoint is not.
                json!({ "authorization_endpoint": "http://id.example/authorize" }),
                json!({ "token_endpoint": "http://id.example/token" }),
                json!({ "token_endpoint": null }),
            ] {
                let name = metadata.as_object().unwrap().keys().next().unwrap().clone();
                console.provider.publish(metadata);
                let mut visitor = console.visitor();
                let shown = visitor.open(HOME).await;
                assert_eq!(shown.status, StatusCode::SERVICE_UNAVAILABLE, "{name}: {}", shown.body);
                assert!(visitor.cookies().keys().all(|name| !name.contains("session")), "{name}");
                clock.set(clock.now() + TimeDelta::hours(1));
            }
            assert_eq!(console.provider.requests().tokens, 0);
            console.provider.publish(json!({ "end_session_endpoint": "http://id.example/end" }));
            let at = clock.now().timestamp();
            let times = TokenBehavior::with_claims(json!({ "iat": at, "exp": at + 300 }));
            console.provider.behave(times);
            let mut visitor = console.visitor();
            assert_eq!(visitor.open(HOME).await.status, StatusCode::OK);
            let shown = visitor.submit("sign-out", &[]).await;
            assert_eq!(shown.location(), Some(visitor.page("signed-out")));
        },
    )
    .await;
}
