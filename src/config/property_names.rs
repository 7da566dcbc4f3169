//! The property names that other FOLIO modules use for the same Kafka settings
//! (docs/contract/events.md#11-settings). The upper-case name wins.

use clap::Command;

/// Each setting with its property names; the first property that is set wins.
const PROPERTY_NAMES: [(&str, [&str; 2]); 10] = [
    ("kafka_security_protocol", ["security.protocol", "spring.kafka.security.protocol"]),
    (
        "kafka_ssl_truststore_location",
        ["ssl.truststore.location", "spring.kafka.ssl.trust-store-location"],
    ),
    (
        "kafka_ssl_truststore_password",
        ["ssl.truststore.password", "spring.kafka.ssl.trust-store-password"],
    ),
    (
        "kafka_ssl_keystore_location",
        ["ssl.keystore.location", "spring.kafka.ssl.key-store-location"],
    ),
    (
        "kafka_ssl_keystore_password",
        ["ssl.keystore.password", "spring.kafka.ssl.key-store-password"],
    ),
    ("kafka_ssl_key_password", ["ssl.key.password", "spring.kafka.ssl.key-password"]),
    (
        "kafka_ssl_endpoint_identification",
        [
            "ssl.endpoint.identification.algorithm",
            "spring.kafka.properties.ssl.endpoint.identification.algorithm",
        ],
    ),
    (
        "metadata_max_age",
        [
            "kafka.consumer.metadata.max.age.ms",
            "spring.kafka.consumer.properties.metadata.max.age.ms",
        ],
    ),
    (
        "session_timeout",
        [
            "kafka.consumer.session.timeout.ms",
            "spring.kafka.consumer.properties.session.timeout.ms",
        ],
    ),
    (
        "heartbeat_interval",
        [
            "kafka.consumer.heartbeat.interval.ms",
            "spring.kafka.consumer.properties.heartbeat.interval.ms",
        ],
    ),
];

/// Returns the command with property values of the environment as defaults.
#[expect(clippy::disallowed_methods, reason = "only this function reads the environment")]
pub fn with_property_names(command: Command) -> Command {
    apply_property_names(command, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

pub(super) fn apply_property_names(
    command: Command,
    variable: impl Fn(&str) -> Option<String>,
) -> Command {
    PROPERTY_NAMES.into_iter().fold(command, |command, (setting, names)| {
        match names.into_iter().find_map(&variable) {
            Some(value) => command.mut_arg(setting, |arg| arg.default_value(value)),
            None => command,
        }
    })
}
