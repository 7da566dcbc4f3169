//! Settings of the console port, and of the sign-in with OpenID Connect.

use std::{fmt, mem, net::IpAddr};

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Args;
use url::{Host, Url};

use super::{
    parse::{Optional, bounded, non_empty, optional, valid},
    read::InvalidSettings,
};

/// The settings of the console port.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Console")]
pub struct ConsoleConfig {
    /// Port of the console for all tenants; 0 chooses a free port. Without it, the console is reached through the
    /// gateway only
    #[arg(id = "console_port", long = "console-port", env = "CONSOLE_PORT")]
    #[arg(value_parser = bounded("port", 0..=u16::MAX, "; 0 means any free port"))]
    pub port: Option<u16>,
    /// IP address of the console port. Other hosts can reach the port only if persons sign in, so an address such
    /// as 0.0.0.0 requires CONSOLE_OIDC_ISSUER
    #[arg(id = "console_address", long = "console-address", env = "CONSOLE_ADDRESS")]
    #[arg(default_value = "127.0.0.1")]
    #[arg(value_parser = valid::<IpAddr>("must be an IP address of this machine", |ip| ip.parse().ok()))]
    pub address: IpAddr,
    /// `Some` if persons sign in at the console port.
    #[arg(skip)]
    pub sign_in: Option<SignInConfig>,
    /// The settings; empty after validation, which computes `sign_in`.
    #[command(flatten)]
    pub settings: SignInSettings,
}

/// The default of `CONSOLE_OIDC_ROLES_CLAIM`: the realm roles of Keycloak.
const ROLES_CLAIM: &str = "realm_access.roles";

/// The defaults of `CONSOLE_OIDC_VIEW_ROLE` and `CONSOLE_OIDC_ACT_ROLE`.
const VIEW_ROLE: &str = "patron-blocks-view";
const ACT_ROLE: &str = "patron-blocks-act";

/// The rule of a URL that carries secrets.
const URL_RULE: &str =
    "must be a URL with https, or with http and this machine, without user, query and fragment";

/// The rule of `CONSOLE_COOKIE_KEY`.
const KEY_RULE: &str =
    "must be 64 random bytes in Base64, such as the output of openssl rand -base64 64";

/// The settings of the sign-in.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Console")]
pub struct SignInSettings {
    /// Issuer URL of the OpenID Connect provider, such as `https://id.example.org/realms/consortium`. If it is set,
    /// the console port serves only persons who sign in
    #[arg(long, env = "CONSOLE_OIDC_ISSUER")]
    #[arg(default_value = "", value_parser = optional(URL_RULE, issuer))]
    console_oidc_issuer: Optional<String>,
    /// Id of the client at the provider
    #[arg(long, env = "CONSOLE_OIDC_CLIENT_ID")]
    #[arg(default_value = "", value_parser = trimmed())]
    console_oidc_client_id: String,
    /// Secret of the client; empty for a public client. The service uses PKCE either way
    #[arg(long, env = "CONSOLE_OIDC_CLIENT_SECRET", default_value = "", hide_env_values = true)]
    console_oidc_client_secret: String,
    /// Path of the claim of the ID token with the roles of a person, such as
    /// `resource_access.mod-patron-blocks.roles`
    #[arg(long, env = "CONSOLE_OIDC_ROLES_CLAIM")]
    #[arg(default_value = ROLES_CLAIM, value_parser = non_empty())]
    console_oidc_roles_claim: String,
    /// Role of persons who may read all pages
    #[arg(long, env = "CONSOLE_OIDC_VIEW_ROLE")]
    #[arg(default_value = VIEW_ROLE, value_parser = non_empty())]
    console_oidc_view_role: String,
    /// Role of persons who may read all pages and do all acts
    #[arg(long, env = "CONSOLE_OIDC_ACT_ROLE")]
    #[arg(default_value = ACT_ROLE, value_parser = non_empty())]
    console_oidc_act_role: String,
    /// Path of the claim of the ID token with the tenants of a person; `*` in the claim means all tenants. If it is
    /// empty, every person who signs in has all tenants
    #[arg(long, env = "CONSOLE_OIDC_TENANTS_CLAIM")]
    #[arg(default_value = "", value_parser = trimmed())]
    console_oidc_tenants_claim: String,
    /// URL by which browsers reach the console port, such as `https://blocks.example.org/`; required for the sign-in.
    /// The port then accepts only the host name of this URL
    #[arg(long, env = "CONSOLE_PUBLIC_URL")]
    #[arg(default_value = "", value_parser = optional(URL_RULE, public_url))]
    console_public_url: Optional<Url>,
    /// Key of the cookies, 64 random bytes in Base64 (`openssl rand -base64 64`). If it is empty, each instance
    /// creates a key at its start. Sessions then end with the instance, and only one instance can serve the console
    #[arg(long, env = "CONSOLE_COOKIE_KEY", hide_env_values = true)]
    #[arg(default_value = "", value_parser = optional(KEY_RULE, cookie_key))]
    console_cookie_key: Optional<CookieKey>,
}

/// How persons sign in at the console port.
#[derive(Clone)]
pub struct SignInConfig {
    /// Issuer of the provider, exactly as the provider publishes it.
    pub issuer: String,
    /// Id of the client.
    pub client_id: String,
    /// Secret of a confidential client.
    pub client_secret: Option<String>,
    /// Path of the claim with the roles.
    pub roles_claim: String,
    /// Role of readers.
    pub view_role: String,
    /// Role of operators.
    pub act_role: String,
    /// Path of the claim with the tenants; without it, each person has all tenants.
    pub tenants_claim: Option<String>,
    /// The address of the console in a browser; its path ends with a slash.
    pub public_url: Url,
    /// The key of the cookies; `None` for a random key.
    pub cookie_key: Option<CookieKey>,
}

impl fmt::Debug for SignInConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}, for {}", self.client_id, self.issuer, self.public_url)
    }
}

/// A key that encrypts cookies.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieKey(Vec<u8>);

impl CookieKey {
    /// Length in bytes.
    pub const BYTES: usize = 64;

    /// Returns the key if it has the right length.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() == Self::BYTES).then_some(Self(bytes))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
}

impl ConsoleConfig {
    /// Computes `sign_in`. Removes the settings, so that the secrets remain in one place.
    pub(super) fn load(&mut self, problems: &mut InvalidSettings) {
        let settings = mem::take(&mut self.settings);
        let Some(cause) = settings.first_set() else {
            problems.require(
                "CONSOLE_ADDRESS",
                "must be an address of this machine only, such as 127.0.0.1, unless CONSOLE_OIDC_ISSUER is set",
                "CONSOLE_OIDC_ISSUER",
                self.address.is_loopback(),
            );
            return;
        };
        for (variable, is_set) in [
            ("CONSOLE_OIDC_ISSUER", settings.console_oidc_issuer.is_some()),
            ("CONSOLE_OIDC_CLIENT_ID", !settings.console_oidc_client_id.is_empty()),
            ("CONSOLE_PUBLIC_URL", settings.console_public_url.is_some()),
            ("CONSOLE_PORT", self.port.is_some()),
        ] {
            let rule = format!("must be set, because {cause} is set");
            problems.require(variable, &rule, cause, is_set);
        }
        self.sign_in = settings.into_config();
    }
}

impl SignInSettings {
    /// Returns the first setting that differs from its default.
    fn first_set(&self) -> Option<&'static str> {
        let optional = |text: &str| !text.is_empty();
        [
            ("CONSOLE_OIDC_ISSUER", self.console_oidc_issuer.is_some()),
            ("CONSOLE_OIDC_CLIENT_ID", optional(&self.console_oidc_client_id)),
            ("CONSOLE_OIDC_CLIENT_SECRET", optional(&self.console_oidc_client_secret)),
            ("CONSOLE_OIDC_ROLES_CLAIM", self.console_oidc_roles_claim != ROLES_CLAIM),
            ("CONSOLE_OIDC_VIEW_ROLE", self.console_oidc_view_role != VIEW_ROLE),
            ("CONSOLE_OIDC_ACT_ROLE", self.console_oidc_act_role != ACT_ROLE),
            ("CONSOLE_OIDC_TENANTS_CLAIM", optional(&self.console_oidc_tenants_claim)),
            ("CONSOLE_PUBLIC_URL", self.console_public_url.is_some()),
            ("CONSOLE_COOKIE_KEY", self.console_cookie_key.is_some()),
        ]
        .into_iter()
        .find_map(|(variable, is_set)| is_set.then_some(variable))
    }

    /// Returns the sign-in if all required settings are set.
    fn into_config(self) -> Option<SignInConfig> {
        let filled = |text: String| (!text.is_empty()).then_some(text);
        Some(SignInConfig {
            issuer: self.console_oidc_issuer?,
            client_id: filled(self.console_oidc_client_id)?,
            client_secret: filled(self.console_oidc_client_secret),
            roles_claim: self.console_oidc_roles_claim,
            view_role: self.console_oidc_view_role,
            act_role: self.console_oidc_act_role,
            tenants_claim: filled(self.console_oidc_tenants_claim),
            public_url: self.console_public_url?,
            cookie_key: self.console_cookie_key,
        })
    }
}

fn trimmed() -> impl clap::builder::TypedValueParser<Value = String> {
    valid("must be text", |text| Some(text.to_owned()))
}

/// Returns whether a URL is encrypted, or does not leave this machine.
pub fn is_protected(url: &Url) -> bool {
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Domain(name))) => name == "localhost",
        ("http", Some(Host::Ipv4(address))) => address.is_loopback(),
        ("http", Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    }
}

fn protected_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let has_user = !url.username().is_empty() || url.password().is_some();
    let is_plain = !has_user && url.query().is_none() && url.fragment().is_none();
    (is_protected(&url) && is_plain).then_some(url)
}

/// Returns the issuer as it was written, because ID tokens have to contain the same text.
fn issuer(text: &str) -> Option<String> {
    protected_url(text).map(|_| text.to_owned())
}

/// Returns the URL with a slash at the end. Its path becomes the path of cookies, so it contains no semicolon.
fn public_url(text: &str) -> Option<Url> {
    let mut url = protected_url(text).filter(|url| !url.path().contains(';'))?;
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Some(url)
}

/// Decodes a key. `openssl rand -base64 64` prints it on two lines.
fn cookie_key(text: &str) -> Option<CookieKey> {
    let text: String = text.split_ascii_whitespace().collect();
    CookieKey::new(BASE64_STANDARD.decode(text).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, tests::check};

    const COMPLETE: [&str; 4] = [
        "--console-oidc-issuer=https://id.example.org/realms/consortium",
        "--console-oidc-client-id=mod-patron-blocks",
        "--console-public-url=https://blocks.example.org/console",
        "--console-port=8082",
    ];

    fn problems(line: &[&str]) -> Vec<String> {
        check(line).unwrap_err().iter().map(ToString::to_string).collect()
    }

    fn sign_in(line: &[&str]) -> SignInConfig {
        check(line).unwrap().console.sign_in.expect("the sign-in is configured")
    }

    #[test]
    fn without_sign_in_the_port_is_for_this_machine() {
        let Config { console, .. } = check(&["--console-port=8082"]).unwrap();
        assert!(console.sign_in.is_none() && console.address.is_loopback());
        for address in ["--console-address=127.0.0.9", "--console-address=::1"] {
            assert!(check(&[address]).is_ok(), "{address}");
        }
        for address in ["0.0.0.0", "192.0.2.7", "::", "::ffff:127.0.0.1"] {
            assert_eq!(
                problems(&[&format!("--console-address={address}")]),
                [format!(
                    "CONSOLE_ADDRESS must be an address of this machine only, such as 127.0.0.1, unless \
                     CONSOLE_OIDC_ISSUER is set, but it is {address:?}"
                )]
            );
        }
    }

    #[test]
    fn complete_sign_in_allows_other_addresses() {
        let line = [&COMPLETE[..], &["--console-address=0.0.0.0"]].concat();
        let config = sign_in(&line);
        assert_eq!(config.issuer, "https://id.example.org/realms/consortium");
        assert_eq!(config.public_url.as_str(), "https://blocks.example.org/console/");
        assert_eq!((config.client_secret, config.tenants_claim), (None, None));
        assert_eq!(config.roles_claim, "realm_access.roles");
        assert_eq!(
            [config.view_role, config.act_role],
            ["patron-blocks-view", "patron-blocks-act"]
        );
    }

    #[test]
    fn each_missing_setting_is_named() {
        for (left_out, variable) in [
            (0, "CONSOLE_OIDC_ISSUER"),
            (1, "CONSOLE_OIDC_CLIENT_ID"),
            (2, "CONSOLE_PUBLIC_URL"),
            (3, "CONSOLE_PORT"),
        ] {
            let mut line = COMPLETE.to_vec();
            line.remove(left_out);
            let cause =
                if left_out == 0 { "CONSOLE_OIDC_CLIENT_ID" } else { "CONSOLE_OIDC_ISSUER" };
            let expected =
                format!("{variable} must be set, because {cause} is set, but it is \"\"");
            assert_eq!(problems(&line), [expected]);
        }
    }

    #[test]
    fn any_setting_alone_is_half_a_sign_in() {
        for alone in [
            "--console-oidc-client-secret=s",
            "--console-oidc-roles-claim=roles",
            "--console-oidc-view-role=v",
            "--console-oidc-act-role=a",
            "--console-oidc-tenants-claim=tenants",
        ] {
            let problems = problems(&["--console-port=8082", alone]);
            assert_eq!(problems.len(), 3, "{problems:?}");
            assert!(problems[0].starts_with("CONSOLE_OIDC_ISSUER must be set"), "{problems:?}");
        }
    }

    #[test]
    fn addresses_are_encrypted_or_of_this_machine() {
        let is_valid = |at: usize, flag: &str, url: &str| {
            let replaced = format!("--console-{flag}={url}");
            let mut line = COMPLETE.to_vec();
            line[at] = &replaced;
            check(&line).is_ok()
        };
        for (at, flag) in [(0, "oidc-issuer"), (2, "public-url")] {
            for url in [
                "https://a.example",
                "http://127.0.0.1:8080/realms/x",
                "http://localhost",
                "http://[::1]:1",
            ] {
                assert!(is_valid(at, flag, url), "{flag} {url}");
            }
            for url in [
                "http://a.example",
                "http://127.0.0.1.example",
                "http://localhost.example",
                "https://",
                "ftp://a.example",
                "a.example",
                "javascript:alert(1)",
                "https://user@a.example",
                "https://a.example?b",
                "https://a.example#b",
            ] {
                assert!(!is_valid(at, flag, url), "{flag} {url}");
            }
        }
        assert!(!is_valid(2, "public-url", "https://a.example/b;c"));
    }

    #[test]
    fn key_has_64_bytes() {
        let text = BASE64_STANDARD.encode([7; 64]);
        let (first, second) = text.split_at(64);
        let config = |key: &str| {
            let key = format!("--console-cookie-key={key}");
            check(&[&COMPLETE[..], &[&key]].concat())
        };
        let key =
            config(&format!("{first}\n{second}\n")).unwrap().console.sign_in.unwrap().cookie_key;
        assert_eq!(key, CookieKey::new(vec![7; 64]));
        for bad in [BASE64_STANDARD.encode([7; 32]), "secret-text".to_owned()] {
            let problems = config(&bad).unwrap_err();
            assert_eq!(problems.len(), 1);
            let problem = problems[0].to_string();
            assert!(
                problem.starts_with("CONSOLE_COOKIE_KEY must be 64 random bytes in Base64"),
                "{problem}"
            );
            assert!(!problem.contains(&bad), "the message contains the secret: {problem}");
        }
    }

    #[test]
    fn debug_output_contains_no_secret() {
        let key = BASE64_STANDARD.encode([7; 64]);
        let key = format!("--console-cookie-key={key}");
        let line = [&COMPLETE[..], &["--console-oidc-client-secret=hush-hush", &key]].concat();
        let config = check(&line).unwrap().console;
        assert_eq!(config.sign_in.as_ref().unwrap().client_secret.as_deref(), Some("hush-hush"));
        let text = format!("{config:?}");
        assert!(!text.contains("hush-hush") && !text.contains("7, 7"), "{text}");
    }
}
