//! The settings of the console port.

use std::net::Ipv4Addr;

use patron_blocks::config::{ConsoleConfig, SignInSettings};

/// Returns the settings of a console for this machine, without a sign-in.
pub(crate) fn local_console() -> ConsoleConfig {
    let (port, settings) = (Some(0), SignInSettings::default());
    ConsoleConfig { port, address: Ipv4Addr::LOCALHOST.into(), sign_in: None, settings }
}
