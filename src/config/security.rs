//! Settings of encryption and authentication of Kafka connections (docs/contract/events.md#11-settings).
//! Validation reads the key stores once, so an unusable store is reported before anything starts.

use std::fs;

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Args;
use p12_keystore::Pkcs12Archive;

use super::InvalidSettings;

/// The settings as text, before validation.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Security of Kafka connections")]
pub struct SecuritySettings {
    /// Security protocol of the brokers: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL
    #[arg(long, env = "KAFKA_SECURITY_PROTOCOL", default_value = "PLAINTEXT", global = true)]
    pub kafka_security_protocol: String,
    /// File with trusted certificates, PEM or PKCS#12; if empty, the system's certificates
    #[arg(long, env = "KAFKA_SSL_TRUSTSTORE_LOCATION", default_value = "", global = true)]
    pub kafka_ssl_truststore_location: String,
    /// Password of a PKCS#12 trust store
    #[arg(
        long,
        env = "KAFKA_SSL_TRUSTSTORE_PASSWORD",
        default_value = "",
        hide_env_values = true,
        global = true
    )]
    pub kafka_ssl_truststore_password: String,
    /// File with the client's key and certificate, PEM or PKCS#12; only for brokers that require a client
    /// certificate
    #[arg(long, env = "KAFKA_SSL_KEYSTORE_LOCATION", default_value = "", global = true)]
    pub kafka_ssl_keystore_location: String,
    /// Password of a PKCS#12 key store
    #[arg(
        long,
        env = "KAFKA_SSL_KEYSTORE_PASSWORD",
        default_value = "",
        hide_env_values = true,
        global = true
    )]
    pub kafka_ssl_keystore_password: String,
    /// Password of the key, if the key has one
    #[arg(
        long,
        env = "KAFKA_SSL_KEY_PASSWORD",
        default_value = "",
        hide_env_values = true,
        global = true
    )]
    pub kafka_ssl_key_password: String,
    /// Verification of a broker's host name: https verifies the name, an empty value does not
    #[arg(
        long,
        env = "KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM",
        default_value = "https",
        global = true
    )]
    pub kafka_ssl_endpoint_identification: String,
    /// SASL mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
    #[arg(long, env = "KAFKA_SASL_MECHANISM", default_value = "PLAIN", global = true)]
    pub kafka_sasl_mechanism: String,
    /// User of SASL; required with SASL
    #[arg(long, env = "KAFKA_SASL_USERNAME", default_value = "", global = true)]
    pub kafka_sasl_username: String,
    /// Password of the SASL user
    #[arg(
        long,
        env = "KAFKA_SASL_PASSWORD",
        default_value = "",
        hide_env_values = true,
        global = true
    )]
    pub kafka_sasl_password: String,
}

/// The validated encryption and authentication of Kafka connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityConfig {
    /// `Some` if connections are encrypted.
    pub tls: Option<Tls>,
    /// `Some` if the client authenticates by SASL.
    pub sasl: Option<Sasl>,
}

/// The certificates of encrypted connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Trusted certificates as PEM; `None` for the system's certificates.
    pub trusted_certificates: Option<String>,
    /// The client's key and certificates, as PEM.
    pub client_certificate: Option<ClientCertificate>,
    /// Whether a broker's host name must match its certificate.
    pub verify_host_name: bool,
}

/// The client's key and certificates.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The key, as PEM.
    pub key: String,
    /// Password of the key, if the key has one.
    pub key_password: Option<String>,
    /// The certificates as PEM, the client's own first.
    pub certificates: String,
}

/// The client's SASL credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// Name of the user.
    pub username: String,
    /// Password of the user.
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

/// The content of a trust store or key store.
struct KeyStore<'a> {
    variable: &'static str,
    path: &'a str,
    bytes: Vec<u8>,
}

impl<'a> KeyStore<'a> {
    /// Reads a store. Returns `None` if `path` is empty, and records an invalid setting if the file is
    /// unreadable.
    fn open(variable: &'static str, path: &'a str, problems: &mut InvalidSettings) -> Option<Self> {
        if path.is_empty() {
            return None;
        }
        let read = |path: &str| fs::read(path).ok();
        let bytes = problems.parse(variable, path, "must be a readable file", read)?;
        // The first bytes of every JKS file.
        if bytes.starts_with(&[0xFE, 0xED, 0xFE, 0xED]) {
            let rule = "must be PEM or PKCS#12, not JKS; convert the file with keytool -importkeystore \
                        -deststoretype PKCS12";
            return problems.parse(variable, path, rule, |_| None::<Self>);
        }
        Some(Self { variable, path, bytes })
    }

    /// Returns the text if the store is PEM.
    fn pem(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.bytes).ok()?;
        text.contains("-----BEGIN ").then_some(text)
    }

    fn pkcs12(&self, password: &str, problems: &mut InvalidSettings) -> Option<Pkcs12Archive> {
        let rule = "must be PEM, or PKCS#12 with the configured password";
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
        let rule = "must contain a certificate";
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
        let rule = "must contain a key and its certificate";
        let complete =
            own.key.contains(" KEY-----") && own.certificates.contains(" CERTIFICATE-----");
        problems.parse(self.variable, self.path, rule, |_| complete.then_some(own))
    }
}

/// Converts the certificates to PEM; certificates of a key come first.
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

    /// A key and its certificate: once as PKCS#12 with the password `changeit`, once as PEM.
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
        assert!(rules("own.p12", "wrong").contains("PKCS#12 with the configured password"));
        assert!(rules("nowhere", "").contains("must be a readable file"));
        assert!(rules("magic.jks", "").contains("not JKS; convert the file with keytool"));
        assert!(rules("../main.rs", "").contains("PKCS#12 with the configured password"));
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
