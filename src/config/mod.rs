//! Settings. Each setting is a flag, an environment variable and a typed field. The doc comment of the field
//! is the help text. One validation reports all invalid settings.
//!
//! The variables have FOLIO's names (docs/contract/events.md#11-settings, docs/contract/http-api.md).
//! `--help` is the reference.

mod block_events;
mod console;
mod database;
mod kafka;
mod okapi;
mod parse;
mod property_names;
mod read;
mod rebuild;
mod retention;
mod security;

use std::{net::IpAddr, time::Duration};

use clap::{ArgAction, Args};
use tracing_subscriber::EnvFilter;

pub use block_events::{BlockEventsConfig, TopicConfig};
pub use console::{ConsoleConfig, CookieKey, SignInConfig, SignInSettings, is_protected};
pub use database::{DatabaseConfig, Login};
pub use kafka::{BadRecordLimit, GroupProtocol, KafkaConfig};
pub use okapi::{BreakerLimits, Gateway, GatewayMode, OkapiConfig};
pub use property_names::with_property_names;
pub use read::{InvalidSetting, is_setting};
pub use rebuild::{ApprovalThreshold, RebuildConfig};
pub use retention::HousekeepingConfig;
pub use security::{ClientCertificate, Sasl, SecurityConfig, SecuritySettings, Tls};

use crate::logging::{self, LogFormat};
use parse::{bounded, choice, flag, milliseconds, number, valid};
use read::InvalidSettings;

/// The settings.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// The database
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// Kafka and ingest
    #[command(flatten)]
    pub kafka: KafkaConfig,
    /// IP address to listen on: 0.0.0.0 for all IPv4 addresses, 127.0.0.1 for this machine only
    #[arg(long, env = "HTTP_ADDRESS", help_heading = "HTTP", default_value = "0.0.0.0")]
    #[arg(value_parser = valid::<IpAddr>("must be an IP address of this machine", |ip| ip.parse().ok()))]
    pub http_address: IpAddr,
    /// Port to listen on; 0 chooses a free port
    #[arg(long, env = "HTTP_PORT", help_heading = "HTTP", default_value = "8081")]
    #[arg(value_parser = bounded("port", 0..=u16::MAX, "; 0 means any free port"))]
    pub http_port: u16,
    /// Threads that answer requests; 0 means one per core
    #[arg(long, env = "HTTP_WORKERS", help_heading = "HTTP", default_value = "0")]
    #[arg(value_parser = number::<usize>(0..=256))]
    pub http_workers: usize,
    /// Time between failing readiness and draining requests after SIGTERM, in milliseconds, at most 3000
    #[arg(long, env = "SHUTDOWN_DELAY_MS", help_heading = "HTTP", default_value = "1000")]
    #[arg(value_parser = milliseconds(0..=Self::SHUTDOWN_DELAY_MAX.as_secs() * 1000))]
    pub shutdown_delay: Duration,
    /// The console port
    #[command(flatten)]
    pub console: ConsoleConfig,
    /// Calls to other modules
    #[command(flatten)]
    pub okapi: OkapiConfig,
    /// Response if the database fails: open (no blocks) or error (status 500)
    #[arg(long, env = "ON_DATABASE_FAILURE", help_heading = "HTTP")]
    #[arg(default_value = "open", value_parser = choice([
        ("open", DatabaseFailureMode::Open),
        ("error", DatabaseFailureMode::Error),
    ]))]
    pub on_database_failure: DatabaseFailureMode,
    /// Housekeeping and retention
    #[command(flatten)]
    pub housekeeping: HousekeepingConfig,
    /// Rebuilds
    #[command(flatten)]
    pub rebuild: RebuildConfig,
    /// Block events
    #[command(flatten)]
    pub block_events: BlockEventsConfig,
    /// Add metrics per tenant: true or false
    #[arg(long, env = "METRICS_BY_TENANT", help_heading = "Metrics and logs")]
    #[arg(default_value = "false", value_parser = flag(), action = ArgAction::Set)]
    pub metrics_by_tenant: bool,
    /// Logs
    #[command(flatten)]
    pub log: LogConfig,
}

/// The settings of logs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Metrics and logs")]
pub struct LogConfig {
    /// Log level, or directives such as info,sqlx=warn; commands other than serve log only errors by default
    #[arg(id = "log_level", long = "log-level", env = "LOG_LEVEL", default_value = "info")]
    #[arg(value_parser = valid("must be a level or directives such as info,sqlx=warn", directives))]
    pub level: String,
    /// Log format: text or json
    #[arg(long = "log-format", env = "LOG_FORMAT", default_value = "text")]
    #[arg(value_parser = choice([("text", LogFormat::Text), ("json", LogFormat::Json)]))]
    pub format: LogFormat,
}

/// Response to a patron evaluation if the database fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseFailureMode {
    /// No blocks, like the Java module.
    Open,
    /// Status 500; the caller can't continue circulation.
    Error,
}

impl LogConfig {
    /// Returns the filter of the directives; logs errors only if the directives are invalid.
    pub fn filter(&self) -> EnvFilter {
        logging::parse_filter(&self.level).unwrap_or_default()
    }
}

fn directives(text: &str) -> Option<String> {
    logging::parse_filter(text).map(|_| text.to_owned())
}

impl Config {
    /// A shutdown has to end within ten seconds, and the delay is part of the shutdown.
    pub const SHUTDOWN_DELAY_MAX: Duration = Duration::from_secs(3);

    /// Validates the relations between settings, reads the key stores, and computes the sign-in of the console.
    fn validate(&mut self, problems: &mut InvalidSettings) {
        let (kafka, housekeeping) = (&self.kafka, &self.housekeeping);
        problems.require(
            "KAFKA_CONSUMER_HEARTBEAT_INTERVAL_MS",
            "must be less than KAFKA_CONSUMER_SESSION_TIMEOUT_MS",
            "KAFKA_CONSUMER_SESSION_TIMEOUT_MS",
            kafka.heartbeat_interval < kafka.session_timeout,
        );
        problems.require(
            "TOMBSTONE_DAYS",
            "must not be less than INBOX_DAYS",
            "INBOX_DAYS",
            housekeeping.tombstone_retention >= housekeeping.inbox_retention,
        );
        problems.require(
            "INGEST_WRITERS",
            "must be at least 2 less than DB_MAXPOOLSIZE",
            "DB_MAXPOOLSIZE",
            kafka.writers + 2 <= self.database.max_connections,
        );
        self.kafka.security.load(problems);
        self.console.load(problems);
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, builder::Resettable};

    use super::*;
    use crate::event::Environment;

    /// Returns the settings without the environment of the test process.
    fn command() -> Command {
        Config::augment_args(Command::new("x")).mut_args(|arg| arg.env(Resettable::Reset))
    }

    pub(super) fn check(line: &[&str]) -> Result<Config, Vec<InvalidSetting>> {
        Config::read(command(), [&["x"], line].concat()).1
    }

    #[test]
    fn default_settings_are_valid() {
        let config = check(&[]).unwrap();
        assert_eq!(config.kafka.bootstrap_servers(), "localhost:9092");
        assert_eq!(config.kafka.environment(), Environment::new(None));
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
        let with_properties = property_names::apply_property_names(command(), set);
        let config =
            Config::read(with_properties, ["x", "--kafka-heartbeat-interval=1000"]).1.unwrap();
        assert_eq!(config.kafka.session_timeout, Duration::from_secs(30));
        assert_eq!(config.kafka.heartbeat_interval, Duration::from_secs(1));
        property_names::apply_property_names(command(), |_| Some("1".to_owned()));
    }

    #[test]
    fn invalid_property_is_reported_together_with_an_invalid_flag() {
        let set =
            |name: &str| (name == "kafka.consumer.session.timeout.ms").then(|| "10s".to_owned());
        let command = property_names::apply_property_names(command(), set);
        let problems = Config::read(command, ["x", "--db-port=70000"]).1.unwrap_err();
        let messages: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "DB_PORT must be a port from 1 to 65535, but it is \"70000\"",
                "KAFKA_CONSUMER_SESSION_TIMEOUT_MS must be a number of milliseconds from 10 to 3600000, \
                 but it is \"10s\"",
            ]
        );
    }

    #[test]
    fn mod_pubsub_topics_are_read_on_demand() {
        let config = check(&["--env=prod1", "--kafka-pubsub-topics=true"]).unwrap();
        let expected = Environment::new(Some("prod1")).with_pubsub(true);
        assert_eq!(config.kafka.environment(), expected);
    }

    #[test]
    fn spaces_around_a_value_are_ignored() {
        let config =
            check(&["--db-port= 9 ", "--db-host= a ", "--log-format= json", "--db-server-pem= "]);
        let config = config.unwrap();
        let Login { host, port, server_pem, .. } = config.database.login;
        assert_eq!((host.as_str(), port, server_pem), ("a", 9, None));
        assert_eq!(config.log.format, LogFormat::Json);
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
                "DB_HOST must not be empty, but it is \"\"",
                "DB_PORT must be a port from 1 to 65535, but it is \"70000\"",
                "DB_MAXPOOLSIZE must be a number from 4 to 1000, but it is \"3\"",
                "KAFKA_PORT must be a port from 1 to 65535, but it is \"x\"",
                "ENV must consist of letters, digits, dots, underscores and hyphens, but it is \"a b\"",
                "KAFKA_PUBSUB_TOPICS must be true or false, but it is \"yes\"",
                "HTTP_ADDRESS must be an IP address of this machine, but it is \"localhost\"",
                "OKAPI_URL must be a URL with http or https, but it is \"okapi:9130\"",
                "OKAPI_GATEWAY must be auto, pinned or request, but it is \"any\"",
                "DEAD_LETTER_DAYS must be a number of days from 1 to 3650, but it is \"0\"",
                "LOG_FORMAT must be text or json, but it is \"xml\"",
                "KAFKA_CONSUMER_HEARTBEAT_INTERVAL_MS must be less than \
                 KAFKA_CONSUMER_SESSION_TIMEOUT_MS, but it is \"10000\"",
                "TOMBSTONE_DAYS must not be less than INBOX_DAYS, but it is \"29\"",
            ]
        );
    }
}
