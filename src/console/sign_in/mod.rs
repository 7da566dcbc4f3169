//! The sign-in at the console port with OpenID Connect (docs/decisions/0032-sign-in.md).
//!
//! A page without a session redirects to the provider, and the provider redirects to [`callback`] with a code. The
//! service redeems the code, checks the ID token, and writes the session to an encrypted cookie. No server stores a
//! session, so each instance with the same key accepts it.

mod cookies;
mod handlers;
mod pages;
mod return_path;
mod session;

pub(super) use handlers::{callback, require_session, session_of, sign_out, signed_out};
pub(super) use session::Session;

use actix_web::{
    HttpRequest, HttpResponse,
    cookie::Cookie,
    guard::GuardContext,
    http::header::{HOST, LOCATION},
};
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};
use url::{Origin, Url};

use self::{
    cookies::{CookieKind, Cookies},
    pages::Pages,
    return_path::ReturnPath,
};
use crate::{
    clock::Clock,
    config::SignInConfig,
    oidc::{Authorization, ClientError, Provider, ProviderError},
};

/// Largest number of sign-ins that a browser may have begun. The oldest ends when another begins, so that the cookies
/// fit into a request.
const ATTEMPTS_MAX: usize = 5;

/// Largest number of cookies that one response removes. Another application of the host may have set many of their name.
const REMOVALS_MAX: usize = 10;

/// How persons sign in.
#[derive(Debug)]
pub struct SignIn {
    config: SignInConfig,
    provider: Provider,
    cookies: Cookies,
    clock: Clock,
}

/// A sign-in that has begun.
#[derive(Serialize, Deserialize)]
struct Attempt {
    #[serde(rename = "s")]
    state: String,
    #[serde(rename = "n")]
    nonce: String,
    #[serde(rename = "v")]
    verifier: String,
    #[serde(rename = "r")]
    return_path: ReturnPath,
}

/// The response of the provider, in the address of the redirect.
#[derive(Deserialize)]
struct ProviderResponse {
    state: Option<String>,
    code: Option<String>,
    error: Option<String>,
    /// The issuer, if the provider reports it (RFC 9207).
    iss: Option<String>,
}

impl SignIn {
    /// Creates the sign-in. It calls the provider only when a person signs in.
    pub fn new(config: SignInConfig, clock: Clock) -> Result<Self, ClientError> {
        if config.cookie_key.is_none() {
            warn!(
                "sign-in: CONSOLE_COOKIE_KEY is not set, so sessions end with this instance, and no other instance \
                 accepts them"
            );
        }
        let provider = Provider::new(&config, clock.clone())?;
        Ok(Self { cookies: Cookies::new(&config), config, provider, clock })
    }

    /// Returns the origin of the provider, to which forms may lead.
    pub(super) fn provider_origin(&self) -> Option<String> {
        let origin = Url::parse(&self.config.issuer).ok()?.origin();
        matches!(origin, Origin::Tuple(..)).then(|| origin.ascii_serialization())
    }

    /// Returns whether an endpoint has the origin of the issuer.
    fn is_of_provider(&self, endpoint: &Url) -> bool {
        Url::parse(&self.config.issuer).is_ok_and(|issuer| issuer.origin() == endpoint.origin())
    }

    /// Returns whether a request names the host of the public URL.
    pub(super) fn is_own_host(&self, request: &GuardContext<'_>) -> bool {
        let head = request.head();
        let mut hosts = head.headers().get_all(HOST);
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let is_own = |host: &str| is_authority_of(&self.config.public_url, host);
        let target = head.uri.authority().map(|authority| authority.as_str());
        host.to_str().is_ok_and(is_own) && target.is_none_or(is_own)
    }

    /// Returns the session of a request.
    fn session(&self, request: &HttpRequest) -> Option<Session> {
        self.cookies.open_session(request, self.clock.now())
    }

    /// Redirects to a page of the console.
    fn redirect(&self, to: &Url) -> HttpResponse {
        HttpResponse::SeeOther().insert_header((LOCATION, to.as_str())).finish()
    }

    /// Returns the pages without a session, as responses to `request`.
    fn pages(&self, request: &HttpRequest) -> Pages<'_> {
        Pages::new(&self.config, request)
    }

    /// Redirects to the provider. The cookie of the attempt contains what its response has to match.
    async fn begin(&self, request: &HttpRequest) -> HttpResponse {
        let authorization = match self.provider.authorize().await {
            Ok(authorization) => authorization,
            Err(error) => return self.pages(request).provider_failed(error),
        };
        let Authorization { url, state, nonce, verifier } = authorization;
        let return_path = ReturnPath::of(request.uri());
        let attempt = Attempt { state, nonce, verifier, return_path };
        let mut response = self.redirect(&url);
        let now = self.clock.now();
        let cookie = self.cookies.seal_attempt(&attempt.state, &attempt, now);
        for cookie in self.surplus_attempts(request).iter().chain([&cookie]) {
            set_cookie(&mut response, cookie);
        }
        response
    }

    /// Returns the removals of attempts that have ended, and of the oldest ones beyond [`ATTEMPTS_MAX`].
    fn surplus_attempts(&self, request: &HttpRequest) -> Vec<Cookie<'static>> {
        let now = self.clock.now();
        let mut attempts: Vec<(i64, String)> = Vec::new();
        for cookie in self.cookies.attempts(request) {
            let name = cookie.name().to_owned();
            let open = self.cookies.open::<Attempt>(cookie, CookieKind::Attempt, now);
            attempts.push((open.map_or(0, |(_, expires_at)| expires_at), name));
        }
        attempts.sort();
        let ended = attempts.iter().filter(|(expires_at, _)| *expires_at == 0).count();
        let surplus = ended.max((attempts.len() + 1).saturating_sub(ATTEMPTS_MAX));
        attempts
            .iter()
            .take(surplus.min(REMOVALS_MAX))
            .map(|(_, name)| self.cookies.removal(name))
            .collect()
    }

    /// Returns the attempt with this state, if the browser has begun it a short time ago.
    fn attempt(&self, request: &HttpRequest, state: &str) -> Option<Attempt> {
        let (name, now) = (self.cookies.attempt_name(state), self.clock.now());
        let mut named = self.cookies.attempts(request).into_iter().filter(|one| one.name() == name);
        let opened = |cookie| self.cookies.open::<Attempt>(cookie, CookieKind::Attempt, now);
        named.find_map(opened).map(|(attempt, _)| attempt).filter(|attempt| attempt.state == state)
    }

    /// Ends an attempt: with a session, or with a page that names the cause.
    async fn end(
        &self,
        attempt: Attempt,
        response: ProviderResponse,
        pages: &Pages<'_>,
    ) -> HttpResponse {
        if response.iss.is_some_and(|issuer| issuer != self.config.issuer) {
            debug!("sign-in: a response names another issuer");
            return pages.provider_failed(ProviderError::TokenInvalid);
        }
        let code = match (response.error, response.code) {
            (None, Some(code)) => code,
            (Some(error), _) => return pages.provider_error(&error),
            (None, None) => return pages.provider_failed(ProviderError::CodeRejected),
        };
        let Attempt { nonce, verifier, return_path, .. } = attempt;
        let person = match self.provider.redeem(code, nonce, verifier).await {
            Ok(person) => person,
            Err(error) => return pages.provider_failed(error),
        };
        let Some(session) = Session::of(&person, &self.config) else {
            warn!(
                subject = person.subject,
                "sign-in: a person without a role of the console is rejected"
            );
            let end_session = self.provider.end_session_url().await;
            return pages.no_role(&person.name, end_session.as_ref());
        };
        let Ok(cookie) = self.cookies.seal_session(&session, self.clock.now()) else {
            warn!(
                subject = person.subject,
                "sign-in: the tenants of a person do not fit into a cookie"
            );
            return pages.too_many_tenants();
        };
        info!(
            subject = session.subject,
            role = session.role().name(),
            "sign-in: a person signed in"
        );
        let mut response = self.redirect(&return_path.address(&self.config.public_url));
        set_cookie(&mut response, &cookie);
        response
    }
}

/// Returns whether a host name with an optional port is that of a URL.
fn is_authority_of(url: &Url, host: &str) -> bool {
    let Some(name) = url.host_str() else { return false };
    let default_port = if url.scheme() == "https" { 443 } else { 80 };
    let port = url.port_or_known_default().unwrap_or(default_port);
    let with_port = format!("{name}:{port}");
    host.eq_ignore_ascii_case(&with_port) || port == default_port && host.eq_ignore_ascii_case(name)
}

fn set_cookie(response: &mut HttpResponse, cookie: &Cookie<'_>) {
    response.add_cookie(cookie).expect("names and values of cookies are ASCII");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_that_of_the_public_url() {
        let is_own = |url: &str, host: &str| is_authority_of(&Url::parse(url).unwrap(), host);
        for (url, host) in [
            ("https://a.example/", "a.example"),
            ("https://a.example/b/", "A.Example:443"),
            ("https://a.example:8443/", "a.example:8443"),
            ("http://127.0.0.1:8082/", "127.0.0.1:8082"),
            ("http://localhost/", "localhost"),
            ("http://[::1]:8082/", "[::1]:8082"),
        ] {
            assert!(is_own(url, host), "{url} {host}");
        }
        for (url, host) in [
            ("https://a.example/", ""),
            ("https://a.example/", "a.example:80"),
            ("https://a.example/", "a.example.evil"),
            ("https://a.example/", "evil.a.example"),
            ("https://a.example/", "a.example:443:443"),
            ("https://a.example/", "user@a.example"),
            ("https://a.example:8443/", "a.example"),
            ("http://127.0.0.1:8082/", "localhost:8082"),
        ] {
            assert!(!is_own(url, host), "{url} {host}");
        }
    }
}
