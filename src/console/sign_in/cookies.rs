//! The cookies of the sign-in: encrypted and authenticated, with an end that the browser cannot move.
//!
//! actix-web's private cookies bind a value to the name of its cookie. The value also contains the sign-in for which it
//! was made, so another environment with the same key does not accept it.

use std::fmt;

use actix_web::{
    HttpRequest,
    cookie::{Cookie, CookieJar, Key, SameSite, time},
    http::header::COOKIE,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::config::SignInConfig;

/// How long a session lasts after the sign-in. Nothing extends it.
const SESSION_LIFETIME: TimeDelta = TimeDelta::hours(8);

/// How long a person may take to sign in at the provider.
const ATTEMPT_LIFETIME: TimeDelta = TimeDelta::minutes(10);

/// Largest difference of the clocks of two instances.
const CLOCK_LEEWAY: TimeDelta = TimeDelta::minutes(5);

/// Largest cookie in bytes, with its name. Browsers drop a cookie above 4,096 bytes.
const COOKIE_BYTES_MAX: usize = 4_000;

/// A kind of cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CookieKind {
    Session,
    /// A sign-in that has begun. Several tabs may sign in at once, so each attempt has a cookie of its own.
    Attempt,
}

impl CookieKind {
    fn lifetime(self) -> TimeDelta {
        match self {
            Self::Session => SESSION_LIFETIME,
            Self::Attempt => ATTEMPT_LIFETIME,
        }
    }
}

/// Encrypts and decrypts cookies.
pub(super) struct Cookies {
    key: Key,
    /// The sign-in that accepts the cookies.
    audience: Uuid,
    /// The prefix of names. With it, browsers accept a cookie only from this host over TLS.
    prefix: &'static str,
    /// The path of cookies.
    path: String,
    is_secure: bool,
}

/// The content of a cookie.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    #[serde(rename = "a")]
    audience: Uuid,
    /// When the value ends, in milliseconds since the Unix epoch.
    #[serde(rename = "e")]
    expires_at: i64,
    #[serde(rename = "v")]
    value: T,
}

/// The cookie would be dropped by browsers.
#[derive(Debug)]
pub(super) struct CookieTooLarge;

impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cookies of {}", self.path)
    }
}

impl Cookies {
    /// Creates the cookies of a sign-in. Without a configured key, the key is random.
    pub(super) fn new(config: &SignInConfig) -> Self {
        let key = match &config.cookie_key {
            Some(key) => Key::from(key.as_bytes()),
            None => Key::generate(),
        };
        let SignInConfig { issuer, client_id, public_url, .. } = config;
        let audience = format!("{issuer} {client_id} {public_url}");
        let audience = Uuid::new_v5(&Uuid::NAMESPACE_URL, audience.as_bytes());
        let is_secure = public_url.scheme() == "https";
        let path = public_url.path().to_owned();
        let prefix = match (is_secure, &*path) {
            (false, _) => "",
            (true, "/") => "__Host-",
            (true, _) => "__Secure-",
        };
        Self { key, audience, prefix, path, is_secure }
    }

    /// Returns the name of the cookie of a session.
    fn session_name(&self) -> String {
        format!("{}patron-blocks-session", self.prefix)
    }

    fn attempt_prefix(&self) -> String {
        format!("{}patron-blocks-sign-in-", self.prefix)
    }

    /// Returns the name of the cookie of an attempt. Half of its state distinguishes it from other attempts.
    pub(super) fn attempt_name(&self, state: &str) -> String {
        let part: String = state.chars().filter(|c| c.is_ascii_alphanumeric()).take(11).collect();
        format!("{}{part}", self.attempt_prefix())
    }

    /// Returns the cookies of attempts in a request, by name.
    pub(super) fn attempts(&self, request: &HttpRequest) -> Vec<Cookie<'static>> {
        let prefix = self.attempt_prefix();
        cookies_of(request).filter(|cookie| cookie.name().starts_with(&prefix)).collect()
    }

    /// Returns the cookie of a session that begins now.
    pub(super) fn seal_session(
        &self,
        value: &impl Serialize,
        now: DateTime<Utc>,
    ) -> Result<Cookie<'static>, CookieTooLarge> {
        // Without an age, browsers drop the cookie when they close.
        let cookie = self.seal(self.session_name(), CookieKind::Session, value, now);
        let bytes = cookie.to_string().len();
        if bytes > COOKIE_BYTES_MAX { Err(CookieTooLarge) } else { Ok(cookie) }
    }

    /// Returns the cookie of an attempt that begins now.
    pub(super) fn seal_attempt(
        &self,
        state: &str,
        value: &impl Serialize,
        now: DateTime<Utc>,
    ) -> Cookie<'static> {
        let mut cookie = self.seal(self.attempt_name(state), CookieKind::Attempt, value, now);
        cookie.set_max_age(time::Duration::seconds(ATTEMPT_LIFETIME.num_seconds()));
        cookie
    }

    fn seal(
        &self,
        name: String,
        kind: CookieKind,
        value: &impl Serialize,
        now: DateTime<Utc>,
    ) -> Cookie<'static> {
        let expires_at = (now + kind.lifetime()).timestamp_millis();
        let envelope = Envelope { audience: self.audience, expires_at, value };
        let text = serde_json::to_string(&envelope).expect("the members are texts and numbers");
        let mut jar = CookieJar::new();
        jar.private_mut(&self.key).add(self.cookie(name.clone(), text));
        jar.get(&name).cloned().expect("the jar has the cookie")
    }

    /// Returns a cookie with the attributes of all cookies.
    fn cookie(&self, name: String, value: String) -> Cookie<'static> {
        Cookie::build(name, value)
            .path(self.path.clone())
            .secure(self.is_secure)
            .http_only(true)
            .same_site(SameSite::Lax)
            .finish()
    }

    /// Returns a cookie that removes the one with this name.
    pub(super) fn removal(&self, name: &str) -> Cookie<'static> {
        let mut cookie = self.cookie(name.to_owned(), String::new());
        cookie.make_removal();
        cookie
    }

    /// Returns a cookie that removes the session.
    pub(super) fn session_removal(&self) -> Cookie<'static> {
        self.removal(&self.session_name())
    }

    /// Returns the session of a request, if it has not ended.
    pub(super) fn open_session<T: DeserializeOwned>(
        &self,
        request: &HttpRequest,
        now: DateTime<Utc>,
    ) -> Option<T> {
        let name = self.session_name();
        let mut named = cookies_of(request).filter(|cookie| cookie.name() == name);
        named.find_map(|cookie| self.open(cookie, CookieKind::Session, now)).map(|(value, _)| value)
    }

    /// Returns the content of a cookie and its end, if the end is ahead and the cookie was made for this sign-in.
    pub(super) fn open<T: DeserializeOwned>(
        &self,
        cookie: Cookie<'static>,
        kind: CookieKind,
        now: DateTime<Utc>,
    ) -> Option<(T, i64)> {
        let cookie = CookieJar::new().private(&self.key).decrypt(cookie)?;
        let Envelope { audience, expires_at, value } = serde_json::from_str(cookie.value()).ok()?;
        let rest = expires_at.saturating_sub(now.timestamp_millis());
        // After a clock was set back, a cookie would last longer than it may.
        let longest = (kind.lifetime() + CLOCK_LEEWAY).num_milliseconds();
        let is_valid = audience == self.audience && (1..=longest).contains(&rest);
        is_valid.then_some((value, expires_at))
    }
}

/// Returns the cookies of a request. Another application of the host may have set one that cannot be read, or one of the
/// same name.
fn cookies_of(request: &HttpRequest) -> impl Iterator<Item = Cookie<'static>> {
    let lines = request.headers().get_all(COOKIE);
    let parts = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let texts = parts.filter_map(|part| str::from_utf8(part).ok());
    texts.filter_map(|text| Cookie::parse_encoded(text.trim().to_owned()).ok())
}

#[cfg(test)]
mod tests {
    use actix_web::{http::header::HeaderValue, test::TestRequest};
    use url::Url;

    use super::{super::session::tests::config, *};
    use crate::config::CookieKey;

    fn cookies(change: impl FnOnce(&mut SignInConfig)) -> Cookies {
        let mut config = config();
        config.cookie_key = CookieKey::new(vec![7; 64]);
        change(&mut config);
        Cookies::new(&config)
    }

    fn at(url: &str) -> Cookies {
        cookies(|config| config.public_url = Url::parse(url).unwrap())
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn opened(cookies: &Cookies, cookie: &Cookie<'static>, now: DateTime<Utc>) -> Option<String> {
        let request = TestRequest::default().cookie(cookie.clone()).to_http_request();
        cookies.open_session(&request, now)
    }

    #[test]
    fn attributes_protect_the_cookie() {
        for (url, name, end) in [
            (
                "https://a.example/",
                "__Host-patron-blocks-session=",
                "; HttpOnly; SameSite=Lax; Secure; Path=/",
            ),
            (
                "https://a.example/b/",
                "__Secure-patron-blocks-session=",
                "; HttpOnly; SameSite=Lax; Secure; Path=/b/",
            ),
            ("http://127.0.0.1:1/", "patron-blocks-session=", "; HttpOnly; SameSite=Lax; Path=/"),
        ] {
            let cookie = at(url).seal_session(&"kim", now()).unwrap().to_string();
            assert!(cookie.starts_with(name) && cookie.ends_with(end), "{cookie}");
            assert!(!cookie.contains("kim") && !cookie.contains("Max-Age"), "{cookie}");
        }
        let attempt = at("https://a.example/").seal_attempt("st-at_e", &"kim", now());
        assert_eq!(attempt.name(), "__Host-patron-blocks-sign-in-state");
        assert_eq!(attempt.max_age(), Some(time::Duration::minutes(10)));
    }

    #[test]
    fn session_ends_after_eight_hours() {
        let cookies = cookies(|_| {});
        let cookie = cookies.seal_session(&"kim", now()).unwrap();
        for (after, expected) in [
            (TimeDelta::zero(), true),
            (SESSION_LIFETIME - TimeDelta::seconds(1), true),
            (SESSION_LIFETIME, false),
            (TimeDelta::days(365), false),
            (TimeDelta::seconds(-300), true),
            (TimeDelta::seconds(-301), false),
        ] {
            let name = opened(&cookies, &cookie, now() + after);
            assert_eq!(name.as_deref(), expected.then_some("kim"), "{after}");
        }
    }

    #[test]
    fn changed_and_foreign_cookies_are_rejected() {
        let own = cookies(|_| {});
        let cookie = own.seal_session(&"kim", now()).unwrap();
        assert!(
            opened(&cookies(|_| {}), &cookie, now()).is_some(),
            "another instance with the key"
        );
        for other in [
            cookies(|config| config.cookie_key = CookieKey::new(vec![8; 64])),
            cookies(|config| config.cookie_key = None),
            cookies(|config| config.issuer.push('x')),
            cookies(|config| config.client_id.push('x')),
            at("https://other.example/"),
        ] {
            assert_eq!(opened(&other, &cookie, now()), None);
        }
        let value = cookie.value().to_owned();
        for at in 0..value.len() {
            let mut bytes = value.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = Cookie::new(cookie.name().to_owned(), String::from_utf8(bytes).unwrap());
            assert_eq!(opened(&own, &changed, now()), None, "byte {at}");
        }
        for text in ["", "=", "kim", &value[..value.len() - 4]] {
            let changed = Cookie::new(cookie.name().to_owned(), text.to_owned());
            assert_eq!(opened(&own, &changed, now()), None, "{text}");
        }
    }

    #[test]
    fn other_cookies_of_the_host_do_no_harm() {
        let cookies = cookies(|_| {});
        let cookie = cookies.seal_session(&"kim", now()).unwrap();
        let name = cookies.session_name();
        let line = format!("broken; =; {name}=other; {}; a=%ff", cookie.stripped());
        let request = TestRequest::default().insert_header((COOKIE, line)).to_http_request();
        let name: Option<String> = cookies.open_session(&request, now());
        assert_eq!(name.as_deref(), Some("kim"));
        for other in [&b"a=M\xc3\xbcller; "[..], b"a=\xff; "] {
            let line = [other, cookie.stripped().to_string().as_bytes()].concat();
            let line = HeaderValue::from_bytes(&line).unwrap();
            let request = TestRequest::default().insert_header((COOKIE, line)).to_http_request();
            let name: Option<String> = cookies.open_session(&request, now());
            assert_eq!(name.as_deref(), Some("kim"));
        }
    }

    /// The cookie of an attempt is no session, although the key is the same.
    #[test]
    fn cookie_of_another_name_is_rejected() {
        let cookies = cookies(|_| {});
        let mut attempt = cookies.seal_attempt("state", &"kim", now());
        attempt.set_name(cookies.session_name());
        assert_eq!(opened(&cookies, &attempt, now()), None);
    }

    #[test]
    fn cookie_that_browsers_would_drop_is_an_error() {
        let cookies = cookies(|_| {});
        assert!(cookies.seal_session(&"a".repeat(2_700), now()).is_ok());
        assert!(cookies.seal_session(&"a".repeat(3_000), now()).is_err());
    }
}
