//! Settings of the connection to PostgreSQL.

use std::time::Duration;

use clap::Args;

use super::InvalidSettings;

/// The settings as text, before validation.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseSettings {
    /// Host of the PostgreSQL server
    #[arg(long, env = "DB_HOST", default_value = "localhost", global = true)]
    pub db_host: String,
    /// Port of the PostgreSQL server
    #[arg(long, env = "DB_PORT", default_value = "5432", global = true)]
    pub db_port: String,
    /// Role to log in with; the role must be allowed to create schemas in the database
    #[arg(long, env = "DB_USERNAME", default_value = "folio_admin", global = true)]
    pub db_username: String,
    /// Password of the role
    #[arg(long, env = "DB_PASSWORD", default_value = "", hide_env_values = true, global = true)]
    pub db_password: String,
    /// Name of the database
    #[arg(long, env = "DB_DATABASE", default_value = "okapi_modules", global = true)]
    pub db_database: String,
    /// Trusted certificates of the server or of its authority, as PEM text; if set, the connection is
    /// encrypted
    #[arg(long, env = "DB_SERVER_PEM", default_value = "", hide_env_values = true, global = true)]
    pub db_server_pem: String,
    /// Connections of ingest and of patron evaluations, 4 to 1000; rebuilds, block events and operators use
    /// additional connections
    #[arg(long, env = "DB_MAXPOOLSIZE", default_value = "5", global = true)]
    pub db_maxpoolsize: String,
    /// Longest statement of ingest or of an operator, in milliseconds
    #[arg(long, env = "DB_QUERYTIMEOUT", default_value = "60000", global = true)]
    pub db_querytimeout: String,
}

/// The address of the database, the credentials and the trusted certificates.
#[derive(Debug, Clone)]
pub struct Login {
    /// The host name or address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The role.
    pub username: String,
    /// The password of the role.
    pub password: String,
    /// The name of the database.
    pub database: String,
    /// The trusted certificates in PEM. If set, the connection is encrypted and the server has to prove
    /// its identity. If unset, the connection is not encrypted.
    pub server_pem: Option<String>,
}

/// The validated settings of the database.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Server, role, database and certificates.
    pub login: Login,
    /// Connections of ingest and of patron evaluations; at least [`DatabaseConfig::CONNECTIONS_MIN`].
    pub max_connections: u32,
    /// Longest statement of ingest or of an operator.
    pub statement_timeout: Duration,
}

impl DatabaseConfig {
    /// Two connections for writers, one for notifications, one for patron evaluations.
    pub const CONNECTIONS_MIN: u32 = 4;
}

impl DatabaseSettings {
    pub(super) fn validate(&self, problems: &mut InvalidSettings) -> DatabaseConfig {
        DatabaseConfig {
            login: Login {
                host: problems.non_empty("DB_HOST", &self.db_host),
                port: problems.port("DB_PORT", &self.db_port),
                username: problems.non_empty("DB_USERNAME", &self.db_username),
                password: self.db_password.clone(),
                database: problems.non_empty("DB_DATABASE", &self.db_database),
                server_pem: self.server_pem(problems),
            },
            max_connections: problems.number(
                "DB_MAXPOOLSIZE",
                &self.db_maxpoolsize,
                "must be a number from 4 to 1000",
                DatabaseConfig::CONNECTIONS_MIN..=1000,
            ),
            statement_timeout: problems.milliseconds("DB_QUERYTIMEOUT", &self.db_querytimeout),
        }
    }

    fn server_pem(&self, problems: &mut InvalidSettings) -> Option<String> {
        let rule = "must be one or more certificates as PEM text";
        let is_pem = |text: &str| {
            let contains_marker =
                |mark: &str| text.contains(&format!("-----{mark} CERTIFICATE-----"));
            (text.is_empty() || contains_marker("BEGIN") && contains_marker("END"))
                .then(|| text.to_owned())
        };
        let pem = problems.parse("DB_SERVER_PEM", &self.db_server_pem, rule, is_pem)?;
        (!pem.is_empty()).then_some(pem)
    }
}
