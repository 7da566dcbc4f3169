//! Client settings that all clients of this module share.

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

use crate::config::{KafkaConfig, SecurityConfig};

/// The largest record that a broker accepts by default, in KiB.
const RECORD_KIB_MAX: usize = 1024;

/// Returns the connection settings of all clients of this module.
pub(super) fn connection(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", config.bootstrap_servers());
    client.set("client.id", "mod-patron-blocks");
    client.set("reconnect.backoff.max.ms", "2000");
    client.set("allow.auto.create.topics", "false");
    client.set_log_level(RDKafkaLogLevel::Warning);
    secure(&mut client, &config.security);
    client
}

fn secure(client: &mut ClientConfig, SecurityConfig { tls, sasl, .. }: &SecurityConfig) {
    let protocol = match (tls, sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    client.set("security.protocol", protocol);
    if let Some(tls) = tls {
        let endpoint_identification = if tls.verify_host_name { "https" } else { "none" };
        client.set("ssl.endpoint.identification.algorithm", endpoint_identification);
        if let Some(trusted) = &tls.trusted_certificates {
            client.set("ssl.ca.pem", trusted);
        }
        if let Some(own) = &tls.client_certificate {
            client.set("ssl.key.pem", &own.key);
            client.set("ssl.certificate.pem", &own.certificates);
            if let Some(password) = &own.key_password {
                client.set("ssl.key.password", password);
            }
        }
    }
    if let Some(sasl) = sasl {
        client.set("sasl.mechanism", &sasl.mechanism);
        client.set("sasl.username", &sasl.username);
        client.set("sasl.password", &sasl.password);
    }
}

/// Returns the number of records that the client may prefetch into `kib` KiB. The client counts only
/// values, without keys and headers. The bound is therefore a number of records, each as large as a
/// broker accepts.
pub(super) fn prefetch_records(kib: usize) -> String {
    (kib / RECORD_KIB_MAX).max(1).to_string()
}

#[cfg(test)]
mod tests {
    use super::prefetch_records;

    #[test]
    fn prefetch_count_assumes_the_largest_records() {
        for (kib, records) in [(8192, "8"), (1024, "1"), (256, "1"), (64, "1"), (1 << 20, "1024")] {
            assert_eq!(prefetch_records(kib), records, "{kib} KiB");
        }
    }
}
