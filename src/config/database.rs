//! Settings of the connection to PostgreSQL.

use std::time::Duration;

use clap::Args;

use super::parse::{Optional, non_empty, number, optional, port, wait};

/// The settings of the database.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseConfig {
    /// Server, role, database and certificates
    #[command(flatten)]
    pub login: Login,
    /// Connections of ingest and of patron evaluations, 4 to 1000; rebuilds, block events and operators use
    /// additional connections
    #[arg(long = "db-maxpoolsize", env = "DB_MAXPOOLSIZE")]
    #[arg(default_value = "5", value_parser = number(Self::CONNECTIONS_MIN..=1000))]
    pub max_connections: u32,
    /// Longest statement of ingest or of an operator, in milliseconds
    #[arg(long = "db-querytimeout", env = "DB_QUERYTIMEOUT")]
    #[arg(default_value = "60000", value_parser = wait())]
    pub statement_timeout: Duration,
}

impl DatabaseConfig {
    /// Two connections for writers, one for notifications, one for patron evaluations.
    pub const CONNECTIONS_MIN: u32 = 4;
}

/// The address of the database, the credentials and the trusted certificates.
#[derive(Debug, Clone, Args)]
pub struct Login {
    /// Host of the PostgreSQL server
    #[arg(long = "db-host", env = "DB_HOST")]
    #[arg(default_value = "localhost", value_parser = non_empty())]
    pub host: String,
    /// Port of the PostgreSQL server
    #[arg(long = "db-port", env = "DB_PORT", default_value = "5432", value_parser = port())]
    pub port: u16,
    /// Role to log in with; the role must be allowed to create schemas in the database
    #[arg(long = "db-username", env = "DB_USERNAME")]
    #[arg(default_value = "folio_admin", value_parser = non_empty())]
    pub username: String,
    /// Password of the role
    #[arg(long = "db-password", env = "DB_PASSWORD", default_value = "", hide_env_values = true)]
    pub password: String,
    /// Name of the database
    #[arg(long = "db-database", env = "DB_DATABASE")]
    #[arg(default_value = "okapi_modules", value_parser = non_empty())]
    pub database: String,
    /// Trusted certificates of the server or of its authority, as PEM text; if set, the connection is
    /// encrypted
    #[arg(long = "db-server-pem", env = "DB_SERVER_PEM")]
    #[arg(default_value = "", hide_env_values = true)]
    #[arg(value_parser = optional("must be one or more certificates as PEM text", certificates))]
    pub server_pem: Optional<String>,
}

fn certificates(text: &str) -> Option<String> {
    let marks = ["-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"];
    marks.iter().all(|mark| text.contains(mark)).then(|| text.to_owned())
}
