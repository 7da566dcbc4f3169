//! Settings of encryption and authentication of Kafka connections (docs/contract/events.md#11-settings).
//! Validation reads the key stores once, so an unusable store is reported before anything starts.

use std::{fs, mem};

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Args;
use p12_keystore::Pkcs12Archive;

use super::{parse::choice, read::InvalidSettings};

/// The encryption and authentication of Kafka connections.
#[derive(Debug, Clone, Default, Args)]
pub struct SecurityConfig {
    /// `Some` if connections are encrypted.
    #[arg(skip)]
    pub tls: Option<Tls>,
    /// `Some` if the client authenticates by SASL.
    #[arg(skip)]
    pub sasl: Option<Sasl>,
    /// The settings; empty after validation, which computes the other fields.
    #[command(flatten)]
    pub settings: SecuritySettings,
}

/// The settings of key stores and credentials. The protocol decides which settings apply.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Security of Kafka connections")]
pub struct SecuritySettings {
    /// Security protocol of the brokers: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL
    #[arg(long, env = "KAFKA_SECURITY_PROTOCOL")]
    #[arg(default_value = "PLAINTEXT", value_parser = choice([
        ("PLAINTEXT", Protocol { tls: false, sasl: false }),
        ("SSL", Protocol { tls: true, sasl: false }),
        ("SASL_PLAINTEXT", Protocol { tls: false, sasl: true }),
        ("SASL_SSL", Protocol { tls: true, sasl: true }),
    ]))]
    kafka_security_protocol: Protocol,
    /// File with trusted certificates, PEM or PKCS#12; if empty, the system's certificates
    #[arg(long, env = "KAFKA_SSL_TRUSTSTORE_LOCATION", default_value = "")]
    kafka_ssl_truststore_location: String,
    /// Password of a PKCS#12 trust store
    #[arg(long, env = "KAFKA_SSL_TRUSTSTORE_PASSWORD", default_value = "", hide_env_values = true)]
    kafka_ssl_truststore_password: String,
    /// File with the client's key and certificate, PEM or PKCS#12; only for brokers that require a client
    /// certificate
    #[arg(long, env = "KAFKA_SSL_KEYSTORE_LOCATION", default_value = "")]
    kafka_ssl_keystore_location: String,
    /// Password of a PKCS#12 key store
    #[arg(long, env = "KAFKA_SSL_KEYSTORE_PASSWORD", default_value = "", hide_env_values = true)]
    kafka_ssl_keystore_password: String,
    /// Password of the key, if the key has one
    #[arg(long, env = "KAFKA_SSL_KEY_PASSWORD", default_value = "", hide_env_values = true)]
    kafka_ssl_key_password: String,
    /// Verification of a broker's host name: https verifies the name, an empty value does not
    #[arg(long, env = "KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", default_value = "https")]
    kafka_ssl_endpoint_identification: String,
    /// SASL mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
    #[arg(long, env = "KAFKA_SASL_MECHANISM", default_value = "PLAIN")]
    kafka_sasl_mechanism: String,
    /// User of SASL; required with SASL
    #[arg(long, env = "KAFKA_SASL_USERNAME", default_value = "")]
    kafka_sasl_username: String,
    /// Password of the SASL user
    #[arg(long, env = "KAFKA_SASL_PASSWORD", default_value = "", hide_env_values = true)]
    kafka_sasl_password: String,
}

#[derive(Debug, Clone, Copy, Default)]
struct Protocol {
    tls: bool,
    sasl: bool,
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

impl SecurityConfig {
    /// Reads the key stores and credentials that the protocol needs. Removes the settings, so that
    /// passwords remain in one place.
    pub(super) fn load(&mut self, problems: &mut InvalidSettings) {
        let settings = mem::take(&mut self.settings);
        let Protocol { tls, sasl } = settings.kafka_security_protocol;
        self.tls = tls.then(|| settings.tls(problems));
        self.sasl = sasl.then(|| settings.sasl(problems));
    }
}

impl SecuritySettings {
    fn tls(&self, problems: &mut InvalidSettings) -> Tls {
        let trusted = KeyStore::open(&self.kafka_ssl_truststore_location).and_then(|store| {
            let password = &self.kafka_ssl_truststore_password;
            store.map(|store| store.trusted_certificates(password)).transpose()
        });
        let own = KeyStore::open(&self.kafka_ssl_keystore_location).and_then(|store| {
            let passwords = (&*self.kafka_ssl_keystore_password, &*self.kafka_ssl_key_password);
            store.map(|store| store.client_certificate(passwords)).transpose()
        });
        let verify_host_name = match self.kafka_ssl_endpoint_identification.trim() {
            "https" | "HTTPS" => Ok(true),
            "" => Ok(false),
            _ => Err("must be https or empty"),
        };
        Tls {
            trusted_certificates: problems.accept("KAFKA_SSL_TRUSTSTORE_LOCATION", trusted),
            client_certificate: problems.accept("KAFKA_SSL_KEYSTORE_LOCATION", own),
            verify_host_name: problems
                .accept("KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", verify_host_name),
        }
    }

    fn sasl(&self, problems: &mut InvalidSettings) -> Sasl {
        let mechanism = match self.kafka_sasl_mechanism.trim() {
            known @ ("PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512") => Ok(known.to_owned()),
            _ => Err("must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
        };
        let username = match self.kafka_sasl_username.trim() {
            "" => Err("must not be empty"),
            name => Ok(name.to_owned()),
        };
        Sasl {
            mechanism: problems.accept("KAFKA_SASL_MECHANISM", mechanism),
            username: problems.accept("KAFKA_SASL_USERNAME", username),
            password: self.kafka_sasl_password.clone(),
        }
    }
}

/// The content of a trust store or key store. Its functions return the violated rule of an unusable store.
struct KeyStore(Vec<u8>);

impl KeyStore {
    /// Reads a store. Returns `None` if `path` is empty.
    fn open(path: &str) -> Result<Option<Self>, &'static str> {
        if path.is_empty() {
            return Ok(None);
        }
        let bytes = fs::read(path.trim()).map_err(|_| "must be a readable file")?;
        // The first bytes of every JKS file.
        if bytes.starts_with(&[0xFE, 0xED, 0xFE, 0xED]) {
            return Err(
                "must be PEM or PKCS#12, not JKS; convert the file with keytool -importkeystore \
                 -deststoretype PKCS12",
            );
        }
        Ok(Some(Self(bytes)))
    }

    /// Returns the text if the store is PEM.
    fn pem(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.0).ok()?;
        text.contains("-----BEGIN ").then_some(text)
    }

    fn pkcs12(&self, password: &str) -> Result<Pkcs12Archive, &'static str> {
        Pkcs12Archive::from_pkcs12(&self.0, password)
            .map_err(|_| "must be PEM, or PKCS#12 with the configured password")
    }

    fn trusted_certificates(&self, password: &str) -> Result<String, &'static str> {
        let pem = match self.pem() {
            Some(pem) => pem.to_owned(),
            None => certificates_pem(&self.pkcs12(password)?),
        };
        let is_complete = pem.contains("BEGIN CERTIFICATE");
        is_complete.then_some(pem).ok_or("must contain a certificate")
    }

    fn client_certificate(
        &self,
        (password, key_password): (&str, &str),
    ) -> Result<ClientCertificate, &'static str> {
        let own = match self.pem() {
            Some(pem) => ClientCertificate {
                key: pem.to_owned(),
                key_password: (!key_password.is_empty()).then(|| key_password.to_owned()),
                certificates: pem.to_owned(),
            },
            None => {
                let archive = self.pkcs12(password)?;
                let key = archive.keys.first().map(|bag| to_pem("PRIVATE KEY", bag.key.as_der()));
                ClientCertificate {
                    key: key.unwrap_or_default(),
                    key_password: None,
                    certificates: certificates_pem(&archive),
                }
            }
        };
        let is_complete =
            own.key.contains(" KEY-----") && own.certificates.contains(" CERTIFICATE-----");
        is_complete.then_some(own).ok_or("must contain a key and its certificate")
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

    fn store(file: &str) -> Result<KeyStore, &'static str> {
        let path = format!("{}/tests/stores/{file}", env!("CARGO_MANIFEST_DIR"));
        KeyStore::open(&path).map(|store| store.expect("the path is not empty"))
    }

    fn load_client_certificate(
        file: &str,
        password: &str,
    ) -> Result<ClientCertificate, &'static str> {
        store(file)?.client_certificate((password, ""))
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
        let binary = load_client_certificate("own.p12", "changeit").unwrap();
        let text = load_client_certificate("own.pem", "").unwrap();
        assert_eq!(text.key, PEM);
        assert_eq!(one(&binary.key, "PRIVATE KEY"), one(PEM, "PRIVATE KEY"));
        assert_eq!(one(&binary.certificates, "CERTIFICATE"), one(PEM, "CERTIFICATE"));
    }

    #[test]
    fn unreadable_store_is_reported_with_its_rule() {
        let rule = |file, password| load_client_certificate(file, password).unwrap_err();
        assert!(rule("own.p12", "wrong").contains("PKCS#12 with the configured password"));
        assert!(rule("nowhere", "").contains("must be a readable file"));
        assert!(rule("magic.jks", "").contains("not JKS; convert the file with keytool"));
        assert!(rule("../main.rs", "").contains("PKCS#12 with the configured password"));
    }

    #[test]
    fn trusted_certificates_load_from_pkcs12_and_pem() {
        for (file, password) in [("own.p12", "changeit"), ("own.pem", "")] {
            let trusted = store(file).unwrap().trusted_certificates(password).unwrap();
            assert!(trusted.contains("-----BEGIN CERTIFICATE-----"), "{file}");
        }
    }
}
