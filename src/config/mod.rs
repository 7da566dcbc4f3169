//! Settings. Each setting is a flag and an environment variable. One validation reports all invalid
//! settings.
//!
//! The variables have FOLIO's names (docs/contract/events.md#11-settings, docs/contract/http-api.md).
//! `--help` is the reference.

mod block_events;
mod database;
mod kafka;
mod okapi;
mod property_names;
mod rebuild;
mod retention;
mod security;

use std::{
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
    time::Duration,
};

use clap::Args;
use tracing_subscriber::EnvFilter;

pub use block_events::{BlockEventsConfig, BlockEventsSettings, TopicConfig};
pub use database::{DatabaseConfig, DatabaseSettings, Login};
pub use kafka::{BadRecordLimit, GroupProtocol, KafkaConfig, KafkaSettings};
pub use okapi::{BreakerLimits, Gateway, OkapiConfig, OkapiSettings};
pub use property_names::with_property_names;
pub use rebuild::{ApprovalThreshold, RebuildConfig, RebuildSettings};
pub use retention::{HousekeepingConfig, HousekeepingSettings};
pub use security::{ClientCertificate, Sasl, SecurityConfig, SecuritySettings, Tls};

use crate::logging::{self, LogFormat};

/// The settings as text, so that [`Settings::validate`] can report every invalid setting.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// The database
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Kafka and ingest
    #[command(flatten)]
    pub kafka: KafkaSettings,

    /// IP address to listen on: 0.0.0.0 for all IPv4 addresses, 127.0.0.1 for this machine only
    #[arg(
        long,
        env = "HTTP_ADDRESS",
        help_heading = "HTTP",
        default_value = "0.0.0.0",
        global = true
    )]
    pub http_address: String,
    /// Port to listen on; 0 chooses a free port
    #[arg(long, env = "HTTP_PORT", help_heading = "HTTP", default_value = "8081", global = true)]
    pub http_port: String,
    /// Threads that answer requests; 0 means one per core
    #[arg(long, env = "HTTP_WORKERS", help_heading = "HTTP", default_value = "0", global = true)]
    pub http_workers: String,
    /// Time between failing readiness and draining requests after SIGTERM, in milliseconds, at most 3000
    #[arg(
        long,
        env = "SHUTDOWN_DELAY_MS",
        help_heading = "HTTP",
        default_value = "1000",
        global = true
    )]
    pub shutdown_delay: String,
    /// Calls to other modules
    #[command(flatten)]
    pub okapi: OkapiSettings,

    /// Response if the database fails: open (no blocks) or error (status 500)
    #[arg(
        long,
        env = "ON_DATABASE_FAILURE",
        help_heading = "HTTP",
        default_value = "open",
        global = true
    )]
    pub on_database_failure: String,

    /// Housekeeping and retention
    #[command(flatten)]
    pub housekeeping: HousekeepingSettings,

    /// Rebuilds
    #[command(flatten)]
    pub rebuild: RebuildSettings,

    /// Block events
    #[command(flatten)]
    pub block_events: BlockEventsSettings,

    /// Add metrics per tenant: true or false
    #[arg(
        long,
        env = "METRICS_BY_TENANT",
        help_heading = "Metrics and logs",
        default_value = "false",
        global = true
    )]
    pub metrics_by_tenant: String,
    /// Log level, or directives such as info,sqlx=warn; commands other than serve log only errors by default
    #[arg(
        long,
        env = "LOG_LEVEL",
        help_heading = "Metrics and logs",
        default_value = "info",
        global = true
    )]
    pub log_level: String,
    /// Log format: text or json
    #[arg(
        long,
        env = "LOG_FORMAT",
        help_heading = "Metrics and logs",
        default_value = "text",
        global = true
    )]
    pub log_format: String,
}

/// The validated settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database and its connections.
    pub database: DatabaseConfig,
    /// Kafka and ingest.
    pub kafka: KafkaConfig,
    /// The address to listen on.
    pub http_address: IpAddr,
    /// The port to listen on; 0 for any that is free.
    pub http_port: u16,
    /// Threads that answer requests, 0 to 256; 0 means one per core.
    pub http_workers: usize,
    /// Time between failing readiness and draining requests, at most [`Config::SHUTDOWN_DELAY_MAX`].
    pub shutdown_delay: Duration,
    /// Calls to other modules.
    pub okapi: OkapiConfig,
    /// Response to a patron evaluation if the database fails.
    pub on_database_failure: DatabaseFailureMode,
    /// Whether metrics have a label per tenant.
    pub metrics_by_tenant: bool,
    /// Retention times and the interval of housekeeping.
    pub housekeeping: HousekeepingConfig,
    /// Behaviour of rebuilds.
    pub rebuild: RebuildConfig,
    /// Block events and the outbox.
    pub block_events: BlockEventsConfig,
}

impl Config {
    /// A shutdown has to end within ten seconds, and the delay is part of the shutdown.
    pub const SHUTDOWN_DELAY_MAX: Duration = Duration::from_secs(3);
}

/// Response to a patron evaluation if the database fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseFailureMode {
    /// No blocks, like the Java module.
    Open,
    /// Status 500; the caller can't continue circulation.
    Error,
}

/// The validated settings of logs.
#[derive(Debug)]
pub struct LogConfig {
    /// Levels by target.
    pub filter: EnvFilter,
    /// Text or JSON.
    pub format: LogFormat,
}

/// An invalid setting: its variable, the violated rule and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {rule}, but it is {value:?}")]
pub struct InvalidSetting {
    variable: &'static str,
    rule: &'static str,
    value: String,
}

#[derive(Default)]
struct InvalidSettings(Vec<InvalidSetting>);

impl InvalidSettings {
    /// Parses a value; records an [`InvalidSetting`] and returns `None` if the value is invalid.
    fn parse<T>(
        &mut self,
        variable: &'static str,
        text: &str,
        rule: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = read(text.trim());
        if value.is_none() {
            self.0.push(InvalidSetting { variable, rule, value: text.to_owned() });
        }
        value
    }

    fn number<T: FromStr + PartialOrd + Default>(
        &mut self,
        variable: &'static str,
        text: &str,
        rule: &'static str,
        range: std::ops::RangeInclusive<T>,
    ) -> T {
        let read = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.parse(variable, text, rule, read).unwrap_or_default()
    }

    fn milliseconds(&mut self, variable: &'static str, text: &str) -> Duration {
        let rule = "must be a number of milliseconds from 10 to 3600000";
        Duration::from_millis(self.number(variable, text, rule, 10..=3_600_000))
    }

    fn kib(&mut self, variable: &'static str, text: &str) -> u32 {
        self.number(variable, text, "must be a number of KiB from 64 to 1048576", 64..=1_048_576)
    }

    fn seconds(&mut self, variable: &'static str, text: &str) -> chrono::TimeDelta {
        let rule = "must be a number of seconds from 0 to 31536000";
        chrono::TimeDelta::seconds(self.number(variable, text, rule, 0..=31_536_000))
    }

    fn non_empty(&mut self, variable: &'static str, text: &str) -> String {
        let read = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        self.parse(variable, text, "must not be empty", read).unwrap_or_default()
    }

    fn flag(&mut self, variable: &'static str, text: &str) -> bool {
        let read = |text: &str| text.parse().ok();
        self.parse(variable, text, "must be true or false", read).unwrap_or_default()
    }

    fn port(&mut self, variable: &'static str, text: &str) -> u16 {
        self.number(variable, text, "must be a port from 1 to 65535", 1..=u16::MAX)
    }
}

impl Settings {
    /// Validates all settings; returns every invalid setting on failure.
    pub fn validate(&self) -> Result<(Config, LogConfig), Vec<InvalidSetting>> {
        let mut problems = InvalidSettings::default();
        let log = self.log(&mut problems);
        let config = Config {
            database: self.database.validate(&mut problems),
            kafka: self.kafka.validate(&mut problems),
            http_address: problems
                .parse(
                    "HTTP_ADDRESS",
                    &self.http_address,
                    "must be an IP address of this machine",
                    |text| text.parse().ok(),
                )
                .unwrap_or(Ipv4Addr::LOCALHOST.into()),
            http_port: problems.number(
                "HTTP_PORT",
                &self.http_port,
                "must be a port from 0 to 65535; 0 means any free port",
                0..=u16::MAX,
            ),
            http_workers: problems.number(
                "HTTP_WORKERS",
                &self.http_workers,
                "must be a number from 0 to 256",
                0..=256,
            ),
            shutdown_delay: Duration::from_millis(problems.number(
                "SHUTDOWN_DELAY_MS",
                &self.shutdown_delay,
                "must be a number of milliseconds from 0 to 3000",
                0..=3000,
            )),
            okapi: self.okapi.validate(&mut problems),
            on_database_failure: problems
                .parse(
                    "ON_DATABASE_FAILURE",
                    &self.on_database_failure,
                    "must be open or error",
                    |text| match text {
                        "open" => Some(DatabaseFailureMode::Open),
                        "error" => Some(DatabaseFailureMode::Error),
                        _ => None,
                    },
                )
                .unwrap_or(DatabaseFailureMode::Open),
            metrics_by_tenant: problems.flag("METRICS_BY_TENANT", &self.metrics_by_tenant),
            housekeeping: self.housekeeping.validate(&mut problems),
            rebuild: self.rebuild.validate(&mut problems),
            block_events: self.block_events.validate(&mut problems),
        };
        let (writers, connections) = (config.kafka.writers, config.database.max_connections);
        problems.parse(
            "INGEST_WRITERS",
            &self.kafka.ingest_writers,
            "must be at least 2 less than DB_MAXPOOLSIZE",
            // Validation has already reported an invalid number of connections, which is 0 here.
            |_| (connections == 0 || writers + 2 <= connections).then_some(()),
        );
        match log {
            Some(log) if problems.0.is_empty() => Ok((config, log)),
            _ => Err(problems.0),
        }
    }

    fn log(&self, problems: &mut InvalidSettings) -> Option<LogConfig> {
        let filter = problems.parse(
            "LOG_LEVEL",
            &self.log_level,
            "must be a level or directives such as info,sqlx=warn",
            logging::parse_filter,
        );
        let format = problems.parse(
            "LOG_FORMAT",
            &self.log_format,
            "must be text or json",
            |text| match text {
                "text" => Some(LogFormat::Text),
                "json" => Some(LogFormat::Json),
                _ => None,
            },
        );
        Some(LogConfig { filter: filter?, format: format? })
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser, builder::Resettable};

    use super::*;
    use crate::event::Environment;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn check(line: &[&str]) -> Result<(Config, LogConfig), Vec<InvalidSetting>> {
        // Ignores the environment of the test process.
        let command = Line::command().mut_args(|arg| arg.env(Resettable::Reset));
        let matches = command.get_matches_from([&["x"], line].concat());
        Line::from_arg_matches(&matches).unwrap().settings.validate()
    }

    #[test]
    fn default_settings_are_valid() {
        let (config, _) = check(&[]).unwrap();
        assert_eq!(config.kafka.bootstrap_servers, "localhost:9092");
        assert_eq!(config.kafka.environment, Environment::new(None));
        assert_eq!(config.http_port, 8081);
        assert!(
            config.http_address.is_unspecified(),
            "the default address accepts connections from other hosts"
        );
    }

    #[test]
    fn dotted_names_apply_if_the_variable_is_unset() {
        let set = |name: &str| match name {
            "spring.kafka.consumer.properties.session.timeout.ms" => Some("40000".to_owned()),
            "kafka.consumer.session.timeout.ms" => Some("30000".to_owned()),
            "kafka.consumer.heartbeat.interval.ms" => Some("2000".to_owned()),
            _ => None,
        };
        let command = Line::command().mut_args(|arg| arg.env(Resettable::Reset));
        let matches = property_names::apply_property_names(command, set)
            .get_matches_from(["x", "--kafka-heartbeat-interval=1000"]);
        let (config, _) = Line::from_arg_matches(&matches).unwrap().settings.validate().unwrap();
        assert_eq!(config.kafka.session_timeout, Duration::from_secs(30));
        assert_eq!(config.kafka.heartbeat_interval, Duration::from_secs(1));
        property_names::apply_property_names(Line::command(), |_| Some("1".to_owned()));
    }

    #[test]
    fn mod_pubsub_topics_are_read_on_demand() {
        let (config, _) = check(&["--env=prod1", "--kafka-pubsub-topics=true"]).unwrap();
        let expected = Environment::new(Some("prod1")).with_pubsub(true);
        assert_eq!(config.kafka.environment, expected);
    }

    #[test]
    fn every_problem_is_reported_with_variable_and_rule() {
        let problems = check(&[
            "--db-port=70000",
            "--db-host=",
            "--kafka-port=x",
            "--env=a b",
            "--kafka-pubsub-topics=yes",
            "--db-maxpoolsize=3",
            "--http-address=localhost",
            "--okapi-url=okapi:9130",
            "--okapi-gateway=any",
            "--tombstone-days=29",
            "--dead-letter-days=0",
            "--log-format=xml",
            "--kafka-heartbeat-interval=10000",
        ])
        .unwrap_err();
        let messages: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "LOG_FORMAT must be text or json, but it is \"xml\"",
                "DB_HOST must not be empty, but it is \"\"",
                "DB_PORT must be a port from 1 to 65535, but it is \"70000\"",
                "DB_MAXPOOLSIZE must be a number from 4 to 1000, but it is \"3\"",
                "KAFKA_PORT must be a port from 1 to 65535, but it is \"x\"",
                "ENV must consist of letters, digits, dots, underscores and hyphens, but it is \"a b\"",
                "KAFKA_PUBSUB_TOPICS must be true or false, but it is \"yes\"",
                "KAFKA_CONSUMER_HEARTBEAT_INTERVAL_MS must be less than \
                 KAFKA_CONSUMER_SESSION_TIMEOUT_MS, but it is \"10000\"",
                "HTTP_ADDRESS must be an IP address of this machine, but it is \"localhost\"",
                "OKAPI_URL must be a URL with http or https, but it is \"okapi:9130\"",
                "OKAPI_GATEWAY must be auto, pinned or request, but it is \"any\"",
                "DEAD_LETTER_DAYS must be a number of days from 1 to 3650, but it is \"0\"",
                "TOMBSTONE_DAYS must not be less than INBOX_DAYS, but it is \"29\"",
            ]
        );
    }
}
