//! The addresses of the engines that `dev/up` has started. The benches use this file as well.

use patron_blocks::config::Login;

#[expect(clippy::disallowed_methods, reason = "dev/up sets the variables of the engines")]
pub(crate) fn optional_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(crate) fn variable(name: &str) -> String {
    let value = optional_variable(name);
    value.unwrap_or_else(|| panic!("{name} is not set: use make test or make bench"))
}

/// Returns the login to the database in which tests create other databases.
pub(crate) fn login() -> Login {
    Login {
        host: variable("DB_HOST"),
        port: variable("DB_PORT").parse().expect("DB_PORT is a port"),
        username: variable("DB_USERNAME"),
        password: variable("DB_PASSWORD"),
        database: variable("DB_DATABASE"),
        server_pem: None,
    }
}
