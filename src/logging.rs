//! Logs: one JSON object or one plain line each, with ids and never with payloads, names or tokens.

use std::{
    error::Error,
    fmt,
    io::{self, IsTerminal},
};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// A request that is none, or that breaks off, is logged there as an error. It is none of ours, and whoever
/// reaches the port could fill the log with it.
const SILENCED_DIRECTIVE: &str = "actix_http::h1::dispatcher=off";

/// What to log: a level, or directives such as `info,sqlx=warn`.
pub fn parse_filter(directives: &str) -> Option<EnvFilter> {
    EnvFilter::try_new(directives).ok()?;
    EnvFilter::try_new(format!("{SILENCED_DIRECTIVE},{directives}")).ok()
}

/// Sends logs to standard error. `filter` is a level, or directives such as `info,sqlx=warn`.
pub fn init(filter: EnvFilter, format: LogFormat) {
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    // A second start, as in tests, keeps the first.
    let _ = match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
}

/// An error with all its causes on one line. Our errors leave their causes out; of others that repeat
/// them, what was said already is not said again.
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut previous = self.0.to_string();
        f.write_str(&previous)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !previous.ends_with(&text) {
                write!(f, ": {text}")?;
                previous = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing::{Level, enabled, subscriber::with_default};

    use super::*;

    #[test]
    fn client_errors_are_logged_only_on_request() {
        let logged = |directives: &str| {
            let registry = tracing_subscriber::registry().with(parse_filter(directives).unwrap());
            with_default(registry, || {
                let theirs = enabled!(target: "actix_http::h1::dispatcher", Level::ERROR);
                (theirs, enabled!(target: "actix_http::h1", Level::ERROR))
            })
        };
        assert_eq!(logged("info"), (false, true));
        assert_eq!(logged("debug,sqlx=warn"), (false, true));
        assert_eq!(logged("info,actix_http::h1::dispatcher=error"), (true, true));
        assert!(parse_filter("actix=loud").is_none());
    }
}
