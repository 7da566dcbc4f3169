//! Settings of how connections to Kafka are encrypted and who we say we are
//! (docs/contract/events.md#11-settings). Stores are read here, once: what can't be used is told
//! before anything starts.

use std::fs;

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Args;
use p12_keystore::Pkcs12Archive;

use super::InvalidSettings;

/// The settings as they come.
#[derive(Debug, Clone, Args)]
pub struct SecuritySettings {
    /// PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL
    #[arg(long, env = "KAFKA_SECURITY_PROTOCOL", default_value = "PLAINTEXT", global = true)]
    pub kafka_security_protocol: String,
    /// File with the certificates that a broker's may be signed by: PEM or PKCS#12; the system's without
    #[arg(long, env = "KAFKA_SSL_TRUSTSTORE_LOCATION", default_value = "", global = true)]
    pub kafka_ssl_truststore_location: String,
    /// Its password, if it is PKCS#12
    #[arg(
        long,
        env = "KAFKA_SSL_TRUSTSTORE_PASSWORD",
        default_value = "",
        hide_env_values = true,
        global = true
    )]
    pub kafka_ssl_truststore_password: String,
    /// File with our own key and certificate: PEM or PKCS#12; only where brokers ask for one
    #[arg(long, env = "KAFKA_SSL_KEYSTORE_LOCATION", default_value = "", global = true)]
    pub kafka_ssl_keystore_location: String,
    /// Its password, if it is PKCS#12
    #[arg(
        long,
        env = "KAFKA_SSL_KEYSTORE_PASSWORD",
        default_value = "",
        hide_env_values = true,
        global = true
    )]
    pub kafka_ssl_keystore_password: String,
    /// The key's own password, if it has one
    #[arg(
        long,
        env = "KAFKA_SSL_KEY_PASSWORD",
        default_value = "",
        hide_env_values = true,
        global = true
    )]
    pub kafka_ssl_key_password: String,
    /// How a broker's name is compared with its certificate: https, or nothing for not at all
    #[arg(
        long,
        env = "KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM",
        default_value = "https",
        global = true
    )]
    pub kafka_ssl_endpoint_identification: String,
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
    #[arg(long, env = "KAFKA_SASL_MECHANISM", default_value = "PLAIN", global = true)]
    pub kafka_sasl_mechanism: String,
    /// Who we are to brokers that ask by SASL
    #[arg(long, env = "KAFKA_SASL_USERNAME", default_value = "", global = true)]
    pub kafka_sasl_username: String,
    /// Password of that user
    #[arg(
        long,
        env = "KAFKA_SASL_PASSWORD",
        default_value = "",
        hide_env_values = true,
        global = true
    )]
    pub kafka_sasl_password: String,
}

/// How connections to Kafka are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityConfig {
    /// Where they are encrypted.
    pub tls: Option<Tls>,
    /// Where we have to say who we are.
    pub sasl: Option<Sasl>,
}

/// An encrypted connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates that a broker's may be signed by, as PEM; the system's without.
    pub trusted_certificates: Option<String>,
    /// Our own key and certificates, as PEM.
    pub client_certificate: Option<ClientCertificate>,
    /// Whether a broker's name must be its certificate's.
    pub verify_host_name: bool,
}

/// Our own key and certificates.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The key, as PEM.
    pub key: String,
    /// Its password, if it has one.
    pub key_password: Option<String>,
    /// The certificates, our own first, as PEM.
    pub certificates: String,
}

/// Who we say we are.
#[derive(Clone, PartialEq, Eq)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// Name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key and its certificates")
    }
}

impl std::fmt::Debug for Sasl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} by {}", self.username, self.mechanism)
    }
}

impl SecuritySettings {
    pub(super) fn validate(&self, problems: &mut InvalidSettings) -> SecurityConfig {
        let rule = "must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL";
        let protocol = |text: &str| match text {
            "PLAINTEXT" => Some((false, false)),
            "SSL" => Some((true, false)),
            "SASL_PLAINTEXT" => Some((false, true)),
            "SASL_SSL" => Some((true, true)),
            _ => None,
        };
        let variable = "KAFKA_SECURITY_PROTOCOL";
        let (tls, sasl) = problems
            .parse(variable, &self.kafka_security_protocol, rule, protocol)
            .unwrap_or_default();
        SecurityConfig {
            tls: tls.then(|| self.tls(problems)),
            sasl: sasl.then(|| self.sasl(problems)),
        }
    }

    fn tls(&self, problems: &mut InvalidSettings) -> Tls {
        let (trust, own) = (&self.kafka_ssl_truststore_location, &self.kafka_ssl_keystore_location);
        let trusted =
            KeyStore::open("KAFKA_SSL_TRUSTSTORE_LOCATION", trust, problems).and_then(|store| {
                store.trusted_certificates(&self.kafka_ssl_truststore_password, problems)
            });
        let own = KeyStore::open("KAFKA_SSL_KEYSTORE_LOCATION", own, problems).and_then(|store| {
            store.client_certificate(
                &self.kafka_ssl_keystore_password,
                &self.kafka_ssl_key_password,
                problems,
            )
        });
        let variable = "KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM";
        let named = |text: &str| match text {
            "https" | "HTTPS" => Some(true),
            "" => Some(false),
            _ => None,
        };
        let text = &self.kafka_ssl_endpoint_identification;
        let named = problems.parse(variable, text, "must be https or empty", named);
        Tls {
            trusted_certificates: trusted,
            client_certificate: own,
            verify_host_name: named.unwrap_or(true),
        }
    }

    fn sasl(&self, problems: &mut InvalidSettings) -> Sasl {
        let rule = "must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512";
        let known = |text: &str| {
            ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&text).then(|| text.to_owned())
        };
        let mechanism = &self.kafka_sasl_mechanism;
        Sasl {
            mechanism: problems
                .parse("KAFKA_SASL_MECHANISM", mechanism, rule, known)
                .unwrap_or_default(),
            username: problems.non_empty("KAFKA_SASL_USERNAME", &self.kafka_sasl_username),
            password: self.kafka_sasl_password.clone(),
        }
    }
}

/// A store that was read.
struct KeyStore<'a> {
    variable: &'static str,
    path: &'a str,
    bytes: Vec<u8>,
}

impl<'a> KeyStore<'a> {
    /// `None` where no store is named, or where it can't be read, which is a problem.
    fn open(variable: &'static str, path: &'a str, problems: &mut InvalidSettings) -> Option<Self> {
        if path.is_empty() {
            return None;
        }
        let read = |path: &str| fs::read(path).ok();
        let bytes = problems.parse(variable, path, "must be a file that can be read", read)?;
        // The first bytes of every JKS file.
        if bytes.starts_with(&[0xFE, 0xED, 0xFE, 0xED]) {
            let rule = "must be PEM or PKCS#12, not JKS: convert it with keytool -importkeystore \
                        -deststoretype PKCS12";
            return problems.parse(variable, path, rule, |_| None::<Self>);
        }
        Some(Self { variable, path, bytes })
    }

    /// The text, if it is PEM.
    fn pem(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.bytes).ok()?;
        text.contains("-----BEGIN ").then_some(text)
    }

    fn pkcs12(&self, password: &str, problems: &mut InvalidSettings) -> Option<Pkcs12Archive> {
        let rule = "must be PEM, or PKCS#12 that its password opens";
        let open = |_: &str| Pkcs12Archive::from_pkcs12(&self.bytes, password).ok();
        problems.parse(self.variable, self.path, rule, open)
    }

    fn trusted_certificates(
        &self,
        password: &str,
        problems: &mut InvalidSettings,
    ) -> Option<String> {
        let pem = match self.pem() {
            Some(pem) => pem.to_owned(),
            None => certificates_pem(&self.pkcs12(password, problems)?),
        };
        let rule = "must hold a certificate";
        let holds = |_: &str| pem.contains("BEGIN CERTIFICATE").then(|| pem.clone());
        problems.parse(self.variable, self.path, rule, holds)
    }

    fn client_certificate(
        &self,
        password: &str,
        key_password: &str,
        problems: &mut InvalidSettings,
    ) -> Option<ClientCertificate> {
        let key_password = (!key_password.is_empty()).then(|| key_password.to_owned());
        let own = match self.pem() {
            Some(pem) => {
                let (key, certificates) = (pem.to_owned(), pem.to_owned());
                ClientCertificate { key, key_password, certificates }
            }
            None => {
                let archive = self.pkcs12(password, problems)?;
                let key = archive.keys.first();
                let key =
                    key.map(|bag| to_pem("PRIVATE KEY", bag.key.as_der())).unwrap_or_default();
                ClientCertificate {
                    key,
                    key_password: None,
                    certificates: certificates_pem(&archive),
                }
            }
        };
        let rule = "must hold a key and its certificate";
        let complete =
            own.key.contains(" KEY-----") && own.certificates.contains(" CERTIFICATE-----");
        problems.parse(self.variable, self.path, rule, |_| complete.then_some(own))
    }
}

/// Those that belong to a key come first.
fn certificates_pem(archive: &Pkcs12Archive) -> String {
    let (own, others): (Vec<_>, Vec<_>) =
        archive.certs.iter().partition(|bag| bag.local_key_id.is_some());
    own.iter().chain(&others).map(|bag| to_pem("CERTIFICATE", bag.cert.as_der())).collect()
}

fn to_pem(what: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key and its certificate in PKCS#12, made with the password `changeit`, and as PEM.
    const PKCS12: &[u8] = include_bytes!("../../tests/stores/own.p12");
    const PEM: &str = include_str!("../../tests/stores/own.pem");

    fn folder() -> &'static str {
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stores")
    }

    fn load_client_certificate(
        file: &str,
        password: &str,
    ) -> (Option<ClientCertificate>, Vec<String>) {
        let (mut problems, path) = (InvalidSettings::default(), format!("{}/{file}", folder()));
        let store = KeyStore::open("STORE", &path, &mut problems);
        let own = store.and_then(|store| store.client_certificate(password, "", &mut problems));
        (own, problems.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn key_is_the_same_from_pkcs12_and_pem() {
        let one = |text: &str, what: &str| {
            let begin = format!("-----BEGIN {what}-----");
            let end = format!("-----END {what}-----");
            let inside = text.split(&begin).nth(1).unwrap().split(&end).next().unwrap();
            inside.split_whitespace().collect::<String>()
        };
        assert!(PKCS12.starts_with(&[0x30]));
        let (binary, problems) = load_client_certificate("own.p12", "changeit");
        let binary = binary.unwrap_or_else(|| panic!("{problems:?}"));
        let text = load_client_certificate("own.pem", "").0.unwrap();
        assert_eq!(text.key, PEM);
        assert_eq!(one(&binary.key, "PRIVATE KEY"), one(PEM, "PRIVATE KEY"));
        assert_eq!(one(&binary.certificates, "CERTIFICATE"), one(PEM, "CERTIFICATE"));
    }

    #[test]
    fn unreadable_store_is_reported_with_its_rule() {
        let rules = |file, password| load_client_certificate(file, password).1.join(" ");
        assert!(rules("own.p12", "wrong").contains("PKCS#12 that its password opens"));
        assert!(rules("nowhere", "").contains("must be a file that can be read"));
        assert!(rules("magic.jks", "").contains("not JKS: convert it with keytool"));
        assert!(rules("../main.rs", "").contains("PKCS#12 that its password opens"));
    }

    #[test]
    fn trusted_certificates_load_from_pkcs12_and_pem() {
        for (file, password) in [("own.p12", "changeit"), ("own.pem", "")] {
            let (mut problems, path) = (InvalidSettings::default(), format!("{}/{file}", folder()));
            let store = KeyStore::open("STORE", &path, &mut problems).unwrap();
            let trusted = store.trusted_certificates(password, &mut problems).unwrap();
            assert!(trusted.contains("-----BEGIN CERTIFICATE-----"), "{file}");
        }
    }
}
